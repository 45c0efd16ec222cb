"""Supervised training of the small networks that the package ships: tools and the scorer. One loop, resumable.

The data is a function of (seed, step), so a run that is stopped and continued sees the same batches.
"""

import concurrent.futures
import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import orbax.checkpoint as ocp
from flax import nnx
from jaxtyping import Array, Float

from r1jax.degradations.dataset import NamedPhoto, random_crop
from r1jax.degradations.mixes import CAMERA_ORDER, GROUPS, Mix, degrade
from r1jax.degradations.operations import OPERATIONS
from r1jax.images.convert import to_float
from r1jax.training.claims import SETTINGS_FILE, claim_settings
from r1jax.weights.files import saved_variables

Batch = tuple[np.ndarray, ...]
Loss = Callable[..., Array]  # (module, *batch) -> scalar


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """One supervised run."""

    steps: int = 2000
    batch: int = 16
    learning_rate: float = 4e-3
    warmup: int = 50
    ema: float = 0.995
    max_grad_norm: float = 1.0
    log_every: int = 100
    checkpoint_every: int = 250


def optimizer(config: FitConfig) -> optax.GradientTransformation:
    """Muon for kernels of convolutions and of an ensemble's members, Adam for the rest, with warm-up, cosine decay to
    1 % and gradient clipping.

    Muon (Jordan et al. 2024, optax.contrib) reaches the loss of Adam in about two thirds of the steps on these networks.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        0, config.learning_rate, config.warmup, config.steps, config.learning_rate / 100
    )
    muon = optax.contrib.muon(
        schedule, adam_b2=0.99, consistent_rms=0.2, muon_weight_dimension_numbers=_kernels, weight_decay=0.0
    )
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), muon)


def _kernels(params: Any) -> Any:
    """Marks convolution kernels [h, w, in, out] as matrices from (h, w, in) to out, and kernels of an ensemble's members
    [m, in, out] as m matrices; None leaves a leaf to Adam."""
    numbers = {4: optax.contrib.MuonDimensionNumbers((0, 1, 2), (3,)), 3: optax.contrib.MuonDimensionNumbers((1,), (2,))}
    return jax.tree.map(lambda leaf: numbers.get(leaf.ndim), params)


def fit(
    module: nnx.Module,
    batch_at: Callable[[int], Batch],
    loss: Loss,
    config: FitConfig,
    run_dir: str | pathlib.Path,
    settings: Mapping[str, Any],
    log: Callable[[str], None] = print,
    frozen: Sequence[str] = (),
) -> nnx.Module:
    """Trains `module` and returns it with the exponential moving average of its parameters.

    Continues from the newest checkpoint in `run_dir`, where there is one of the same settings.

    Args:
      batch_at: returns the arrays of a step; called in a thread, one step ahead.
      settings: what `batch_at`, `loss` and the parameters at the start depend on, as JSON.
      frozen: attributes of `module` whose parameters stay as they are.

    Raises:
      UsageError: `run_dir` holds checkpoints of other settings, or nothing that says of which.
      FloatingPointError: the loss is not finite.
    """
    _claim(pathlib.Path(run_dir), module, config, settings, frozen)
    trainable = nnx.All(nnx.Param, *(nnx.Not(nnx.PathContains(name)) for name in frozen))
    parts: Any = nnx.split(module, trainable, ...)
    graph, params, rest = parts
    tx = optimizer(config)

    @jax.jit
    def update(carry: dict[str, Any], batch: tuple[Array, ...]) -> tuple[dict[str, Any], Array]:
        def batch_loss(params: Any) -> Array:
            return loss(nnx.merge(graph, params, rest), *batch)

        value, grads = jax.value_and_grad(batch_loss)(carry["params"])
        changes, opt = tx.update(grads, carry["opt"], carry["params"])
        params = optax.apply_updates(carry["params"], changes)
        # Early on the average follows fast, or the random start would linger in it.
        decay = jnp.minimum(config.ema, (1 + carry["step"]) / (10 + carry["step"]))
        ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, carry["ema"], params)
        return {"params": params, "ema": ema, "opt": opt, "step": carry["step"] + 1}, value

    carry = {"params": params, "ema": params, "opt": tx.init(params), "step": jnp.zeros((), jnp.int32)}
    manager = ocp.CheckpointManager(
        pathlib.Path(run_dir).resolve(), options=ocp.CheckpointManagerOptions(max_to_keep=1, create=True)
    )
    with manager, concurrent.futures.ThreadPoolExecutor(1) as pool:
        if manager.latest_step() is not None:
            carry = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(carry))
        first, started, losses = int(carry["step"]), time.monotonic(), []
        upcoming = pool.submit(batch_at, first)
        for step in range(first, config.steps):
            batch = upcoming.result()
            upcoming = pool.submit(batch_at, step + 1)
            carry, value = update(carry, batch)
            losses.append(float(value))
            if not np.isfinite(losses[-1]):
                raise FloatingPointError(f"step {step}: the loss is {losses[-1]}; lower the learning rate")
            done = step + 1
            if done % config.log_every == 0 or done == config.steps:
                log(json.dumps(_progress(done, losses[-config.log_every :], time.monotonic() - started)))
            if done % config.checkpoint_every == 0 or done == config.steps:
                manager.save(done, args=ocp.args.StandardSave(carry))
        upcoming.cancel()
    return nnx.merge(graph, carry["ema"], rest)


def _claim(
    run_dir: pathlib.Path, module: nnx.Module, config: FitConfig, settings: Mapping[str, Any], frozen: Sequence[str]
) -> None:
    """Makes the folder of checkpoints this run's, or refuses."""
    shapes = {"/".join(map(str, path)): list(variable.shape) for path, variable in saved_variables(module)}
    everything = {"data": settings, "fit": dataclasses.asdict(config), "frozen": list(frozen), "parameters": shapes}
    begun = any(run_dir.glob("[0-9]*"))
    if not begun:  # of a run that ended before its first checkpoint nothing is left to go on from
        (run_dir / SETTINGS_FILE).unlink(missing_ok=True)
    claim_settings(run_dir, everything, begun, option="--run")


