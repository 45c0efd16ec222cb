"""Run by the tests in a process of its own, with fake devices: `on_devices.py rollout`,
`on_devices.py train RUN_DIR [PROCESS NUM_PROCESSES PORT]`, or `on_devices.py vlm RUN_DIR MODEL`.
"""

import sys

import jax
import numpy as np
from jax.sharding import AxisType
from probes import SCORERS, Flat, build, check_tickets_train_as_blocking, probe_config

from r1jax.reward.service import RewardService
from r1jax.training.loop import train
from r1jax.training.rollout import OutsideRollout, collect_scores, make_rollout


def build_rollout(env, policy, service, mode, mesh):
    if mode == "outside":
        return OutsideRollout(env, policy, service, mesh=mesh)
    return jax.jit(make_rollout(env, policy, service, mode, mesh=mesh))


def compare_rollouts() -> None:
    """The same rollout on 1, 2 and 4 devices.

    Images are of 256x256: with small ones a callback that deadlocks under shard_map goes unnoticed.
    """
    assert jax.device_count() == 4
    env, policy, params = build(probe_config())
    batch = Flat((0.2, 0.5, 0.7, 1.0), side=256).batch(0, 0, 8)
    results = {}
    with RewardService(f"{SCORERS}:Target", timeout_s=30) as service:
        for count, mode in [(1, "ticket"), (2, "ticket"), (2, "outside"), (4, "blocking")]:
            mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])
            rollout = build_rollout(env, policy, service, mode, mesh if count > 1 else None)
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


def train_on_all(run_dir: str, process: str = "0", num_processes: str = "1", port: str = "0") -> None:
    """A short run, scored by the service, on every device of every process."""
    if int(num_processes) > 1:
        jax.distributed.initialize(f"localhost:{port}", int(num_processes), int(process))
    assert jax.device_count() == 2
    config = probe_config(ppo__updates=2, reward__mode="ticket", eval__checkpoint_every=1)
    train(config, run_dir, data=Flat((0.25, 0.5, 1.0)), progress=False)


def train_with_vlm(run_dir: str, model: str) -> None:
    """On 256x256 images: with small ones a callback that deadlocks goes unnoticed."""
    check_tickets_train_as_blocking(run_dir, model, crop=256)


if __name__ == "__main__":
    {"rollout": compare_rollouts, "train": train_on_all, "vlm": train_with_vlm}[sys.argv[1]](*sys.argv[2:])
