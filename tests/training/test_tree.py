"""Training on a transition tree: the episodes are those on images, only cheaper."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from probes import BRIGHTEN, DARKEN, STOP, build, greedy_actions, probe_config

from r1jax.agent.agent import Agent, load_agent
from r1jax.agent.encoder import Encoder, register_encoder
from r1jax.agent.policy import Policy
from r1jax.config import load, override, to_dict
from r1jax.degradations.dataset import to_float
from r1jax.errors import R1JaxError, UsageError
from r1jax.evaluation.statistics import group_mean
from r1jax.reward.lite import lite_scorer
from r1jax.reward.scorer import scorer
from r1jax.training import sweep
from r1jax.training.loop import train
from r1jax.training.rollout import make_rollout
from r1jax.training.tree import action_values, identify, load_training_tree
from r1jax.training.tree_build import build_training_tree, tree_images
from r1jax.training.tree_evaluation import TreeEvaluation
from r1jax.training.update import TrainState, _worth, make_update, optimiser
from r1jax.weights import weight_file

LEVELS = (0.25, 0.5, 1.0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photos of one brightness each, with a little noise."""
    folder = tmp_path_factory.mktemp("photos")
    for level in LEVELS:
        noise = np.random.default_rng(0).normal(0, 2, (20, 20, 3))
        pixels = np.clip(255 * level + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"level_{level}.png")
    return folder


@pytest.fixture(scope="module")
def config(photos):
    return probe_config(
        data__photos=str(photos), data__mixes="noise,dark", data__crop=16, data__clean_share=0.5, ppo__updates=3,
        env__guard_weight=0.01,
    )  # fmt: skip


def make(config, folder, **options):
    options = {"num_images": 8, "dtype": "float32", "progress": False, "scorer": scorer(config.reward.scorer)} | options
    return build_training_tree(config, folder, **options)


