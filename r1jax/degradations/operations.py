"""The eight degradations of the MiO100 benchmark (AgenticIR, arXiv 2410.17809), one function each.

An operation takes a uint8 RGB image [H, W, 3], a generator, and a depth map (None but for haze), and returns the degraded
uint8 image and the parameters that it drew. To add one: write the function and decorate it with `@operation("its name")`.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from r1jax.images.resize import resize_bicubic

Image = UInt8[np.ndarray, "h w 3"]
Depth = Float[np.ndarray, "h w"]
Operation = Callable[[Image, np.random.Generator, Depth | None], tuple[Image, dict[str, Any]]]

OPERATIONS: dict[str, Operation] = {}


def operation(key: str) -> Callable[[Operation], Operation]:
    """Registers a degradation under the name that mixes use."""

    def register(function: Operation) -> Operation:
        OPERATIONS[key] = function
        return function

    return register


@operation("low resolution")
def low_resolution(image: Image, rng: np.random.Generator, depth: Depth | None) -> tuple[Image, dict[str, Any]]:
    """Shrinks to a quarter, MATLAB bicubic with antialiasing; the result is [ceil(H/4), ceil(W/4), 3]."""
    height, width = image.shape[:2]
    small = resize_bicubic(image.astype(np.float32), -(-height // 4), -(-width // 4))
    return _to_uint8(small), {"scale": 4}


@operation("noise")
def noise(image: Image, rng: np.random.Generator, depth: Depth | None) -> tuple[Image, dict[str, Any]]:
    """Half the time Gaussian of sigma U[20, 50], else scaled Poisson; clipped to uint8."""
    if rng.random() < 0.5:
        sigma = rng.uniform(20, 50)
        return _to_uint8(image + rng.normal(0, sigma, image.shape)), {"kind": "gaussian", "sigma": sigma}
    scale = rng.uniform(1, 3)
    x = image / 255.0
    levels = 2 ** int(np.ceil(np.log2(len(np.unique(image)))))
    shot = rng.poisson(x * levels) / levels - x
    return _to_uint8(255 * (x + shot * scale)), {"kind": "poisson", "scale": scale, "levels": levels}


@operation("jpeg")
def jpeg(image: Image, rng: np.random.Generator, depth: Depth | None) -> tuple[Image, dict[str, Any]]:
    """Encodes and decodes as JPEG of a quality in [10, 30)."""
    quality = int(rng.integers(10, 30))
    return compress_jpeg(image, quality), {"quality": quality}


def compress_jpeg(image: Image, quality: int) -> Image:
    """Returns `image` after JPEG coding (4:2:0) of the given quality, 1..100."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded: Any = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(decoded[..., ::-1])


@operation("dark")
def dark(image: Image, rng: np.random.Generator, depth: Depth | None) -> tuple[Image, dict[str, Any]]:
    """Darkens the V of HSV by a shift, a gamma or a squeezed range."""
    hsv: Any = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    value = hsv[..., 2].astype(np.float64)
    kind = ("shift", "gamma", "range")[rng.integers(3)]
    if kind == "shift":
        drawn: float = int(rng.integers(30, 50))
        value = value - drawn
    elif kind == "gamma":
        drawn = rng.uniform(0.5, 0.7)
        value = 255 * (value / 255) ** (1 / drawn)
    else:
        drawn = int(rng.integers(100, 150))
        value = (value - value.min()) / max(value.max() - value.min(), 1) * drawn
    hsv[..., 2] = _to_uint8(value)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), {"kind": kind, "value": drawn}


@operation("haze")
def haze(image: Image, rng: np.random.Generator, depth: Depth | None) -> tuple[Image, dict[str, Any]]:
    """Atmospheric scattering J t + A (1 - t) with t = exp(-b d)."""
    airlight, density = rng.uniform(0.7, 1.0), rng.uniform(0.6, 1.8)
    assert depth is not None, "haze needs a depth map"
    transmission = np.exp(-density * depth)[..., None]
    hazy = image * transmission + 255 * airlight * (1 - transmission)
    return _to_uint8(hazy), {"airlight": airlight, "density": density}


@operation("motion blur")
def motion_blur(image: Image, rng: np.random.Generator, depth: Depth | None) -> tuple[Image, dict[str, Any]]:
    """One-sided Gaussian smear along a line, edges replicated."""
    radius, sigma = ((10, 3), (15, 5), (15, 8))[rng.integers(3)]
    angle = rng.uniform(-90, 90)
    kernel = motion_kernel(radius, sigma, angle)
    blurred = cv2.filter2D(image.astype(np.float32), -1, kernel, borderType=cv2.BORDER_REPLICATE)
    return _to_uint8(blurred), {"radius": radius, "sigma": sigma, "angle": angle}


def motion_kernel(radius: int, sigma: float, angle: float) -> Float[np.ndarray, "k k"]:
    """Returns the blur as a correlation kernel: weight i falls i whole pixels from the centre along `angle` (degrees)."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    dy = np.ceil(steps * np.sin(np.deg2rad(angle)) - 0.5).astype(int)
    dx = np.ceil(steps * np.cos(np.deg2rad(angle)) - 0.5).astype(int)
    kernel = np.zeros((4 * radius + 1, 4 * radius + 1), np.float32)
    np.add.at(kernel, (2 * radius + dy, 2 * radius + dx), weights / weights.sum())
    return kernel


@operation("defocus blur")
def defocus_blur(image: Image, rng: np.random.Generator, depth: Depth | None) -> tuple[Image, dict[str, Any]]:
    """Convolves with a slightly smoothed disk, borders reflected."""
    radius, alias = ((3, 0.1), (4, 0.5), (6, 0.5))[rng.integers(3)]
    blurred = cv2.filter2D(image.astype(np.float32), -1, disk_kernel(radius, alias))
    return _to_uint8(blurred), {"radius": radius, "alias_sigma": alias}


def disk_kernel(radius: int, alias_sigma: float) -> Float[np.ndarray, "17 17"]:
    """Returns a normalised disk on a 17 x 17 grid, smoothed by a 3 x 3 Gaussian."""
    x = np.arange(-8, 9)
    disk = (x[:, None] ** 2 + x**2 <= radius**2).astype(np.float32)
    return cv2.GaussianBlur(disk / disk.sum(), (3, 3), alias_sigma)


@operation("rain")
def rain(image: Image, rng: np.random.Generator, depth: Depth | None) -> tuple[Image, dict[str, Any]]:
    """Adds bright streaks: sparse noise smeared along a slanted line."""
    length, angle, value = int(rng.integers(20, 40)), int(rng.integers(-30, 30)), int(rng.integers(50, 100))
    drops: Any = rng.uniform(0, 256, image.shape[:2])
    drops[drops < 256 - 0.01 * value] = 0
    drops = cv2.filter2D(drops, -1, np.array([[0, 0.1, 0], [0.1, 8, 0.1], [0, 0.1, 0]]))
    rotation = cv2.getRotationMatrix2D((length / 2, length / 2), angle - 45, 1)
    line = cv2.warpAffine(np.diag(np.ones(length)), rotation, (length, length))
    streaks = cv2.filter2D(drops, -1, cv2.GaussianBlur(line, (3, 3), 0))
    streaks = (streaks - streaks.min()) / max(float(np.ptp(streaks)), 1e-6) * 255
    return _to_uint8(image + streaks[..., None]), {"length": length, "angle": angle, "value": value}


def _to_uint8(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)
