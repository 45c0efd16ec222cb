"""Buckets, reflection, and tiles whose blend is exact."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.images.tiling import bucket, crop_to, pad_to, restore_tiled

sides = st.integers(1, 40)


def photo(height, width, seed=0):
    return np.random.default_rng(seed).random((height, width, 3), np.float32)


def test_buckets_are_few_multiples_of_64_that_hold_the_image():
    padded = {side: bucket(side, 1)[0] for side in range(1, 2049)}
    assert all(large >= side and large % 64 == 0 for side, large in padded.items())
    assert all(bucket(large, large) == (large, large) for large in padded.values())
    assert len(set(padded.values())) == 16
    assert max(large / side for side, large in padded.items() if side > 256) < 1.25
    assert bucket(65, 1300) == (128, 1536)
    with pytest.raises(ValueError, match="at least 1 pixel"):
        bucket(0, 5)


@given(sides, sides, sides, sides)
def test_padding_is_numpy_reflection_and_cropping_takes_it_back(h, w, more_h, more_w):
    x = photo(h, w)[None]
    padded = pad_to(x, h + more_h, w + more_w)
    wanted = np.pad(x, ((0, 0), (0, more_h), (0, more_w), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(padded, wanted)
    np.testing.assert_array_equal(crop_to(padded, h, w), x)


def test_padding_one_pixel_a_jax_batch_and_a_single_image():
    np.testing.assert_array_equal(pad_to(np.full((1, 1, 3), 0.3), 3, 2), np.full((3, 2, 3), 0.3))
    batch = jnp.asarray(np.stack([photo(2, 3), photo(2, 3, seed=1)]))
    padded = pad_to(batch, 4, 5)
    assert isinstance(padded, type(batch)) and padded.shape == (2, 4, 5, 3)
    np.testing.assert_array_equal(padded[:, 2:, 3:], batch[:, [0, 1]][:, :, [1, 0]])


def test_padding_to_less_and_cropping_to_more_are_refused():
    with pytest.raises(ValueError, match="pad 4 x 5 to 3 x 9"):
        pad_to(photo(4, 5), 3, 9)
    with pytest.raises(ValueError, match="crop 4 x 5 to 3 x 9"):
        crop_to(photo(4, 5), 3, 9)


@settings(deadline=None)
@given(sides, sides, st.integers(1, 16), st.data())
def test_an_identity_gives_the_image_back_from_tiles_of_one_size(h, w, tile, draw):
    overlap = draw.draw(st.integers(0, tile - 1))
    image, shapes = photo(h, w), set()

    def identity(x):
        shapes.add(x.shape)
        return x

    np.testing.assert_allclose(restore_tiled(identity, image, tile, overlap, grid=1), image, atol=1e-6)
    assert shapes == {(1, tile, tile, 3)}


def test_tiled_equals_whole_where_the_overlap_covers_what_the_function_sees():
    def blur(x):  # looks 2 pixels around, wrapping: wrong within 2 pixels of a tile's border
        return sum(np.roll(x, (i, j), (1, 2)) for i in range(-2, 3) for j in range(-2, 3)) / 25

    image = photo(50, 70)
    tiled, whole = restore_tiled(blur, image, 32, 16), blur(image[None])[0]
    inner = np.s_[2:-2, 2:-2]
    assert np.abs(tiled - whole)[inner].max() < 0.02
    without_overlap = restore_tiled(blur, image, 32, 0, grid=1)
    assert np.abs(without_overlap - whole)[inner].max() > 0.1  # seams


def test_seams_fade_smoothly():
    tiles = iter([0.0, 1.0])  # a left tile that answers black, a right one that answers white
    result = restore_tiled(lambda x: np.full_like(x, next(tiles)), photo(32, 48), 32, 16)
    row = result[10, :, 0]
    np.testing.assert_allclose(row[[0, 15, 32, 47]], [0, 0, 1, 1], atol=1e-6)
    assert (np.diff(row) >= 0).all() and np.diff(row).max() < 0.11
    np.testing.assert_allclose(row[16:32] + row[31:15:-1], 1, atol=1e-6)


@given(st.integers(33, 200), st.integers(33, 200))
def test_tiles_begin_on_the_grid_of_jpeg_blocks_and_overlap_enough(h, w):
    rows, columns = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
    image, starts = np.stack([rows, columns, rows], -1).astype(np.float32), []

    def identity(x):
        starts.append(x[0, 0, 0, :2])
        return x

    np.testing.assert_allclose(restore_tiled(identity, image, 32, 16), image, atol=1e-3)
    for axis in range(2):
        found = np.unique([start[axis] for start in starts])
        assert not (found % 8).any() and np.diff(found).max(initial=0) <= 16


def test_wrong_overlap_and_a_function_that_resizes_are_refused():
    with pytest.raises(ValueError, match="overlap < tile = 8, got 8"):
        restore_tiled(lambda x: x, photo(9, 9), 8, 8)
    with pytest.raises(ValueError, match="a divisor of tile = 16 and overlap = 2, got 8"):
        restore_tiled(lambda x: x, photo(9, 9), 16, 2)
    with pytest.raises(ValueError, match=r"want \[1, 8, 8, 3\], got \[1, 4, 8, 3\]"):
        restore_tiled(lambda x: x[:, ::2], photo(9, 9), 8, 2, grid=1)


def test_twelve_megapixels_take_little_memory():
    import tracemalloc

    image = np.zeros((3000, 4000, 3), np.float32)
    tracemalloc.start()
    try:
        restore_tiled(lambda x: x, image)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 0.4 * 2**30  # the result, its cropped copy, one tile
