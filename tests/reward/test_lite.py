"""The embedded scorer, on the shipped crops that nothing was trained on."""

import numpy as np

from r1jax.degradations.dataset import load_photos
from r1jax.degradations.mixes import degrade
from r1jax.degradations.operations import OPERATIONS
from r1jax.reward.lite import lite_scorer


def crops() -> np.ndarray:
    return np.stack([photo.pixels for photo in load_photos("builtin:test")])


def test_clean_photos_beat_their_degraded_versions():
    clean = crops()
    scores = lite_scorer().score(clean)
    for key in OPERATIONS:
        degraded = lite_scorer().score(np.stack([degrade(photo, (key,), i).image for i, photo in enumerate(clean)]))
        assert (scores > degraded).mean() > 0.9, key  # 11 of 12


def test_a_score_does_not_depend_on_its_company():
    """To the last bit: tickets are scored in whatever batches come together."""
    images, scorer = crops()[:7], lite_scorer()
    together = scorer.score(images)
    assert np.array_equal(together, np.concatenate([scorer.score(image[None]) for image in images]))
    assert np.array_equal(together[::-1], scorer.score(images[::-1]))
    assert scorer.score(images[:0]).shape == (0,)
