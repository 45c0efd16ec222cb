"""Bicubic resizing against figures of MATLAB's imresize and of Pillow, whose kernel is the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from r1jax.images.convert import quantise, to_float, to_uint8
from r1jax.images.resize import resize_bicubic, undo_enlargement, weight_matrix


@pytest.mark.parametrize(("size_in", "size_out"), [(64, 16), (16, 64), (37, 50), (50, 37), (5, 1), (1, 4)])
def test_weights_sum_to_one(size_in, size_out):
    matrix = weight_matrix(size_in, size_out)
    assert matrix.shape == (size_out, size_in)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)


def test_borders_are_mirrored():
    image = np.random.default_rng(2).random((1, 16, 3)).astype(np.float32)
    mirrored = np.concatenate([image[:, ::-1], image, image[:, ::-1]], 1)
    np.testing.assert_allclose(resize_bicubic(image, 1, 4), resize_bicubic(mirrored, 1, 12)[:, 4:8], atol=1e-6)


@pytest.mark.parametrize("size", [(16, 24), (128, 100)])
def test_equals_pillow_inside(size):
    image = np.random.default_rng(0).random((64, 60, 3)).astype(np.float32)
    ours = resize_bicubic(image, *size)
    planes = [Image.fromarray(image[..., c]).resize(size[::-1], Image.Resampling.BICUBIC) for c in range(3)]
    theirs = np.stack([np.asarray(plane) for plane in planes], -1)
    margin = 8 if size[0] > 64 else 3  # Pillow cuts the kernel at the border, MATLAB mirrors the image
    inside = np.s_[margin:-margin, margin:-margin]
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=2e-5)


def test_numpy_equals_jax():
    image = np.random.default_rng(1).random((2, 12, 20, 3)).astype(np.float32)
    device = jax.jit(lambda x: resize_bicubic(x, 48, 80))(jnp.asarray(image))
    np.testing.assert_allclose(device, resize_bicubic(image, 48, 80), atol=1e-5)


def test_levels_survive_host_and_device():
    levels = np.arange(256, dtype=np.uint8)
    assert (to_uint8(to_float(levels)) == levels).all()
    assert (np.asarray(jax.jit(quantise)(to_float(levels))) == to_float(levels)).all()


def test_an_enlargement_is_undone():
    image = np.random.default_rng(3).random((12, 20, 3)).astype(np.float32)
    np.testing.assert_allclose(undo_enlargement(resize_bicubic(image, 48, 80), 12, 20), image, atol=1e-4)
    rounded = to_float(to_uint8(resize_bicubic(image * 0.5 + 0.25, 48, 80)))
    np.testing.assert_allclose(undo_enlargement(rounded, 12, 20), image * 0.5 + 0.25, atol=4e-3)
