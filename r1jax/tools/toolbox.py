"""Tools, toolboxes and the registry of both. Images are float32 NHWC in [0, 1].

A tool of your own takes ten lines, in a notebook or in a file that a config names as `"FILE.py:invert"`:

    from r1jax.tools import register_tool

    @register_tool("invert", task="brighten")
    def invert(x):
        return 1.0 - x

A tool with weights registers a factory instead, a function without arguments that returns a `Tool`.
"""

import dataclasses
import difflib
import functools
import importlib
import inspect
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
from jaxtyping import Array, Float

from r1jax.errors import R1JaxError, UsageError
from r1jax.user_files import import_file

# Imported at the first look-up: each registers its tools and a toolbox.
_BUILTIN_MODULES = ["r1jax.tools.classical", "r1jax.tools.lite", "r1jax.tools.published", "r1jax.tools.full"]


@dataclasses.dataclass(frozen=True, eq=False)
class Tool:
    """One restoration operation.

    Attributes:
      name: the name it is looked up by.
      task: what it restores: "denoise", "brighten", ...
      apply: pure `apply(params, x) -> y`, both images [b, h, w, 3], for any b, h and w.
      params: the pytree of arrays that `apply` takes; `()` for a tool without weights.
      whole_image: the tool needs the whole image at once (global statistics); a large photo is not tiled for it.
    """

    name: str
    task: str
    apply: Callable[[Any, Array], Array]
    params: Any = ()
    whole_image: bool = False

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """Applies the tool with its own params.

        Raises:
          R1JaxError: the tool changed the shape of the images.
        """
        return self.checked_apply(self.params, x)

    def checked_apply(self, params: Any, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """`apply`, with its result cast to the dtype of `x` and its shape checked while tracing."""
        y = self.apply(params, x)
        if y.shape != x.shape:
            raise R1JaxError(f"tool {self.name!r} turned shape {x.shape} into {y.shape}; it must keep it")
        return y.astype(x.dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class Toolbox:
    """An ordered set of tools; the position of a tool is its action."""

    name: str
    tools: tuple[Tool, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The tools' names, in the order of the actions."""
        return tuple(tool.name for tool in self.tools)

    @property
    def params(self) -> tuple[Any, ...]:
        """Every tool's params: pass them into a jitted function as an argument, not by closure."""
        return tuple(tool.params for tool in self.tools)

    def apply(self, index: Any, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """Applies one tool to the whole batch: `index` is an int, or a traced scalar, which is clamped."""
        if isinstance(index, int):
            return self.tools[index](x)
        return jax.lax.switch(index, list(self.tools), x)

    def __len__(self) -> int:
        return len(self.tools)


@dataclasses.dataclass(frozen=True)
class _Entry:
    make: Callable[[], Tool]
    origin: str  # "module.function": what may replace the entry when a notebook cell or a file runs again


_tools: dict[str, _Entry] = {}
_toolboxes: dict[str, Callable[[], Iterable[str]]] = {}
_files: dict[pathlib.Path, tuple[str, ...]] = {}  # user file -> names that it registered


def register_tool(
    name: str, task: str = "custom", whole_image: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers the decorated function: `fn(x) -> y` on images [b, h, w, 3], or a factory `() -> Tool`.

    Args:
      whole_image: a pixel depends on the whole image, which `restore` must then not cut into tiles. A factory says so in
        its Tool.

    Raises:
      UsageError: another function has registered that name.
    """

    def register(fn: Callable[..., Any]) -> Callable[..., Any]:
        origin = _origin(fn)
        if name in _toolboxes or (name in _tools and _tools[name].origin != origin):
            taken = _tools[name].origin if name in _tools else "a toolbox"
            raise UsageError(f"tool {name!r} of {origin}: the name is taken by {taken}; choose another")
        _tools[name] = _Entry(_maker(name, task, fn, whole_image), origin)
        return fn

    return register


def _origin(fn: Callable[..., Any]) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return f"{fn.__module__}.{getattr(fn, '__qualname__', type(fn).__qualname__)}"


def _maker(name: str, task: str, fn: Callable[..., Any], whole_image: bool) -> Callable[[], Tool]:
    arguments = inspect.signature(fn).parameters.values()
    if any(argument.default is argument.empty for argument in arguments):
        tool = Tool(name, task, lambda params, x: fn(x), whole_image=whole_image)
        return lambda: tool

    def make() -> Tool:
        made = fn()
        if not isinstance(made, Tool):
            raise UsageError(f"tool {name!r}: its factory returned {type(made).__name__}, not a Tool")
        return dataclasses.replace(made, name=name)

    return make


def register_toolbox(name: str, names: Iterable[str] | Callable[[], Iterable[str]]) -> None:
    """Registers an ordered list of tools, or toolboxes, under one name.

    Args:
      names: the list, or a function that returns it when the toolbox is built.

    Raises:
      UsageError: the name is a tool's.
    """
    if name in _tools:
        raise UsageError(f"toolbox {name!r}: the name is taken by a tool; choose another")
    _toolboxes[name] = names if callable(names) else functools.partial(tuple, tuple(names))


def toolbox(spec: str | Iterable[str]) -> Toolbox:
    """Builds a toolbox, loading the weights of its tools.

    Args:
      spec: a toolbox, a tool, a user's `FILE.py` (every tool that it registers) or `FILE.py:name`, or an
        iterable that mixes them: `("lite", "clahe", "my_tools.py:invert")`.

    Raises:
      UsageError: a name is unknown (the line lists those that are known), a tool appears twice, or a file
        cannot be used.
    """
    parts = (spec,) if isinstance(spec, str) else tuple(spec)
    names = [name for part in parts for name in _expand(part)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not names or repeated:
        problem = f"tool {repeated[0]!r} appears twice" if repeated else "no tools"
        raise UsageError(f"toolbox {'+'.join(parts) or '()'}: {problem}")
    return Toolbox("+".join(parts), tuple(_tools[name].make() for name in names))


def known_names() -> tuple[list[str], list[str]]:
    """Returns (toolboxes, tools): every registered name."""
    _import_builtin()
    return list(_toolboxes), list(_tools)


def _expand(part: str) -> list[str]:
    """The tool names that one part of a spec stands for."""
    if part.endswith(".py") or ".py:" in part:
        return _expand_file(part)
    if part not in _tools:
        _import_builtin()
    if part in _toolboxes:
        return [name for member in _toolboxes[part]() for name in _expand(member)]
    if part in _tools:
        return [part]
    close = difflib.get_close_matches(part, [*_toolboxes, *_tools], n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    raise UsageError(
        f"unknown tool or toolbox {part!r}{hint} toolboxes: {', '.join(_toolboxes)};"
        f" tools: {', '.join(_tools)}; your own: FILE.py or FILE.py:name"
    )


def _expand_file(part: str) -> list[str]:
    text, _, name = part.partition(".py:")
    path = pathlib.Path(text if text.endswith(".py") else text + ".py").resolve()
    if path not in _files:
        _files[path] = _import_file(path)
    if name and name not in _files[path]:
        raise UsageError(f"{path.name}: registers no tool {name!r}; it has {', '.join(_files[path])}")
    return [name] if name else list(_files[path])


def file_of(tool: str) -> pathlib.Path | None:
    """Returns the user's file that registered a tool; None: it is one of the package or of a notebook."""
    return next((path for path, names in _files.items() if tool in names), None)


def _import_file(path: pathlib.Path) -> tuple[str, ...]:
    """Runs a user's file and returns the tools that it registered, in order."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file of tools")
    # Named by its path: two files called tools.py are two modules, and errors say which one is meant.
    module = import_file(path, str(path))
    names = tuple(name for name, entry in _tools.items() if entry.origin.startswith(module.__name__ + "."))
    if not names:
        raise UsageError(f"{path}: registers no tool; decorate one with @register_tool(name, task=...)")
    return names


def _import_builtin() -> None:
    for module in _BUILTIN_MODULES:
        importlib.import_module(module)
