"""The rollout: its one scan, its modes, its randomness, and programs for devices that are not here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probe_scorers import Target
from probes import SCORERS, Flat, build, check_finished, probe_config, start_on_devices

from r1jax.errors import UsageError
from r1jax.reward.service import RewardService
from r1jax.training.rollout import OutsideRollout, collect_scores, make_rollout

HORIZON = 3
CONFIG = probe_config(env__horizon=HORIZON)
ENV, POLICY, PARAMS = build(CONFIG)
IMAGES = jnp.asarray(Flat((0.2, 0.5, 0.7, 1.0)).batch(0, 0, 12).degraded)
IDS = jnp.arange(100, 112)
KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def service():
    with RewardService(f"{SCORERS}:Target", timeout_s=20, worker=False) as opened:
        yield opened


def source(mode, service):
    return Target().graph if mode == "graph" else None if mode == "none" else service


def arguments(images=IMAGES, ids=IDS, key=KEY):
    return PARAMS, ENV.toolbox.params, POLICY.encoder.params, (), images, ids, key


def equations(jaxpr, outside=()):
    """Yields (equation, primitives that enclose it) of a jaxpr and all that it contains."""
    for equation in jaxpr.eqns:
        yield equation, outside
        for parameter in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from equations(inner, (*outside, equation.primitive.name))


@pytest.mark.parametrize("mode", ["ticket", "blocking", "graph"])
def test_one_scan_over_the_horizon_holds_tools_and_scoring(mode, service):
    jaxpr = jax.make_jaxpr(make_rollout(ENV, POLICY, source(mode, service), mode))(*arguments()).jaxpr
    found = list(equations(jaxpr))
    scans = [e for e, _ in found if e.primitive.name == "scan" and e.params["length"] == HORIZON]
    assert len(scans) == 1
    inside = list(equations(scans[0].params["jaxpr"].jaxpr))
    switches = [o for e, o in inside if e.primitive.name == "cond" and len(e.params["branches"]) == len(ENV.toolbox)]
    assert switches == [("while",)]  # the grouped dispatch: a scalar switch in a loop over blocks
    callbacks = {e.primitive.name for e, _ in inside if "callback" in e.primitive.name}
    assert callbacks == (set() if mode == "graph" else {"buffer_callback", "io_callback"})


def test_modes_give_the_same_scores_and_actions(service):
    results = {}
    for mode in ("graph", "ticket", "blocking", "outside"):
        outside = OutsideRollout(ENV, POLICY, service)
        run = outside if mode == "outside" else jax.jit(make_rollout(ENV, POLICY, source(mode, service), mode))
        trajectory = run(*arguments())
        results[mode] = trajectory, np.asarray(collect_scores(trajectory, service, mode))
    reference, scores = results["graph"]
    assert scores.shape == (HORIZON + 1, 12)
    np.testing.assert_allclose(scores[0], 5 - 8 * np.abs(IMAGES.mean((1, 2, 3)) - 0.75), atol=0.02)
    for trajectory, others in results.values():
        np.testing.assert_array_equal(trajectory.action, reference.action)
        np.testing.assert_allclose(others, scores, atol=1e-4)
    exact = [results[mode][1] for mode in ("ticket", "blocking", "outside")]
    np.testing.assert_array_equal(exact[0], exact[1])
    np.testing.assert_array_equal(exact[0], exact[2])


def test_trajectory_is_what_the_environment_saw():
    trajectory = jax.jit(make_rollout(ENV, POLICY, None, "none"))(*arguments())
    assert len(np.unique(trajectory.action)) == ENV.num_actions  # else this test shows little
    encode, act, step = map(jax.jit, (POLICY.encoder.apply, POLICY.apply, ENV.step))
    state = ENV.reset(IMAGES)
    for t in range(HORIZON):
        features = encode((), state.image)
        logits, value = act(PARAMS, features, state.record, state.step)
        np.testing.assert_allclose(trajectory.seen[t], features, atol=1e-5)
        np.testing.assert_allclose(trajectory.logits[t], logits, atol=1e-4)
        np.testing.assert_allclose(trajectory.value[t], value, atol=1e-4)
        chosen = jax.nn.log_softmax(logits)[np.arange(12), trajectory.action[t]]
        np.testing.assert_allclose(trajectory.log_prob[t], chosen, atol=1e-4)
        np.testing.assert_array_equal(trajectory.record[t], state.record)
        np.testing.assert_array_equal(trajectory.live[t], ~state.done)
        state, timestep = step(ENV.toolbox.params, state, trajectory.action[t])
        np.testing.assert_array_equal(trajectory.valid[t], timestep.valid)
        np.testing.assert_array_equal(trajectory.discount[t], timestep.discount)
    np.testing.assert_array_equal(trajectory.image, state.image)


def test_random_numbers_belong_to_the_image_not_to_its_place():
    rollout = jax.jit(make_rollout(ENV, POLICY, None, "none"))
    order = np.random.default_rng(0).permutation(12)
    straight, shuffled = rollout(*arguments()), rollout(*arguments(IMAGES[order], IDS[order]))
    np.testing.assert_array_equal(straight.action[:, order], shuffled.action)
    other_ids, other_key = rollout(*arguments(ids=IDS + 50)), rollout(*arguments(key=jax.random.key(6)))
    assert (straight.action != other_ids.action).any()
    assert (straight.action != other_key.action).any()


def test_steps_of_an_episode_draw_anew():
    same = jnp.zeros_like(IMAGES) + 0.5
    flat = {name: array * 0 for name, array in PARAMS.items()}  # uniform at every step
    rollout = jax.jit(make_rollout(ENV, POLICY, None, "none"))
    action = np.asarray(rollout(flat, *arguments(same)[1:]).action)
    assert (action[0] != action[1]).any()
    assert len(set(action[0])) > 1


def test_greedy_takes_the_likeliest_action():
    trajectory = jax.jit(make_rollout(ENV, POLICY, None, "none", greedy=True))(*arguments())
    np.testing.assert_array_equal(trajectory.action, np.argmax(trajectory.logits, -1))


def test_traced_once():
    rollout, traces = make_rollout(ENV, POLICY, None, "none"), []

    def traced(*args):
        traces.append(1)
        return rollout(*args)

    jitted = jax.jit(traced)
    jitted(*arguments())
    jitted(*arguments(images=IMAGES * 0.9, ids=IDS + 1, key=jax.random.key(7)))
    assert len(traces) == 1


@pytest.mark.parametrize("mode", ["graph", "none"])
def test_program_without_callbacks_exports_for_accelerators(mode, service):
    rollout = make_rollout(ENV, POLICY, source(mode, service), mode)
    exported = jax.export.export(jax.jit(rollout), platforms=["cuda", "tpu"])(*arguments())
    assert exported.platforms == ("cuda", "tpu")


def test_programs_of_the_outside_rollout_export_for_accelerators(service):
    rollout = OutsideRollout(ENV, POLICY, service)
    params, tools, encoder, _, images, ids, key = arguments()
    state, _ = jax.eval_shape(rollout.begin, images)
    for program, inputs in [
        (rollout.begin, (images,)),
        (rollout.step, (params, tools, encoder, ids, key, state, jnp.int32(0))),
    ]:
        assert jax.export.export(program, platforms=["cuda", "tpu"])(*inputs).platforms == ("cuda", "tpu")


def test_program_with_callbacks_does_not(service):
    rollout = jax.jit(make_rollout(ENV, POLICY, service, "ticket"))
    with pytest.raises(NotImplementedError):
        jax.export.export(rollout, platforms=["cuda", "tpu"])(*arguments())


def test_unknown_mode_is_one_line():
    with pytest.raises(UsageError, match=r"reward\.mode: 'tickets' is not one of ticket, blocking, graph"):
        make_rollout(ENV, POLICY, None, "tickets")


def test_1_2_and_4_devices_give_the_same_rollout():
    check_finished(start_on_devices(4, "rollout"))
