"""Training of the shipped networks: it learns, it resumes bit for bit, its pairs are what they say."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.degradations import GROUPS, NamedPhoto, load_photos
from r1jax.errors import UsageError
from r1jax.nets import create
from r1jax.training.supervised import FitConfig, ToolPairs, charbonnier, fit, natural_order, optimizer
from r1jax.weights import flat_state

PHOTOS = load_photos("builtin:train")[:2]


def run(tmp_path, steps, stop=None, **options):
    pairs = ToolPairs(PHOTOS, "jpeg", 16)
    net = create("unet", widths=options.pop("widths", (8, 8)), depths=(1, 1))
    config = FitConfig(steps, 2, learning_rate=2e-3, warmup=2, log_every=4, checkpoint_every=4)

    def batch_at(step):
        if step == stop:
            raise KeyboardInterrupt
        return pairs.batch(0, step, 2)

    lines = []
    settings = options.pop("settings", {"photos": ["a", "b"]})
    loss = options.pop("loss", lambda net, x, y: charbonnier(net(x), y))
    return fit(net, batch_at, loss, config, tmp_path, settings, lines.append, **options), lines


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    straight, lines = run(tmp_path / "a", 8)
    assert json.loads(lines[-1])["step"] == 8
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", 8, stop=6)
    resumed, lines = run(tmp_path / "b", 8)
    assert len(lines) == 1  # steps 5 to 8
    for name, value in flat_state(straight).items():
        np.testing.assert_array_equal(flat_state(resumed)[name], value)


def test_another_run_does_not_go_on_from_the_checkpoints(tmp_path):
    run(tmp_path, 4)
    held = (tmp_path / "settings.json").read_text()
    others = {
        r"data\.photos=\['a', 'b'\], not \['a', 'c'\]": {"settings": {"photos": ["a", "c"]}},
        r"data\.crop=None, not 16": {"settings": {"photos": ["a", "b"], "crop": 16}},
        r"fit\.steps=4, not 3": {"steps": 3},
        r"frozen=\[\], not \['stem'\]": {"frozen": ("stem",)},
        r"parameters\.\S+=\[8\], not \[4\]": {"widths": (4, 8)},
    }
    for difference, options in others.items():
        with pytest.raises(UsageError, match=rf"^{tmp_path}: holds a run with {difference}; use another --run$"):
            run(tmp_path, **{"steps": 4} | options)
    assert (tmp_path / "settings.json").read_text() == held
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4", "settings.json"]
    assert run(tmp_path, 4)[1] == []  # it is complete


def test_a_folder_without_checkpoints_is_free(tmp_path):
    with pytest.raises(FloatingPointError):
        run(tmp_path, 4, settings={"crop": 1}, loss=lambda net, x, y: charbonnier(net(x), y) / 0.0)
    run(tmp_path, 4, settings={"crop": 2})
    assert json.loads((tmp_path / "settings.json").read_text())["data"] == {"crop": 2}


def test_checkpoints_that_nobody_knows_the_settings_of_are_refused(tmp_path):
    run(tmp_path, 4)
    (tmp_path / "settings.json").unlink()
    with pytest.raises(UsageError, match=r": holds a run without settings\.json; use another --run$"):
        run(tmp_path, 4)


def test_it_learns_a_constant(tmp_path):
    net = create("unet", widths=(8, 8), depths=(1, 1))
    x = np.full((2, 16, 16, 3), 0.3, np.float32)
    config = FitConfig(60, 2, warmup=2, ema=0.5, log_every=20, checkpoint_every=60)
    net = fit(net, lambda step: (x, x + 0.2), lambda net, x, y: charbonnier(net(x), y), config, tmp_path, {}, lambda _: None)
    assert abs(float(net(x).mean()) - 0.5) < 0.05


def test_frozen_parameters_stay(tmp_path):
    before = flat_state(create("unet", widths=(8, 8), depths=(1, 1)))
    after = flat_state(run(tmp_path, 3, frozen=("stem",))[0])
    np.testing.assert_array_equal(after["stem/kernel"], before["stem/kernel"])
    assert (after["tail/kernel"] != before["tail/kernel"]).any()


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match="step 0"):
        run(tmp_path, 4, loss=lambda net, x, y: charbonnier(net(x), y) / 0.0)


def test_pairs_differ_by_the_one_degradation():
    pairs = ToolPairs(PHOTOS, "noise", 24, alone=1.0, absent=0.0)
    inputs, targets = pairs.batch(0, 0, 4)
    assert inputs.shape == (4, 24, 24, 3) and (np.abs(inputs - targets).mean((1, 2, 3)) > 0.02).all()
    absent = ToolPairs(PHOTOS, "noise", 24, alone=0.0, absent=1.0).batch(0, 0, 4)
    np.testing.assert_array_equal(*absent)
    unclipped = ToolPairs(PHOTOS, "noise", 24, unclipped_noise=1.0).batch(0, 0, 4)
    assert unclipped[0].min() < 0 or unclipped[0].max() > 1


def test_mixes_of_groups_b_never_occur():
    pairs = ToolPairs(PHOTOS, "haze", 8, alone=0.0, absent=0.0)
    seen = {pairs._mix(np.random.default_rng(i)) for i in range(200)}
    held_out = {frozenset(mix) for mix in GROUPS["B"]}
    assert not {frozenset(mix) for mix in seen} & held_out
    assert ("haze", "low resolution") in seen  # a part of a mix of group C
    assert ("rain", "haze") in seen and natural_order(("jpeg", "haze")) == ("haze", "jpeg")


def test_a_touched_part_goes_through_one_tool_on_both_sides():
    seen = []

    def touch(images, rng):
        seen.append(len(images))
        return images * 0.5

    photos = [NamedPhoto("grey", np.full((16, 16, 3), 200, np.uint8))]
    pairs = ToolPairs(photos, "jpeg", 16, alone=1.0, absent=0.0, touch=touch, touch_share=0.5)
    _, targets = pairs.batch(0, 0, 4)
    assert seen == [4]
    np.testing.assert_allclose(targets[:2], 100 / 255, atol=1e-3)
    np.testing.assert_allclose(targets[2:], 200 / 255, atol=1e-3)


def test_each_member_of_an_ensemble_learns_by_its_own_gradient():
    tx, rng = optimizer(FitConfig(warmup=0)), np.random.default_rng(0)
    params, grads = {"kernel": jnp.zeros((2, 6, 4))}, 1e-3 * rng.normal(size=(2, 6, 4))
    changes = [
        tx.update({"kernel": jnp.asarray(grads * scale)}, tx.init(params), params)[0]["kernel"]
        for scale in (1.0, np.array([1.0, 50.0])[:, None, None])
    ]
    np.testing.assert_allclose(changes[0], changes[1], rtol=1e-3)  # Muon: of a gradient its directions count alone
    singular = np.linalg.svd(changes[0], compute_uv=False)
    assert (singular.min(-1) > 0.5 * singular.max(-1)).all()
