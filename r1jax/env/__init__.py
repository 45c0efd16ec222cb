"""Restoration as a decision process: pure functions on a batch; `r1jax.env.dm` adapts it to dm_env."""

from r1jax.env.environment import Environment, State, TimeStep, rewards_from_scores

__all__ = ["Environment", "State", "TimeStep", "rewards_from_scores"]
