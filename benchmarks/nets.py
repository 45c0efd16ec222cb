"""Speed of every network, one JSON line each, and beside PyTorch with the same weights.

    python benchmarks/nets.py --size 128
    python benchmarks/nets.py --vs torch --batches 1,4 --threads 2 --output nets.jsonl        # docs/nets.md's table

Times are medians. What they are compared with runs in turn with them, run by run, and ratios are medians over the pairs: on
a machine that does other work besides, ratios hold where times do not. `conv_ratio` is the time in units of a 64-channel
3x3 convolution at 128x128, `conv_speed` the FLOP/s as a share of that convolution's, `compile_s` the seconds of compiling;
`cpu_ratio` compares the processor time of all threads instead of the wall clock's; `relative_difference` is between the two
outputs, of the largest value.
The weights are random, made here, and go to PyTorch by their official names: spandrel recognises them and is the reference,
for CLIP transformers is; networks that these lack are not compared. Super-resolution networks get a quarter of the side.
With --output, lines are appended to a file, and what it has is not measured again: a long table can be made in pieces.
With --short, networks that take minutes an image have fewer blocks of the same widths.
"""

import argparse
import json
import math
import os
import pathlib
import statistics
import time

_SWIN = {"embed_dim": 180, "depths": (6,) * 6, "num_heads": (6,) * 6, "mlp_ratio": 2, "upscale": 1}

# The published models' sizes: name in the table -> (network, configuration, scale).
NETWORKS = {
    "dncnn": ("dncnn", {"in_nc": 3, "out_nc": 3, "nb": 20, "act_mode": "R"}, 1),
    "drunet": ("drunet", {}, 1),
    "fbcnn": ("fbcnn", {}, 1),
    "nafnet-w32": ("nafnet", {"width": 32, "enc_blk_nums": (1, 1, 1, 28), "dec_blk_nums": (1, 1, 1, 1)}, 1),
    "nafnet_local-w32": ("nafnet_local", {"width": 32, "enc_blk_nums": (1, 1, 1, 28), "dec_blk_nums": (1, 1, 1, 1)}, 1),
    "restormer": ("restormer", {}, 1),
    "maxim-s2": ("maxim", {"variant": "S-2"}, 1),
    "maxim-s3": ("maxim", {"variant": "S-3"}, 1),
    "mprnet-deraining": ("mprnet", {"n_feat": 40, "scale_unetfeats": 20, "scale_orsnetfeats": 16}, 1),
    "mprnet-deblurring": ("mprnet", {"n_feat": 96}, 1),
    "retinexformer": ("retinexformer", {"stage": 1, "num_blocks": (1, 2, 2)}, 1),
    "rrdbnet": ("rrdbnet", {}, 4),
    "swinir-denoising": ("swinir", {**_SWIN, "img_size": 128, "window_size": 8}, 1),
    "hat": ("hat", {**_SWIN, "window_size": 16, "compress_ratio": 3, "squeeze_factor": 30, "upscale": 4}, 4),
    "scunet": ("scunet", {}, 1),
    "xrestormer": ("xrestormer", {"num_blocks": (2, 4, 4, 4), "spatial_heads": (1, 2, 4, 8)}, 1),
    "dehazeformer-b": ("dehazeformer", {}, 1),
    "mixdehazenet-s": ("mixdehazenet", {"depths": (2, 2, 4, 2, 2)}, 1),
    "srvgg_compact": ("srvgg_compact", {"num_conv": 32}, 4),
    "clip-vit-l14": ("clip_vision", {}, 1),
}
# What --short changes.
SHORT = {
    "swinir-denoising": {"depths": (6,) * 2, "num_heads": (6,) * 2},
    "hat": {"depths": (6,) * 2, "num_heads": (6,) * 2},
    "mprnet-deblurring": {"num_cab": 2},
    "clip-vit-l14": {"num_hidden_layers": 6},
}


