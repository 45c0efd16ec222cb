"""r1jax.training.labelling: the images that the lite scorer learns from say what was done to them."""

import numpy as np

from r1jax.degradations import NamedPhoto
from r1jax.images.convert import to_float, to_uint8
from r1jax.reward.lite import lite_scorer
from r1jax.tools.lite import LITE_TOOLS
from r1jax.training.labelled import NO_TOOL
from r1jax.training.labelling import KINDS, PLANS, StateMaker


def test_a_group_says_which_tool_made_each_image_of_the_one_before():
    pixels = np.random.default_rng(0).integers(60, 180, (40, 40, 3), np.uint8)
    maker = StateMaker([NamedPhoto("grey", pixels)], crop=32)
    group, _ = maker.group(np.random.default_rng(3))
    assert group.origins[0] == 0 and group.tools[0] == NO_TOOL and set(group.photo) == {"grey"}
    made = np.flatnonzero(group.tools != NO_TOOL)
    assert len(made) >= 3 and (group.origins[made] >= 2).all() and (group.origins[group.tools == NO_TOOL] < 2).all()
    for i in made:
        tool = maker.box.tools[group.tools[i]]
        again = to_uint8(np.asarray(tool.apply(tool.params, to_float(group.images[i - 1])[None])[0]))
        assert np.abs(again.astype(int) - group.images[i]).max() <= 1  # op by op, not as one program


def test_plans_hold_what_every_tool_makes_of_the_image_that_scores_best():
    pixels = np.random.default_rng(0).integers(60, 180, (40, 40, 3), np.uint8)
    maker = StateMaker([NamedPhoto("grey", pixels)], crop=32)
    group, clean = maker.plans(np.random.default_rng(3))
    assert group.images.shape == (PLANS, 32, 32, 3) and clean.shape == (32, 32, 3)
    assert (group.tools == NO_TOOL).all() and set(group.photo) == {"grey"}
    [degraded] = group.images[group.origins == 1]
    assert (group.images[group.origins == 0] == clean).all()

    def find(image):
        differences = np.abs(group.images.astype(int) - image).max((1, 2, 3))
        return differences.argmin(), differences.min()

    first = [to_uint8(np.asarray(tool.apply(tool.params, to_float(degraded)[None])[0])) for tool in maker.box.tools]
    best = first[int(np.argmax(lite_scorer().score(np.stack(first))))]
    second = [to_uint8(np.asarray(tool.apply(tool.params, to_float(best)[None])[0])) for tool in maker.box.tools]
    found = [find(image) for image in first + second]
    assert sum(difference > 1 for _, difference in found) <= 2  # of 42 images two are left out
    kinds = group.kinds[group.origins == 1][0]
    right = {i for i, tool in enumerate(LITE_TOOLS.values()) if kinds[KINDS.index(tool.degradation)]}
    assert right
    for i, (row, difference) in enumerate(found[: len(first)]):
        assert difference > 1 or group.origins[row] == (2 if i in right else 3)
