"""Trains the model of what each lite tool does to an image's statistics and score, and puts it into the package.

    python launch/train_foresight.py train trees/wide --labelled runs/lite_scorer/data1 runs/lite_scorer/data2
    python launch/train_foresight.py encode trees/wide -o trees/wide_foresight --apart
    python launch/train_foresight.py check trees/statistics_A trees/statistics_B trees/statistics_C --update-card
    python launch/train_foresight.py rescore trees/before -o trees/wide --former before.safetensors

The trees are built with --agent.encoder=lite_statistics. Images that the scorer learned from (`launch/train_lite_scorer.py
label`) are states too, of far more crops, with one tool tried on each. Each member learns from all photos but its share.
`encode` writes a tree as if it had been built with --agent.encoder=lite_foresight (with --beside, lite_foresight+
lite_statistics); with --apart each photo is seen by the member that did not learn from it, so that an agent trained on it
meets the errors that it will meet on other photos. What is foreseen of the last level's states is zeros: no decision is
made there. `train` continues where it stopped; with other settings it needs another --run. After a change of some tools
--init goes on from a net of the former ones, with its members' photos.

`rescore` turns a tree of a former scorer into one of the shipped scorer, where that looks at the same statistics: after
`launch/train_lite_scorer.py smooth` no tool is run again. A tree by --beam keeps the states that the former chose.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from r1jax.errors import R1JaxError, UsageError
from r1jax.evaluation.simulator import in_blocks
from r1jax.evaluation.tree import read_tree, write_tree
from r1jax.files import write_whole
from r1jax.nets import create
from r1jax.nets.foresight_net import THROUGH, ForesightNet
from r1jax.nets.quality_net import LEVELS, QualityNet, expected_score
from r1jax.reward.lite import in_steps
from r1jax.tools.lite import LITE_TOOLS
from r1jax.training.labelled import NO_TOOL, labelled_statistics
from r1jax.training.supervised import FitConfig, fit
from r1jax.training.tree import META_FILE, describe_encoder, describe_scorer, image_path, load_training_tree
from r1jax.training.tree_build import claim_tree
from r1jax.weights import flat_state, load_module, save_module, update_module, weight_file
from r1jax.weights.recorded import digest, sha256_of

_DIRECTIONS_FROM = 4000  # states from which the directions of change are found
_BLOCK = 64  # states foreseen at once


class Moves(NamedTuple):
    """States and what k tools make of each; statistics are standardised by the scorer."""

    seen: np.ndarray  # [n, f] what the scorer's heads say, and the statistics
    after: np.ndarray  # [n, k, s] statistics, as stored
    gain: np.ndarray  # [n, k] in score
    tools: np.ndarray  # [n, k] which tools, by number
    photo: np.ndarray  # [n] names

    @property
    def statistics(self) -> np.ndarray:
        return self.seen[:, -self.after.shape[-1] :]


def require_statistics(meta: Mapping[str, Any], folder: str | pathlib.Path) -> None:
    """Raises UsageError where a tree is not of the lite tools, the lite scorer and the statistics that it looks at."""
    wanted = describe_encoder("lite_statistics")
    if meta["encoder"] != wanted:
        hint = "build it with --agent.encoder=lite_statistics"
        raise UsageError(f"{folder}: has the encoder {meta['encoder']}, not {wanted}; {hint}")
    if list(meta["tools"]) != list(LITE_TOOLS):
        raise UsageError(f"{folder}: has the tools {', '.join(meta['tools'])}; want {', '.join(LITE_TOOLS)}, in this order")
    if (scorer := meta["scorer"].split()[0]) != "lite":
        raise UsageError(f"{folder}: has the scorer {scorer}; want lite, whose heads the net looks through")


def require_tools(meta: Mapping[str, Any], folder: str | pathlib.Path, tools: Mapping[str, str], of: str) -> None:
    """Raises UsageError where a tree is of tools of other weights than those of `of`."""
    if changed := [name for name, weights in meta["tools"].items() if weights != tools[name]]:
        raise UsageError(f"{folder}: its {', '.join(changed)} had other weights than {of}; build it anew")


def read_meta(folder: str | pathlib.Path) -> dict[str, Any]:
    return json.loads((pathlib.Path(folder) / META_FILE).read_text())


def read_moves(folder: str) -> Moves:
    """Returns the states of a tree that were gone on from, with all tools."""
    tree = load_training_tree(folder)
    require_statistics(tree.meta, folder)
    expanded = np.flatnonzero(tree.expanded)
    children = tree.children[expanded]
    photos = np.array(tree.photos)[np.searchsorted(tree.roots, expanded, side="right") - 1]
    gain = tree.scores[children] - tree.scores[expanded][:, None]
    after = tree.features[children][..., -scorer_net().num_statistics :]
    tools = np.broadcast_to(np.arange(gain.shape[1]), gain.shape)
    return Moves(tree.features[expanded].astype(np.float32), after, gain, tools, photos)


def read_labelled(folder: str) -> Moves:
    """Returns the labelled images that a tool was tried on, with that tool alone."""
    quality, found = scorer_net(), []

    @jax.jit
    def look(statistics: jax.Array) -> tuple[jax.Array, jax.Array]:
        return seen_and_score(quality, quality.standardised(statistics))

    for shard in labelled_statistics([pathlib.Path(folder)], quality):
        if "tools" not in shard:
            raise UsageError(f"{folder}: its images do not say which tool made them; label them anew")
        seen, score = map(np.asarray, look(shard["statistics"]))
        rows = np.flatnonzero(shard["tools"] != NO_TOOL)
        after = seen[rows, None, -quality.num_statistics :].astype(np.float16)
        gain = (score[rows] - score[rows - 1])[:, None]
        found.append(Moves(seen[rows - 1].astype(np.float16), after, gain, shard["tools"][rows, None], shard["photo"][rows]))
    return joined(found)


def seen_and_score(quality: QualityNet, statistics: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns what the encoder lite_statistics shows of standardised statistics [b, s], and the score [b]."""
    heads = quality.heads(statistics)
    return jnp.concatenate([*heads, statistics], -1), expected_score(heads.levels)


