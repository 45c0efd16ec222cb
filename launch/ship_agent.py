# ruff: noqa: E501
"""Puts a trained agent into the package: its file, the log of its training, and a model card.

    python launch/ship_agent.py runs/lite_agent
    python launch/ship_agent.py runs/published_agent      # its config's toolbox decides where
"""

import dataclasses
import json
import pathlib
import sys

from r1jax.agent import load_agent, save_agent
from r1jax.config import to_dict
from r1jax.weights import weight_file

LOGGED = 250  # updates in the log, about
SHOWN = ("score_gain", "entropy", "mean_calls", "seconds", "eval/score_gain", "eval/psnr_y_gain", "eval/calls", "eval/worse")

INTRODUCTIONS = {
    "lite": [
        "The agent behind `r1jax restore`: lite toolbox, lite scorer, at most three tool calls, trained by `configs/lite_agent.py` with",
        "the 451 photos of [PHOTOS.md](PHOTOS.md), half of them under the mixes of group A and half under those of `wide`, which hold no",
        "mix of B or C. It needs no labels; its encoder is the frozen network of the [scorer](scorer.md) and what that sees. Groups B and C,",
        "and the photos of its figures, were never seen. It began from an agent that had learned on transition trees;",
        "docs/reproduce-weights.md has the commands.",
    ],
    "published": [
        "The agent behind `r1jax restore --toolbox published`: seven tools with weights that others trained, at most two calls, trained by",
        "`configs/published_agent.py` on a transition tree of crops of the 451 photos of [PHOTOS.md](../lite/PHOTOS.md) under the mixes of",
        "group A. Its encoder is the frozen network of the [lite scorer](../lite/scorer.md); its reward is PSNR against the clean crop, which",
        "the tree holds, because that scorer overrates what these networks draw.",
        "docs/guide-weights.md has its figures on photos that it never saw, and docs/reproduce-weights.md the commands.",
    ],
}


def main() -> None:
    run = pathlib.Path(sys.argv[1])
    agent = load_agent(run)
    # The folder's place on the machine that trained it is nobody's business.
    data = dataclasses.replace(agent.config.data, photos="photos")
    agent = dataclasses.replace(agent, config=dataclasses.replace(agent.config, data=data))
    toolbox = "lite" if agent.config.env.toolbox == ("lite",) else "published"
    file = save_agent(weight_file("agent", toolbox), agent)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = ["update", *SHOWN, "missing_share", "explained_variance", "approx_kl", "service/requests", "service/hit_rate"]
    every = max(1, len(rows) // LOGGED)
    logged = [row for row in rows if row["update"] % every == 0 or "eval/score_gain" in row]
    log = [{key: round(row[key], 5) for key in kept if key in row} for row in logged]
    file.with_name("agent.log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    file.with_name("agent.md").write_text(card(to_dict(agent.config), rows, INTRODUCTIONS[toolbox]))


def card(config: dict[str, dict], rows: list[dict[str, float]], introduction: list[str]) -> str:
    last = rows[-1]
    fields = [f"| {group}.{key} | {value} |" for group in ("data", "env", "agent", "reward", "ppo") for key, value in config[group].items()]
    figures = [f"| {key} | {last[key]:.3f} |" for key in SHOWN if key in last]
    lines = [
        "# agent",
        "",
        *introduction,
        "",
        f"Seed {config['seed']}, {len(rows)} updates; [agent.log.jsonl](agent.log.jsonl) is a log of them, where they are many of every few.",
        "",
        "| field | value |",
        "|---|---|",
        *fields,
        "",
        "Last update (`eval/`: the twelve shipped test crops):",
        "",
        "| figure | value |",
        "|---|---|",
        *figures,
        "",
        "Licence of the weights: Apache-2.0, as the code.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
