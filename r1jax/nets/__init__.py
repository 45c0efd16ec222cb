"""Flax architectures and the layers they share: no weights, no tasks."""

from r1jax.nets import dncnn, ffdnet, quality_net, super_resolver, tone, unet
from r1jax.nets.registry import create, register_net, skeleton

__all__ = ["create", "dncnn", "ffdnet", "quality_net", "register_net", "skeleton", "super_resolver", "tone", "unet"]