@pytest.fixture(scope="module")
def folder(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    assert make(config, folder, part=(1, 2)).built == 4
    result = make(config, folder)
    assert (result.built, result.complete) == (4, 8)
    return folder


@pytest.fixture(scope="module")
def tree(folder):
    return load_training_tree(folder)


def test_the_same_actions_bring_the_same_rewards_as_on_images(config, tree):
    env, policy, params = build(config)
    images = tree_images(config)
    degraded = to_float(np.stack([images[i].degraded for i in range(8)]))
    graph, ids, key = scorer(config.reward.scorer).graph, np.arange(8), jax.random.key(4)
    online = jax.jit(make_rollout(env, policy, graph, "graph"))
    acting, looker, tables = tree.task(config, env)
    on_tree = jax.jit(make_rollout(acting, looker, tree.scorer, "graph"))
    one = online(params, env.toolbox.params, policy.encoder.params, graph.params, degraded, ids, key)
    other = on_tree(params, tables, looker.encoder.params, tree.scores, tree.roots, ids, key)
    assert len(np.unique(one.action)) > 2
    for name in ("action", "live", "valid", "discount", "record", "step"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
    np.testing.assert_allclose(one.kept, other.kept, atol=1e-5)
    assert np.ptp(one.kept) > 1e-3
    seen = looker.encoder.apply(looker.encoder.params, looker.encoder.params.state[other.seen])
    for live, one_saw, other_saw in zip(one.live, one.seen, seen, strict=True):
        np.testing.assert_allclose(one_saw[live], other_saw[live], atol=1e-4)
    np.testing.assert_allclose(one.log_prob[one.live], other.log_prob[one.live], atol=1e-4)


@pytest.mark.parametrize("algorithm", ["ppo", pytest.param("vtrace", marks=pytest.mark.slow)])
def test_looking_decisions_up_is_the_update_of_computing_each(config, tree, algorithm):
    config = override(config, {"ppo.algorithm": algorithm, "ppo.episodes": 64, "ppo.minibatches": 1, "env.horizon": 2})
    env, _, params = build(config)
    acting, shared, tables = tree.task(config, env)
    frozen = Encoder("probe", lambda features, state: features[state], tree.features, tree.features.shape[1])
    plain = Policy(frozen, env, config.agent)
    assert len(shared.encoder.params.state) <= 64  # so each decision is computed once
    results = []
    for policy in (plain, shared):
        rollout = jax.jit(make_rollout(acting, policy, tree.scorer, "graph"))
        images, key = np.repeat(tree.roots, 8), jax.random.key(3)
        trajectory = rollout(params, tables, policy.encoder.params, tree.scores, images, np.arange(64), key)
        state = TrainState(params, optimiser(config.ppo).init(params))
        update = jax.jit(make_update(policy, config))
        results.append((trajectory, *update(state, policy.encoder.params, trajectory, trajectory.scores, key, 0.01)))
    (one, after, metrics), (other, same, values) = results
    np.testing.assert_array_equal(one.action, other.action)
    np.testing.assert_allclose(one.logits[one.live], other.logits[one.live], atol=1e-5)
    for name in params:
        np.testing.assert_allclose(after.params[name], same.params[name], atol=2e-5, err_msg=name)
    assert max(np.abs(after.params[name] - params[name]).max() for name in params) > 1e-2
    for name in metrics:
        np.testing.assert_allclose(metrics[name], values[name], atol=1e-4, err_msg=name)


def test_every_photo_and_every_mix_has_its_turn(config, tree):
    assert tree.photos == [tree_images(config).names(i)["photo"] for i in range(8)]
    pairs = set(zip(tree.photos, tree.mixes, strict=True))
    assert len(pairs) == 6  # three photos under two mixes


def test_batches_go_round_all_images(tree):
    batches = [tree.batch(0, step, 6) for step in range(4)]
    states, ids = (np.concatenate([getattr(batch, name) for batch in batches]) for name in ("degraded", "ids"))
    np.testing.assert_array_equal(np.unique(states, return_counts=True)[1], 3)
    np.testing.assert_array_equal(ids, np.arange(24))
    assert tree.batch(1, 0, 6).degraded.tolist() != batches[0].degraded.tolist()


def test_training_on_a_tree_learns_what_images_teach(config, tree, tmp_path):
    probe = probe_config(
        **{name.replace(".", "__"): value for name, value in {
            "data.photos": config.data.photos, "data.mixes": "noise,dark", "data.crop": 16, "data.clean_share": 0.5,
            "ppo.updates": 25, "ppo.episodes": 96, "eval.every": 25,
        }.items()}
    )  # fmt: skip
    agents = []
    result = train(probe, tmp_path / "run", tree=tree, progress=False, evaluate=lambda agent: agents.append(agent) or {})
    assert result.history[-1]["score_gain"] > result.history[0]["score_gain"] + 0.3
    # The agent acts on images.
    images = np.repeat(np.array([0.5, 1.0, 0.75], np.float32), 16 * 16 * 3).reshape(3, 16, 16, 3)
    assert greedy_actions(result.agent, images)[:, 0].tolist() == [BRIGHTEN, DARKEN, STOP]
    assert agents[0].env.toolbox.names == result.agent.env.toolbox.names
    with pytest.raises(UsageError, match="holds a run on"):
        train(probe, tmp_path / "run", progress=False)


def best_return(config, tree, state, calls, kept):
    """What the best actions bring from a state, by trying all of them."""
    guarded = lambda s: tree.scores[s] - config.env.guard_weight * max(config.env.guard_band - kept(s), 0)  # noqa: E731
    if calls == 0:
        return [0.0] * 4
    after = [max(best_return(config, tree, child, calls - 1, kept)) for child in tree.children[state]]
    gains = [guarded(child) - guarded(state) for child in tree.children[state]]
    return [gain - config.env.step_cost + config.ppo.gamma * rest for gain, rest in zip(gains, after, strict=True)] + [0.0]


def test_action_values_are_those_of_trying_everything(config, tree):
    config = override(config, {"ppo.gamma": 0.9, "env.step_cost": 0.1, "env.guard_weight": 2.0, "env.guard_band": 0.9})
    env, *_ = build(config)
    points = tree.task(config, env)[1].encoder.params
    assert len(points.ends) == 0  # without a beam nothing is asked of a critic
    found = action_values(points, jnp.zeros(0), 1, 0.9)
    assert found.shape == (8 * 4, 4) and len(points.known) == 32
    kept = lambda s: 1.0 if s in tree.roots else tree.metrics["structure"][s]  # noqa: E731
    for row in (0, 1, 2, 3, 17, 29):
        calls = 2 - int(points.step[row % 4])
        expected = best_return(config, tree, int(points.state[row]), calls, kept)
        np.testing.assert_allclose(found[row], expected, atol=1e-5)


def test_a_critic_stands_for_what_a_beam_left_out(config, tree):
    env, *_ = build(config)
    points = tree.task(config, env)[1].encoder.params
    rng = np.random.default_rng(0)
    reward, value = rng.normal(size=(32, 3)).astype(np.float32), rng.normal(size=5).astype(np.float32)
    # Of image 1 the root alone was gone on from, of image 2 the root and what its second tool makes.
    ends = {"known": jnp.array([4, 8, 10]), "ends": jnp.array([5, 6, 7, 9, 11])}
    points = points._replace(reward=jnp.asarray(reward), **ends)
    for num_stops in (0, 1):
        found = np.asarray(action_values(points, jnp.asarray(value), num_stops, 0.5)).reshape(8, 4, -1)
        expected = np.maximum(value, 0) if num_stops else value
        np.testing.assert_allclose(found[1, 0, :3], reward[4] + 0.5 * expected[:3], atol=1e-6)
        best = max(reward[10].max(), 0) if num_stops else reward[10].max()
        np.testing.assert_allclose(found[2, 0, :3], reward[8] + 0.5 * np.array([expected[3], best, expected[4]]), atol=1e-6)
        assert not found[..., 3:].any()


def test_distillation_learns_the_best_plans(config, tree, tmp_path):
    fields = {"env.guard_weight": 0.0, "ppo.algorithm": "distill", "ppo.updates": 120, "ppo.minibatches": 4}
    fields |= {"eval.every": 120}
    config = override(config, fields)
    evaluation = TreeEvaluation(config, tree)
    result = train(config, tmp_path / "run", tree=tree, evaluate=evaluation, progress=False)
    assert result.history[-1]["eval/score_gain"] == pytest.approx(evaluation.planners()["oracle"]["score_gain"], abs=0.02)
    assert result.history[-1]["policy_loss"] < 0.5 * result.history[0]["policy_loss"]
    images = np.repeat(np.array([0.5, 1.0, 0.75], np.float32), 16 * 16 * 3).reshape(3, 16, 16, 3)
    assert greedy_actions(result.agent, images)[:, 0].tolist() == [BRIGHTEN, DARKEN, STOP]
    with pytest.raises(UsageError, match="distill learns from a transition tree"):
        train(config, tmp_path / "online", progress=False)


def test_a_metric_for_reward(config, tree, tmp_path):
    """The logged gains are then the metric's: here of the likeliest plans, in decibels."""
    fields = {"reward.metric": "psnr_y", "ppo.algorithm": "distill", "ppo.temperature": 0.1, "ppo.updates": 60}
    by_psnr = override(config, fields)
    agent = train(by_psnr, tmp_path / "run", tree=tree, progress=False).agent
    figures = TreeEvaluation(config, tree)
    best = TreeEvaluation(config, tree.rewarding("psnr_y")).planners()["oracle"]["psnr_y_gain"]
    assert best > 0 and figures(agent)["psnr_y_gain"] > 0.9 * best
    with pytest.raises(UsageError, match=r"reward\.metric=vsi: the tree's states have psnr_y"):
        train(override(config, {"reward.metric": "vsi"}), tmp_path / "other", tree=tree, progress=False)
    with pytest.raises(UsageError, match=r"reward\.metric=psnr_y: the states of a tree have metrics"):
        train(by_psnr, tmp_path / "images", progress=False)


def test_what_a_beam_left_out_is_worth_what_the_critic_says(config, tmp_path):
    make(config, tmp_path, beam=1)
    env, *_ = build(config)
    policy = load_training_tree(tmp_path).task(config, env)[1]
    points = policy.encoder.params
    params = dict(policy.init(jax.random.key(0)))
    last = max(name for name in params if name.startswith("critic.") and name.endswith("bias"))
    params[last] += 0.5
    assert len(points.ends)
    node, features = points.ends % 4, policy.encoder.apply(points, points.state[points.ends])
    _, value = policy.apply(params, features, points.record[node], points.step[node])
    assert np.abs(np.asarray(value) - 0.5).max() < 0.2 and np.ptp(value) > 0
    wanted = action_values(points, value, 1, config.ppo.gamma)
    np.testing.assert_allclose(_worth(policy, params, points, config), wanted, atol=1e-5)
    assert np.abs(wanted - action_values(points, 0 * value, 1, config.ppo.gamma)).max() > 0.2


def test_a_beam_trains_and_does_not_evaluate(config, tree, tmp_path):
    assert make(config, tmp_path, beam=1).complete == 8
    beam = load_training_tree(tmp_path)
    assert beam.summary["beam"] == 1
    env, *_ = build(config)
    points = beam.task(config, env)[1].encoder.params
    assert 8 * 2 <= len(points.known) < 8 * 4  # the root and one state after a call
    # What comes next after a root is known, or a critic is asked for it.
    np.testing.assert_array_equal(np.sort(np.concatenate([points.known, points.ends])), np.arange(8 * 4))
    acting, _, tables = beam.task(config, env)
    open_states = np.flatnonzero(tables.open)
    np.testing.assert_array_equal(open_states, np.unique(points.state[points.known]))
    for action in range(STOP):  # where a beam left a state out the episode ends: no decision is asked for there
        after, step = acting.step(tables, acting.reset(beam.roots), np.full(8, action))
        left_out = ~np.isin(after.image, open_states)
        np.testing.assert_array_equal(after.done, left_out)
        np.testing.assert_array_equal(step.discount, ~left_out)
    with pytest.raises(UsageError, match="without --beam"):
        TreeEvaluation(config, beam)
    assert list(TreeEvaluation(config, tree).planners(beam)) == ["random", "greedy", "oracle"]  # no order can be told best
    with pytest.raises(UsageError, match="holds a tree with beam 1, not 0"):
        make(config, tmp_path)


def test_two_runs_on_a_tree_are_equal(config, tree, tmp_path):
    one, other = (train(config, tmp_path / name, tree=tree, progress=False) for name in ("one", "other"))
    for name, array in one.agent.params.items():
        np.testing.assert_array_equal(array, other.agent.params[name], err_msg=name)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("env__horizon", 3, "the tree has 2 calls"),
        ("env__toolbox", ("brighten",), "the tree lacks the tool brighten"),
        ("agent__encoder", "lite_scorer", "the tree has encoder"),
        ("reward__scorer", "lite", "the tree has scorer"),
    ],
)
def test_a_tree_of_another_config_is_refused(tree, field, value, message):
    with pytest.raises(UsageError, match=message):
        tree.check(probe_config(**{field: value}))


