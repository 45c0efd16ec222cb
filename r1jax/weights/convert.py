"""`r1jax weights import | export`: checkpoints of others into r1jax's files, and r1jax's networks out of them."""

import argparse
import json
import pathlib
from typing import Any

import jax
import numpy as np
from flax import nnx
from safetensors.numpy import save

from r1jax.errors import R1JaxError, UsageError
from r1jax.files import write_whole
from r1jax.nets import skeleton
from r1jax.weights.checkpoint_files import read_checkpoint
from r1jax.weights.files import flat_state, load_module, read_tensors, save_module
from r1jax.weights.published import load_published
from r1jax.weights.recognise import recognise
from r1jax.weights.torch_names import export_torch, import_torch

_SUFFIXES = {"safetensors": ".torch.safetensors", "stablehlo": ".stablehlo"}


def import_weights(args: argparse.Namespace) -> int:
    """Recognises a PyTorch checkpoint and writes it as a .safetensors file that says which network it holds."""
    source = pathlib.Path(args.file)
    output = pathlib.Path(args.output) if args.output else source.with_name(f"{source.stem}.r1jax.safetensors")
    _refuse_overwriting(output, args.overwrite)
    if source.suffix == ".safetensors" and "net" in read_tensors(source)[0]:
        raise R1JaxError(f"{source}: is already a file of r1jax; load_module reads it")
    state_dict = read_checkpoint(source)
    try:
        net, config = recognise(state_dict)
    except R1JaxError as error:
        raise R1JaxError(f"{source}: {error}") from None
    module = import_torch(skeleton(net, **config), state_dict)
    save_module(output, module, net, config, np.float32, source=source.name)
    parameters = sum(value.size for value in flat_state(module).values())
    if args.json:
        print(json.dumps({"net": net, "config": config, "parameters": parameters, "output": str(output)}))
    else:
        described = ", ".join(f"{key}={value}" for key, value in config.items())
        print(f"{net}({described}), {parameters / 1e6:.3f} million parameters  [{output}]")
    return 0


def export_weights(args: argparse.Namespace) -> int:
    """Writes a network's weights with official PyTorch names, or the whole network as a StableHLO program."""
    module, name = _network(args.network)
    output = pathlib.Path(args.output or f"{name}{_SUFFIXES[args.format]}")
    _refuse_overwriting(output, args.overwrite)
    if args.format == "safetensors":
        state = {key: np.ascontiguousarray(value) for key, value in export_torch(module).items()}
        write_whole(output, save(state))
        said: dict[str, Any] = {"tensors": len(state)}
    else:
        shape = (args.batch, *_size(args.size), args.channels)
        exported = _program(module, shape, args.platforms.split(","))
        write_whole(output, bytes(exported.serialize()))
        said = {"input": list(shape), "output": list(exported.out_avals[0].shape), "platforms": list(exported.platforms)}
    if args.json:
        print(json.dumps({**said, "file": str(output)}))
    else:
        print(f"{', '.join(f'{key} {value}' for key, value in said.items())}  [{output}]")
    return 0


def _program(module: nnx.Module, shape: tuple[int, ...], platforms: list[str]) -> Any:
    """The network with its weights inside, for images of one shape; `jax.export.deserialize` reads it back."""
    graph, params = nnx.split(module)
    program = jax.jit(lambda x: nnx.merge(graph, params)(x))
    try:
        return jax.export.export(program, platforms=platforms)(jax.ShapeDtypeStruct(shape, np.float32))
    except ValueError as error:
        raise UsageError(f"--platforms {','.join(platforms)}: {str(error).splitlines()[0]}") from None


def _network(network: str) -> tuple[nnx.Module, str]:
    """(module, its name) of a file of `save_module` or weights of the catalogue in the cache."""
    path = pathlib.Path(network)
    if path.is_file():
        module, _ = load_module(path)
        return module, path.name.removesuffix(".safetensors").removesuffix(".r1jax")
    return load_published(network), network


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise UsageError(f"--size {text}: want HEIGHTxWIDTH, such as 256x256")
    return int(height), int(width)


def _refuse_overwriting(path: pathlib.Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise R1JaxError(f"{path}: exists; pass --overwrite to replace it")
