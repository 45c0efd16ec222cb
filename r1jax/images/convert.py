"""Between the uint8 of files and the float images inside.

Images inside are float32 NHWC in [0, 1], sRGB; uint8 exists only at the borders: files, hashes, scorers.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

# A product, not a division: XLA turns the division into this product on some devices, numpy never does.
_STEP = np.float32(1 / 255)


def to_float(image: UInt8[np.ndarray, "*b h w c"]) -> Float[np.ndarray, "*b h w c"]:
    """Returns uint8 pixels as float32 in [0, 1]."""
    return np.asarray(image, np.float32) * _STEP


def to_uint8(image: Float[np.ndarray, "*b h w c"]) -> UInt8[np.ndarray, "*b h w c"]:
    """Returns pixels of [0, 1], clipped, rounded to the nearest uint8."""
    return np.rint(np.clip(np.asarray(image), 0, 1) * 255).astype(np.uint8)


def to_uint8_in_graph(image: Float[Array, "*b h w c"]) -> UInt8[Array, "*b h w c"]:
    """`to_uint8` for device arrays."""
    return jnp.rint(jnp.clip(image, 0, 1) * 255).astype(jnp.uint8)


def quantise(image: Float[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
    """Returns the float image that a uint8 file of `image` would hold: clipped, round(255 x) / 255.

    The product is the one of `to_float`, so that device and host agree bit for bit.
    """
    return to_uint8_in_graph(image).astype(jnp.float32) * _STEP
