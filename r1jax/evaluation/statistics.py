"""Means over mixes, and intervals by resampling photos.

Every figure of the table is a mean over a mix's images, then over mixes, of a ratio of sums: of values over
ones for a plain mean, of gains over the oracle's gains for a share. Photos are what is drawn: images of one
photo under several mixes are not independent, so they stay together.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_REPLICATES = 2000
_WORSE_BY = 1e-4  # a score must fall by more than rounding to count as worse


class Interval(NamedTuple):
    """A figure with its 90% interval."""

    low: float
    value: float
    high: float


def made_worse(gains: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Returns 1 where the score fell below the input's, else 0."""
    return (gains < -_WORSE_BY).astype(float)


def group_mean(
    values: Float[np.ndarray, " n"], mix: Sequence[str], denominators: Float[np.ndarray, " n"] | None = None
) -> float:
    """Returns the mean over mixes of sum(values) / sum(denominators); denominators are ones if not given."""
    totals = _by_mix_and_photo(values, denominators, mix, ["one"] * len(values))
    return float(_ratio_mean(*(total.sum(1) for total in totals)))


def paired_interval(
    values: Float[np.ndarray, " n"],
    others: Float[np.ndarray, " n"],
    mix: Sequence[str],
    photo: Sequence[str],
    denominators: Float[np.ndarray, " n"] | None = None,
    seed: int = 0,
) -> Interval:
    """Returns `group_mean` of values - others with its 90% bootstrap interval.

    2000 draws of photos with replacement; a mix that a draw leaves without images is left out of that draw. Of a single
    photo the ends are NaN.
    """
    difference = np.asarray(values, float) - np.asarray(others, float)
    top, bottom = _by_mix_and_photo(difference, denominators, mix, photo)
    num_photos = top.shape[1]
    draws = np.random.default_rng(seed).multinomial(
        num_photos, np.full(num_photos, 1 / num_photos), _REPLICATES
    )
    means = _ratio_mean(top @ draws.T, bottom @ draws.T)
    told = num_photos > 1 and np.isfinite(means).any()  # of one photo there is no other draw
    low, high = np.nanquantile(means, (0.05, 0.95)) if told else (np.nan, np.nan)
    return Interval(float(low), float(_ratio_mean(top.sum(1), bottom.sum(1))), float(high))


def _by_mix_and_photo(
    values: np.ndarray, denominators: np.ndarray | None, mix: Sequence[str], photo: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sums [mixes, photos] of values and of denominators."""
    mixes, mix_index = np.unique(np.asarray(mix), return_inverse=True)
    photos, photo_index = np.unique(np.asarray(photo), return_inverse=True)
    sums = np.zeros((2, len(mixes), len(photos)))
    np.add.at(sums[0], (mix_index, photo_index), values)
    np.add.at(sums[1], (mix_index, photo_index), 1.0 if denominators is None else denominators)
    return sums[0], sums[1]


def _ratio_mean(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Returns the mean over axis 0 (mixes) of top / bottom, of the mixes whose denominator is above 0."""
    usable = bottom > 0
    ratio = np.where(usable, top / np.where(usable, bottom, 1), 0)
    count = usable.sum(0)
    return np.where(count > 0, ratio.sum(0) / np.maximum(count, 1), np.nan)
