"""The evaluation that the trainer calls."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.agent.agent import Agent
from r1jax.agent.encoder import Encoder
from r1jax.agent.policy import Policy
from r1jax.config import AgentConfig, Config, override
from r1jax.degradations import NamedPhoto
from r1jax.evaluation import during_training
from r1jax.evaluation.during_training import TrainingEvaluation, held_out_benchmark

CONSTANT = Encoder("constant", lambda params, image: jnp.zeros((image.shape[0], 1)), (), 1)


@pytest.fixture
def evaluation(make_benchmark, make_toy, monkeypatch, likes_brightness):
    toy, benchmark = make_benchmark(10, toy=make_toy(20, scorer=likes_brightness(150)))
    monkeypatch.setattr(during_training, "make_environment", lambda config: toy.simulator.env)
    toy.images[:] = 100
    benchmark.degraded[:] = np.float32(100 / 255)
    return toy, TrainingEvaluation(Config(), toy.scorer, benchmark)


def _agent(toy, action):
    """An agent that always takes one action."""
    policy = Policy(CONSTANT, toy.simulator.env, AgentConfig(hidden=()))
    params = dict(policy.init(jax.random.key(0)))
    kernel = next(name for name in params if name.startswith("actor") and name.endswith("bias"))
    params[kernel] = 9 * jax.nn.one_hot(action, toy.simulator.env.num_actions)
    return Agent(policy, params, toy.simulator.env, Config())


def test_gains(evaluation):
    toy, evaluate = evaluation
    darkens = evaluate(_agent(toy, 1))
    assert darkens["calls"] == 3 and darkens["worse"] == 1
    assert darkens["score_gain"] == pytest.approx(-30 / 50, abs=1e-5)
    stops = evaluate(_agent(toy, 3))
    assert stops == {"score_gain": 0, "psnr_y_gain": 0, "worse": 0, "calls": 0}
    keeps = evaluate(_agent(toy, 2))
    assert keeps["calls"] == 3 and keeps["score_gain"] == keeps["worse"] == 0
    assert evaluate(_agent(toy, 0))["psnr_y_gain"] != 0


def test_another_agent_compiles_nothing(evaluation):
    toy, evaluate = evaluation
    agent = _agent(toy, 1)
    evaluate(agent)
    planner = evaluate._planner
    evaluate(dataclasses.replace(agent, params=_agent(toy, 0).params))
    assert evaluate._planner._decide is planner._decide
    assert planner._decide._cache_size() <= 2 and evaluate._simulator._step._cache_size() == 1


def test_held_out_benchmark(monkeypatch):
    rng = np.random.default_rng(0)
    photos = [NamedPhoto(str(i), rng.integers(0, 256, (40, 40, 3), np.uint8)) for i in range(5)]
    monkeypatch.setattr(during_training, "load_photos", lambda spec: photos if spec == "held out" else [])
    options = {"eval.photos": "held out", "eval.images": 7, "data.crop": 16, "data.mixes": "noise,dark,jpeg"}
    benchmark = held_out_benchmark(override(Config(), options))
    assert benchmark.degraded.shape == (6, 16, 16, 3)
    assert {mix: benchmark.mix.count(mix) for mix in benchmark.mix} == {"noise": 2, "dark": 2, "jpeg": 2}
