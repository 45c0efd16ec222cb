"""Frozen encoders: what the policy sees of an image. Images are NHWC, sRGB in [0, 1].

An encoder is added by decorating a factory with `@register_encoder("name")`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from r1jax.errors import R1JaxError, UsageError
from r1jax.nets.efficientnet_lite import EfficientNetLite


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A pure image encoder; nothing of it is trained."""

    name: str
    apply: Callable[[Any, Float[Array, "b h w 3"]], Float[Array, "b f"]]
    params: Any  # first argument of `apply`, passed to compiled programs rather than closed over
    num_features: int
    version: str = ""  # of its weights: an agent's file keeps it


_FACTORIES: dict[str, Callable[[], Encoder]] = {}


def register_encoder(name: str) -> Callable[[Callable[[], Encoder]], Callable[[], Encoder]]:
    """Registers a factory, called when an encoder of this name is asked for."""

    def register(factory: Callable[[], Encoder]) -> Callable[[], Encoder]:
        _FACTORIES[name] = factory
        return factory

    return register


def encoder(name: str) -> Encoder:
    """Returns the encoder registered as `name`; "NAME+NAME" shows what several show, side by side.

    Raises:
      UsageError: there is none; the line lists those there are.
      R1JaxError: its weights are not there.
    """
    from r1jax.agent import clip  # noqa: F401  registers its towers

    if "+" in name:
        return _side_by_side([encoder(part) for part in name.split("+")])
    if name not in _FACTORIES:
        raise UsageError(f"agent.encoder: no encoder {name!r}; there are {', '.join(sorted(_FACTORIES))}")
    return _FACTORIES[name]()


def _side_by_side(encoders: Sequence[Encoder]) -> Encoder:
    def apply(params: Any, image: Float[Array, "b h w 3"]) -> Float[Array, "b f"]:
        return jnp.concatenate([of.apply(p, image) for of, p in zip(encoders, params, strict=True)], -1)

    name, version = ("+".join(getattr(of, field) for of in encoders) for field in ("name", "version"))
    return Encoder(name, apply, tuple(of.params for of in encoders), sum(of.num_features for of in encoders), version)


@register_encoder("lite_scorer")
def lite_scorer() -> Encoder:
    """Pooled features of the shipped quality scorer's net.

    Raises:
      R1JaxError: its weights are not in the package.
    """
    return _of_scorer("lite_scorer", lambda net, image: net.features(image))


@register_encoder("lite_statistics")
def lite_statistics() -> Encoder:
    """The same features, and the standardised statistics that they come from.

    Raises:
      R1JaxError: the scorer's weights are not in the package.
    """

    def features(net: Any, image: Float[Array, "b h w 3"]) -> Float[Array, "b f"]:
        statistics = net.look(image)
        return jnp.concatenate([*net.heads(statistics), statistics], -1)

    return _of_scorer("lite_statistics", features)


@register_encoder("lite_foresight")
def lite_foresight() -> Encoder:
    """The scorer's levels, and what each lite tool is expected to gain, and each second one after it.

    No tool is run for it: a learned model of them is, see `r1jax.nets.foresight_net`.

    Raises:
      R1JaxError: the weights of the scorer or of the model are not in the package, or do not belong together.
    """
    scorer, scorer_state, of_scorer, _ = _shipped_net("scorer")
    model, model_state, of_model, about = _shipped_net("foresight")
    if not about["scorer"].startswith(of_scorer):
        raise R1JaxError("agent.encoder: the foresight net is of another scorer: launch/train_foresight.py trains it anew")

    def apply(params: Any, image: Float[Array, "b h w 3"]) -> Float[Array, "b f"]:
        quality, foresight = (nnx.merge(graph, state) for graph, state in zip((scorer, model), params, strict=True))
        return foresight(quality, quality.look(image))

    return _frozen("lite_foresight", apply, (scorer_state, model_state), f"{of_scorer}-{of_model}")


def _of_scorer(name: str, features: Callable[[Any, Float[Array, "b h w 3"]], Float[Array, "b f"]]) -> Encoder:
    """Returns what a function makes of the scorer's net and an image."""
    graph, params, version, _ = _shipped_net("scorer")

    def apply(params: Any, image: Float[Array, "b h w 3"]) -> Float[Array, "b f"]:
        return features(nnx.merge(graph, params), image)

    return _frozen(name, apply, params, version)


def _shipped_net(name: str) -> tuple[Any, Any, str, dict[str, Any]]:
    """Returns the graph, the parameters, the version and the metadata of a net that the package ships."""
    from r1jax import weights
    from r1jax.weights.recorded import sha256_of

    path = weights.weight_file(name)
    if not path.is_file():
        raise R1JaxError(f"agent.encoder: the shipped weights are missing: {path}")
    module, about = weights.load_module(path)
    graph, params = nnx.split(module)
    return graph, params, sha256_of(path)[:12], about


def _frozen(
    name: str, apply: Callable[[Any, Float[Array, "b h w 3"]], Float[Array, "b f"]], params: Any, version: str
) -> Encoder:
    shape = jax.eval_shape(apply, params, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)).shape
    return Encoder(name, apply, params, shape[-1], version)


@register_encoder("efficientnet_lite0")
def efficientnet_lite0() -> Encoder:
    """ImageNet features: the 1280 by which EfficientNet-Lite0 tells classes; `r1jax weights pull efficientnet-lite0`.

    Raises:
      R1JaxError: its weights are not in the cache.
    """
    from r1jax.weights.published import load_published
    from r1jax.weights.recorded import digest

    graph, state = nnx.split(load_published("efficientnet-lite0"))

    def apply(state: Any, image: Float[Array, "b h w 3"]) -> Float[Array, "b 1280"]:
        net = nnx.merge(graph, state)
        assert isinstance(net, EfficientNetLite)
        return net.embedding(image)

    return _frozen("efficientnet_lite0", apply, state, digest(state))


