"""The published toolbox with untrained networks, and with the real weights where they can be downloaded."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.agent.agent import load_agent
from r1jax.degradations import degrade, load_photos
from r1jax.errors import R1JaxError
from r1jax.evaluation.restoration import restore
from r1jax.images.convert import to_float
from r1jax.images.io import read_image
from r1jax.images.metrics import psnr
from r1jax.nets import create
from r1jax.tools import toolbox
from r1jax.tools.published import PUBLISHED_TOOLS, estimate_sigma, published_tool, tool_of
from r1jax.weights.cache import pull
from r1jax.weights.catalogue import entries, groups
from r1jax.weights.published import load_published

SMALL = {"ffdnet_denoise": ("ffdnet", {"nc": 4, "nb": 3}), "upconv7_dejpeg": ("upconv7", {"widths": (4,) * 6})}


def test_missing_weights_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("R1JAX_CACHE", str(tmp_path))
    with pytest.raises(R1JaxError, match="r1jax weights pull ffdnet-color`, all of `published` with `published`"):
        toolbox("published")
    with pytest.raises(R1JaxError, match="r1jax weights pull maxim-deblurring"):
        load_agent(toolbox="published")


def test_every_tool_has_its_weights_in_the_group():
    assert {tool.weights for tool in PUBLISHED_TOOLS.values()} == set(groups()["published"])


@pytest.mark.parametrize("name", SMALL)
def test_tools_keep_the_canvas(name):
    net, config = SMALL[name]
    tool = tool_of(name, create(net, **config))
    x = jnp.asarray(np.random.default_rng(0).random((2, 9, 14, 3)), jnp.float32)
    y = tool(x)
    assert y.shape == x.shape and 0 <= float(y.min()) <= float(y.max()) <= 1


def test_the_noise_level_is_found():
    key = jax.random.key(0)
    ramp = jnp.broadcast_to(jnp.linspace(0.2, 0.8, 64)[None, :, None, None], (2, 64, 65, 3))
    noise = jax.random.normal(key, ramp.shape) * jnp.array([15.0, 50.0])[:, None, None, None] / 255
    np.testing.assert_allclose(255 * estimate_sigma(ramp + noise).reshape(2), [15, 50], rtol=0.05)


def real(name):
    (entry,) = entries([name])
    return pull(entry)


@pytest.mark.slow
@pytest.mark.parametrize("name, floor", [("denoising", 50), ("deraining", 45), ("dehazing-indoor", 41)])
def test_the_packages_own_results(name, floor):
    folder = real(f"maxim-{name}")
    tool = published_tool({"denoising": "maxim_denoise", "deraining": "maxim_derain"}.get(name, "maxim_dehaze_indoor"))
    source, result = (read_image(folder / "assets" / f"{kind}.png").pixels[None] / 255 for kind in ("fixture", "result"))
    restored = jax.jit(tool.apply)(tool.params, jnp.asarray(source, jnp.float32))
    assert float(psnr(restored, jnp.asarray(result, jnp.float32))[0]) >= floor


@pytest.mark.slow
def test_the_keras_package_s_own_result():
    folder, net = real("esrgan-thick-x4"), load_published("esrgan-thick-x4")
    files = (folder / "assets" / name for name in ("fixture.png", "samples/4x/result.png"))
    source, result = (read_image(file).pixels[None] for file in files)
    enlarged = jax.jit(net)(jnp.asarray(source / 255, jnp.float32)).clip(0, 1)
    np.testing.assert_allclose(255 * enlarged, result, atol=0.51)  # saved as uint8


@pytest.mark.slow
def test_ffdnet_removes_noise():
    real("ffdnet-color")
    tool, rng = published_tool("ffdnet_denoise"), np.random.default_rng(0)
    clean = np.broadcast_to(np.linspace(0.2, 0.8, 96, dtype=np.float32)[None, :, None, None], (1, 96, 96, 3))
    noisy = jnp.asarray(clean + rng.normal(0, 25 / 255, clean.shape), jnp.float32)
    assert float(psnr(tool(noisy), jnp.asarray(clean))[0]) > float(psnr(noisy, jnp.asarray(clean))[0]) + 12


@pytest.mark.slow
@pytest.mark.parametrize(
    "task, name",
    [
        ("deraining", "maxim_derain"),
        ("dehazing-outdoor", "maxim_dehaze_outdoor"),
        ("retouching", "maxim_retouch"),
        ("deblurring", "maxim_deblur"),
    ],
)
def test_the_published_graphs_output(task, name):
    real(f"maxim-{task}")
    tool = published_tool(name)
    with np.load(pathlib.Path(__file__).parents[1] / "goldens" / f"maxim_real_{task}_tfjs.npz") as file:
        x, y, meta = file["x"], file["y"], json.loads(str(file["meta"]))
    assert "0.1.0" in meta["weights"]
    np.testing.assert_allclose(jax.jit(tool.apply)(tool.params, x), y.clip(0, 1), atol=1e-4)


@pytest.mark.slow
def test_the_shipped_agent_takes_rain_and_haze_away():
    for name in groups()["published"]:
        real(name)
    photo = load_photos("builtin:test")[0].pixels[64:192, 64:192]
    rainy = degrade(photo, ("rain", "haze"), 0).image
    result = restore(rainy, toolbox="published")
    assert set(result.plan) == {"maxim_derain", "maxim_dehaze_outdoor"}
    before, after = (float(psnr(to_float(x)[None], to_float(photo)[None])[0]) for x in (rainy, result.image))
    assert after > before + 5
