"""Run by test_rollout.py with four fake devices: the same rollout on 1, 2 and 4 of them.

Images are of 256x256: with small ones a callback that deadlocks under shard_map goes unnoticed.
"""

import jax
import numpy as np
from jax.sharding import AxisType
from probes import SCORERS, Flat, build, probe_config

from r1jax.reward.service import RewardService
from r1jax.training.rollout import collect_scores, make_rollout


def main() -> None:
    assert jax.device_count() == 4
    env, policy, params = build(probe_config())
    batch = Flat((0.2, 0.5, 0.7, 1.0), side=256).batch(0, 0, 8)
    results = {}
    with RewardService(f"{SCORERS}:Target", timeout_s=30) as service:
        for count, mode in [(1, "ticket"), (2, "ticket"), (4, "ticket"), (4, "blocking")]:
            mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])
            rollout = jax.jit(make_rollout(env, policy, service, mode, mesh=mesh if count > 1 else None))
            frozen = (env.toolbox.params, policy.encoder.params, ())
            trajectory = rollout(params, *frozen, batch.degraded, batch.ids, jax.random.key(0))
            assert len(trajectory.action.sharding.device_set) == count
            scores = collect_scores(trajectory, service, mode)
            results[count, mode] = jax.device_get((trajectory, scores))
    reference, scores = results[1, "ticket"]
    assert len(np.unique(reference.action)) > 2
    assert np.isfinite(scores).all()
    for trajectory, others in results.values():
        np.testing.assert_array_equal(trajectory.action, reference.action)
        np.testing.assert_array_equal(trajectory.image, reference.image)
        np.testing.assert_array_equal(others, scores)
        np.testing.assert_allclose(trajectory.log_prob, reference.log_prob, atol=1e-4)
    print("equal")


if __name__ == "__main__":
    main()