def main() -> None:
    args = _arguments()
    if args.threads:
        # Before JAX starts, which makes a thread for every processor that it may use.
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: args.threads]))
    names = args.networks.split(",") if args.networks else list(NETWORKS)
    output = pathlib.Path(args.output or os.devnull)
    lines = [json.loads(text) for text in output.read_text().splitlines()] if output.is_file() else []
    for name in names:
        for batch in map(int, args.batches.split(",")):
            asked = {"network": name, "short": args.short and name in SHORT, "size": args.size, "batch": batch}
            asked |= {"dtype": args.dtype, "vs": args.vs}
            if any(asked.items() <= line.items() for line in lines):
                continue
            lines.append(asked | measure(name, asked["short"], args.size, batch, args.seconds, args.vs, args.dtype))
            print(json.dumps(lines[-1]), flush=True)
            with output.open("a") as file:
                file.write(json.dumps(lines[-1]) + "\n")
    if ratios := [line["torch_ratio"] for line in lines if line.get("torch_ratio")]:
        mean = math.exp(statistics.fmean(map(math.log, ratios)))
        print(json.dumps({"geometric_mean": round(mean, 3), "worst": max(ratios), "runs": len(ratios), **versions()}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", help=f"some of {', '.join(NETWORKS)}")
    parser.add_argument("--size", type=int, default=256, help="side of the (larger) image, a multiple of 64")
    parser.add_argument("--batches", default="1", help="batch sizes, as 1,4")
    parser.add_argument("--seconds", type=float, default=20, help="of measuring a network, and no less than three pairs")
    parser.add_argument("--threads", type=int, help="processors to use")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--vs", choices=["torch", "torch.compile"], help="compare with PyTorch, same weights")
    parser.add_argument("--short", action="store_true", help=f"fewer blocks for {', '.join(SHORT)}")
    parser.add_argument("--output", help="a .jsonl file to append to and go on with")
    return parser.parse_args()


def measure(name: str, short: bool, size: int, batch: int, seconds: float, vs: str | None, dtype: str) -> dict:
    """Returns what is printed of one network at one batch size."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    net, config, scale = NETWORKS[name]
    config, size = config | (SHORT[name] if short else {}), size if net != "clip_vision" else 224
    module = random_network(net, config)
    channels = config.get("in_nc", 4 if net == "drunet" else 3)
    x = np.random.default_rng(0).random((batch, size // scale, size // scale, channels), np.float32)
    graph, params = nnx.split(module)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    program = jax.jit(lambda params, x: nnx.merge(graph, params)(x))
    images = jnp.asarray(x, dtype)
    # Of one image: the analysis counts a loop over images once.
    flops = batch * program.lower(params, images[:1]).cost_analysis()["flops"]
    lowered = program.lower(params, images)
    start = time.perf_counter()
    lowered.compile()
    compile_seconds = time.perf_counter() - start

    def ours():
        return jax.block_until_ready(program(params, images))

    line = {"gflop": round(flops / 1e9, 1), "compile_s": round(compile_seconds, 1)}
    if vs is None:
        pairs = alternate(ours, unit_convolutions(), seconds, least=3)
        conv_ratio = _UNITS * pairs.ratio()
        line |= {"conv_ratio": round(conv_ratio, 1), "conv_speed": round(flops / _UNIT_FLOPS / conv_ratio, 2)}
    elif theirs := torch_network(net, module, x, dtype, compiled=vs == "torch.compile"):
        expected, found = theirs().float().cpu().numpy(), ours()
        found = np.asarray(found[0] if isinstance(found, tuple) else found, np.float32)
        found = found.transpose(0, 3, 1, 2) if found.ndim == 4 else found
        difference = np.abs(found - expected).max() / np.abs(expected).max()
        pairs = alternate(ours, theirs, seconds, least=3)
        line |= {
            "torch_ms": round(1e3 * statistics.median(pairs.theirs), 1),
            "torch_ratio": round(pairs.ratio(), 3),
            "cpu_ratio": round(pairs.cpu_ratio(), 3),
            "relative_difference": float(f"{difference:.1e}"),
        }
    else:
        return line | {"torch_ratio": None}
    milliseconds = 1e3 * statistics.median(pairs.ours)
    return line | {
        "ms": round(milliseconds, 1),
        "gflop_per_s": round(flops / 1e6 / milliseconds, 1),
        "pairs": len(pairs.ours),
    }


class Pairs:
    """Wall and processor seconds of two functions that ran in turn."""

    def __init__(self):
        self.ours, self.theirs, self.cpu_ours, self.cpu_theirs = [], [], [], []

    def ratio(self) -> float:
        return statistics.median(a / b for a, b in zip(self.ours, self.theirs, strict=True))

    def cpu_ratio(self) -> float:
        return statistics.median(a / b for a, b in zip(self.cpu_ours, self.cpu_theirs, strict=True))


def alternate(ours, theirs, seconds: float, least: int) -> Pairs:
    """Runs both once unmeasured, then in turn until `seconds` have passed and `least` pairs are measured."""
    ours(), theirs()
    pairs, end = Pairs(), time.perf_counter() + seconds
    while len(pairs.ours) < least or (time.perf_counter() < end and len(pairs.ours) < 50):
        for run, wall, cpu in ((ours, pairs.ours, pairs.cpu_ours), (theirs, pairs.theirs, pairs.cpu_theirs)):
            start, cpu_start = time.perf_counter(), time.process_time()
            run()
            wall.append(time.perf_counter() - start)
            cpu.append(time.process_time() - cpu_start)
    return pairs


def random_network(net: str, config: dict):
    """The network with random weights of the usual scale, made without compiling an initialiser for every shape."""
    import numpy as np

    from r1jax.nets import skeleton
    from r1jax.weights.files import saved_variables, update_module

    rng = np.random.default_rng(0)

    def value(path: tuple, shape: tuple) -> np.ndarray:
        if len(shape) > 1:
            return rng.normal(size=shape, scale=1 / math.sqrt(math.prod(shape[:-1])))
        return np.ones(shape) if path[-1] in ("scale", "var", "weight") else np.zeros(shape)

    module = skeleton(net, **config)
    shapes = {path: variable.shape for path, variable in saved_variables(module)}
    return update_module(module, {"/".join(map(str, path)): value(path, shape) for path, shape in shapes.items()})


_UNITS = 60  # as many as take about as long as a network: one alone, after a network, would find its cache cold
_UNIT_FLOPS = 2 * 9 * 64 * 64 * 128 * 128


def unit_convolutions():
    """The yardstick, run `_UNITS` times: a 3x3 convolution of 64 to 64 channels at 128x128."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    x, kernel = jnp.ones((1, 128, 128, 64)), jnp.full((3, 3, 64, 64), 1e-3)
    numbers = ("NHWC", "HWIO", "NHWC")
    program = jax.jit(lambda x, k: lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=numbers))

    def run():
        for _ in range(_UNITS):
            jax.block_until_ready(program(x, kernel))

    return run


def torch_network(net: str, module, x, dtype: str, compiled: bool):
    """A function that runs the same network in PyTorch on the same images and returns its first output.

    None where no PyTorch package has the network.
    """
    import jax
    import torch

    from r1jax.weights import export_torch

    state = {name: torch.from_numpy(value.copy()) for name, value in export_torch(module).items()}
    model = _clip(state) if net == "clip_vision" else _of_spandrel(state)
    if model is None:
        return None
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    if device == "cpu":
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = model.eval().to(device, getattr(torch, dtype))
    model = torch.compile(model) if compiled else model
    images = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).to(device, getattr(torch, dtype))

    def run():
        with torch.inference_mode():
            y = model(images)
            if device == "cuda":
                torch.cuda.synchronize()
        return y if isinstance(y, torch.Tensor) else y[0]

    return run


def _of_spandrel(state: dict):
    import spandrel

    try:
        import spandrel_extra_arches

        spandrel_extra_arches.install(ignore_duplicates=True)
    except ImportError:
        pass
    try:
        return spandrel.ModelLoader().load_from_state_dict(state).model
    except spandrel.UnsupportedModelError:
        return None


def _clip(state: dict):
    """transformers' vision tower, of the sizes that the state dict shows."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    from r1jax.weights import recognise

    config = recognise({name: value.numpy() for name, value in state.items()})[1]
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**config))
    model.load_state_dict(state, strict=False)
    return model


def versions() -> dict:
    import importlib.metadata

    import jax

    packages = {name: importlib.metadata.version(name) for name in ("jax", "flax", "torch", "spandrel")}
    return {**packages, "device": jax.devices()[0].device_kind, "processors": len(os.sched_getaffinity(0))}


if __name__ == "__main__":
    main()
