"""Grouped dispatch: tool `action[b]` for image `b`, paying only for the tools that are called.

`vmap(lax.switch)` would run every tool on every image. Here the batch is sorted by action and cut into blocks
of `block_size` images of one tool; a loop runs over the blocks in use, each a scalar `lax.switch`. For K
tools the loop makes sum_k ceil(b_k / block_size) turns, where b_k images want tool k.

The block size changes the cost, not the result: other images never enter an image's arithmetic. XLA may still
round the last bit otherwise for another batch size, most often in a sum over a whole image.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from r1jax.tools.toolbox import Tool, Toolbox


class _Plan(NamedTuple):
    order: Int[Array, " b"]  # images sorted by the tool that they want
    end: Int[Array, " k"]  # position in `order` after tool k's last image
    block_end: Int[Array, " k"]  # block number after tool k's last block
    num_blocks: Int[Array, ""]


def dispatch(
    toolbox: Toolbox,
    params: tuple[Any, ...],
    x: Float[Array, "b h w 3"],
    action: Int[Array, " b"],
    block_size: int = 1,
) -> Float[Array, "b h w 3"]:
    """Applies tool `action[b]` to image `b`.

    Args:
      toolbox: the K tools; static.
      params: the tools' params, as in `toolbox.params`; an argument, so that a caller's jit need not embed
        them.
      x: images.
      action: tool indices; any value outside [0, K), such as STOP, leaves its image as it is and costs
        nothing.
      block_size: images of one tool that run together: 1 or 2 is best on CPU, more on a GPU. The last block
        of a tool is filled up with copies of its last image, whose results are dropped.

    Returns:
      The images after their tools. No gradient flows through: the tools are frozen, and reverse mode cannot
      cross a loop of dynamic length.

    Raises:
      R1JaxError: a tool changes the shape of its images.
    """
    if x.shape[0] == 0:
        return x
    # On the inputs: an output alone would stop the gradient too late, after the loop was linearised.
    params, x = jax.lax.stop_gradient((params, x))
    block_size = min(block_size, x.shape[0])
    plan = _plan(action, len(toolbox), block_size)
    branches = [functools.partial(_run_tool, tool, k) for k, tool in enumerate(toolbox.tools)]

    def run_block(block: Array, y: Array) -> Array:
        tool, image, used = _members(plan, block, block_size)
        out = jax.lax.switch(tool, branches, params, x[image])
        # An index past the end is dropped: what fills a block up never writes.
        return y.at[jnp.where(used, image, x.shape[0])].set(out, mode="drop")

    return jax.lax.fori_loop(0, plan.num_blocks, run_block, x)


def _run_tool(tool: Tool, k: int, params: tuple[Any, ...], x: Array) -> Array:
    return tool.checked_apply(params[k], x)


def _plan(action: Int[Array, " b"], num_tools: int, block_size: int) -> _Plan:
    called = (action >= 0) & (action < num_tools)
    group = jnp.where(called, action, num_tools)
    counts = jnp.sum(group[:, None] == jnp.arange(num_tools), axis=0)
    block_end = jnp.cumsum((counts + block_size - 1) // block_size)
    return _Plan(jnp.argsort(group, stable=True), jnp.cumsum(counts), block_end, block_end[-1])


def _members(plan: _Plan, block: Array, block_size: int) -> tuple[Array, Array, Array]:
    """Returns a block's tool [], its images [block_size] and which of them are its own, not filling."""
    tool = jnp.sum(plan.block_end <= block)
    first_block = jnp.where(tool > 0, plan.block_end[tool - 1], 0)
    first_image = jnp.where(tool > 0, plan.end[tool - 1], 0)
    position = first_image + (block - first_block) * block_size + jnp.arange(block_size)
    used = position < plan.end[tool]
    return tool, plan.order[jnp.minimum(position, plan.end[tool] - 1)], used