@register_encoder("pixels")
def pixels() -> Encoder:
    """Image statistics without weights, for tests and small experiments: see `pixel_statistics`."""
    return Encoder("pixels", lambda params, image: pixel_statistics(image), (), NUM_PIXEL_STATISTICS)


_GRID = 3  # cells a side of the colour grid
_LEVELS = 8  # bins of the luma histogram
_SCALES = 3  # octaves of the energies
_LUMA, _RED_BLUE = (0.299, 0.587, 0.114), (1.0, 0.0, -1.0)
_KERNELS = (  # of luma: differences to the right, down and along both diagonals, and the Laplacian; then of red-blue
    (_LUMA, ((0, 0, 0), (0, 1, -1), (0, 0, 0))),
    (_LUMA, ((0, 0, 0), (0, 1, 0), (0, -1, 0))),
    (_LUMA, ((0, 0, 0), (0, 1, 0), (0, 0, -1))),
    (_LUMA, ((0, 0, 0), (0, 1, 0), (-1, 0, 0))),
    (_LUMA, ((0, -1, 0), (-1, 4, -1), (0, -1, 0))),
    (_RED_BLUE, ((0, 0, 0), (0, 1, -1), (0, 0, 0))),
)
NUM_PIXEL_STATISTICS = 3 * _GRID**2 + 5 + _LEVELS + _SCALES * len(_KERNELS) + 4


def pixel_statistics(image: Float[Array, "b h w 3"]) -> Float[Array, "b f"]:
    """Returns fixed statistics, each of order 1 and nearly independent of the image's size; any h, w >= 1.

    In order: mean colour of a 3x3 grid; standard deviation of each channel, dark channel, saturation; soft
    8-bin luma histogram; log energies of luma's horizontal, vertical and diagonal differences, of its Laplacian
    and of a chroma difference, at 3 octaves; log energies across the edges of 8x8 blocks and inside them, along
    both axes.
    """
    darkest, brightest = jnp.min(image, -1), jnp.max(image, -1)
    colour = jnp.stack([darkest, brightest - darkest], -1).mean((1, 2))
    plane, energies = image, []
    for _ in range(_SCALES):
        energies.append(_square_differences(plane))
        plane = _halve(plane)
    blocks = _blockiness(energies[0][..., :2])
    log_energies = _log(jnp.concatenate([*(energy.mean((1, 2)) for energy in energies), blocks], -1))
    histogram = _histogram(image @ jnp.array(_LUMA, image.dtype))
    return jnp.concatenate([_grid_means(image), image.std((1, 2)), colour, histogram, log_energies], -1)


def _grid_means(image: Float[Array, "b h w 3"]) -> Float[Array, "b g"]:
    rows, columns = _cells(image.shape[1]), _cells(image.shape[2])
    return jnp.einsum("gh,kw,bhwc->bgkc", rows, columns, image).reshape(image.shape[0], -1)


def _cells(size: int) -> Float[np.ndarray, "g n"]:
    """Returns averaging weights of `_GRID` cells; along a side shorter than the grid cells share pixels."""
    cell = np.arange(size) * _GRID // size
    nearest = cell[np.arange(_GRID) * size // _GRID]
    weights = (cell == nearest[:, None]).astype(np.float32)
    return weights / weights.sum(1, keepdims=True)


def _histogram(luma: Float[Array, "b h w"]) -> Float[Array, "b n"]:
    centres = (np.arange(_LEVELS, dtype=np.float32) + 0.5) / _LEVELS
    return jax.nn.relu(1 - jnp.abs(luma[..., None] - centres) * _LEVELS).mean((1, 2))


def _square_differences(image: Float[Array, "b h w 3"]) -> Float[Array, "b h w k"]:
    kernel = jnp.array([np.einsum("yx,c->yxc", taps, colour) for colour, taps in _KERNELS], image.dtype)
    padded = jnp.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    layout = ("NHWC", "OHWI", "NHWC")
    return jnp.square(jax.lax.conv_general_dilated(padded, kernel, (1, 1), "VALID", dimension_numbers=layout))


def _halve(image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Returns 2x2 means; a side of one pixel stays."""
    window = (1, min(2, image.shape[1]), min(2, image.shape[2]), 1)
    total = jax.lax.reduce_window(image, 0.0, jax.lax.add, window, window, "VALID")
    return total / (window[1] * window[2])


def _blockiness(energy: Float[Array, "b h w 2"]) -> Float[Array, "b 4"]:
    """Returns the mean energy on the edges of 8x8 blocks and off them, along x and along y."""
    along_x, along_y = energy[..., 0].mean(1), energy[..., 1].mean(2)
    return jnp.concatenate([along_x @ _edges(along_x.shape[1]), along_y @ _edges(along_y.shape[1])], -1)


def _edges(size: int) -> Float[np.ndarray, "n 2"]:
    edge = np.arange(size) % 8 == 7
    weights = np.stack([edge, ~edge], -1).astype(np.float32)
    return weights / np.maximum(weights.sum(0), 1)


def _log(energy: Float[Array, "b n"]) -> Float[Array, "b n"]:
    """Returns the log, scaled so that [1e-6, 1] spans [-1, 0.2]."""
    return (jnp.log(energy + 1e-6) + 2.3) / 11.5
