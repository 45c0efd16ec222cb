"""Saving and loading agents."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from r1jax.agent.agent import Agent, load_agent, make_environment, save_agent
from r1jax.agent.encoder import encoder
from r1jax.agent.policy import Policy
from r1jax.config import Config, override
from r1jax.errors import R1JaxError, UsageError, WeightMismatch
from r1jax.tools.toolbox import register_tool, register_toolbox

FIELDS = {"agent.encoder": "pixels", "agent.hidden": (8,), "env.toolbox": ("agent_test",), "env.horizon": 2}


@register_tool("agent_test_lighten", task="test")
def lighten(x):
    return jnp.sqrt(x)


@register_tool("agent_test_invert", task="test")
def invert(x):
    return 1 - x


@pytest.fixture(autouse=True)
def box():
    register_toolbox("agent_test", ("agent_test_lighten", "agent_test_invert"))


@pytest.fixture
def agent():
    config = override(Config(), FIELDS)
    env = make_environment(config)
    policy = Policy(encoder("pixels"), env, config.agent)
    return Agent(policy, policy.init(jax.random.key(0)), env, config)


@pytest.mark.parametrize("name", ["one.safetensors", "folder"])
def test_a_loaded_agent_equals_the_saved_one(agent, tmp_path, name):
    file = save_agent(tmp_path / name, agent)
    loaded = load_agent(tmp_path / name)
    assert loaded.config == agent.config
    assert loaded.env.toolbox.names == ("agent_test_lighten", "agent_test_invert")
    assert loaded.params.keys() == agent.params.keys()
    for key, array in agent.params.items():
        np.testing.assert_array_equal(loaded.params[key], array)
    assert file.is_file() and not list(tmp_path.rglob("*.tmp"))
    state = agent.env.reset(jnp.asarray(np.random.default_rng(0).random((3, 8, 8, 3), np.float32)))
    np.testing.assert_array_equal(loaded.act(state), agent.act(state))


def test_a_folder_tells_people_what_it_holds(agent, tmp_path):
    save_agent(tmp_path / "folder", agent)
    told = json.loads((tmp_path / "folder" / "agent.json").read_text())
    assert told["tools"] == ["agent_test_lighten", "agent_test_invert"]
    assert told["encoder"] == "pixels"
    assert told["config"]["env"]["horizon"] == 2


def test_a_toolbox_that_has_changed_since_is_rebuilt_by_its_tools(agent, tmp_path):
    save_agent(tmp_path / "a.safetensors", agent)
    register_toolbox("agent_test", ("agent_test_invert",))
    assert load_agent(tmp_path / "a.safetensors").env.toolbox.names == agent.env.toolbox.names


def test_what_is_no_agent_is_refused_in_one_line(agent, tmp_path):
    with pytest.raises(UsageError, match="no agent here"):
        load_agent(tmp_path)
    (tmp_path / "broken.safetensors").write_bytes(b"nothing of the sort")
    safetensors.numpy.save_file({"x": np.zeros(1)}, tmp_path / "other.safetensors")
    for name in ("broken", "other"):
        with pytest.raises(R1JaxError, match=f"{name}.safetensors: not an agent's file") as caught:
            load_agent(tmp_path / f"{name}.safetensors")
        assert "\n" not in str(caught.value)


def test_a_toolbox_without_a_shipped_agent_is_refused_in_one_line():
    with pytest.raises(UsageError, match="'full': no agent is shipped for it; there are lite, published"):
        load_agent(toolbox="full")


def test_other_weights_of_the_encoder_are_refused_in_one_line(agent, tmp_path):
    eyes = dataclasses.replace(agent.policy.encoder, version="older")
    save_agent(tmp_path / "a.safetensors", dataclasses.replace(agent, policy=Policy(eyes, agent.env, agent.config.agent)))
    with pytest.raises(R1JaxError, match=r"trained on pixels older, this package has .*: train it anew"):
        load_agent(tmp_path / "a.safetensors")


def test_arrays_that_do_not_fit_are_listed(agent, tmp_path):
    params = dict(agent.params)
    params["actor.layers.9.bias"] = params.pop("actor.layers.0.bias")
    params["norm.mean"] = jnp.zeros(3)
    save_agent(tmp_path / "a.safetensors", Agent(agent.policy, params, agent.env, agent.config))
    with pytest.raises(WeightMismatch) as caught:
        load_agent(tmp_path / "a.safetensors")
    assert caught.value.missing == ["actor.layers.0.bias"]
    assert caught.value.unexpected == ["actor.layers.9.bias"]
    assert [name for name, *_ in caught.value.misshaped] == ["norm.mean"]
