"""Makes images of known quality: what a no-reference scorer learns from. launch/train_lite_scorer.py writes them to disk.

A group is of one photo crop: clean, degraded, and what lite tools make of it. The label of an image is the mean of PSNR-Y,
MS-SSIM and FSIM, each mapped to 1..5; VSI is kept out, as a judge.
"""

from typing import NamedTuple

import cv2
import jax
import numpy as np

from r1jax.degradations.dataset import NamedPhoto, random_crop
from r1jax.degradations.mixes import GROUPS, Mix, degrade
from r1jax.degradations.operations import OPERATIONS, compress_jpeg
from r1jax.images import fsim, ms_ssim, psnr_y
from r1jax.images.convert import quantise, to_float, to_uint8
from r1jax.reward.lite import lite_scorer
from r1jax.tools import toolbox
from r1jax.tools.lite import LITE_TOOLS
from r1jax.training.labelled import GROUP, NO_TOOL
from r1jax.training.supervised import natural_order

KINDS = list(OPERATIONS)
PLANS = 40  # images of one crop, with --plans
# The value of each metric that maps to 1 and to 5.
CALIBRATION = {"psnr_y": (12.0, 38.0), "ms_ssim": (0.0, 2.0), "fsim": (0.2, 1.7)}


def calibrated_label(psnr_y: np.ndarray, ms_ssim: np.ndarray, fsim: np.ndarray) -> np.ndarray:
    """Returns the label on 1..5; similarities enter as -log10(1 - s), which spreads the good ones."""
    values = {"psnr_y": psnr_y, "ms_ssim": -np.log10(1 - ms_ssim + 1e-3), "fsim": -np.log10(1 - fsim + 1e-3)}
    levels = [np.clip((values[key] - low) / (high - low), 0, 1) for key, (low, high) in CALIBRATION.items()]
    return (1 + 4 * np.mean(levels, 0)).astype(np.float32)


@jax.jit
def _metrics(images: jax.Array, clean: jax.Array) -> dict[str, jax.Array]:
    return {"psnr_y": psnr_y(images, clean), "ms_ssim": ms_ssim(images, clean), "fsim": fsim(images, clean)}


def full_reference(images: np.ndarray, clean: np.ndarray) -> dict[str, np.ndarray]:
    """Returns psnr_y, ms_ssim and fsim [n] of uint8 images [n, h, w, 3] against `clean`; n should be the same each time."""
    return {name: np.asarray(value) for name, value in _metrics(to_float(images), to_float(clean)).items()}


