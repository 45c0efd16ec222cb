"""`r1jax tree build`: computes the transition trees of a config's training images, one file an image.

A build that was stopped goes on where it was; `--part I/N` lets N processes, or machines that share the folder, each do
their share. Nothing is computed twice: states of equal content are expanded, scored and encoded once.
"""

import contextlib
import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from r1jax.agent.agent import make_environment
from r1jax.agent.encoder import encoder
from r1jax.config import Config, to_dict
from r1jax.degradations.dataset import NamedPhoto, degraded_pair, load_photos, note_small, photo_hashes
from r1jax.degradations.mixes import Mix, mix_name, training_mixes
from r1jax.errors import R1JaxError, UsageError
from r1jax.evaluation import judges
from r1jax.evaluation.command import open_scorer
from r1jax.evaluation.simulator import Simulator, in_blocks, num_states
from r1jax.evaluation.tree import Encode, Metric, build_tree, read_tree, write_tree
from r1jax.files import make_folder, write_whole
from r1jax.images.convert import quantise, to_float
from r1jax.images.fidelity import structure_kept
from r1jax.training.tree import META_FILE, STRUCTURE, identify, image_path
from r1jax.weights.recorded import digest

_WORDS = {"effect": "tools that do something else (digest)", "pixels": "photos of other pixels (digest)"}
_STATE_BYTES = 40  # of a state without its features, compressed


@dataclasses.dataclass(frozen=True)
class TreeImage:
    """One image of a tree: sRGB uint8."""

    photo: str
    mix: str
    degraded: UInt8[np.ndarray, "h w 3"]
    clean: UInt8[np.ndarray, "h w 3"]


@dataclasses.dataclass(frozen=True)
class TreeImages:
    """The images of a tree, a function of (seed, index): every photo in turn, every mix in turn."""

    photos: list[NamedPhoto]
    mixes: tuple[Mix, ...]
    crop: int
    clean_share: float
    seed: int

    def __getitem__(self, index: int) -> TreeImage:
        """Crops, flips and degrades as training on images does."""
        photo, mix = self._photo_and_mix(index)
        rng = np.random.default_rng([self.seed, index])
        degraded, clean = degraded_pair(photo.pixels, (mix,), self.crop, self.clean_share, rng)
        return TreeImage(photo.name, mix_name(mix), degraded, clean)

    def names(self, index: int) -> dict[str, str]:
        """Returns the photo and the mix of an image, without making it."""
        photo, mix = self._photo_and_mix(index)
        return {"photo": photo.name, "mix": mix_name(mix)}

    def _photo_and_mix(self, index: int) -> tuple[NamedPhoto, Mix]:
        order = np.random.default_rng(self.seed).permutation(len(self.photos))
        # The shift lets each photo meet each mix where one count divides the other.
        turn = index // np.lcm(len(self.photos), len(self.mixes))
        return self.photos[order[index % len(order)]], self.mixes[(index + turn) % len(self.mixes)]


@dataclasses.dataclass(frozen=True)
class BuildResult:
    """What a build did: images computed now, images complete in the folder, seconds."""

    built: int
    complete: int
    num_images: int
    seconds: float


def tree_images(config: Config, photos: str | None = None, seed: int = 0) -> TreeImages:
    """Returns the images of a config's tree.

    Args:
      photos: instead of those of the config: held-out ones, for evaluation.

    Raises:
      UsageError: no such photos or mixes.
    """
    data = config.data
    mixes = training_mixes(data.mixes, data.extra_mixes)
    clean = load_photos(photos or data.photos)
    note_small(clean, data.crop)
    return TreeImages(clean, mixes, data.crop, data.clean_share, seed)


def build_training_tree(
    config: Config,
    folder: str | pathlib.Path,
    *,
    photos: str | None = None,
    num_images: int | None = None,
    seed: int = 0,
    part: tuple[int, int] = (0, 1),
    dtype: str = "float16",
    beam: int = 0,
    estimate_only: bool = False,
    scorer: Any = None,
    progress: bool = True,
) -> BuildResult:
    """Builds, or goes on building, the tree of a config.

    Args:
      photos: a folder of clean photos instead of `data.photos`.
      num_images: images of the tree; by default every photo under every mix once.
      seed: of crops and degradations; training seeds share one tree.
      part: (I, N): build the images I, I + N, I + 2 N, ... only.
      dtype: of the stored features.
      beam: go on from so many states a level, those that score best, instead of all.
      estimate_only: print what it would take, and build nothing.
      scorer: the scorer `reward.scorer` of the config, where it runs already.

    Raises:
      UsageError: a field does not fit, or the folder holds another tree.
      R1JaxError: the scorer gave no score, or a feature does not fit `dtype`.
    """
    started, folder = time.perf_counter(), pathlib.Path(folder)
    if folder.is_file():
        raise UsageError(f"{folder}: a file; want a folder for the tree")
    images = tree_images(config, photos, seed)
    count = num_images or len(images.photos) * len(images.mixes)
    env = make_environment(config)
    with contextlib.ExitStack() as stack:
        simulator = Simulator(env, env.toolbox.params, scorer or open_scorer(config, stack))
        encode = _make_encode(config, simulator, dtype)
        meta = _meta(config, images, count, simulator, photos or config.data.photos, dtype) | {"beam": beam}
        if not estimate_only:
            claim_tree(folder, meta)
        mine = [i for i in range(part[0], count, part[1]) if not _built(folder, i)]
        _print_estimate(config, simulator, encode, len(mine), count, beam, folder)
        built = 0
        if not estimate_only:
            built = _build(simulator, encode, images, folder, mine, beam, progress)
    complete = sum(image_path(folder, i).is_file() for i in range(count))
    return BuildResult(built, complete, count, time.perf_counter() - started)


