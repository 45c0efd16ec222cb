"""The rollout of the shipped configs is one program: a scan that holds the tools' switch and the submit callback."""

import jax
import jax.numpy as jnp
import pytest

from r1jax.agent import load_agent
from r1jax.agent.agent import make_environment
from r1jax.agent.encoder import encoder
from r1jax.agent.policy import Policy
from r1jax.config import load
from r1jax.reward.lite import lite_scorer
from r1jax.training.rollout import make_rollout


class Service:
    """Stands where the reward service would: the program is traced, never run."""

    def submit(self, images):
        raise AssertionError("only traced")


def program(path, mode, service):
    config = load(path)
    env = make_environment(config)
    policy = Policy(encoder(config.agent.encoder), env, config.agent)
    params = jax.eval_shape(policy.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((4, config.data.crop, config.data.crop, 3), jnp.float32)
    ids = jax.ShapeDtypeStruct((4,), jnp.int32)
    scorer_params = service.params if mode == "graph" else ()
    arguments = (params, env.toolbox.params, policy.encoder.params, scorer_params, images, ids, jax.random.key(0))
    return env, make_rollout(env, policy, service, mode), arguments


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for parameter in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


@pytest.mark.parametrize("path", ["configs/quickstart.py", "configs/lite_agent.py"])
def test_one_scan_holds_the_switch_and_the_submit_callback(path):
    assert load(path).reward.mode == "ticket"
    env, rollout, arguments = program(path, "ticket", Service())
    assert len(env.toolbox) == 8
    found = list(equations(jax.make_jaxpr(rollout)(*arguments).jaxpr))
    scans = [e for e in found if e.primitive.name == "scan" and e.params["length"] == env.horizon]
    assert len(scans) == 1
    inside = list(equations(scans[0].params["jaxpr"].jaxpr))
    assert [e for e in inside if e.primitive.name == "cond" and len(e.params["branches"]) == 8]
    assert {e.primitive.name for e in inside} & {"buffer_callback", "io_callback"}


def test_the_callback_free_program_exports_for_accelerators():
    _, rollout, arguments = program("configs/lite_agent.py", "graph", lite_scorer().graph)
    exported = jax.export.export(jax.jit(rollout), platforms=["cuda", "tpu"])(*arguments)
    assert exported.platforms == ("cuda", "tpu")


def test_the_shipped_agent_is_of_the_shipped_config():
    agent = load_agent()
    assert agent.env.toolbox.names == make_environment(load("configs/lite_agent.py")).toolbox.names
    assert agent.env.horizon == load("configs/lite_agent.py").env.horizon
