"""Stand-ins for restoration nets, of unequal depth and with random weights, for timing the dispatch alone.

Used as `python benchmarks/dispatch.py --toolbox benchmarks/synthetic_tools.py`.
"""

import functools

import jax
from jaxtyping import Array

from r1jax.tools import Tool, register_tool

WIDTH = 32
DEPTHS = (2, 3, 4, 6)


def conv_net(kernels: list[Array], x: Array) -> Array:
    """A plain stack of 3 x 3 convolutions with ReLUs, added to the image."""
    hidden = x
    for i, kernel in enumerate(kernels):
        hidden = jax.nn.relu(hidden) if i else hidden
        hidden = jax.lax.conv_general_dilated(
            hidden, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    return x + hidden


def make(depth: int) -> Tool:
    """A tool of `depth` convolutions."""
    widths = [3] + [WIDTH] * (depth - 1) + [3]
    keys = jax.random.split(jax.random.key(depth), depth)
    kernels = [0.05 * jax.random.normal(k, (3, 3, a, b)) for k, a, b in zip(keys, widths, widths[1:])]
    return Tool(f"conv{depth}", "synthetic", conv_net, kernels)


for _depth in DEPTHS:
    register_tool(f"conv{_depth}", task="synthetic")(functools.partial(make, _depth))
