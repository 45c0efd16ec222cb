"""Photos of any size go through the agent whole: padding, views, tiles and tools that are never tiled."""

import dataclasses

import jax
import numpy as np
import pytest

from r1jax import restore
from r1jax.agent import Agent, Policy, encoder, load_agent, make_environment, save_agent
from r1jax.config import Config, override
from r1jax.degradations import degrade, load_photos
from r1jax.errors import UsageError
from r1jax.evaluation import restoration
from r1jax.evaluation.restoration import Restorer, _views


@pytest.fixture(scope="module")
def photo():
    return load_photos("builtin:test")[0].pixels


def test_small_and_odd_sizes_keep_their_shape(photo):
    for height, width in ((1, 1), (3, 40), (61, 77)):
        result = restore(photo[:height, :width])
        assert result.image.shape == (height, width, 3) and result.image.dtype == np.uint8
        assert len(result.scores) == len(result.plan) + 1


def test_it_is_deterministic_and_takes_a_file(photo, tmp_path):
    from r1jax.images.io import write_image

    noisy = degrade(photo[:96, :96], ("noise",), 0).image
    write_image(tmp_path / "noisy.png", noisy)
    first, second = restore(noisy), restore(tmp_path / "noisy.png", agent=load_agent())
    assert first.plan == second.plan
    np.testing.assert_array_equal(first.image, second.image)


def test_an_agent_that_was_trained_anew_in_its_place_is_loaded_anew(photo, tmp_path, monkeypatch):
    agent, made = load_agent(), []
    monkeypatch.setattr(restoration, "Restorer", lambda agent: made.append(agent) or (lambda *_, **__: len(made)))
    moved = {name: array + 1 for name, array in agent.params.items()}
    for params, loads in ((agent.params, 1), (moved, 2)):
        save_agent(tmp_path, dataclasses.replace(agent, params=params))
        assert [restore(photo, agent=tmp_path) for _ in range(2)] == [loads, loads]
        np.testing.assert_allclose(made[-1].params["norm.mean"], params["norm.mean"], atol=1e-6)


def test_tiles_agree_with_the_whole(photo, monkeypatch):
    noisy = degrade(photo, ("noise",), 0).image
    restorer = Restorer(load_agent(), score=False)
    denoise = restorer.agent.env.toolbox.names.index("denoise")
    x = noisy.astype(np.float32) / 255
    whole = restorer._apply(denoise, x)
    monkeypatch.setattr(restoration, "_WHOLE", 192)
    tiled = restorer._apply(denoise, x)
    assert np.abs(whole - tiled).mean() < 1 / 255
    dehaze = restorer.agent.env.toolbox.names.index("dehaze")
    assert restorer.agent.env.toolbox.tools[dehaze].whole_image
    in_one_piece = restorer._apply(dehaze, x)
    monkeypatch.undo()
    np.testing.assert_array_equal(in_one_piece, restorer._apply(dehaze, x))


def test_views_of_large_photos_are_crops():
    assert _views(np.zeros((100, 120, 3), np.float32)).shape == (1, 128, 128, 3)
    assert _views(np.zeros((1000, 800, 3), np.float32)).shape == (9, 256, 256, 3)
    assert _views(np.zeros((1000, 90, 3), np.float32)).shape[1:] == (256, 256, 3)
    rows, columns = np.meshgrid(np.arange(1080), np.arange(1925), indexing="ij")
    corners = _views(np.stack([rows, columns, rows], -1).astype(np.float32))[:, 0, 0]
    assert not (corners % 8).any() and corners[-1].tolist() == [824, 1664, 824]  # blocks of a JPEG stay whole


@pytest.mark.parametrize(
    ("pixels", "got"),
    [
        (np.zeros((20, 24, 3), np.float32), r"float32 \[20, 24, 3\]"),
        (np.zeros((20, 24, 4), np.uint8), r"uint8 \[20, 24, 4\]"),
        (np.zeros((20, 24), np.uint8), r"uint8 \[20, 24\]"),
        (np.zeros((0, 24, 3), np.uint8), r"uint8 \[0, 24, 3\]"),
    ],
)
def test_arrays_of_another_kind_are_refused(pixels, got):
    with pytest.raises(UsageError, match=rf"image: want sRGB uint8 \[H, W, 3\], got {got}"):
        restore(pixels)


def test_upscale_is_checked(photo):
    assert restore(photo[:20, :24], upscale=2).image.shape == (40, 48, 3)
    with pytest.raises(UsageError, match="upscale 7"):
        restore(photo[:8, :8], upscale=7)


def test_searches_and_followed_plans(photo):
    config = override(Config(), {"env.toolbox": ("brighten_gamma", "clahe"), "env.horizon": 2, "agent.encoder": "pixels"})
    env = make_environment(config)
    policy = Policy(encoder("pixels"), env, config.agent)
    restorer = Restorer(Agent(policy, policy.init(jax.random.key(0)), env, config))
    pixels = degrade(photo[:64, :64], ("dark",), 0).image
    plain = restorer(pixels)
    best = restorer(pixels, search="beam:2")
    assert best.scores[-1] >= restorer(pixels, search="beam:1").scores[-1] - 1e-6
    again = restorer(pixels, plan=best.plan)
    np.testing.assert_array_equal(again.image, best.image)
    assert (again.plan, again.scores) == (best.plan, best.scores)
    assert restorer(pixels, plan=plain.plan).scores == plain.scores
    with pytest.raises(UsageError, match="no tool 'polish'"):
        restorer(pixels, plan=("polish",))
