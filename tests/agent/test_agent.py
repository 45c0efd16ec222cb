"""Saving and loading agents."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from r1jax.agent.agent import Agent, load_agent, make_environment, save_agent
from r1jax.agent.encoder import Encoder, encoder, register_encoder
from r1jax.agent.ensemble import ensemble
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


def test_an_ensemble_is_the_mean_of_its_agents(agent, tmp_path):
    """Members see features by statistics and widths of their own."""
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.normal(size=(16, agent.policy.encoder.num_features)), jnp.float32)
    members = [agent]
    for seed, hidden in ((1, (8,)), (2, (5,))):
        config = override(agent.config, {"agent.hidden": hidden})
        policy = Policy(encoder("pixels"), agent.env, config.agent)
        members.append(Agent(policy, policy.init(jax.random.key(seed), 3 * features[seed:] + seed), agent.env, config))
    record, step = jnp.asarray([[0, -1]] * 16), jnp.ones(16, jnp.int32)
    outputs = [member.policy.apply(member.params, features, record, step) for member in members]
    joined = load_agent(save_agent(tmp_path, ensemble(members)))
    assert joined.config.agent.hidden == (21,)
    output = joined.policy.apply(joined.params, features, record, step)
    for mine, theirs in zip(output, zip(*outputs, strict=True), strict=True):
        np.testing.assert_allclose(mine, np.mean(theirs, axis=0), atol=1e-6)


def test_deeper_members_keep_apart(agent):
    config = override(agent.config, {"agent.hidden": (6, 4)})
    policy = Policy(encoder("pixels"), agent.env, config.agent)
    members = [Agent(policy, policy.init(jax.random.key(seed)), agent.env, config) for seed in range(2)]
    seen = (jnp.ones((3, agent.policy.encoder.num_features)), jnp.full((3, 2), -1), jnp.zeros(3, jnp.int32))
    expected = sum(policy.apply(member.params, *seen)[0] for member in members) / 2
    joined = ensemble(members)
    np.testing.assert_allclose(joined.policy.apply(joined.params, *seen)[0], expected, atol=1e-6)
    with pytest.raises(UsageError, match="agents of different kinds"):
        ensemble([members[0], agent])


def test_an_ensemble_of_agents_with_different_encoders_sees_what_all_see(agent, tmp_path):
    register_encoder("agent_test_mean")(lambda: Encoder("agent_test_mean", lambda _, x: jnp.mean(x, (1, 2)), (), 3, "7"))
    config = override(agent.config, {"agent.encoder": "agent_test_mean", "agent.hidden": (5,)})
    policy = Policy(encoder("agent_test_mean"), agent.env, config.agent)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.random((4, 12, 12, 3)), jnp.float32)
    other = Agent(policy, policy.init(jax.random.key(1), rng.random((9, 3))), agent.env, config)
    members = [other, agent, other]
    record, step = jnp.asarray([[0, -1]] * 4), jnp.ones(4, jnp.int32)

    def output(of):
        return of.policy.apply(of.params, of.policy.encoder.apply(of.policy.encoder.params, images), record, step)

    joined = load_agent(save_agent(tmp_path, ensemble(members)))
    assert joined.config.agent.encoder == joined.policy.encoder.name == "agent_test_mean+pixels"
    assert joined.policy.encoder.version == "7+"
    for mine, theirs in zip(output(joined), zip(*map(output, members), strict=True), strict=True):
        np.testing.assert_allclose(mine, np.mean(theirs, axis=0), atol=1e-5)


def test_half_precision_halves_the_file(agent, tmp_path):
    whole, half = (save_agent(tmp_path / f"{half}.safetensors", agent, half=half) for half in (False, True))
    loaded = load_agent(half)
    assert half.stat().st_size < whole.stat().st_size
    for name, array in agent.params.items():
        assert loaded.params[name].dtype == jnp.float32
        np.testing.assert_allclose(loaded.params[name], array, rtol=1e-3, atol=1e-6)


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
