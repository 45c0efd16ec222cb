"""Trains the embedded quality scorer and writes it, with its provenance, into r1jax/assets/lite.

    python launch/train_lite_scorer.py label --photos DIR [DIR ...] --images 131072
    python launch/train_lite_scorer.py train
    python launch/train_lite_scorer.py smooth --data runs/lite_scorer/plans
    python launch/train_lite_scorer.py check --photos HELD_OUT_DIR

`label` makes groups of images of one photo crop (clean, degraded, what lite tools make of it) and labels each
with full-reference metrics. `smooth` goes on from a trained scorer and takes the jumps out of it. All but `check` continue
where they stopped; with other settings they need another folder.
The images and the labels are those of r1jax/training/labelling.py.
"""

import argparse
import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats
from flax import nnx

from r1jax.degradations.dataset import NamedPhoto, load_photos, photo_hashes, random_crop
from r1jax.degradations.mixes import degrade
from r1jax.errors import UsageError
from r1jax.files import write_whole
from r1jax.nets import create
from r1jax.nets.quality_net import LEVELS, QualityNet, expected_score
from r1jax.reward.lite import LiteScorer
from r1jax.tools.lite import LITE_TOOLS
from r1jax.training.claims import SETTINGS_FILE, claim_settings
from r1jax.training.labelled import GROUP, labelled_statistics, shards_of
from r1jax.training.labelling import CALIBRATION, KINDS, PLANS, Group, StateMaker, calibrated_label, full_reference, label_of
from r1jax.training.supervised import FitConfig, Loss, fit
from r1jax.weights import load_module, save_module, weight_file
from r1jax.weights.files import flat_state, update_module
from r1jax.weights.published import load_published
from r1jax.weights.recorded import digest, sha256_of

CONFIG: dict[str, Any] = {"hidden": 640, "width": 176, "num_experts": len(KINDS) + 4}


# ---------------------------------------------------------------- labelling