def test_a_tree_knows_the_file_of_a_user_s_tool(photos, tmp_path):
    file = tmp_path / "own.py"
    text = "from r1jax.tools import register_tool\n@register_tool('paler')\ndef paler(x):\n    return 0.9 * x\n"
    file.write_text(text)
    config = probe_config(env__toolbox=(f"{file}:paler",), env__horizon=1, data__photos=str(photos), data__crop=16)
    make(config, tmp_path / "tree", num_images=1)
    tree = load_training_tree(tmp_path / "tree")
    tree.check(config)
    file.write_text(text.replace("0.9", "0.5"))
    with pytest.raises(UsageError, match="the tree has another paler; it was built with paler; build another"):
        tree.check(config)
    with pytest.raises(UsageError, match="the tree lacks the tool probe_noop"):
        tree.check(override(config, {"env.toolbox": ("probe_noop",)}))


def test_a_lite_scorer_of_other_weights_is_another_scorer(tmp_path):
    shipped = weight_file("scorer").read_bytes()
    (tmp_path / "same.safetensors").write_bytes(shipped)
    (tmp_path / "other.safetensors").write_bytes(shipped[:-1] + bytes([shipped[-1] ^ 1]))
    paths = (None, *(str(tmp_path / f"{name}.safetensors") for name in ("same", "other")))
    options = [{"reward__options": {"path": path}} if path else {} for path in paths]
    plain, same, other = (identify(probe_config("", reward__scorer="lite", **of))["scorer"] for of in options)
    assert plain == f"lite ({lite_scorer().version})" == same != other


