"""Environment steps a second of training on a transition tree. Prints one line of JSON.

The training is the real one, `r1jax.training.train` with its log: the tree's encoder, the default MLP, PPO with 4 epochs.
A step is a decision of an episode that counts (after STOP none does), sampled by the policy and learned from once an epoch;
seconds are those of whole updates, without the first two, which compile. Decisions that see the same are computed together
(`r1jax.training.tree.TreePolicy`), so that more episodes a photo cost little; `tree_few_episodes` is the speed where
a minibatch has fewer decisions than the tree. Beside them: the same tree with 768 random numbers a state for features, as
many as CLIP ViT-L/14 has, and online training of the same config on images. Goal: 100,000 steps a second on two CPU cores.

    r1jax tree build configs/ablation.py -o trees/ablation --images 64 --photos PHOTOS
    python benchmarks/tree.py trees/ablation --photos PHOTOS
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import tempfile
import time
from typing import Any

if __name__ == "__main__":  # else a dependency that imports the package `tree` finds this file
    sys.path.pop(0)

import jax
import numpy as np

from r1jax.config import AgentConfig, Config, from_dict, override
from r1jax.training.loop import train
from r1jax.training.tree import TrainingTree, load_training_tree

GOAL = 100_000
FEW_EPISODES = 2048


def main() -> None:
    """Parses the options and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", help="a folder that `r1jax tree build` has made")
    parser.add_argument("--photos", help="folder of clean photos for the online run (default: that of the tree)")
    parser.add_argument("--updates", type=int, default=6)
    parser.add_argument("--online-updates", type=int, default=4, help="0: no online run")
    parser.add_argument("overrides", nargs="*", help="fields of the config, as ppo.episodes=4096")
    args = parser.parse_args()
    tree = load_training_tree(args.tree)
    config = benchmark_config(tree, args.updates, dict(word.split("=", 1) for word in args.overrides))
    record = {
        "benchmark": "tree",
        "images": len(tree.roots),
        "photos": len(set(tree.photos)),
        "states": len(tree.scores),
        "hidden": config.agent.hidden,
        "episodes": config.ppo.episodes,
        "group_size": config.ppo.group_size,
        "epochs": config.ppo.epochs,
        "horizon": config.env.horizon,
        "device": f"{jax.device_count()} {jax.devices()[0].device_kind}",
        "goal": GOAL,
        "features": tree.features.shape[1],
        "tree": measure(config, tree),
        "tree_few_episodes": measure(override(config, {"ppo.episodes": FEW_EPISODES}), tree),
        "tree_768_features": measure(config, with_random_features(tree, 768)),
    }
    if args.online_updates:
        photos = {"data.photos": args.photos or tree.meta["source"]}
        online = override(config, photos | {"ppo.episodes": 32, "ppo.updates": args.online_updates, "ppo.group_size": 1})
        record["online"] = measure(online, None)
        record["speed_up"] = round(record["tree"]["steps_per_second"] / record["online"]["steps_per_second"])
    print(json.dumps(record))


def benchmark_config(tree: TrainingTree, updates: int, overrides: dict[str, Any]) -> Config:
    """Returns the tree's config with the MLP of a config's default, 4 epochs and no evaluation."""
    fields = {"ppo.updates": updates, "ppo.epochs": 4, "ppo.episodes": 65536, "ppo.minibatches": 2}
    fixed = {"agent.hidden": AgentConfig().hidden, "eval.every": 0, "eval.checkpoint_every": 0}
    return override(from_dict(tree.meta["config"]), fields | fixed | overrides)


def with_random_features(tree: TrainingTree, count: int) -> TrainingTree:
    """Returns the tree with other features, for their number alone."""
    features = np.random.default_rng(0).standard_normal((len(tree.scores), count), np.float32).astype(np.float16)
    return dataclasses.replace(tree, features=features)


def measure(config: Config, tree: TrainingTree | None) -> dict[str, float]:
    """Trains and returns steps a second of wall time and of one core's time."""
    with tempfile.TemporaryDirectory() as folder:
        start, cpu = time.perf_counter(), time.process_time()
        result = train(config, pathlib.Path(folder), tree=tree, progress=False)
        total, cpu = time.perf_counter() - start, time.process_time() - cpu
    rows = result.history[2:]
    seconds, steps = (sum(row[name] for row in rows) for name in ("seconds", "decisions"))
    return {
        "steps_per_second": round(steps / seconds),
        "seconds_an_update": round(seconds / len(rows), 4),
        "share_rollout": round(sum(row["seconds/rollout"] for row in rows) / seconds, 3),
        "total_seconds": round(total, 1),
        "cpu_seconds": round(cpu, 1),
    }


if __name__ == "__main__":
    main()
