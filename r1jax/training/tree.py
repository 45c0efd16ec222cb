"""Training on a transition tree: what is computed once of every reachable state stands in tables.

With a tree a state is a number. The tools become the table of children, the encoder the table of features, the
scorer the table of scores: an environment, a policy and a scorer like any other, so that the rollout, the update and
the loop are those of images, but thousands of episodes cost what a few look-ups cost. The policy, too, is computed once for
each decision that there can be, however many episodes make it. `tree_build.py` makes trees.
"""

import dataclasses
import hashlib
import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from r1jax.agent.encoder import Encoder, encoder
from r1jax.agent.policy import Evaluate, Params, Policy
from r1jax.config import Config
from r1jax.env.environment import Environment, State, TimeStep
from r1jax.errors import R1JaxError, UsageError
from r1jax.evaluation.tree import Tree, read_tree
from r1jax.reward.scorer import GraphScorer, existing, identity, scorer
from r1jax.tools.toolbox import Tool, file_of, toolbox
from r1jax.weights.recorded import digest, sha256_of

META_FILE = "tree.json"
STRUCTURE = "structure"  # the metric that a guard looks up


class Episodes(NamedTuple):
    """A batch of training images, as their states' numbers: what `degradations.dataset.Batch` is of images."""

    degraded: Int[np.ndarray, " b"]
    ids: Int[np.ndarray, " b"]


@dataclasses.dataclass(frozen=True, eq=False)
class TreeEnvironment(Environment):
    """The environment on the numbers of states.

    Its tool params are `Tables`. An episode ends where the tree does: in a state that a beam left out nothing is known of
    what a tool would do, so that it may not be asked for a decision, and what was gained on the way there is exact.
    """

    def reset(self, images: Int[Array, " b"]) -> State:
        """Starts one episode at each state."""
        blank = super().reset(jnp.zeros((images.shape[0], 1, 1, 3)))
        return blank._replace(image=images)

    def kept(self, tool_params: Any, state: State) -> Float[Array, " b"]:
        """Returns how much of the root's structure the states keep."""
        return tool_params.kept[state.image]

    def step(self, tool_params: Any, state: State, action: Int[Array, " b"]) -> tuple[State, TimeStep]:
        """Takes one action in every episode."""
        new_state, step = super().step(tool_params, state, action)
        done = new_state.done | ~tool_params.open[new_state.image]
        return new_state._replace(done=done), step._replace(discount=(~done).astype(jnp.float32))

    def restore(
        self, tool_params: Any, image: Int[Array, " b"], tool: Int[Array, " b"], valid: Bool[Array, " b"]
    ) -> Int[Array, " b"]:
        """Returns the states after their tools."""
        return jnp.where(valid, tool_params.children[image, jnp.minimum(tool, len(self.toolbox) - 1)], image)


class Tables(NamedTuple):
    """What stands for the tools' parameters, of each of u states."""

    children: Int[Array, "u k"]
    kept: Float[Array, " u"]  # of the root's structure
    open: Bool[Array, " u"]  # an episode may go on


class Points(NamedTuple):
    """The p decisions that each of r images can ask for: after no call, after each first call, ... in the heap's order."""

    features: Float[Array, "u f"]  # of every state, as stored
    image: Int[Array, " u"]  # that a state belongs to
    state: Int[Array, " r_p"]  # that a decision is made in
    record: Int[Array, "p T"]
    step: Int[Array, " p"]
    reward: Float[Array, "r_p k"]  # of each tool
    known: Int[Array, " n"]  # the decisions whose outcomes the tree has: of a state that a beam left out it has none
    ends: Int[Array, " m"]  # the decisions that come next after known ones and are not known


def action_values(points: Points, value: Float[Array, " m"], num_stops: int, gamma: float) -> Float[Array, "r_p a"]:
    """Returns, by dynamic programming, the return of each action of each decision if the best ones follow.

    Where a beam left a state out nothing is known of what follows, and `value` stands for it: a plan may begin with a tool
    that shows its worth after the next one only.

    Args:
      value: what a critic expects of each of `points.ends`.
      num_stops: actions that end an episode, 1 or 0.
    """
    num_points, horizon = points.record.shape
    num_tools, count = points.reward.shape[-1], len(points.state)
    reward = points.reward.reshape(-1, num_points, num_tools)
    known = jnp.zeros(count, bool).at[points.known].set(True).reshape(-1, num_points)
    expected = jnp.zeros(count).at[points.ends].set(jnp.maximum(value, 0) if num_stops else value).reshape(-1, num_points)
    sizes = num_tools ** np.arange(horizon)
    found: list[Array] = []
    following = jnp.zeros((len(reward), sizes[-1] * num_tools))
    for start, size in zip((np.cumsum(sizes) - sizes)[::-1].tolist(), sizes[::-1].tolist(), strict=True):
        level = slice(start, start + size)
        values = reward[:, level] + gamma * following.reshape(-1, size, num_tools)
        found.append(jnp.pad(values, ((0, 0), (0, 0), (0, num_stops))))
        following = jnp.where(known[:, level], found[-1].max(-1), expected[:, level])
    return jnp.concatenate(found[::-1], 1).reshape(count, -1)


