"""Flax architectures and the layers they share: no weights, no tasks."""

from r1jax.nets import (
    clip_vision,
    dncnn,
    esrgan,
    ffdnet,
    kair,
    mplug_owl2,
    mprnet,
    nafnet,
    quality_net,
    restormer,
    retinexformer,
    super_resolver,
    tone,
    unet,
)
from r1jax.nets.registry import create, register_net, skeleton

__all__ = [
    "clip_vision",
    "create",
    "dncnn",
    "esrgan",
    "ffdnet",
    "kair",
    "mplug_owl2",
    "mprnet",
    "nafnet",
    "quality_net",
    "register_net",
    "restormer",
    "retinexformer",
    "skeleton",
    "super_resolver",
    "tone",
    "unet",
]
