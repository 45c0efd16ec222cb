"""Trains one network of the lite toolbox and writes it, with its provenance, into r1jax/assets/lite.

    python launch/train_lite_tool.py motion_deblur --photos DIR [DIR ...] --steps 3000

Resumable: the same command continues where a stopped one was; one with other options or photos needs another --run. Photos
that any figure is measured on (CBSD68, LIVE1, Set14, the shipped test crops) must not be among the photos.
"""

import argparse
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import reduce
from flax import nnx

from r1jax.degradations.dataset import NamedPhoto, load_photos, photo_hashes
from r1jax.nets import create
from r1jax.tools import toolbox
from r1jax.tools.dispatch import dispatch
from r1jax.tools.lite import LITE_TOOLS
from r1jax.training.supervised import FitConfig, ToolPairs, charbonnier, fit
from r1jax.weights import import_torch, load_module, save_module, update_module, weight_file
from r1jax.weights.files import flat_state
from r1jax.weights.recorded import sha256_of

UNCLIPPED_NOISE = {"denoise": 0.4}


def main() -> None:
    args = arguments()
    spec = LITE_TOOLS[args.tool]
    photos = [photo for folder in args.photos for photo in load_photos(folder)]
    net = initialised(args)
    pairs = ToolPairs(
        photos,
        spec.degradation,
        args.crop,
        alone=args.alone,
        unclipped_noise=UNCLIPPED_NOISE.get(args.tool, 0.0),
        touch=other_tools(args.tool) if args.touch else None,
    )

    def restoration_loss(net: Any, degraded: jax.Array, target: jax.Array) -> jax.Array:
        return charbonnier(spec.restore(net, degraded), target)

    config = FitConfig(args.steps, args.batch, args.learning_rate)
    training = provenance(args, photos)
    run = pathlib.Path(args.run or f"runs/lite_tools/{args.tool}")
    run.mkdir(parents=True, exist_ok=True)
    with (run / "log.jsonl").open("a") as log:
        net = fit(
            net,
            lambda step: pairs.batch(args.seed, step, args.batch),
            noise_map_loss if args.ffdnet else restoration_loss,
            config,
            run / "checkpoints",
            training,
            lambda line: print(line, file=log, flush=True),
            frozen=("denoiser",) if args.ffdnet else (),
        )
    save_module(args.out or weight_file(args.tool), net, spec.net, spec.config, training=training)


def noise_map_loss(net: Any, noisy: jax.Array, target: jax.Array) -> jax.Array:
    """Gaussian negative log-likelihood of the noise under the estimated map; trains the estimator alone."""
    residual = reduce((noisy - target) ** 2, "b (h 2) (w 2) c -> b h w 1", "mean")
    variance = net.noise_map(noisy) ** 2 + (1 / 255) ** 2
    return (jnp.log(variance) + residual / variance).mean()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", choices=LITE_TOOLS)
    parser.add_argument("--photos", nargs="+", required=True, metavar="DIR")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--init", help="weights to start from: a .safetensors file of the same network")
    parser.add_argument("--ffdnet", help="for denoise: the official ffdnet_color.pth; its estimator of noise is trained")
    parser.add_argument("--alone", type=float, default=0.6, help="share of images that carry this degradation and no other")
    parser.add_argument("--touch", action="store_true", help="a part of the images has been through another shipped tool")
    parser.add_argument("--run", help="folder of checkpoints and log (runs/lite_tools/TOOL)")
    parser.add_argument("--out", help="weight file to write (the shipped one)")
    return parser.parse_args()


def initialised(args: argparse.Namespace) -> nnx.Module:
    """Returns the network at its start: random, a given file's, or around the published FFDNet."""
    spec = LITE_TOOLS[args.tool]
    net: Any = create(spec.net, seed=args.seed, **spec.config)
    if args.init:
        update_module(net, flat_state(load_module(args.init)[0]))
    if args.ffdnet:
        import torch

        state_dict = torch.load(args.ffdnet, weights_only=True, map_location="cpu")
        import_torch(net.denoiser, {name: value.numpy() for name, value in state_dict.items()})
    return net


def other_tools(name: str) -> Any:
    """Returns touch(images, rng): one random other lite tool on all of them."""
    box = toolbox([other for other in LITE_TOOLS if other != name])

    @jax.jit
    def apply(params: Any, images: jax.Array, index: jax.Array) -> jax.Array:
        return dispatch(box, params, images, index, block_size=images.shape[0]).clip(0, 1)

    def touch(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        index = np.full(len(images), rng.integers(len(box)), np.int32)
        return np.asarray(apply(box.params, images, index))

    return touch


def provenance(args: argparse.Namespace, photos: list[NamedPhoto]) -> dict[str, Any]:
    """Returns what makes the weights: arguments, the files that they name, and the hash of every photo."""
    settings = {key: value for key, value in vars(args).items() if key not in ("photos", "run", "out", "init", "ffdnet")}
    # Photos are drawn by their number: folders in another order, or one given twice, make other batches.
    settings["folders"] = [pathlib.Path(folder).name for folder in args.photos]
    for key in ("init", "ffdnet"):
        if path := getattr(args, key):
            settings |= {key: pathlib.Path(path).name, f"{key}_sha256": sha256_of(path)}
    if args.touch:
        others = [name for name in LITE_TOOLS if name != args.tool]
        settings["others_sha256"] = {name: sha256_of(weight_file(name)) for name in others}
    return {"settings": settings, "photos": photo_hashes(photos)}


if __name__ == "__main__":
    main()
