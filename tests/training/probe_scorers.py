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