def _progress(step: int, losses: list[float], seconds: float) -> dict[str, Any]:
    return {"step": step, "loss": round(float(np.mean(losses)), 6), "seconds": round(seconds, 1)}


def charbonnier(x: Float[Array, "..."], y: Float[Array, "..."]) -> Array:
    """Mean of sqrt((x - y)^2 + 1e-6): L1 that is smooth at 0 (arXiv 1710.01992)."""
    return jnp.sqrt((x - y) ** 2 + 1e-6).mean()


@dataclasses.dataclass(frozen=True)
class ToolPairs:
    """What a tool learns from: images with its degradation, and the same images without it.

    Most carry the degradation alone; some carry another one too, which the target keeps, so that a tool works on mixes and
    leaves the rest to others; some do not carry it at all, and the target is the input. Where `touch` is given, a part of
    both input and target has been through another tool. No image carries more than two degradations or a mix of group B;
    pairs that are part of a mix of group C do occur.

    Attributes:
      degradation: the operation that the tool undoes.
      unclipped_noise: for denoising, the share of images with plain Gaussian noise that is neither clipped nor rounded.
    """

    photos: list[NamedPhoto]
    degradation: str
    crop: int
    alone: float = 0.6
    absent: float = 0.1
    unclipped_noise: float = 0.0
    touch: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None
    touch_share: float = 0.25

    def batch(self, seed: int, step: int, size: int) -> Batch:
        """Returns (inputs, targets), float32 [size, crop, crop, 3]."""
        pairs = [self._pair(np.random.default_rng([seed, step, i])) for i in range(size)]
        inputs, targets = (np.stack(column) for column in zip(*pairs, strict=True))
        num_touched = int(self.touch_share * size) if self.touch else 0
        if self.touch and num_touched:
            # The tool must be the same on both sides, so they go through it as one batch.
            both = np.concatenate([inputs[:num_touched], targets[:num_touched]])
            inputs[:num_touched], targets[:num_touched] = np.split(self.touch(both, np.random.default_rng([seed, step])), 2)
        return inputs, targets

    def _pair(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        photo = self.photos[rng.integers(len(self.photos))].pixels
        clean = random_crop(photo, self.crop, rng)
        clean = np.ascontiguousarray(clean[::-1] if rng.random() < 0.1 else clean)
        clean = np.ascontiguousarray(clean[:, ::-1]) if rng.random() < 0.5 else clean
        seed = int(rng.integers(2**31))
        if rng.random() < self.unclipped_noise:
            noise = rng.normal(0, rng.uniform(0, 55) / 255, clean.shape).astype(np.float32)
            return to_float(clean) + noise, to_float(clean)
        mix = self._mix(rng)
        without = tuple(key for key in mix if key != self.degradation)
        degraded, target = degrade(clean, mix, seed).image, degrade(clean, without, seed).image
        return to_float(degraded), to_float(target)

    def _mix(self, rng: np.random.Generator) -> Mix:
        others = [key for key in OPERATIONS if key != self.degradation]
        other = others[rng.integers(len(others))]
        kind = rng.random()
        if kind < self.alone:
            return (self.degradation,)
        if kind < self.alone + self.absent:
            return (other,)
        pair = natural_order((self.degradation, other))
        held_out = {frozenset(mix) for mix in GROUPS["B"]}
        return (self.degradation,) if frozenset(pair) in held_out else pair


def natural_order(mix: Mix) -> Mix:
    """Returns the degradations in the order in which a camera meets them."""
    return tuple(sorted(mix, key=CAMERA_ORDER.index))
