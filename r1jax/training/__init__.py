"""Training by PPO, V-trace, GRPO, REINFORCE or distillation: read rollout.py, then loop.py."""

from r1jax.training.loop import TrainResult, train
from r1jax.training.rollout import Trajectory, collect_scores, make_rollout

__all__ = ["TrainResult", "Trajectory", "collect_scores", "make_rollout", "train"]
