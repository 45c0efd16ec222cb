# ruff: noqa: E501
"""Puts a trained agent into the package: its file, the log of its training, and a model card.

    python launch/ship_agent.py runs/lite_agent
    python launch/ship_agent.py runs/published_agent      # its config's toolbox decides where
    python launch/ship_agent.py runs/lite_agent_0 runs/lite_agent_1      # the mean of several
    python launch/ship_agent.py runs/lite_agent_0 runs/lite_agent_1 --last runs/together      # that went on together
"""

import argparse
import dataclasses
import json
import pathlib

from r1jax.agent import ensemble, load_agent, save_agent
from r1jax.config import load, to_dict
from r1jax.errors import UsageError
from r1jax.files import write_whole
from r1jax.weights import weight_file

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
LOGGED = 250  # updates in the log, about
SHOWN = ("score_gain", "entropy", "mean_calls", "seconds", "eval/score_gain", "eval/psnr_y_gain", "eval/calls", "eval/worse")

INTRODUCTIONS = {
    "lite": [
        "The agent behind `r1jax restore`: lite toolbox, lite scorer, at most three tool calls. It is the mean of seven",
        "(`r1jax.agent.ensemble`), trained with the 451 photos of [PHOTOS.md](PHOTOS.md). Five see an image through the",
        "[foresight net](foresight.md) (`configs/lite_agent.py`), two through what the [scorer](scorer.md) sees; all are distilled on a",
        "transition tree of 2,000 crops, half under the mixes of group A and half under those of `wide`. Then all seven together went on for",
        "24 updates on images by PPO, scored in a process of its own. They need no labels. Groups B and C, of which `wide` holds no mix, and the",
        "photos of its figures, were never seen. docs/reproduce-weights.md has the commands.",
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN")
    parser.add_argument("--last", type=pathlib.Path, metavar="RUN", help="where the mean of the others went on training")
    args = parser.parse_args()
    agents = [load_agent(run) for run in args.runs]
    agent = ensemble(agents) if len(agents) > 1 else agents[0]
    if args.last:
        last = load_agent(args.last)
        shape = [(a.policy.shapes(), a.policy.encoder.version, a.env.toolbox.names) for a in (last, agent)]
        if shape[0] != shape[1]:
            raise UsageError(f"--last {args.last}: no run that went on from the mean of the others")
        agent = last
    # The folder's place on the machine that trained it is nobody's business.
    data = dataclasses.replace(agent.config.data, photos="photos")
    agent = dataclasses.replace(agent, config=dataclasses.replace(agent.config, data=data))
    runs = [*args.runs, *([args.last] if args.last else [])]
    toolboxes = {load(CONFIGS / f"{name}_agent.py").env.toolbox: name for name in INTRODUCTIONS}
    if (tools := agent.config.env.toolbox) not in toolboxes:
        raise UsageError(f"{args.runs[0]}: env.toolbox={tools}; agents are shipped for {', '.join(map(str, toolboxes))}")
    toolbox = toolboxes[tools]
    histories = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in runs]
    log = [row for member, rows in enumerate(histories) for row in thinned(rows, member)]
    text = card(to_dict(agent.config), histories, -1 if args.last else 0, INTRODUCTIONS[toolbox])
    file = save_agent(weight_file("agent", toolbox), agent, half=True)  # now: a run without its log ships nothing
    write_whole(file.with_name("agent.log.jsonl"), "".join(json.dumps(row) + "\n" for row in log))
    write_whole(file.with_name("agent.md"), text)


def thinned(rows: list[dict[str, float]], member: int) -> list[dict[str, float]]:
    kept = ["update", *SHOWN, "missing_share", "explained_variance", "approx_kl", "service/requests", "service/hit_rate"]
    every = max(1, rows[-1]["update"] // LOGGED)
    logged = [row for row in rows if row["update"] % every == 0 or "eval/score_gain" in row]
    return [{"member": member} | {key: round(row[key], 5) for key in kept if key in row} for row in logged]


def card(config: dict[str, dict], histories: list[list[dict[str, float]]], told: int, introduction: list[str]) -> str:
    """Returns the model card; `told` is the run whose fields `config` has."""
    last = histories[told][-1]
    updates = ", ".join(str(rows[-1]["update"]) for rows in histories)
    fields = [f"| {group}.{key} | {value} |" for group in ("data", "env", "agent", "reward", "ppo") for key, value in config[group].items()]
    figures = [f"| {key} | {last[key]:.3f} |" for key in SHOWN if key in last]
    lines = [
        "# agent",
        "",
        *introduction,
        "",
        f"Seed {config['seed']}; updates of each run: {updates} ([agent.log.jsonl](agent.log.jsonl), of long ones every few).",
        "",
        "| field | value |",
        "|---|---|",
        *fields,
        "",
        f"The fields are those of the {'last stage' if told else 'first run'}; its last update:",
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
