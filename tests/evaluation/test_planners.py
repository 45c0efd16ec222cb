"""What each planner does in a world whose scores are known, with trees and without."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.agent.encoder import Encoder
from r1jax.agent.policy import Policy
from r1jax.config import AgentConfig
from r1jax.errors import UsageError
from r1jax.evaluation.planners import (
    AgentPlanner,
    FixedOrder,
    Greedy,
    NoTools,
    Oracle,
    RandomTools,
    find_best_fixed_order,
    run_planner,
)
from r1jax.evaluation.simulator import path_of
from r1jax.evaluation.tree import build_tree
from r1jax.evaluation.world import World


@pytest.fixture(params=[False, True], ids=["stepping", "trees"])
def make_world(request):
    def make(toy):
        trees = [build_tree(toy.simulator, image) for image in toy.images] if request.param else None
        return World(toy.simulator, toy.images, trees)

    return make


MEAN_COLOUR = Encoder("mean", lambda params, image: params * jnp.mean(image, axis=(1, 2)), jnp.float32(1), 3)


def _agent(toy, seed=0):
    policy = Policy(MEAN_COLOUR, toy.simulator.env, AgentConfig(hidden=(8,)))
    params = policy.init(jax.random.key(seed), MEAN_COLOUR.apply(1, toy.images / jnp.float32(255)))
    return policy, {name: 100 * array if name.startswith("actor") else array for name, array in params.items()}


def test_no_tools(make_toy, make_world):
    toy = make_toy()
    result = run_planner(NoTools(), make_world(toy))
    np.testing.assert_array_equal(result.images, toy.images)
    for counts in (result.calls, result.tool_runs, result.scorings, result.seconds):
        assert not counts.any()


def test_fixed_order(make_toy, make_world):
    toy = make_toy()
    result = run_planner(FixedOrder(("darken", "lighten")), make_world(toy))
    assert result.actions.tolist() == [[1, 0, -1]] * 5
    np.testing.assert_array_equal(result.images, toy.images + np.uint8(20))
    assert result.calls.tolist() == result.tool_runs.tolist() == [2] * 5


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (("sharpen",), "no tool 'sharpen'.*lighten, darken, keep"),
        (("keep",) * 4, "4 tools, but env.horizon is 3"),
    ],
)
def test_fixed_order_that_does_not_fit(make_toy, order, message):
    toy = make_toy()
    with pytest.raises(UsageError, match=message):
        run_planner(FixedOrder(order), World(toy.simulator, toy.images))


def test_random_depends_on_seed_and_image_only(make_toy, make_world):
    toy = make_toy(40)
    drawn = run_planner(RandomTools(1), make_world(toy)).actions
    np.testing.assert_array_equal(drawn, run_planner(RandomTools(1), World(toy.simulator, toy.images)).actions)
    tail = run_planner(RandomTools(1), World(toy.simulator, toy.images[30:])).actions
    np.testing.assert_array_equal(drawn[30:], tail)
    assert (drawn != run_planner(RandomTools(2), World(toy.simulator, toy.images)).actions).any()
    assert set(drawn.reshape(-1).tolist()) == {-1, 0, 1, 2}
    assert all(row[i] == -1 for row in drawn.tolist() for i in range(1, 3) if row[i - 1] == -1)


def test_random_without_stop_uses_the_horizon(make_toy):
    toy = make_toy(stop=False)
    assert run_planner(RandomTools(), World(toy.simulator, toy.images)).calls.tolist() == [3] * 5


def test_greedy_climbs_and_stops(make_toy, make_world, likes_brightness):
    toy = make_toy(2, scorer=likes_brightness(150))
    toy.images[0], toy.images[1] = 122, 150
    result = run_planner(Greedy(), make_world(toy))
    assert result.actions.tolist() == [
        [0, -1, -1],
        [-1, -1, -1],
    ]  # 152 is nearer than what follows; 150 is best
    assert result.tool_runs.tolist() == [6, 3]  # every tool at each step, also at the one that finds nothing
    assert result.scorings.tolist() == [7, 4]


def test_oracle_sees_past_a_worse_step(make_toy, make_world, likes_brightness):
    toy = make_toy(1, scorer=likes_brightness(150, valley=3.0))
    toy.images[:] = 112
    assert run_planner(Greedy(), make_world(toy)).calls.tolist() == [0]
    result = run_planner(Oracle(), make_world(toy))
    assert sorted(result.actions[0].tolist()) == [0, 0, 1]  # 112 + 60 - 10 = 162
    assert result.tool_runs.tolist() == [39] and result.scorings.tolist() == [40]


def test_oracle_is_the_best_of_all_sequences(make_toy, make_world):
    toy = make_toy(4)
    result = run_planner(Oracle(), make_world(toy))
    sequences = [s for t in range(4) for s in itertools.product(("lighten", "darken", "keep"), repeat=t)]
    world = World(toy.simulator, toy.images)
    images = [run_planner(FixedOrder(order), world).images for order in sequences]
    best = np.max([toy.simulator.score(image) for image in images], axis=0)
    np.testing.assert_allclose(toy.simulator.score(result.images), best, atol=1e-6)


def test_oracle_prefers_fewer_calls(make_toy, make_world, likes_brightness):
    toy = make_toy(1, scorer=likes_brightness(100))
    toy.images[:] = 100
    assert run_planner(Oracle(), make_world(toy)).calls.tolist() == [0]


def test_agent_is_the_environment_under_argmax(make_toy, make_world):
    toy = make_toy(6)
    toy.images[:] = np.arange(20, 250, 40)[:, None, None, None]
    policy, params = _agent(toy)
    result = run_planner(AgentPlanner(policy, params), make_world(toy))
    env = toy.simulator.env
    state = env.reset(toy.images / jnp.float32(255))
    for _ in range(env.horizon):
        features = MEAN_COLOUR.apply(1, state.image)
        logits, _ = policy.apply(params, features, state.record, state.step)
        state, _ = env.step(env.toolbox.params, state, jnp.argmax(logits, -1))
    np.testing.assert_array_equal(result.actions, state.record)
    np.testing.assert_array_equal(result.images, np.round(np.asarray(state.image) * 255))
    assert not result.scorings.any() and len(set(map(tuple, result.actions.tolist()))) > 1


def test_agent_with_other_params(make_toy):
    toy = make_toy(6)
    policy, params = _agent(toy)
    planner = AgentPlanner(policy, params)
    other = planner.with_params(_agent(toy, 5)[1])
    plans = [run_planner(p, World(toy.simulator, toy.images)).actions for p in (planner, other, planner)]
    np.testing.assert_array_equal(plans[0], plans[2])
    assert (plans[0] != plans[1]).any()


def test_agent_of_a_longer_horizon_plans_its_first_steps(make_toy):
    long, short = make_toy(6, horizon=5), make_toy(6, horizon=2)
    long.images[:] = short.images[:] = np.arange(20, 250, 40)[:, None, None, None]
    policy, params = _agent(long)
    planner = AgentPlanner(policy, params, horizon=5)
    whole = run_planner(planner, World(long.simulator, long.images)).actions
    np.testing.assert_array_equal(run_planner(planner, World(short.simulator, short.images)).actions, whole[:, :2])


def test_seconds_are_those_of_the_calls(make_toy, make_world):
    toy = make_toy(2)
    toy.simulator.tool_seconds[:], toy.simulator.score_seconds = (1.0, 10.0, 100.0), 1000.0
    world = make_world(toy)
    run_planner(Oracle(), world)  # what it has made and scored is not the others' merit
    assert run_planner(FixedOrder(("darken", "lighten")), world).seconds.tolist() == [11.0, 11.0]
    result = run_planner(Greedy(), world)
    expected = 111.0 * result.tool_runs / 3 + 1000.0 * result.scorings
    np.testing.assert_allclose(result.seconds, expected)


def test_states_are_made_once(make_toy, monkeypatch):
    toy = make_toy(2)
    runs = []
    step = toy.simulator.step
    monkeypatch.setattr(
        toy.simulator, "step", lambda images, actions: runs.append(len(images)) or step(images, actions)
    )
    world = World(toy.simulator, toy.images)
    for _ in range(2):
        run_planner(FixedOrder(("lighten", "darken")), world)
        world.images(np.array([0, 0, 1]), np.array([1, 1, 0]))
    assert sum(runs) == 4


def test_path_scores_come_from_either_source(make_toy, make_world):
    toy = make_toy(1)
    path = path_of((0, 1, 0), 3)
    scores = make_world(toy).scores(np.zeros(4, int), np.array(path))
    shifts = np.array([0, 30, 20, 50], np.uint8)
    np.testing.assert_allclose(scores, toy.simulator.score(toy.images[0] + shifts[:, None, None, None]), atol=1e-6)


def test_best_fixed_order(make_toy, make_world, likes_brightness):
    toy = make_toy(6, scorer=likes_brightness(130))
    toy.images[:] = np.array([100, 101, 99, 100, 102, 98])[:, None, None, None]
    assert find_best_fixed_order([make_world(toy), make_world(toy)]) == ("lighten",)
    toy.images[:] = 130
    assert find_best_fixed_order([make_world(toy)]) == ()


def test_a_fixed_order_behind_a_worse_step_is_not_found(make_toy, make_world, likes_brightness):
    toy = make_toy(1, scorer=likes_brightness(150, valley=3.0))
    toy.images[:] = 112
    assert find_best_fixed_order([make_world(toy)]) == ()
