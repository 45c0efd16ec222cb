"""Images at the host border and inside: files, conversion, resizing, tiling, quality against a reference.

Inside, images are float32 NHWC in [0, 1], sRGB; uint8 only at host borders.
"""

from r1jax.images.convert import quantise, to_float, to_uint8, to_uint8_in_graph
from r1jax.images.decode import Photo
from r1jax.images.io import list_images, read_image, write_image
from r1jax.images.metrics import luma, psnr, psnr_y, ssim, ssim_y
from r1jax.images.perceptual import fsim, ms_ssim, vsi
from r1jax.images.resize import resize_bicubic
from r1jax.images.tiling import bucket, crop_to, pad_to, restore_tiled

__all__ = [
    "Photo",
    "bucket",
    "crop_to",
    "fsim",
    "list_images",
    "luma",
    "ms_ssim",
    "pad_to",
    "psnr",
    "psnr_y",
    "quantise",
    "read_image",
    "resize_bicubic",
    "restore_tiled",
    "ssim",
    "ssim_y",
    "to_float",
    "to_uint8",
    "to_uint8_in_graph",
    "vsi",
    "write_image",
]