def make_labels(args: argparse.Namespace) -> None:
    photos = [photo for folder in args.photos for photo in load_photos(folder)]
    maker, folder = StateMaker(photos, args.crop, args.singles, args.vary), pathlib.Path(args.data[0])
    claim_labels(folder, args, photos)
    size, per_shard = (PLANS, 4) if args.plans else (GROUP, 16)  # images a group, groups a shard
    part, num_parts = (int(number) for number in args.part.split("/"))
    for shard in range(part, args.images // (size * per_shard), num_parts):
        path = folder / f"{shard:05d}.npz"
        if path.exists():
            continue
        rngs = [np.random.default_rng([args.seed, shard, i]) for i in range(per_shard)]
        made = [maker.plans(rng) if args.plans else maker.group(rng) for rng in rngs]
        rows = Group(*(np.concatenate(column) for column in zip(*(group for group, _ in made), strict=True)))
        metrics = full_reference(rows.images, np.repeat(np.stack([clean for _, clean in made]), size, 0))
        partial = path.with_suffix(".tmp.npz")
        np.savez(partial, **rows._asdict(), **metrics)
        partial.replace(path)


def claim_labels(folder: pathlib.Path, args: argparse.Namespace, photos: list[NamedPhoto]) -> None:
    """Makes the folder that of what a shard depends on, the same for every --part, or refuses."""
    settings: dict[str, Any] = {key: getattr(args, key) for key in ("seed", "crop", "singles", "vary")}
    settings["folders"] = [pathlib.Path(name).name for name in args.photos]  # photos are drawn by their number
    settings["tools_sha256"] = {name: sha256_of(weight_file(name)) for name in LITE_TOOLS}
    settings["photos"] = photo_hashes(photos)
    if args.plans:
        settings |= {"plans": True, "scorer_sha256": sha256_of(weight_file("scorer"))}
    claim_settings(folder, settings, begun=bool(shards_of(folder)), option="--data")


def photos_of(folders: list[pathlib.Path]) -> dict[str, str]:
    """Returns the hashes of the photos that labelled folders were made from.

    Raises:
      UsageError: `label` has not been in one.
    """
    photos: dict[str, str] = {}
    for folder in folders:
        path = folder / SETTINGS_FILE
        if not path.is_file():
            raise UsageError(f"{folder}: holds no {SETTINGS_FILE} of labelled images; `label --data {folder}` makes them")
        photos |= json.loads(path.read_text())["photos"]
    return photos


# ---------------------------------------------------------------- training


def train_scorer(args: argparse.Namespace) -> None:
    folders = [pathlib.Path(folder) for folder in args.data]
    photos = photos_of(folders)
    config = CONFIG | {"num_stages": args.stages}
    net = create("quality_net", seed=args.seed, **config)
    if args.stages:
        fill_trunk(net)
    data, labels = read_labelled(folders, net)
    classes = class_of(data["kinds"], data["origins"])
    kinds = data["kinds"].astype(np.float32)
    net.set_statistics(data["statistics"].mean(0), np.maximum(data["statistics"].std(0), 0.02))
    standardised = np.asarray(net.standardised(data["statistics"]))
    solutions = [ridge(standardised[classes == i], labels[classes == i]) for i in range(CONFIG["num_experts"])]
    kernel, bias = (np.stack(column, -1) for column in zip(*solutions, strict=True))
    net.experts.kernel.set_value(jnp.asarray(kernel))
    net.experts.bias.set_value(jnp.asarray(bias))

    def batch_at(step: int) -> tuple[np.ndarray, ...]:
        rng = np.random.default_rng([args.seed, step])
        rows = whole_groups(rng, len(labels), args.batch)
        noise = args.noise * rng.standard_normal((args.batch, standardised.shape[1]), np.float32)
        kept = rng.random((args.batch, CONFIG["hidden"]), np.float32) > args.dropout
        kept = kept.astype(np.float32) / (1 - args.dropout)
        return standardised[rows] + noise, kept, labels[rows], kinds[rows], classes[rows]

    settings = {key: getattr(args, key) for key in ("steps", "batch", "learning_rate", "noise", "dropout", "stages", "seed")}
    settings |= data_settings(folders, data)
    training = {"settings": settings, "photos": photos, "calibration": CALIBRATION}
    net = fit_logged(args, net, batch_at, scorer_loss, training, frozen=("experts", "trunk"))
    save_module(args.out or weight_file("scorer"), net, "quality_net", config, training=training)


def read_labelled(folders: list[pathlib.Path], net: QualityNet) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns what training needs of labelled images, and their labels."""
    shards = list(labelled_statistics(folders, net))
    needed = (*CALIBRATION, "kinds", "origins", "statistics")
    data = {key: np.concatenate([shard[key] for shard in shards]) for key in needed}
    return data, calibrated_label(data["psnr_y"], data["ms_ssim"], data["fsim"])


def whole_groups(rng: np.random.Generator, images: int, batch: int) -> np.ndarray:
    """Returns the rows of a batch: random groups, for order counts within them."""
    groups = rng.integers(images // GROUP, size=batch // GROUP)
    return (groups[:, None] * GROUP + np.arange(GROUP)).reshape(-1)


def data_settings(folders: list[pathlib.Path], data: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns what a file records of the images; batches are drawn by row, so the folders' order counts."""
    names, metrics = [folder.name for folder in folders], digest({key: data[key] for key in CALIBRATION})
    return {"images": len(data["origins"]), "folders": names, "metrics": metrics}


def fit_logged(
    args: argparse.Namespace, net: QualityNet, batch_at: Any, loss: Loss, training: dict[str, Any], frozen: tuple[str, ...]
) -> Any:
    """Trains `net` by the options, with checkpoints and a log in --run."""
    schedule = FitConfig(args.steps, args.batch, args.learning_rate, warmup=args.steps // 10, checkpoint_every=1000)
    run = pathlib.Path(args.run)
    run.mkdir(parents=True, exist_ok=True)
    with (run / "log.jsonl").open("a") as log:
        report = functools.partial(print, file=log, flush=True)
        return fit(net, batch_at, loss, schedule, run / "checkpoints", training, report, frozen)


def fill_trunk(net: QualityNet) -> None:
    """Gives the scorer the first stages of ImageNet's network, which `r1jax weights pull efficientnet-lite0` gets."""
    published, needed = flat_state(load_published("efficientnet-lite0")), flat_state(net.trunk)
    # Statistics are taken with the values that the weight file will hold.
    update_module(net.trunk, {name: published[name].astype(np.float16) for name in needed})


def class_of(kinds: np.ndarray, origins: np.ndarray) -> np.ndarray:
    """Returns which regression an image is for: a single degradation's, clean, mixes, right or wrong tools' outputs."""
    degraded = np.where(kinds.sum(1) == 1, kinds.argmax(1), len(KINDS) + 1)
    return np.select([origins == 0, origins == 1], [len(KINDS), degraded], len(KINDS) + origins).astype(np.int32)


def ridge(x: np.ndarray, y: np.ndarray, penalty: float = 30.0) -> tuple[np.ndarray, np.float32]:
    """Returns (weights, intercept) of ridge regression; the intercept is not penalised."""
    columns = np.c_[x, np.ones(len(x))].astype(np.float64)
    gram = columns.T @ columns + penalty * np.diag([1.0] * x.shape[1] + [0.0])
    solution = np.linalg.solve(gram, columns.T @ y).astype(np.float32)
    return solution[:-1], solution[-1]


def scorer_loss(
    net: Any, x: jax.Array, kept: jax.Array, labels: jax.Array, kinds: jax.Array, classes: jax.Array
) -> jax.Array:
    """Squared error and order of the score, cross-entropy to two levels, kinds of degradation, which expert to ask.

    Order counts within the images of one crop, which is what an agent's reward compares.
    """
    heads = net.heads(x, kept)
    score = expected_score(heads.levels)
    soft = jnp.maximum(0, 1 - jnp.abs(labels[:, None] - jnp.array(LEVELS)))
    cross_entropy = -(soft * jax.nn.log_softmax(heads.levels)).sum(-1).mean()
    squared = ((score - labels) ** 2).mean()
    order = disorder(score.reshape(-1, GROUP), labels.reshape(-1, GROUP))
    binary = jnp.where(kinds >= 0, jnp.logaddexp(0, heads.kinds) - heads.kinds * kinds, 0).sum() / (kinds >= 0).sum()
    expert = optax.softmax_cross_entropy_with_integer_labels(heads.gate, classes).mean()
    return squared + 2 * order + 0.05 * cross_entropy + 0.1 * binary + 0.2 * expert


def disorder(score: jax.Array, label: jax.Array) -> jax.Array:
    """Mean over the pairs of each row of a smooth hinge on their order; pairs of nearly one label do not count."""
    difference, truth = score[:, :, None] - score[:, None], label[:, :, None] - label[:, None]
    return ((jnp.abs(truth) > 0.05) * jax.nn.softplus(-8 * difference * jnp.sign(truth)) / 8).mean()


# ---------------------------------------------------------------- smoothing


def smooth_scorer(args: argparse.Namespace) -> None:
    """Trains a scorer on towards its own mean over shifted statistics, and to the labels.

    A planner takes the best of many images by score, and the scorer's errors with it: above all where the gate turns from
    one regression to another. The mean over shifts has fewer of these, and orders the images of one crop better; a net that
    has learned it costs no more than the former. How images are standardised stays.
    """
    folders = [pathlib.Path(folder) for folder in args.data]
    init = args.init or weight_file("scorer")
    former, about = load_module(init)
    assert isinstance(former, QualityNet)
    photos = about["training"]["photos"] | photos_of(folders)  # before the statistics, which take long
    config = CONFIG | {"num_stages": args.stages}
    net: Any = create("quality_net", **config)
    update_module(net, flat_state(former))
    data, labels = read_labelled(folders, net)
    standardised = np.asarray(net.standardised(data["statistics"]))

    def batch_at(step: int) -> tuple[np.ndarray, ...]:
        rng = np.random.default_rng([args.seed, step])
        rows = whole_groups(rng, len(labels), args.batch)
        reach = args.noise * rng.random((args.batch, 1), np.float32)
        near = standardised[rows] + reach * rng.standard_normal((args.batch, standardised.shape[1]), np.float32)
        shifts = args.shift * rng.standard_normal((args.shifts // 2, standardised.shape[1]), np.float32)
        return near, np.concatenate([shifts, -shifts]), labels[rows]

    names = ("steps", "batch", "learning_rate", "noise", "shift", "shifts", "seed")
    settings = {key: getattr(args, key) for key in names} | data_settings(folders, data)
    settings |= {"init_sha256": sha256_of(init), "init": about["training"]["settings"]}
    training = {"settings": settings, "photos": photos, "calibration": CALIBRATION}
    net = fit_logged(args, net, batch_at, make_smooth_loss(former), training, frozen=("trunk",))
    save_module(args.out or weight_file("scorer"), net, "quality_net", config, training=training)


def make_smooth_loss(former: QualityNet) -> Loss:
    """Returns a loss by the former's heads, averaged over shifts, and by the labels."""
    graph, params = nnx.split(former)

    def loss(net: Any, x: jax.Array, shifts: jax.Array, labels: jax.Array) -> jax.Array:
        each = jnp.broadcast_to(jnp.eye(len(shifts)), (len(x), len(shifts), len(shifts)))
        taught = nnx.merge(graph, params).heads_after(x, each, shifts)
        levels, gate = (nnx.softmax(logits).mean(1) for logits in (taught.levels, taught.gate))
        kinds = nnx.sigmoid(taught.kinds).mean(1)
        heads = net.heads(x)
        score = expected_score(heads.levels)
        to_former, to_labels = score - levels @ jnp.array(LEVELS), score - labels
        order = disorder(score.reshape(-1, GROUP), labels.reshape(-1, GROUP))
        copied = optax.softmax_cross_entropy(heads.levels, levels) + optax.softmax_cross_entropy(heads.gate, gate)
        binary = (jnp.logaddexp(0, heads.kinds) - heads.kinds * kinds).mean()
        squared = 2 * (to_former**2).mean() + 4 * within(to_former) + within(to_labels)
        return squared + order + 0.1 * copied.mean() + 0.1 * binary

    return loss


def within(error: jax.Array) -> jax.Array:
    """Returns the variance of errors among the images of one crop: what is wrong about their differences."""
    error = error.reshape(-1, GROUP)
    return ((error - error.mean(1, keepdims=True)) ** 2).mean()


# ---------------------------------------------------------------- checking


def check(args: argparse.Namespace) -> dict[str, Any]:
    """Rank correlations and clean-beats-degraded rates on photos that the scorer was not trained on."""
    scorer = LiteScorer(args.out)
    photos = [photo for folder in args.photos for photo in load_photos(folder)]
    report: dict[str, Any] = {"photos": len(photos)}
    clean = [random_crop(photo.pixels, args.crop, np.random.default_rng([args.seed, i])) for i, photo in enumerate(photos)]
    clean_scores = scorer.score(np.stack(clean))
    for key in KINDS:
        images = np.stack([degrade(c, (key,), 7 * i + 1).image for i, c in enumerate(clean)])
        scores, labels = scorer.score(images), label_of(images, np.stack(clean))
        rank = scipy.stats.spearmanr(scores, labels).statistic
        report[key] = {"spearman": round(float(rank), 3), "clean_wins": round(float((clean_scores > scores).mean()), 3)}
    maker = StateMaker(photos, args.crop)
    groups = [maker.group(np.random.default_rng([args.seed, 99, i]))[0] for i in range(2 * len(photos))]
    images, _, origins, *_ = (np.concatenate(column) for column in zip(*groups, strict=True))
    scores, labels = scorer.score(images), label_of(images, np.repeat(images[::GROUP], GROUP, 0))
    parts = {"pooled": origins >= 1, "degraded": origins == 1, "right tools": origins == 2, "wrong tools": origins == 3}
    report["spearman"] = {
        part: round(float(scipy.stats.spearmanr(scores[rows], labels[rows]).statistic), 3) for part, rows in parts.items()
    }
    folders = " ".join(pathlib.Path(folder).name for folder in args.photos)
    report["command"] = f"python launch/train_lite_scorer.py check --photos {folders}"
    print(json.dumps(report, indent=2))
    if args.update_card:
        path = pathlib.Path(args.out or weight_file("scorer")).with_suffix(".json")
        card = json.loads(path.read_text()) if path.exists() else {}
        write_whole(path, json.dumps(card | {"figures": report}, indent=2) + "\n")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("label", "train", "smooth", "check"))
    parser.add_argument("--photos", nargs="+", default=[], metavar="DIR")
    parser.add_argument("--data", nargs="+", default=["runs/lite_scorer/data"], metavar="DIR", help="labelled images")
    parser.add_argument("--run", default="runs/lite_scorer", help="folder of checkpoints and log")
    parser.add_argument("--out", help="weight file to write or check (the shipped one)")
    parser.add_argument("--images", type=int, default=12000)
    parser.add_argument("--singles", type=float, default=0.3, help="label: share of groups without tools and mixes")
    parser.add_argument("--vary", action="store_true", help="label: clean crops of other sharpness, tone and file quality")
    parser.add_argument("--plans", action="store_true", help="label: what all tools make of an image, up to three calls")
    parser.add_argument("--part", default="0/1", metavar="I/N", help="label: every Nth shard, from I; a process a core")
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--noise", type=float, default=0.05, help="added to standardised statistics; smooth: at most")
    parser.add_argument("--shift", type=float, default=0.4, help="smooth: deviation of the shifts that are averaged over")
    parser.add_argument("--shifts", type=int, default=12, help="smooth: drawn a step")
    parser.add_argument("--init", help="smooth: weight file to go on from (the shipped one)")
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--stages", type=int, default=4, help="of ImageNet's network that the scorer looks through; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--update-card", action="store_true", help="check: write the figures into the model card")
    args = parser.parse_args()
    {"label": make_labels, "train": train_scorer, "smooth": smooth_scorer, "check": check}[args.step](args)


if __name__ == "__main__":
    main()
