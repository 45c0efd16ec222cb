"""Speed of every network, one JSON line each, and beside PyTorch with the same weights.

    python benchmarks/nets.py --size 128
    python benchmarks/nets.py --vs torch --batches 1,4        # docs/nets.md's table

Times are medians. What they are compared with runs in turn with them, run by run, and ratios are medians over the pairs: on
a machine that does other work besides, ratios hold where times do not. `conv_ratio` is the time in units of a 64-channel
3x3 convolution at 128x128, `conv_speed` the FLOP/s as a share of that convolution's, `compile_s` the seconds of compiling;
`cpu_ratio` compares the processor time of all threads instead of the wall clock's; `relative_difference` is between the two
outputs, of the largest value.
The weights are random, made here, and go to PyTorch by their official names: spandrel recognises them and is the
reference, so networks that it lacks are not compared. Super-resolution networks get a quarter of the side.
"""

import argparse
import json
import math
import os
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
}


def main() -> None:
    args = _arguments()
    if args.threads:
        # Before JAX starts, which makes a thread for every processor that it may use.
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: args.threads]))
    names = args.networks.split(",") if args.networks else list(NETWORKS)
    ratios = []
    for name in names:
        for batch in map(int, args.batches.split(",")):
            line = measure(name, args.size, batch, args.seconds, args.vs == "torch", args.dtype)
            ratios += [line["torch_ratio"]] if line.get("torch_ratio") else []
            print(json.dumps(line), flush=True)
    if ratios:
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
    parser.add_argument("--vs", choices=["torch"], help="compare with PyTorch, same weights")
    return parser.parse_args()


def measure(name: str, size: int, batch: int, seconds: float, vs_torch: bool, dtype: str) -> dict:
    """Returns what is printed of one network at one batch size."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    net, config, scale = NETWORKS[name]
    module = random_network(net, config)
    channels = config.get("in_nc", 4 if net == "drunet" else 3)
    x = np.random.default_rng(0).random((batch, size // scale, size // scale, channels), np.float32)
    graph, params = nnx.split(module)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    program = jax.jit(lambda params, x: nnx.merge(graph, params)(x))
    images = jnp.asarray(x, dtype)
    lowered = program.lower(params, images)
    flops, start = lowered.cost_analysis()["flops"], time.perf_counter()
    lowered.compile()
    compile_seconds = time.perf_counter() - start

    def ours():
        return jax.block_until_ready(program(params, images))

    pairs = alternate(ours, unit_convolutions(), seconds / 3, least=3)
    conv_ratio = _UNITS * pairs.ratio()
    seconds_each = statistics.median(pairs.ours)
    line = {
        "network": name,
        "size": size,
        "batch": batch,
        "dtype": dtype,
        "ms": round(1e3 * seconds_each, 1),
        "gflop": round(flops / 1e9, 1),
        "gflop_per_s": round(flops / 1e9 / seconds_each, 1),
        "conv_ratio": round(conv_ratio, 1),
        "conv_speed": round(flops / _UNIT_FLOPS / conv_ratio, 2),
        "compile_s": round(compile_seconds, 1),
    }
    theirs = torch_network(module, x, dtype) if vs_torch else None
    if theirs is not None:
        expected = theirs().float().cpu().numpy()
        difference = np.abs(np.asarray(ours(), np.float32).transpose(0, 3, 1, 2) - expected).max() / np.abs(expected).max()
        pairs = alternate(ours, theirs, seconds, least=3)
        line |= {
            "torch_ms": round(1e3 * statistics.median(pairs.theirs), 1),
            "torch_ratio": round(pairs.ratio(), 3),
            "cpu_ratio": round(pairs.cpu_ratio(), 3),
            "pairs": len(pairs.ours),
            "relative_difference": float(f"{difference:.1e}"),
        }
    elif vs_torch:
        line["torch_ratio"] = None
    return line


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


def torch_network(module, x, dtype: str):
    """A function that runs the same network in PyTorch on the same images, or None where spandrel has no such network."""
    import jax
    import spandrel
    import torch

    from r1jax.weights import export_torch

    try:
        import spandrel_extra_arches

        spandrel_extra_arches.install(ignore_duplicates=True)
    except ImportError:
        pass
    state = {name: torch.from_numpy(value.copy()) for name, value in export_torch(module).items()}
    try:
        model = spandrel.ModelLoader().load_from_state_dict(state).model
    except spandrel.UnsupportedModelError:
        return None
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    if device == "cpu":
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = model.eval().to(device, getattr(torch, dtype))
    images = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).to(device, getattr(torch, dtype))

    def run():
        with torch.inference_mode():
            y = model(images)
            if device == "cuda":
                torch.cuda.synchronize()
        return y[0] if isinstance(y, (list, tuple)) else y

    return run


def versions() -> dict:
    import importlib.metadata

    import jax

    packages = {name: importlib.metadata.version(name) for name in ("jax", "flax", "torch", "spandrel")}
    return {**packages, "device": jax.devices()[0].device_kind, "processors": len(os.sched_getaffinity(0))}


if __name__ == "__main__":
    main()