def test_fewer_tools_than_the_tree_has(config, tree):
    fewer = override(config, {"env.toolbox": ("probe_noop", "probe_darken")})
    tree.check(fewer)
    env, *_ = build(fewer)
    acting, _, tables = tree.task(fewer, env)
    state = acting.reset(tree.roots)
    darker = acting.step(tables, state, np.full(8, 1))[0].image
    np.testing.assert_array_equal(darker, tree.children[tree.roots, DARKEN])


def test_evaluation_on_a_tree_is_that_of_the_tools(config, tree):
    env, policy, params = build(config)
    values = TreeEvaluation(config, tree)(Agent(policy, params, env, config))
    gains, psnr, calls, best = [], [], [], []
    images = to_float(np.stack([tree_images(config)[i].degraded for i in range(8)]))
    actions = greedy_actions(Agent(policy, params, env, config), images)
    for root, plan in zip(tree.roots, actions, strict=True):
        path = [root]
        for action in plan:
            path += [tree.children[path[-1], action]] if 0 <= action < STOP else []
        gains.append(tree.scores[path[-1]] - tree.scores[root])
        psnr.append(tree.metrics["psnr_y"][path[-1]] - tree.metrics["psnr_y"][root])
        calls.append(len(path) - 1)
        reach = {root} | set(tree.children[root].tolist()) | set(tree.children[tree.children[root]].reshape(-1).tolist())
        best.append(max(tree.scores[list(reach)]) - tree.scores[root])
    by_mix = lambda values: group_mean(np.array(values, float), tree.mixes)  # noqa: E731
    assert values["score_gain"] == pytest.approx(by_mix(gains), abs=1e-4)
    assert values["psnr_y_gain"] == pytest.approx(by_mix(psnr), abs=1e-3)
    assert values["calls"] == pytest.approx(by_mix(calls))
    assert values["share"] == pytest.approx(group_mean(np.array(gains), tree.mixes, np.array(best)), abs=1e-4)


