"""Depth for haze where no depth map is given.

A photo of the open air is nearer at the bottom than at the top: a vertical ramp with smooth bumps. It is seeded with the
image's content, so every mix of a photo has the same depth and figures compare. A folder of real maps can be given instead.
"""

import hashlib
import pathlib

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from r1jax.errors import ImageError
from r1jax.images.resize import resize_bicubic


def synthetic_depth(image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    """Returns a depth map whose largest value is 1, made from the image's hash alone."""
    height, width = image.shape[:2]
    small_height, small_width = -(-height // 4), -(-width // 4)
    digest = hashlib.sha256(image.tobytes()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    bumps = resize_bicubic(rng.standard_normal((5, 5, 1)).astype(np.float32), small_height, small_width)[..., 0]
    depth = np.linspace(1, 0.25, small_height)[:, None] + 0.15 * bumps
    depth = 0.15 + 0.85 * (depth - depth.min()) / max(float(np.ptp(depth)), 1e-6)
    depth = resize_bicubic(depth[..., None].astype(np.float32), 4 * small_height, 4 * small_width)
    depth = depth[:height, :width, 0]
    return depth / depth.max()


def read_depth(path: str | pathlib.Path, shape: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """Returns a grey image file (8 or 16 bit, bright is far) as a depth map of `shape`, largest value 1.

    Raises:
      ImageError: the file is missing, is not an image, or is black everywhere.
    """
    if not pathlib.Path(path).is_file():
        raise ImageError(f"{path}: no such depth map")
    depth = cv2.imread(str(path), cv2.IMREAD_ANYDEPTH)
    if depth is None or depth.max() == 0:
        raise ImageError(f"{path}: not a depth map (a grey image, bright is far)")
    depth = resize_bicubic(depth[..., None].astype(np.float32), *shape)[..., 0]
    return np.clip(depth, 0, None) / depth.max()
