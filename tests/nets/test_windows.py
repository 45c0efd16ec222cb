"""The pieces that window transformers share, against plain definitions of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.nets.windows import relative_index, relative_offsets, shift_regions, split_windows, window_attention


def image(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def attention_of_one_pixel(q, k, v, bias, pixel, window, overlap, heads, seen):
    """By the definition: loops over the keys of the pixel's window, zeros beyond the image."""
    y, x = pixel
    top, left = y - y % window - overlap // 2, x - x % window - overlap // 2
    size = window + overlap
    query = np.asarray(q[0, y, x]).reshape(heads, -1)
    row = (y % window) * window + x % window
    logits, values = [], []
    for i in range(size):
        for j in range(size):
            inside = 0 <= top + i < q.shape[1] and 0 <= left + j < q.shape[2]
            key, value = (
                np.asarray(t[0, top + i, left + j] if inside else jnp.zeros(q.shape[-1])).reshape(heads, -1) for t in (k, v)
            )
            logit = (query * key).sum(-1) * query.shape[-1] ** -0.5 + bias[:, row, i * size + j]
            logits.append(logit if seen(top + i, left + j) else np.full(heads, -np.inf))
            values.append(value)
    weights = np.asarray(jax.nn.softmax(jnp.asarray(logits), 0))
    return (weights[..., None] * np.asarray(values)).sum(0).reshape(-1)


@pytest.mark.parametrize("overlap", [0, 2])
def test_window_attention(overlap):
    heads, window = 2, 4
    q, k, v = (image(1, 8, 12, 6, seed=i) for i in range(3))
    bias = image(heads, 16, (4 + overlap) ** 2)
    out = window_attention(q, k, v, heads, window, bias, overlap=overlap)
    for pixel in [(0, 0), (5, 7), (7, 11), (2, 8)]:
        wanted = attention_of_one_pixel(q, k, v, bias, pixel, window, overlap, heads, lambda y, x: True)
        np.testing.assert_allclose(out[0, pixel[0], pixel[1]], wanted, atol=1e-5)


def test_a_shifted_image_does_not_see_around_its_edge():
    heads, window, shift = 1, 4, 2
    q, k, v = (image(1, 8, 8, 4, seed=i) for i in range(3))
    bias = np.zeros((heads, 16, 16))
    out = window_attention(q, k, v, heads, window, bias, shift=shift)

    def part(y, x):
        return y < 6, x < 6  # the image was rolled by 2: rows 6 and 7 are the original's first two

    for pixel in [(1, 1), (5, 5), (5, 6), (7, 2), (7, 7)]:
        wanted = attention_of_one_pixel(
            q, k, v, bias, pixel, window, 0, heads, lambda y, x, pixel=pixel: part(y, x) == part(*pixel)
        )
        np.testing.assert_allclose(out[0, pixel[0], pixel[1]], wanted, atol=1e-5)


def test_windows_are_cut_row_by_row():
    plane = jnp.arange(24.0).reshape(1, 4, 6, 1)
    windows = split_windows(plane, 2, 1)[0, :, 0, :, 0]
    np.testing.assert_array_equal(windows[0], [0, 1, 6, 7])
    np.testing.assert_array_equal(windows[3], [12, 13, 18, 19])
    around = split_windows(plane, 2, 1, overlap=2)[0, :, 0, :, 0].reshape(6, 4, 4)
    np.testing.assert_array_equal(around[0], [[0, 0, 0, 0], [0, 0, 1, 2], [0, 6, 7, 8], [0, 12, 13, 14]])
    np.testing.assert_array_equal(around[5], [[9, 10, 11, 0], [15, 16, 17, 0], [21, 22, 23, 0], [0, 0, 0, 0]])


def test_relative_positions():
    assert relative_offsets(2).tolist()[0] == [[0, 0], [0, 1], [1, 0], [1, 1]]
    index = relative_index(2)
    assert index.shape == (4, 4) and index.min() == 0 and index.max() == 8
    assert (np.diag(index) == 4).all() and index[0, 3] == 0 and index[3, 0] == 8
    wide = relative_index(4, 6) % 81  # offsets from -3 to 5 each way; negative ones count from the end
    assert wide.shape == (16, 36) and wide.min() == 0 and wide.max() == 80 and len(np.unique(wide)) == 81


def test_shift_regions():
    regions = shift_regions(4, 4, 2, 1)
    np.testing.assert_array_equal(regions[0], [0, 0, 0, 0])
    np.testing.assert_array_equal(regions[3], [4, 5, 7, 8])