def test_planners_on_a_tree(config, tree):
    rows = TreeEvaluation(config, tree).planners(tree)
    assert list(rows) == ["random", "fixed order", "greedy", "oracle"]
    assert rows["oracle"]["share"] == pytest.approx(1) and rows["oracle"]["worse"] == 0
    # Brightening is right for what is dark and wrong for the rest: no fixed order is as good as looking.
    assert rows["greedy"]["share"] > 0.99 and rows["fixed order"]["share"] < 0.9
    assert rows["random"]["share"] < rows["fixed order"]["share"] and rows["random"]["worse"] > 0
    best = tree.scores[tree.children[tree.children[tree.roots]].reshape(len(tree.roots), -1)].max(1)
    best = np.maximum(best, tree.scores[tree.children[tree.roots]].max(1))
    gains = np.maximum(best - tree.scores[tree.roots], 0)
    assert rows["oracle"]["score_gain"] == pytest.approx(group_mean(gains, tree.mixes), abs=1e-5)


def test_the_tree_of_the_fixed_order_must_have_its_tools_and_calls(config, tree, photos, tmp_path):
    wider = probe_config(data__photos=str(photos), data__mixes="noise,dark", data__crop=16, env__horizon=1)
    make(wider, tmp_path / "shallow")
    with pytest.raises(UsageError, match="fixed order wants 2 calls; the tree has 1"):
        TreeEvaluation(config, tree).planners(load_training_tree(tmp_path / "shallow"))
    make(override(config, {"env.toolbox": ("probe_noop", "probe_darken")}), tmp_path / "fewer")
    with pytest.raises(UsageError, match="fixed order wants the tool probe_brighten; the tree has probe_noop, probe_darken"):
        TreeEvaluation(config, tree).planners(load_training_tree(tmp_path / "fewer"))


def test_an_agent_is_evaluated_whatever_it_was_rewarded_by(config, tree):
    rewarded = override(config, {"reward.scorer": "lite", "reward.metric": "psnr_y", "env.guard_weight": 0.5})
    env, policy, params = build(config)
    rows = [sweep.rows_on_tree(config, tree, agent=Agent(policy, params, env, own))[-1] for own in (config, rewarded)]
    assert rows[0] == rows[1]


