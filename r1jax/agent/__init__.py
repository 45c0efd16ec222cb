"""The agent: frozen encoder, action record, actor-critic, and the file that keeps them."""

from r1jax.agent.agent import Agent, load_agent, make_environment, save_agent
from r1jax.agent.encoder import Encoder, encoder, register_encoder
from r1jax.agent.ensemble import ensemble
from r1jax.agent.policy import Policy

__all__ = [
    "Agent",
    "Encoder",
    "Policy",
    "encoder",
    "ensemble",
    "load_agent",
    "make_environment",
    "register_encoder",
    "save_agent",
]
