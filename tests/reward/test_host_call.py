"""Rewards from inside jitted programs: the modes agree, failures stay values, several devices do not hang."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.reward import RewardService, scorer
from r1jax.reward.host_call import host_call, score_in_graph, submit_in_graph

FILE = pathlib.Path(__file__).with_name("scorers.py")
pytestmark = pytest.mark.timeout(120)


def rollout(visit):
    """A program that darkens images step by step; returns what `visit` said, and the images."""

    def step(state, _):
        return jnp.round(255 * state * 0.8) / 255, (visit(state), state)

    return jax.jit(lambda images: jax.lax.scan(step, images, None, length=4)[1])


def direct(states):
    return np.stack([scorer(f"{FILE}:Brightness").score(np.rint(255 * x).astype(np.uint8)) for x in states])


@pytest.fixture(scope="module")
def images():
    made = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(np.float32) / 255
    made[4] = made[0]  # a duplicate
    return jnp.asarray(made)


@pytest.fixture
def service():
    with RewardService(f"{FILE}:Brightness", timeout_s=20.0) as made:
        yield made


def test_ticket_blocking_and_direct_scores_are_equal_in_a_scan(service, images):
    tickets, states = rollout(lambda x: submit_in_graph(service, x))(images)
    assert tickets.shape == (4, 5) and tickets.dtype == jnp.int32
    np.testing.assert_array_equal(service.collect(tickets), direct(np.asarray(states)))
    with RewardService(f"{FILE}:Brightness", mode="blocking", timeout_s=20.0) as other:
        scores, states = rollout(lambda x: score_in_graph(other, x))(images)
    np.testing.assert_array_equal(scores, direct(np.asarray(states)))
    assert service.stats()["hits"] >= 4  # the duplicate, in each step


def test_one_program_calls_the_host_every_time_it_runs(images):
    calls = []
    result = jax.ShapeDtypeStruct((), jnp.int32)
    program = jax.jit(lambda x: host_call(lambda y: calls.append(y.copy()) or len(calls), result, x))
    assert [int(program(images)), int(program(images))] == [1, 2]
    np.testing.assert_array_equal(calls[0], images)


def test_a_host_function_sees_a_copy_of_its_own(images):
    kept = []
    result = jax.ShapeDtypeStruct((), jnp.int32)
    jax.block_until_ready(jax.jit(lambda x: host_call(lambda y: kept.append(y) or 0, result, x + 1))(images))
    assert kept[0].flags.owndata and kept[0].flags.writeable


@pytest.mark.parametrize(("dtype", "missing"), [(jnp.int32, -1), (jnp.float32, np.nan)])
@pytest.mark.parametrize("fault", ["raises", "shape"])
def test_a_host_function_that_fails_gives_missing_values_and_the_next_call_works(
    images, dtype, missing, fault
):
    calls = []

    def fails_once(x):
        calls.append(1)
        if len(calls) == 1 and fault == "raises":
            raise RuntimeError("no")
        return np.zeros(len(x) + (len(calls) == 1))

    program = jax.jit(lambda x: host_call(fails_once, jax.ShapeDtypeStruct((5,), dtype), x))
    np.testing.assert_array_equal(program(images), np.full(5, missing))
    np.testing.assert_array_equal(program(images), np.zeros(5))


def test_a_closed_service_gives_missing_scores_in_a_program(images):
    service = RewardService(f"{FILE}:Brightness", worker=False)
    service.close()
    assert np.isnan(jax.jit(lambda x: score_in_graph(service, x))(images)).all()
    assert (jax.jit(lambda x: submit_in_graph(service, x))(images) == -1).all()


# Large images: a callback that hangs while it reads its argument works with small ones.
SHARDED = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, PartitionSpec as P
from r1jax.reward import RewardService, scorer
from r1jax.reward.host_call import score_in_graph, submit_in_graph

spec, num_devices = sys.argv[1], int(sys.argv[2])
assert jax.device_count() == num_devices
mesh = jax.make_mesh((num_devices,), ("data",), axis_types=(AxisType.Auto,))
images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (8, 256, 256, 3)).astype(np.float32) / 255)

def program(visit):
    def local(x):
        def step(state, _):
            return jnp.round(255 * state * 0.9) / 255, (visit(state), state)
        return jax.lax.scan(step, x, None, length=4)[1]
    return jax.jit(jax.shard_map(local, mesh=mesh, in_specs=P("data"), out_specs=P(None, "data")))

def direct(states):
    return [scorer(spec).score(np.rint(255 * x).astype(np.uint8)) for x in np.asarray(states)]

with RewardService(spec, timeout_s=30.0) as service:
    for _ in range(3):
        tickets, states = program(lambda x: submit_in_graph(service, x))(images)
        np.testing.assert_array_equal(service.collect(tickets), direct(states))
with RewardService(spec, timeout_s=30.0) as service:
    scores, states = program(lambda x: score_in_graph(service, x))(images)
    np.testing.assert_array_equal(scores, direct(states))
print("equal")
"""


@pytest.mark.parametrize("num_devices", [1, 2])
def test_several_devices_submit_and_wait_without_hanging(num_devices):
    run = subprocess.run(
        [sys.executable, "-c", SHARDED, f"{FILE}:Brightness", str(num_devices)],
        env={
            "PATH": "",
            "PYTHONPATH": ":".join(sys.path),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}",
        },
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert run.stdout.strip() == "equal", run.stderr[-2000:]
