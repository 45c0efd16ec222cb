"""Flax architectures and the layers they share: no weights, no tasks."""

from r1jax.nets import ffdnet, quality_net, super_resolver, tone, unet
from r1jax.nets.registry import create, register_net

__all__ = ["create", "ffdnet", "quality_net", "register_net", "super_resolver", "tone", "unet"]
