"""Tools that restore an image, toolboxes of them, and the dispatch of one tool per image."""

from r1jax.tools.dispatch import dispatch
from r1jax.tools.toolbox import Tool, Toolbox, known_names, register_tool, register_toolbox, toolbox

__all__ = ["Tool", "Toolbox", "dispatch", "known_names", "register_tool", "register_toolbox", "toolbox"]