class TreePolicy(Policy):
    """The policy where an image is the number of its state. Its parameters are those of the policy on images.

    What it sees is the number of a decision. A batch of more decisions than there are points computes each point once and
    looks its logits and value up; the gradient adds up over all that looked. Neither loss nor gradient changes by it.
    """

    def see(self, encoder_params: Points, state: State) -> Int[Array, " b"]:
        """Returns the numbers of the decisions; of ended episodes any."""
        node = jnp.zeros_like(state.step)
        for t in range(state.record.shape[1]):
            node = jnp.where(t < state.step, node * self._num_tools + state.record[:, t] + 1, node)
        num_points = len(encoder_params.step)
        return encoder_params.image[state.image] * num_points + jnp.clip(node, 0, num_points - 1)

    def bind(self, params: Params, encoder_params: Points, num_decisions: int) -> Evaluate:
        """Returns the policy as a function of decisions' numbers."""
        count = len(encoder_params.state)
        if num_decisions < count:
            return lambda seen, record, step: self.at(params, encoder_params, seen)
        logits, value = self.at(params, encoder_params, jnp.arange(count))
        return lambda seen, record, step: (logits[seen], value[seen])

    def at(self, params: Params, points: Points, rows: Int[Array, " n"]) -> tuple[Float[Array, "n a"], Float[Array, " n"]]:
        """Returns the logits and values of decisions, by their numbers."""
        node = rows % len(points.step)
        features = self.encoder.apply(points, points.state[rows])
        return self.apply(params, features, points.record[node], points.step[node])


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingTree:
    """The trees of all images, their states numbered through.

    Attributes:
      meta: what stands in tree.json.
      features: of each state, as stored.
      scores: of each state.
      children: the state that each tool makes of each state; of the last level's, that state itself.
      metrics: full-reference metrics of each state, by name.
      roots: the state of each degraded image.
      mixes, photos: of each image.
    """

    meta: Mapping[str, Any]
    features: Float[np.ndarray, "u f"]
    scores: Float[np.ndarray, " u"]
    children: Int[np.ndarray, "u k"]
    metrics: Mapping[str, Float[np.ndarray, " u"]]
    roots: Int[np.ndarray, " r"]
    mixes: list[str]
    photos: list[str]

    def task(self, config: Config, env: Environment) -> tuple[TreeEnvironment, TreePolicy, Any]:
        """Returns `env` and the policy on numbers of states, and the environment's tool params.

        The environment may have fewer tools than the tree, and a shorter horizon.
        """
        fields = {field.name: getattr(env, field.name) for field in dataclasses.fields(env)}

        def look_up(points: Points, state: Int[Array, " b"]) -> Float[Array, "b f"]:
            return points.features[state].astype(jnp.float32)

        children = self.children_by(env.toolbox.names)
        points = self._points(children, env, config)
        # Without a beam a state that no tool changes is one like any other.
        going_on = self.expanded if self.meta.get("beam") else np.ones(len(self.scores), bool)
        frozen = Encoder(config.agent.encoder, look_up, points, self.features.shape[1])
        kept = self.metrics.get(STRUCTURE, np.ones_like(self.scores))
        tables = Tables(*map(jnp.asarray, (children, kept, going_on)))
        return TreeEnvironment(**fields), TreePolicy(frozen, env, config.agent), tables

    @property
    def expanded(self) -> Bool[np.ndarray, " u"]:
        """Whether a tool of the tree makes another state of a state: of the last level's and of those left out none does."""
        return (self.children != np.arange(len(self.children))[:, None]).any(1)

    def children_by(self, tools: Sequence[str]) -> Int[np.ndarray, "u k"]:
        """Returns the children that these tools make, in their order."""
        known = list(self.meta["tools"])
        return self.children[:, [known.index(name) for name in tools]]

    def _points(self, children: Int[np.ndarray, "u k"], env: Environment, config: Config) -> Points:
        """Returns the decisions of episodes, level by level."""
        num_tools, horizon = children.shape[1], env.horizon
        records = [np.full((1, horizon), -1, np.int32)]
        for t in range(horizon - 1):
            record = np.repeat(records[-1], num_tools, axis=0)
            record[:, t] = np.tile(np.arange(num_tools), len(records[-1]))
            records.append(record)
        step = np.repeat(np.arange(horizon, dtype=np.int32), [len(record) for record in records])
        image = np.searchsorted(self.roots, np.arange(len(self.scores)), side="right").astype(np.int32) - 1
        state = reached(children, self.roots, horizon - 1).reshape(-1)
        is_known = (children[state] != state[:, None]).any(1).reshape(len(self.roots), -1)
        node = np.arange(1, is_known.shape[1])
        is_end = np.zeros_like(is_known)
        if self.meta.get("beam"):  # else a state that is not known is one that no tool changes, and worth nothing more
            is_end[:, node] = is_known[:, (node - 1) // num_tools] & ~is_known[:, node]
        known, ends = (np.flatnonzero(mask).astype(np.int32) for mask in (is_known, is_end))
        rewards = self._rewards(children, env, config)
        tables = (self.features, image, state, np.concatenate(records), step, rewards, known, ends)
        return Points(*map(jnp.asarray, tables))

    def _rewards(self, children: Int[np.ndarray, "u k"], env: Environment, config: Config) -> Float[np.ndarray, "r_p k"]:
        """Returns what each tool gains in each decision, less its cost and what the guard takes off."""
        scores = self.scores
        if config.env.guard_weight:
            lacking = np.maximum(config.env.guard_band - self.metrics[STRUCTURE], 0)
            lacking[self.roots] = 0
            scores = scores - config.env.guard_weight * lacking
        levels = _levels(children, self.roots, env.horizon)
        gains = [
            scores[after].reshape(*before.shape, -1) - scores[before][..., None]
            for before, after in itertools.pairwise(levels)
        ]
        return (np.concatenate(gains, axis=1) - config.env.step_cost).astype(np.float32).reshape(-1, children.shape[1])

    def rewarding(self, metric: str) -> "TrainingTree":
        """Returns the same tree with a metric of its states for their scores."""
        return dataclasses.replace(self, scores=self.metrics[metric])

    @property
    def scorer(self) -> GraphScorer:
        """The scorer that looks scores up."""
        return GraphScorer(lambda scores, state: scores[state], self.scores)

    def batch(self, seed: int, step: int, batch_size: int) -> Episodes:
        """Returns the images of batch `step`: all of the tree, in an order of its own each time round."""
        ids = step * batch_size + np.arange(batch_size, dtype=np.int64)
        rounds, place = np.divmod(ids, len(self.roots))
        orders = {r: np.random.default_rng([seed, r]).permutation(self.roots) for r in np.unique(rounds).tolist()}
        states = np.array([orders[r][p] for r, p in zip(rounds.tolist(), place.tolist(), strict=True)])
        return Episodes(states.astype(np.int32), (ids % 2**31).astype(np.int32))

    @property
    def summary(self) -> dict[str, Any]:
        """What a run on this tree depends on."""
        return describe_tree(self.meta) | {"images": len(self.roots), "states": len(self.scores)}

    def check(self, config: Config) -> None:
        """Raises UsageError where the tree does not belong to the config."""
        made, wanted = self.meta, identify(config)
        for tool, weights in wanted["tools"].items():
            if made["tools"].get(tool) != weights:
                held = f"has another {tool}" if tool in made["tools"] else f"lacks the tool {tool}"
                raise UsageError(f"the tree {held}; it was built with {', '.join(made['tools'])}; build another")
        for name in ("encoder", "scorer"):
            if made[name] != wanted[name]:
                raise UsageError(f"the tree has {name} {made[name]}, this config {wanted[name]}; build another")
        if config.env.guard_weight and STRUCTURE not in self.metrics:
            raise UsageError("env.guard_weight: the tree was built without the structure kept; build another")
        if (metric := config.reward.metric) and metric not in self.metrics:
            raise UsageError(f"reward.metric={metric}: the tree's states have {', '.join(self.metrics) or 'none'}")
        if config.env.horizon > made["horizon"]:
            raise UsageError(f"env.horizon={config.env.horizon}: the tree has {made['horizon']} calls; build another")


def describe_tree(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what tells trees apart that a run must not be moved between, from what stands in tree.json."""
    names = ("tools", "encoder", "scorer", "effect", "horizon", "crop", "seed", "dtype")
    images = [meta["images"], meta.get("apart", False), *(meta[name] for name in ("clean_share", "pixels") if name in meta)]
    of = hashlib.sha256(json.dumps(images).encode()).hexdigest()[:16]
    return {name: meta[name] for name in names} | {"beam": meta.get("beam", 0), "of": of}


def reached(children: Int[np.ndarray, "u k"], roots: Int[np.ndarray, " r"], calls: int) -> Int[np.ndarray, "r s"]:
    """Returns the state that each sequence of up to `calls` tools ends in, in the heap's order."""
    return np.concatenate(_levels(children, roots, calls), axis=1)


def _levels(children: Int[np.ndarray, "u k"], roots: Int[np.ndarray, " r"], calls: int) -> list[Int[np.ndarray, "r _"]]:
    """Returns the states after no tool, after each tool, after each two, ..., up to `calls`."""
    levels = [roots[:, None]]
    for _ in range(calls):
        levels.append(children[levels[-1]].reshape(len(roots), -1))
    return levels


def describe_encoder(of: str | Encoder) -> str:
    """Returns the name of an encoder, itself or by name, and the digest of its weights, as a tree keeps it."""
    frozen = encoder(of) if isinstance(of, str) else of
    return f"{frozen.name} ({digest(frozen.params)})"


def describe_scorer(spec: str, options: Mapping[str, Any]) -> str:
    """Returns the name of a scorer and what tells it apart, as a tree keeps it.

    One that is no part of the package is known by its name and its file alone: it may take minutes to load.
    """
    if spec == "lite":
        return f"{spec} ({identity(scorer(spec, options)).version})"
    told = f"{spec} {json.dumps(dict(options), sort_keys=True, default=str)}" if options else spec
    if ".py:" in spec:
        told += f" ({sha256_of(existing(spec.rpartition(':')[0]))[:16]})"
    return told


def identify(config: Config, frozen: Encoder | None = None) -> dict[str, Any]:
    """Returns what a tree or a run depends on besides its images: names and digests of tools, encoder and scorer.

    Args:
      frozen: the config's encoder, where it is loaded already.
    """
    box = toolbox(config.env.toolbox)
    return {
        "tools": {tool.name: _describe_tool(tool) for tool in box.tools},
        "encoder": describe_encoder(frozen or config.agent.encoder),
        "scorer": describe_scorer(config.reward.scorer, config.reward.options),
    }


def _describe_tool(tool: Tool) -> str:
    """Returns the digest of a tool's weights, and of the user's file that it is from."""
    file = file_of(tool.name)
    return f"{digest(tool.params)} {sha256_of(file)[:16]}" if file else digest(tool.params)


def load_training_tree(folder: str | pathlib.Path) -> TrainingTree:
    """Reads what `r1jax tree build` has written; images that are not there yet are left out.

    Raises:
      UsageError: the folder holds no tree, or none of its images is complete.
      R1JaxError: trees of different shapes lie in it.
    """
    folder = pathlib.Path(folder)
    path = folder / META_FILE
    if not path.is_file():
        raise UsageError(f"{folder}: no transition tree here; `r1jax tree build CONFIG -o {folder}` makes one")
    meta = json.loads(path.read_text())
    found = [(i, read_tree(image_path(folder, i))) for i in range(meta["num_images"])]
    trees = [(i, tree) for i, tree in found if tree is not None and tree.features is not None]
    if not trees:
        raise UsageError(f"{folder}: none of the {meta['num_images']} images is complete; run `r1jax tree build` again")
    return _join(meta, [i for i, _ in trees], [tree for _, tree in trees])


def image_path(folder: pathlib.Path, index: int) -> pathlib.Path:
    """Returns the file of one image's tree."""
    return folder / "images" / f"{index:05d}.npz"


def _join(meta: Mapping[str, Any], indices: list[int], trees: list[Tree]) -> TrainingTree:
    """Numbers the contents of all trees through."""
    sizes = [len(tree.first) for tree in trees]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)
    shapes = {(tree.num_tools, tree.horizon, tree.features.shape[1]) for tree in trees}  # type: ignore[union-attr]
    metrics = [name for name in trees[0].metrics if all(name in tree.metrics for tree in trees)]
    if len(shapes) > 1:
        raise R1JaxError(f"tree {meta['name']!r}: its images do not fit together; build it anew")
    children = []
    for start, tree in zip(starts.tolist(), trees, strict=True):
        own = np.arange(len(tree.first), dtype=np.int32)[:, None]
        children.append(np.where(tree.children < 0, own, tree.children).astype(np.int32) + start)
    return TrainingTree(
        meta,
        np.concatenate([tree.features for tree in trees if tree.features is not None]),
        np.concatenate([tree.scores[tree.first] for tree in trees]).astype(np.float32),
        np.concatenate(children),
        {name: np.concatenate([tree.metrics[name][tree.first] for tree in trees]) for name in metrics},
        starts,
        [meta["images"][i]["mix"] for i in indices],
        [meta["images"][i]["photo"] for i in indices],
    )