def label_of(images: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Returns the labels [n] of uint8 images, in blocks of one shape."""
    num = len(images)
    starts, size = range(0, len(images), 16), -(-len(images) // 16) * 16
    images, clean = (np.resize(x, (size, *x.shape[1:])) for x in (images, clean))
    chunks = [full_reference(images[i : i + 16], clean[i : i + 16]) for i in starts]
    metrics = {key: np.concatenate([chunk[key] for chunk in chunks]) for key in chunks[0]}
    return calibrated_label(**metrics)[:num]


def random_mix(rng: np.random.Generator) -> Mix:
    """A single degradation, a mix of group A, or two or three random ones; never a mix of group B or C."""
    kind = rng.random()
    if kind < 0.4:
        return (KINDS[rng.integers(len(KINDS))],)
    if kind < 0.7:
        return GROUPS["A"][rng.integers(len(GROUPS["A"]))]
    while True:
        mix = natural_order(tuple(rng.choice(KINDS, rng.integers(2, 4), replace=False).tolist()))
        if frozenset(mix) not in {frozenset(m) for m in GROUPS["B"] + GROUPS["C"]}:
            return mix


def right_tools(mix: Mix) -> list[int]:
    """Returns the numbers of the tools that undo a mix, for the last degradation first."""
    return [i for key in reversed(mix) for i, tool in enumerate(LITE_TOOLS.values()) if tool.degradation == key]


class Group(NamedTuple):
    """Images of one crop, and what is known of each. The number of images is a multiple of 8."""

    images: np.ndarray  # uint8 [n, h, w, 3]
    kinds: np.ndarray  # int8 [n, 8] which degradations it carries, -1: unknown
    origins: np.ndarray  # int8 [n] 0 clean, 1 degraded, 2 right tools only, 3 some wrong tool
    tools: np.ndarray  # int8 [n] which lite tool made it of the image before it, NO_TOOL: none did
    photo: np.ndarray  # [n] its name


class StateMaker:
    """Makes the images of one group with the lite tools."""

    def __init__(self, photos: list[NamedPhoto], crop: int, singles: float = 0, vary: bool = False):
        self.photos, self.crop, self.singles, self.vary = photos, crop, singles, vary
        self.box = toolbox("lite")
        self.tools = [jax.jit(lambda p, x, tool=tool: quantise(tool.apply(p, x))) for tool in self.box.tools]

    def group(self, rng: np.random.Generator) -> tuple[Group, np.ndarray]:
        """Makes a group; returns the clean crop too, which is its first image. A share `singles` of groups has one
        degradation an image and no tools: within one degradation, labels differ by little, and by content."""
        photo = self.photos[rng.integers(len(self.photos))]
        clean = self.clean_crop(photo.pixels, rng)
        images, kinds, origins, tools = [clean], [np.zeros(len(KINDS))], [0], [NO_TOOL]
        singles = rng.permutation(KINDS)[: GROUP - 1].tolist() if self.singles and rng.random() < self.singles else []
        while len(images) < GROUP:
            mix = (singles[len(images) - 1],) if singles else random_mix(rng)
            image = degrade(clean, mix, int(rng.integers(2**31))).image
            images.append(image)
            kinds.append(np.array([key in mix for key in KINDS], float))
            origins.append(1)
            tools.append(NO_TOOL)
            if singles:
                continue
            for state, origin, action in self.chain(image, mix, rng)[: GROUP - len(images)]:
                images.append(state)
                kinds.append(np.full(len(KINDS), -1.0))
                origins.append(origin)
                tools.append(action)
        of_kind, of_origin, of_tool = (np.array(column, np.int8) for column in (kinds, origins, tools))
        return Group(np.stack(images), of_kind, of_origin, of_tool, np.full(GROUP, photo.name)), clean

    def plans(self, rng: np.random.Generator) -> tuple[Group, np.ndarray]:
        """Makes a group of PLANS images in random order; returns the clean crop too.

        They are a degraded image, what each tool makes of it, of two of the results, and of two of theirs. One of the two is
        the best by the shipped scorer, which is where an agent goes: what the scorer takes for better than it is, it meets.
        """
        photo = self.photos[rng.integers(len(self.photos))]
        clean = self.clean_crop(photo.pixels, rng)
        mix = random_mix(rng)
        degraded = degrade(clean, mix, int(rng.integers(2**31))).image
        images, origins = [clean, degraded], [0, 1]
        # What is left to do right; None after a wrong call.
        parents: list[tuple[np.ndarray, frozenset[int] | None]] = [(degraded, frozenset(right_tools(mix)))]
        for _ in range(3):
            x = to_float(np.stack([image for image, _ in parents]))
            made = [to_uint8(np.asarray(tool(params, x))) for tool, params in zip(self.tools, self.box.params, strict=True)]
            left = [[todo - {i} if todo and i in todo else None for _, todo in parents] for i in range(len(made))]
            children = [child for row in zip(made, left, strict=True) for child in zip(*row, strict=True)]
            images += [image for image, _ in children]
            origins += [3 if todo is None else 2 for _, todo in children]
            best = int(lite_scorer().score(np.stack([image for image, _ in children])).argmax())
            parents = [children[best], children[rng.integers(len(children))]]
        kinds = np.full((len(images), len(KINDS)), -1, np.int8)
        kinds[0], kinds[1] = 0, [key in mix for key in KINDS]
        rows = rng.permutation(len(images))[:PLANS]
        tools, names = np.full(PLANS, NO_TOOL, np.int8), np.full(PLANS, photo.name)
        return Group(np.stack(images)[rows], kinds[rows], np.array(origins, np.int8)[rows], tools, names), clean

    def clean_crop(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns a crop of a photo, at another sharpness, tone and quality of its file: what people's photos differ in."""
        if not self.vary:
            return random_crop(pixels, self.crop, rng)
        short = min(pixels.shape[:2])
        scale = np.exp(rng.uniform(np.log(max(0.35, 1.05 * self.crop / short)), np.log(1.6)))
        size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
        interpolation = cv2.INTER_AREA if scale < 1 else (cv2.INTER_LINEAR, cv2.INTER_CUBIC)[rng.integers(2)]
        clean = random_crop(cv2.resize(pixels, size, interpolation=interpolation), self.crop, rng)
        if rng.random() < 0.5:
            tone = rng.uniform(0.85, 1.1) * (clean / 255.0) ** np.exp(rng.uniform(-0.4, 0.3)) + rng.uniform(-0.05, 0.05)
            clean = to_uint8(tone.astype(np.float32))
        return compress_jpeg(clean, int(rng.integers(75, 97))) if rng.random() < 0.4 else clean

    def chain(self, image: np.ndarray, mix: Mix, rng: np.random.Generator) -> list[tuple[np.ndarray, int, int]]:
        """Returns (state, origin, tool) of one to three calls, right ones (last degradation first) and random ones."""
        right, states, origin, x = right_tools(mix), [], 2, to_float(image)[None]
        for _ in range(rng.integers(1, 4)):
            if right and rng.random() < 0.65:
                action = right.pop(0)
            else:
                action, origin = int(rng.integers(len(self.box))), 3
            x = np.asarray(self.tools[action](self.box.params[action], x))
            states.append((to_uint8(x[0]), origin, action))
        return states
