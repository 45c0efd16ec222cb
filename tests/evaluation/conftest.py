"""A toy world whose best plans are known: tools that shift brightness, a scorer that likes one brightness."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.degradations import Benchmark
from r1jax.env import Environment
from r1jax.evaluation.simulator import Simulator
from r1jax.tools import Tool, Toolbox

TOOLS = (
    Tool("lighten", "", lambda params, x: x + params, jnp.float32(30 / 255)),
    Tool("darken", "", lambda params, x: x - 10 / 255),
    Tool("keep", "", lambda params, x: x),
)


class LikesBrightness:
    """5 at the wanted mean level, less away from it; counts the images that it was asked about."""

    name, version = "likes brightness", "1"

    def __init__(self, level=150.0, valley=0.0):
        self.level, self.valley, self.asked = level, valley, 0
        self.shapes = set()

    def score(self, images):
        assert images.dtype == np.uint8
        self.asked += len(images)
        self.shapes.add(images.shape)
        mean = images.astype(np.float64).mean((1, 2, 3))
        # The valley makes states just below the wanted level worse than states far below it.
        trap = self.valley * (np.abs(mean - self.level + 15) < 12)
        return (5 - np.abs(mean - self.level) / 50 - trap).astype(np.float32)


@dataclasses.dataclass
class Toy:
    """What the tests play with."""

    simulator: Simulator
    images: np.ndarray
    clean: np.ndarray

    @property
    def scorer(self):
        return self.simulator.scorer


@pytest.fixture(scope="session")
def make_toy():
    def make(num_images=5, horizon=3, scorer=None, stop=True, tools=TOOLS, block=None, seed=0):
        env = Environment(Toolbox("toy", tools), horizon=horizon, stop=stop)
        simulator = Simulator(env, env.toolbox.params, scorer or LikesBrightness(), block)
        rng = np.random.default_rng(seed)
        base = rng.integers(60, 120, (num_images, 1, 1, 1)) + rng.integers(-8, 8, (num_images, 16, 12, 3))
        clean = np.clip(base + 40, 0, 255).astype(np.uint8)
        return Toy(simulator, base.astype(np.uint8), clean)

    return make


@pytest.fixture(scope="session")
def make_benchmark(make_toy):
    def make(num_photos=4, mixes=("noise+jpeg", "rain"), toy=None):
        toy = toy or make_toy(num_photos * len(mixes))
        photo = [f"photo{i}" for i in range(num_photos)] * len(mixes)
        mix = [name for name in mixes for _ in range(num_photos)]
        degraded, clean = (x.astype(np.float32) / 255 for x in (toy.images, toy.clean))
        return toy, Benchmark(clean, degraded, mix, photo)

    return make


@pytest.fixture(scope="session")
def likes_brightness():
    return LikesBrightness