def _build(
    simulator: Simulator,
    encode: Encode,
    images: TreeImages,
    folder: pathlib.Path,
    indices: list[int],
    beam: int,
    progress: bool,
) -> int:
    from tqdm import tqdm

    for index in tqdm(indices, unit="image", desc="tree", disable=not progress):
        image = images[index]
        metrics = judges.tree_metrics(False) | {STRUCTURE: _kept_of(image.degraded)}
        tree = build_tree(simulator, image.degraded, image.clean, metrics, encode, beam)
        write_tree(image_path(folder, index), tree)
    return len(indices)


def _kept_of(first: UInt8[np.ndarray, "h w 3"]) -> Metric:
    """Returns the metric of how much of the first image's structure a state keeps; the clean photo takes no part."""
    return lambda image, clean: structure_kept(image, np.broadcast_to(to_float(first), image.shape))


def _built(folder: pathlib.Path, index: int) -> bool:
    path = image_path(folder, index)
    return path.is_file() and read_tree(path) is not None


def _make_encode(config: Config, simulator: Simulator, dtype: str) -> Encode:
    """Returns the frozen encoder on uint8 images, in the dtype that is stored."""
    if dtype not in ("float16", "float32"):
        raise UsageError(f"--dtype {dtype}: want float16 or float32")
    frozen = encoder(config.agent.encoder)

    @jax.jit
    def apply(params: Any, image: UInt8[Array, "n h w 3"]) -> Float[Array, "n f"]:
        return frozen.apply(params, quantise(image.astype(jnp.float32) / 255))

    def encode(images: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n f"]:
        block = simulator.block(*images.shape[1:3])
        features = in_blocks(lambda x: apply(frozen.params, x), block, images).astype(dtype)
        if not np.isfinite(features).all():
            raise R1JaxError(f"agent.encoder={frozen.name}: a feature is not finite as {dtype}; try --dtype float32")
        return features

    return encode


def _meta(
    config: Config, images: TreeImages, count: int, simulator: Simulator, photos: str, dtype: str
) -> dict[str, Any]:
    return {
        "name": config.name,
        "horizon": config.env.horizon,
        **identify(config),
        "effect": simulator.fingerprint(images.crop, images.crop),
        "crop": images.crop,
        "clean_share": images.clean_share,
        "pixels": digest(photo_hashes(images.photos)),
        "seed": images.seed,
        "dtype": dtype,
        "num_images": count,
        "config": to_dict(config),
        "source": photos,
        "images": [images.names(i) for i in range(count)],
    }


def claim_tree(folder: pathlib.Path, meta: Mapping[str, Any]) -> None:
    """Makes the folder this tree's, or refuses; more images may be added to a tree.

    Raises:
      UsageError: the folder holds another tree.
    """
    path = folder / META_FILE
    if path.is_file():
        old = json.loads(path.read_text())
        told = [name for name in ("clean_share", "pixels") if name in old]  # a tree of an earlier version does not say
        for name in ("horizon", "tools", "encoder", "scorer", "effect", "crop", *told, "seed", "dtype", "beam", "apart"):
            if (held := old.get(name, 0)) != (wanted := meta.get(name, 0)):
                what = _WORDS.get(name, name)
                raise UsageError(f"{folder}: holds a tree with {what} {held}, not {wanted}; use another folder")
        shared = min(len(old["images"]), len(meta["images"]))
        if old["images"][:shared] != meta["images"][:shared]:
            raise UsageError(f"{folder}: holds a tree of other photos or mixes; use another folder")
        if len(old["images"]) >= len(meta["images"]):
            return
    make_folder(folder)
    write_whole(path, json.dumps(meta, indent=1) + "\n")


def _print_estimate(
    config: Config, simulator: Simulator, encode: Encode, missing: int, count: int, beam: int, folder: pathlib.Path
) -> None:
    """Says on stderr what is to be done, from one timed call of every tool, the scorer and the encoder."""
    crop, states = config.data.crop, _most_states(simulator.num_tools, simulator.horizon, beam)
    simulator.measure(crop, crop)
    block = np.zeros((simulator.block(crop, crop), crop, crop, 3), np.uint8)
    features = encode(block)
    start = time.perf_counter()
    encode(block)
    state_seconds = simulator.score_seconds + (time.perf_counter() - start) / len(block)
    seconds = states * state_seconds + (states - 1) / simulator.num_tools * float(simulator.tool_seconds.sum())
    size = states * (features.shape[1] * features.itemsize + _STATE_BYTES) * count / 2**20
    print(
        f"{folder}: {missing} of {count} images to build, {states} states each: about {missing * seconds / 60:.0f} min "
        f"({seconds:.1f} s an image); at most {size:.0f} MB in all",
        file=sys.stderr,
        flush=True,
    )


def _most_states(num_tools: int, horizon: int, beam: int) -> int:
    if not beam:
        return num_states(num_tools, horizon)
    return 1 + num_tools * sum(min(beam, num_tools**t) for t in range(horizon))