def test_a_sweep_is_evaluated_on_the_tree_that_it_is_given(config, folder, tmp_path, monkeypatch):
    held_out = tmp_path / "held_out"
    make(config, held_out, num_images=4, seed=1)
    path = tmp_path / "probe.py"
    path.write_text("from r1jax.config import Config, from_dict\ndef config():\n    return from_dict(CONFIG)\n"
                    "def sweep():\n    yield {}\n".replace("CONFIG", repr(to_dict(config))))  # fmt: skip
    asked = []

    def train_here(command, log, environment):
        asked.append(command)
        run = pathlib.Path(command[command.index("--run") + 1])
        train(load(path), run, tree=load_training_tree(folder), progress=False)
        return 0

    monkeypatch.setattr(sweep, "run_command", train_here)
    for place in (folder, held_out):
        *planners, row = sweep.run_sweep(path, tmp_path / "runs", tree=str(folder), eval_tree=str(place))
        wanted = TreeEvaluation(config, load_training_tree(place))(load_agent(tmp_path / "runs" / "as_it_is"))
        assert (row["eval/share"], row["eval/calls"]) == (wanted["share"], wanted["calls"])
        assert [planner["variant"] for planner in planners] == ["random", "fixed order", "greedy", "oracle"]
        rows = sweep.rows_on_tree(config, load_training_tree(place), agent=load_agent(tmp_path / "runs" / "as_it_is"))
        assert [other["variant"] for other in rows] == ["random", "greedy", "oracle", "agent"]
        assert rows[-1]["eval/share"] == wanted["share"]
        heads = [sweep.table(of).partition(" score")[0] for of in (rows, [row])]
        assert heads == ["| variant |", "| variant | runs |"]
        assert rows[-1]["eval/share/low"] <= wanted["share"] <= rows[-1]["eval/share/high"]
    assert len(asked) == 1  # a complete run is not done again


def test_a_tree_is_not_gone_on_with_other_images(config, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    config = override(config, {"data.photos": str(tmp_path / "photos")})
    make(config, tmp_path / "tree", part=(0, 2))
    with pytest.raises(UsageError, match=r"holds a tree with clean_share 0\.5, not 1\.0"):
        make(override(config, {"data.clean_share": 1.0}), tmp_path / "tree")
    before = load_training_tree(tmp_path / "tree").summary["of"]
    Image.new("RGB", (20, 20)).save(tmp_path / "photos" / f"level_{LEVELS[0]}.png")
    with pytest.raises(UsageError, match="holds a tree with photos of other pixels"):
        make(config, tmp_path / "tree")
    make(config, tmp_path / "other", part=(0, 2))
    assert load_training_tree(tmp_path / "other").summary["of"] != before


def test_a_folder_holds_one_tree(config, folder, photos, tmp_path):
    with pytest.raises(UsageError, match="holds a tree with horizon 2, not 1"):
        make(probe_config(env__horizon=1, data__photos=str(photos), data__mixes="noise", data__crop=16), folder)
    with pytest.raises(UsageError, match="no transition tree here"):
        load_training_tree(tmp_path)
    (tmp_path / "tree.json").write_text((folder / "tree.json").read_text())
    with pytest.raises(UsageError, match="none of the 8 images is complete"):
        load_training_tree(tmp_path)


def test_an_estimate_leaves_nothing(config, tmp_path, capsys):
    result = make(config, tmp_path / "tree", estimate_only=True, beam=2)
    assert result.built == 0 and not (tmp_path / "tree").exists()
    assert "8 of 8 images to build" in capsys.readouterr().err


def test_a_broken_file_is_built_again(config, folder):
    path = folder / "images" / "00003.npz"
    whole = load_training_tree(folder)
    path.write_bytes(path.read_bytes()[:50])
    assert len(load_training_tree(folder).roots) == 7
    assert make(config, folder).built == 1
    np.testing.assert_array_equal(load_training_tree(folder).scores, whole.scores)
    assert json.loads((folder / "tree.json").read_text())["num_images"] == 8


def test_features_that_do_not_fit_are_refused(config, tmp_path):
    register_encoder("probe_large")(lambda: Encoder("probe_large", lambda _, x: x.mean((1, 2)) + 1e6, (), 3))
    with pytest.raises(R1JaxError, match="not finite as float16"):
        make(override(config, {"agent.encoder": "probe_large"}), tmp_path, dtype="float16")
