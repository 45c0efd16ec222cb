"""What a quality scorer is, and how one is found from a text such as "lite" or "my_scorer.py:MyScorer"."""

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import json
import pathlib
import sys
import traceback
import types
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from r1jax.errors import R1JaxError, UsageError


@runtime_checkable
class Scorer(Protocol):
    """Rates images on the 1 (bad) to 5 (excellent) scale of an opinion score.

    A scorer is deterministic: equal images get equal scores, whichever images they come with. It is built without
    arguments, or with the keywords of `reward.options`. `name` and `version` identify it in the score cache; a class may
    leave them out, and `scorer` fills them in. One that is a Flax net may also have `graph: GraphScorer`: the mode
    "graph" then runs it inside the jitted program.
    """

    name: str
    version: str

    def score(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float32[np.ndarray, " b"]:
        """Returns one score for each sRGB image."""
        ...


@dataclasses.dataclass(frozen=True)
class GraphScorer:
    """A scorer that runs inside a jitted program.

    Attributes:
      apply: (params, images float32 [b, h, w, 3] in [0, 1]) -> scores float32 [b]; pure.
      params: a pytree of arrays, passed to the program as an argument.
    """

    apply: Callable[[Any, Any], Any]
    params: Any


@dataclasses.dataclass(frozen=True)
class Identity:
    """What a cached score depends on besides the image."""

    name: str
    version: str


# Built-in scorers and the modules that register them; a module is imported when its scorer is asked for.
_BUILTIN = {
    "lite": "r1jax.reward.lite",
    **dict.fromkeys(("deqa", "q-align"), "r1jax.reward.deqa"),
    **dict.fromkeys(("vlm", "q-sit", "q-sit-mini", "qwen2.5-vl", "qwen3-vl", "smolvlm"), "r1jax.reward.vlm"),
    "http": "r1jax.reward.http",
    "remote": "r1jax.reward.remote",
    "mixture": "r1jax.reward.mixture",
    **dict.fromkeys(("maniqa", "clip-iqa", "musiq"), "r1jax.reward.iqa"),
}
_REGISTRY: dict[str, Callable[..., Scorer]] = {}

Factory = TypeVar("Factory", bound=Callable[..., Any])


def register_scorer(name: str) -> Callable[[Factory], Factory]:
    """Registers a class or function that builds a scorer under `name`; its keywords are the scorer's options."""

    def register(factory: Factory) -> Factory:
        _REGISTRY[name] = factory
        return factory

    return register


def scorer(spec: Any, options: Mapping[str, Any] | None = None) -> Scorer:
    """Returns a scorer in this process.

    Args:
      spec: a registered name, "FILE.py:Class", "package.module:Class", a class, or a scorer object.
      options: keyword arguments to build it with.

    Raises:
      UsageError: there is no such scorer, it has no such option, or what there is has no `score`.
      R1JaxError: the file or the constructor raised.
    """
    options = dict(options or {})
    if isinstance(spec, type) or not hasattr(spec, "score"):
        factory = find(spec) if isinstance(spec, str) else spec
        _check_options(factory, options, _label(spec))
        built = _guarded(lambda: factory(**options), f"scorer {_label(spec)}")
    elif options:
        raise UsageError(f"scorer {_label(spec)}: is built already and takes no options")
    else:
        built = spec
    if not callable(getattr(built, "score", None)):
        raise UsageError(f"scorer {_label(spec)}: has no score(images) method")
    for attribute, default in (("name", type(built).__name__), ("version", "0")):
        if not hasattr(built, attribute):
            with contextlib.suppress(AttributeError, TypeError):  # frozen, or with __slots__: `identity` fills them in
                setattr(built, attribute, default)
    return built


def _check_options(factory: Callable[..., Any], options: Mapping[str, Any], label: str) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # not written in Python
        return
    try:
        signature.bind(**options)
    except TypeError as error:
        raise UsageError(
            f"reward.options: scorer {label}: {error}; its options are {', '.join(signature.parameters) or 'none'}"
        ) from None


def identity(built: Scorer, options: Mapping[str, Any] | None = None) -> Identity:
    """Returns the name and version that scores of `built`, built with `options`, are cached under.

    The version of a scorer from outside this package ends in a hash of its source file and its options, so that
    scores of an edited file are never mixed with those of the old one. Scorers of this package have in their
    version whatever changes a score.
    """
    cls = type(built)
    name, version = str(getattr(built, "name", cls.__name__)), str(getattr(built, "version", "0"))
    if not cls.__module__.startswith("r1jax."):
        try:
            source = pathlib.Path(inspect.getfile(cls)).read_bytes()
        except (TypeError, OSError):  # a class without a file, of a notebook: only `version` can tell
            source = b""
        source += json.dumps(dict(options), sort_keys=True, default=str).encode() if options else b""
        version += "+" + hashlib.sha256(source).hexdigest()[:12]
    return Identity(name, version)


def score_safely(
    built: Scorer, images: UInt8[np.ndarray, "b h w 3"]
) -> tuple[Float32[np.ndarray, " b"], str]:
    """Scores a micro-batch; a failure costs the images that cause it and no others.

    Returns:
      Scores, NaN where there is none, and one line about the first failure ("" if there was none).
    """
    try:
        scores = np.asarray(built.score(images), np.float32)
        if scores.shape != (len(images),):
            raise ValueError(
                f"score() returned shape {scores.shape} for {len(images)} images, not ({len(images)},)"
            )
    except Exception as error:
        if len(images) > 1:
            parts = [score_safely(built, images[i : i + 1]) for i in range(len(images))]
            return np.concatenate([part for part, _ in parts]), next((line for _, line in parts if line), "")
        traceback.print_exc()
        return np.full(1, np.nan, np.float32), one_line(error)
    finite = np.isfinite(scores)
    problem = "" if finite.all() else getattr(built, "last_problem", "") or f"score() returned {scores[~finite][0]}"
    return np.where(finite, scores, np.float32(np.nan)), problem


def portable(spec: Any) -> str:
    """Returns `spec` as a text from which another process can build the same scorer.

    Raises:
      UsageError: another process cannot import it: a class of a notebook, an object, an unknown name.
    """
    if isinstance(spec, str) and spec in _BUILTIN:
        return spec
    if isinstance(spec, str) and ":" in spec:
        place, _, attribute = spec.rpartition(":")
        if place.endswith(".py"):
            return f"{existing(place)}:{attribute}"
        if place != "__main__":
            return spec
    factory = find(spec) if isinstance(spec, str) else spec
    qualname = getattr(factory, "__qualname__", None)
    if qualname is None:
        raise UsageError(
            f"scorer {_label(spec)}: an object cannot be sent to the scorer process; pass its class"
        )
    module = sys.modules.get(factory.__module__)
    if module is None or module.__name__ == "__main__" or "<" in qualname:
        raise UsageError(
            f"scorer {qualname}: another process cannot import what a notebook, script or function defines; "
            f"put it in a file and pass 'FILE.py:{qualname.rpartition('.')[2]}'"
        )
    if getattr(module, "__r1jax_file__", None):
        return f"{module.__r1jax_file__}:{qualname}"
    return f"{factory.__module__}:{qualname}"


def find(spec: str) -> Callable[..., Any]:
    """Returns the class or function that a text names.

    Raises:
      UsageError: there is none; the line says what there is.
      R1JaxError: the file raised while it was imported.
    """
    place, _, attribute = spec.rpartition(":")
    if not place:
        return _registered(spec)
    found: Any = _import_file(existing(place)) if place.endswith(".py") else _import_module(place, spec)
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UsageError(f"scorer {spec!r}: {place} defines no {attribute!r}")
    return found


def _import_module(place: str, spec: str) -> types.ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name and f"{place}.".startswith(f"{error.name}."):
            raise UsageError(
                f"scorer {spec!r}: no module {place!r}; for a file write FILE.py:Class"
            ) from None
        raise R1JaxError(f"scorer {spec!r}: {one_line(error)}") from error
    except Exception as error:
        raise R1JaxError(f"scorer {spec!r}: {one_line(error)}") from error


def _registered(name: str) -> Callable[..., Any]:
    if name not in _REGISTRY and name in _BUILTIN:
        importlib.import_module(_BUILTIN[name])
    if name not in _REGISTRY:
        known = ", ".join(sorted({*_BUILTIN, *_REGISTRY}))
        if name.endswith(".py"):
            raise UsageError(f"scorer {name!r}: want {name}:Class, the class in the file too")
        raise UsageError(f"unknown scorer {name!r}; there are {known}, or your own as FILE.py:Class")
    return _REGISTRY[name]


def existing(place: str) -> pathlib.Path:
    """Returns the path of a scorer's file; raises UsageError where there is none."""
    path = pathlib.Path(place).expanduser().resolve()
    if not path.is_file():
        raise UsageError(f"scorer file {place}: no such file")
    return path


def _import_file(path: pathlib.Path) -> types.ModuleType:
    name = f"r1jax_scorer_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    module.__r1jax_file__ = str(path)  # type: ignore[attr-defined]
    sys.modules[name] = module  # dataclasses look their module up
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # the file may import its neighbours
    loader = spec.loader
    try:
        _guarded(lambda: loader.exec_module(module), str(path))
    except R1JaxError:
        del sys.modules[name]
        raise
    return module


def _guarded(build: Callable[[], Any], what: str) -> Any:
    """Calls code of a user; whatever it raises becomes one line."""
    try:
        return build()
    except R1JaxError:
        raise
    except Exception as error:
        raise R1JaxError(f"{what}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Returns type and message of an exception on one line of at most 300 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _label(spec: Any) -> str:
    return repr(spec) if isinstance(spec, str) else getattr(spec, "__qualname__", type(spec).__name__)
