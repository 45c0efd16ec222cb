"""Scorers of an image's mean brightness, whose best policy is known. No JAX: worker processes import this file."""

import numpy as np


class Target:
    """5 at brightness 0.75, and 8 less for every unit away from it."""

    name, version = "probe_target", "1"

    def score(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(self.quality(images.astype(np.float32).mean((1, 2, 3)) / 255, np), np.float32)

    @property
    def graph(self):
        import jax.numpy as jnp

        from r1jax.reward.scorer import GraphScorer

        return GraphScorer(lambda params, x: self.quality(jnp.mean(x, (1, 2, 3)), jnp), ())

    @staticmethod
    def quality(brightness, xp):
        return 5 - 8 * xp.abs(brightness - 0.75)


class Valley(Target):
    """3 at brightness 0.25, 2 at 0.5, 5 at 0.75: the way to the best image leads through a worse one."""

    name, version = "probe_valley", "1"

    @staticmethod
    def quality(brightness, xp):
        return xp.where(brightness > 0.625, 5.0, xp.where(brightness > 0.375, 2.0, 3.0))


class Fading(Target):
    """Has no score for images that are brighter than 0.6."""

    name, version = "probe_fading", "1"

    @staticmethod
    def quality(brightness, xp):
        return xp.where(brightness > 0.6, xp.nan, 5 - 8 * xp.abs(brightness - 0.75))


class Silent(Target):
    """Never has a score."""

    name, version = "probe_silent", "1"

    @staticmethod
    def quality(brightness, xp):
        return brightness * xp.nan


class Exact(Target):
    """The same in arithmetic that rounds nowhere, so that every mode gives the same bits."""

    name, version = "probe_exact", "1"

    def __init__(self, slope: float = 8.0):
        self.slope = slope

    def score(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(self.rate(images.astype(np.int32).sum((1, 2, 3)), np), np.float32)

    @property
    def graph(self):
        import jax.numpy as jnp

        from r1jax.reward.scorer import GraphScorer

        def apply(params, x):
            return self.rate(jnp.sum(jnp.round(x * 255).astype(jnp.int32), (1, 2, 3)), jnp)

        return GraphScorer(apply, ())

    def rate(self, total, xp):
        brightness = xp.asarray(total, xp.float32) / 2**18  # of 16x16 images, 0.747 at most
        return 5 - self.slope * xp.abs(brightness - 0.5)
