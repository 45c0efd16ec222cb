"""Evaluation that the trainer calls now and then: the agent's gains on photos held out of training."""

import numpy as np

from r1jax.agent.agent import Agent, make_environment
from r1jax.config import Config
from r1jax.degradations.dataset import Benchmark, build_benchmark, load_photos
from r1jax.degradations.mixes import parse_mixes
from r1jax.evaluation import judges
from r1jax.evaluation.planners import AgentPlanner, run_planner
from r1jax.evaluation.simulator import Simulator, measure_quality
from r1jax.evaluation.statistics import group_mean, made_worse
from r1jax.evaluation.world import World
from r1jax.images.convert import to_uint8
from r1jax.reward.scorer import Scorer

_CHUNK = 16


def held_out_benchmark(config: Config) -> Benchmark:
    """Returns about `eval.images` images of `eval.photos` under the training mixes.

    Raises:
      UsageError: no such photos or mixes.
    """
    mixes = parse_mixes(config.data.mixes)
    per_mix = max(1, config.eval.images // len(mixes))
    return build_benchmark(load_photos(config.eval.photos), mixes, config.data.crop, config.seed, per_mix)


class TrainingEvaluation:
    """Callable as the trainer's `evaluate`: agent -> mean gains over the unrestored input.

    Everything is compiled at the first call and the input is scored once.
    """

    def __init__(self, config: Config, scorer: Scorer, benchmark: Benchmark | None = None):
        """`benchmark`: by default `held_out_benchmark(config)`."""
        benchmark = benchmark or held_out_benchmark(config)
        env = make_environment(config)
        simulator = Simulator(env, env.toolbox.params, scorer)
        degraded, self._clean = to_uint8(benchmark.degraded), to_uint8(benchmark.clean)
        starts = range(0, len(degraded), _CHUNK)
        self._degraded, self._mix, self._simulator = (
            [degraded[s : s + _CHUNK] for s in starts],
            benchmark.mix,
            simulator,
        )
        self._before = self._values(degraded, simulator.score(degraded))
        self._planner: AgentPlanner | None = None

    def __call__(self, agent: Agent) -> dict[str, float]:
        """Returns score_gain, psnr_y_gain (dB), worse (share of images scored below the input), and calls."""
        self._planner = (self._planner or AgentPlanner(agent.policy, agent.params)).with_params(agent.params)
        results = [run_planner(self._planner, World(self._simulator, chunk)) for chunk in self._degraded]
        restored = np.concatenate([result.images for result in results])
        after = self._values(restored, self._simulator.score(restored))
        gains = {f"{name}_gain": after[name] - self._before[name] for name in after}
        gains["worse"] = made_worse(gains["score_gain"])
        gains["calls"] = np.concatenate([result.calls for result in results]).astype(float)
        return {name: group_mean(values, self._mix) for name, values in gains.items()}

    def _values(self, images: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "score": scores,
            "psnr_y": measure_quality(judges.ALWAYS["psnr_y"], images, self._clean, _CHUNK),
        }