def joined(moves: Sequence[Moves]) -> Moves:
    return Moves(*(np.concatenate(column) for column in zip(*moves, strict=True)))


def scorer_net() -> QualityNet:
    module, _ = load_module(weight_file("scorer"))
    assert isinstance(module, QualityNet)
    return module


# ---------------------------------------------------------------- training


def train(args: argparse.Namespace) -> None:
    moves = joined([read_moves(folder) for folder in args.trees])
    tools = read_meta(args.trees[0])["tools"]
    for folder in args.trees[1:]:
        require_tools(read_meta(folder), folder, tools, f"those of {args.trees[0]}")
    sources = [moves, *([joined([read_labelled(folder) for folder in args.labelled])] if args.labelled else [])]
    num_states, num_tools = moves.gain.shape
    config = {"num_tools": num_tools, "num_inputs": moves.seen.shape[1], "num_statistics": moves.statistics.shape[1]}
    config |= {"num_members": args.members, "rank": args.rank, "hidden": args.hidden, "width": args.width}
    net: Any = create("foresight_net", seed=args.seed, **config)
    names = np.unique(np.concatenate([np.unique(source.photo) for source in sources]))
    folds = {photo: i % args.members for i, photo in enumerate(shuffled(names, args.seed))}
    if args.init:
        former, about = load_module(args.init)
        update_module(net, flat_state(former))
        folds |= about["training"]["photos"]
        basis = np.asarray(net.basis[...])
    else:
        net.mean.set_value(jnp.asarray(moves.seen.mean(0)))
        net.scale.set_value(jnp.asarray(1 / (moves.seen.std(0) + 1e-3)))
        basis = directions(moves, args.rank, np.random.default_rng(args.seed))
        net.basis.set_value(jnp.asarray(basis))
    coordinates = basis.T / (basis**2).sum(1)  # of an orthogonal basis
    lessons = []
    for source in sources:
        fold = np.array([folds[photo] for photo in source.photo])
        lessons.append([np.flatnonzero(fold != member) for member in range(args.members)])
        for member, lesson in enumerate(lessons[-1]):
            if not len(lesson):
                raise UsageError(f"--members={args.members}: member {member} would learn from no photo; use more photos")

    def batch_at(step: int) -> tuple[np.ndarray, ...]:
        rng = np.random.default_rng([args.seed, step])
        batch: list[np.ndarray] = []
        for source, lesson, size in zip(sources, lessons, (args.batch, args.labelled_batch), strict=False):
            rows = np.stack([rng.choice(of_member, size) for of_member in lesson])
            before = source.statistics[rows].astype(np.float32)
            change = (source.after[rows] - before[:, :, None]) @ coordinates
            batch += [before, change.astype(np.float32), source.gain[rows], source.tools[rows].astype(np.int32)]
        return tuple(batch)

    schedule = FitConfig(args.steps, args.batch, args.learning_rate, warmup=min(50, args.steps // 4), checkpoint_every=500)
    settings = {key: getattr(args, key) for key in ("members", "rank", "steps", "batch", "learning_rate", "seed")}
    settings |= {"trees": [pathlib.Path(folder).name for folder in args.trees], "states": num_states}
    if args.labelled:
        settings |= {"labelled": [pathlib.Path(folder).name for folder in args.labelled]}
        settings |= {"labelled_batch": args.labelled_batch, "labelled_states": len(sources[1].gain)}
    if args.init:
        settings |= {"init": pathlib.Path(args.init).name, "init_sha256": sha256_of(args.init)}
    settings["gains"] = digest([source.gain for source in sources])
    training = {"settings": settings, "photos": folds}
    scorer = sha256_of(weight_file("scorer"))
    run = pathlib.Path(args.run)
    run.mkdir(parents=True, exist_ok=True)
    with (run / "log.jsonl").open("a") as log:
        report = functools.partial(print, file=log, flush=True)
        depends = training | {"scorer": scorer, "tools": tools}
        net = fit(net, batch_at, make_loss(scorer_net()), schedule, run / "checkpoints", depends, report)
    described = {"training": training, "scorer": scorer, "tools": tools}
    save_module(args.out or weight_file("foresight"), net, "foresight_net", config, **described)


def shuffled(names: np.ndarray, seed: int) -> list[str]:
    return np.random.default_rng(seed).permutation(names).tolist()


def directions(moves: Moves, rank: int, rng: np.random.Generator) -> np.ndarray:
    """Returns the [r, s] directions along which tools change statistics most, of one length: the mean change along them."""
    rows = rng.permutation(len(moves.gain))[:_DIRECTIONS_FROM]
    changes = (moves.after[rows] - moves.statistics[rows][:, None]).reshape(-1, moves.statistics.shape[1])
    variances, vectors = np.linalg.eigh(changes.T @ changes / len(changes))
    main = vectors[:, ::-1][:, :rank].T
    return np.ascontiguousarray(main * np.sqrt(np.maximum(variances[::-1][:rank], 0)).mean(), np.float32)


def make_loss(quality: QualityNet) -> Any:
    """Returns the loss of all members: squared errors of changes along the basis, of both gains, and of the two in one."""
    graph, params = nnx.split(quality)

    def loss(net: ForesightNet, *batch: jax.Array) -> jax.Array:
        scorer = nnx.merge(graph, params)

        def of_member(member: Any, statistics: jax.Array, change: jax.Array, gain: jax.Array, tools: jax.Array) -> jax.Array:
            imagined = net.imagine(member, scorer, scorer.heads(statistics), statistics, tools)
            gains = (imagined.direct, imagined.through, imagined.gain)
            return ((imagined.change - change) ** 2).mean() + 3 * sum(((found - gain) ** 2).mean() for found in gains)

        sources = (batch[start : start + 4] for start in range(0, len(batch), 4))
        return sum(jax.vmap(of_member)(net.members(), *source).mean() for source in sources)

    return loss


# ---------------------------------------------------------------- encoding


def encode(args: argparse.Namespace) -> None:
    (source,), target = args.trees, pathlib.Path(args.out)
    meta = read_meta(source)
    require_statistics(meta, source)
    net, about = load_module(weight_file("foresight"))
    require_tools(meta, source, about["tools"], "the foresight's")
    folds, quality = about["training"]["photos"], scorer_net()
    encoder = "lite_foresight+lite_statistics" if args.beside else "lite_foresight"
    meta["encoder"], meta["apart"] = describe_encoder(encoder), args.apart
    meta["config"]["agent"]["encoder"] = encoder
    claim_tree(target, meta)

    together = jax.jit(functools.partial(net, quality))
    alone = jax.jit(lambda member, statistics: net.of_member(member, quality, statistics))
    for index, image in enumerate(meta["images"]):
        path = image_path(target, index)
        tree = read_tree(image_path(pathlib.Path(source), index))
        if tree is None or tree.features is None:
            continue
        if (held := read_tree(path)) is not None:
            if not np.array_equal(held.scores, tree.scores):
                raise UsageError(f"{path}: was encoded from another tree than {source}; use another folder")
            continue
        asked = np.flatnonzero((tree.children >= 0).any(1))
        statistics = tree.features[asked, -quality.num_statistics :].astype(np.float32)
        member = folds.get(image["photo"]) if args.apart else None
        foresee = together if member is None else functools.partial(alone, member)
        found = in_blocks(foresee, _BLOCK, statistics)
        features = np.zeros((len(tree.children), found.shape[-1]), meta["dtype"])
        features[asked] = found
        if args.beside:
            features = np.concatenate([features, tree.features], -1)
        write_tree(path, dataclasses.replace(tree, features=features))


# ---------------------------------------------------------------- another scorer


def rescore(args: argparse.Namespace) -> None:
    (source,), target = args.trees, pathlib.Path(args.out)
    former, quality = load_module(args.former)[0], scorer_net()
    meta = read_meta(source)
    if meta["encoder"] != (wanted := f"lite_statistics ({digest(nnx.split(former)[1])})"):
        raise UsageError(f"{source}: has the encoder {meta['encoder']}, not that of {args.former}: {wanted}")
    require_same_look(former, quality, args.former)
    meta["encoder"] = describe_encoder("lite_statistics")
    require_statistics(meta, source)
    meta["scorer"] = describe_scorer("lite", {})
    claim_tree(target, meta)

    judge = jax.jit(functools.partial(seen_and_score, quality))
    for index in range(meta["num_images"]):
        tree, path = read_tree(image_path(pathlib.Path(source), index)), image_path(target, index)
        if tree is None or tree.features is None or read_tree(path) is not None:
            continue
        statistics = tree.features[:, -quality.num_statistics :].astype(np.float32)
        seen, score = judge(statistics)
        features, scores = np.asarray(seen).astype(meta["dtype"]), np.asarray(in_steps(score))
        rescored = dataclasses.replace(tree, features=features, scores=scores[tree.unique])
        write_tree(path, rescored)


def require_same_look(former: nnx.Module, quality: QualityNet, path: str) -> None:
    """Raises UsageError where the shipped scorer does not see in an image just what a former one does."""
    ours, theirs = flat_state(quality), flat_state(former)
    of_look = [name for name in ours if name.split("/")[0] in ("trunk", "mean", "scale")]
    if any(name not in theirs or not np.array_equal(ours[name], theirs[name]) for name in of_look):
        raise UsageError(f"{path}: looks at other statistics than the shipped scorer; build the tree anew")


# ---------------------------------------------------------------- checking


def check(args: argparse.Namespace) -> None:
    """How well gains are foreseen on photos that the net was not trained on."""
    net, about = load_module(args.out or weight_file("foresight"))
    quality = scorer_net()
    foresee = jax.jit(lambda statistics: net(quality, statistics))
    report: dict[str, Any] = {}
    for folder in args.trees:
        moves = read_moves(folder)
        require_tools(read_meta(folder), folder, about["tools"], "the foresight's")
        if known := set(moves.photo) & set(about["training"]["photos"]):
            raise R1JaxError(f"{folder}: the net was trained on the photo {min(known)}")
        num_tools = moves.gain.shape[1]
        features = in_blocks(foresee, _BLOCK, moves.statistics)
        gain, direct = (features[:, start : start + num_tools] for start in (len(LEVELS), len(LEVELS) + num_tools))
        report[pathlib.Path(folder).name] = {"states": len(gain)} | foreseen(gain, direct, moves.gain)
    print(json.dumps(report, indent=2))
    if args.update_card:
        command = f"python launch/train_foresight.py check {' '.join(args.trees)}"
        path = pathlib.Path(args.out or weight_file("foresight")).with_suffix(".json")
        write_whole(path, json.dumps({"figures": report, "command": command}, indent=2) + "\n")


def foreseen(gain: np.ndarray, direct: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Returns the explained variance of gains, by the two heads too, and how much of the best call's gain is found."""
    through = (gain - (1 - THROUGH) * direct) / THROUGH
    chosen = np.where(gain.max(1) > 0, truth[np.arange(len(truth)), gain.argmax(1)], 0)
    report = {"explained": explained(gain, truth), "direct": explained(direct, truth), "through": explained(through, truth)}
    return report | {"share": round(float(chosen.sum() / np.maximum(truth.max(1), 0).sum()), 3)}


def explained(found: np.ndarray, truth: np.ndarray) -> float:
    return round(float(1 - ((found - truth) ** 2).mean() / truth.var()), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("train", "encode", "check", "rescore"))
    parser.add_argument("trees", nargs="+", metavar="TREE")
    parser.add_argument("-o", "--out", help="train, check: weight file (the shipped one); encode, rescore: the new tree")
    parser.add_argument("--former", help="rescore: weight file of the scorer that the tree was built with")
    parser.add_argument("--apart", action="store_true", help="encode: each photo by the member that never saw it")
    parser.add_argument("--beside", action="store_true", help="encode: keep the statistics, for an agent that sees both")
    parser.add_argument("--update-card", action="store_true", help="check: write the figures beside the model card")
    parser.add_argument("--run", default="runs/foresight", help="train: folder of checkpoints and log")
    parser.add_argument("--members", type=int, default=6)
    parser.add_argument("--rank", type=int, default=64, help="directions along which statistics change")
    parser.add_argument("--hidden", type=int, default=352, help="of a member's first layer")
    parser.add_argument("--width", type=int, default=256, help="of its second")
    parser.add_argument("--labelled", nargs="+", default=[], metavar="DIR", help="train: folders of labelled images, too")
    parser.add_argument("--init", help="train: weight file to go on from, of the same shape")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=192, help="states of trees, of each of which all tools are known")
    parser.add_argument("--labelled-batch", type=int, default=512, help="labelled images, with one tool each")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.step == "encode" and (len(args.trees) != 1 or not args.out):
        parser.error("encode: want one TREE, and the folder of the new one by --out")
    if args.step == "rescore" and (len(args.trees) != 1 or not args.out or not args.former):
        parser.error("rescore: want one TREE, the folder of the new one by --out, and the tree's scorer by --former")
    {"train": train, "encode": encode, "check": check, "rescore": rescore}[args.step](args)


if __name__ == "__main__":
    main()
