"""A tiny random mPLUG-Owl2 checkpoint in the layout of the published ones: config.json and shards with official names.

    python tiny_owl.py devices FOLDER   scores on every device, as JSON
    python tiny_owl.py memory FOLDER    grown memory while loading, in bytes, as JSON
"""

import json
import pathlib
import resource
import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from r1jax.nets import skeleton
from r1jax.nets.mplug_owl2 import MPLUGOwl2
from r1jax.weights.files import saved_variables
from r1jax.weights.torch_names import official_entries

TINY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIG = {
    "architectures": ["MPLUGOwl2LlamaForCausalLM"],
    "model_type": "mplug_owl2",
    "vocab_size": 32000,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "float16",
    **TINY,
    "visual_config": {
        "visual_model": {**TINY, "image_size": 28, "patch_size": 14, "hidden_act": "quick_gelu"},
        "visual_abstractor": {
            **TINY, "num_learnable_queries": 64, "encoder_hidden_size": 32, "grid_size": 2, "use_pos_embed": True,
        },
    },
}  # fmt: skip


def tensors(config=CONFIG, dtype=np.float16, seed=0):
    """Random tensors under their official names, in PyTorch's layouts."""
    from r1jax.reward.deqa import network_config

    folder = pathlib.Path("/nowhere")
    kwargs = network_config(_Told(folder, config))
    module = skeleton("mplug_owl2", **kwargs)
    shapes = {"/".join(map(str, path)): variable.shape for path, variable in saved_variables(module)}
    rng, made = np.random.default_rng(seed), {}
    for name, (path, layout) in official_entries(module).items():
        scale, centre = (0.3, 1.0) if path.endswith("scale") else (0.3, 0.0)
        shape = layout.official_shape(tuple(shapes[path]))
        made[name] = (centre + scale * rng.standard_normal(shape, np.float32)).astype(dtype)
    return made


class _Told:
    """A folder with nothing in it but a config.json."""

    def __init__(self, folder, config):
        self.folder, self.config = folder, config

    def __truediv__(self, name):
        return self

    def read_text(self):
        return json.dumps(self.config)


def write(folder, named, shards=3, config=CONFIG, kind="safetensors"):
    """Writes a checkpoint in shards, with its index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    names, where = sorted(named), {}
    stem, end = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    for shard in range(shards):
        file = f"{stem}-{shard + 1:05d}-of-{shards:05d}.{end}"
        part = {name: np.ascontiguousarray(named[name]) for name in names[shard::shards]}
        where |= dict.fromkeys(part, file)
        if kind == "safetensors":
            save_file(part, folder / file)
        else:
            import torch

            torch.save({name: torch.from_numpy(value) for name, value in part.items()}, folder / file)
    (folder / f"{stem}.{end}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def images(num, height=40, width=52, seed=1):
    """Smooth random images."""
    coarse = np.random.default_rng(seed).integers(0, 256, (num, 4, 4, 3), np.uint8)
    return np.asarray(jax.image.resize(coarse.astype(np.float32), (num, height, width, 3), "linear")).astype(np.uint8)


def on_devices(folder):
    from r1jax.reward import scorer

    built = scorer("deqa", {"checkpoint": folder, "dtype": "float32"})
    kernels = {"/".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(built.graph.params)}
    sharded = {name: list(x.sharding.spec) for name, x in kernels.items() if not x.sharding.is_fully_replicated}
    held = sum(x.addressable_shards[0].data.nbytes for x in kernels.values())
    print(json.dumps({"scores": built.score(images(3)).tolist(), "sharded": sharded, "held": held}))


def memory(folder):
    from r1jax.reward.deqa import network_config
    from r1jax.weights.streamed import load_checkpoint

    jax.block_until_ready(jnp.zeros(8) + 1)
    folder = pathlib.Path(folder)
    kwargs = network_config(folder)
    abstract = nnx.eval_shape(lambda: MPLUGOwl2(**kwargs, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    module = load_checkpoint(abstract, folder)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    final = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
    print(json.dumps({"grown": grown, "final": final}))


if __name__ == "__main__":
    {"devices": on_devices, "memory": memory}[sys.argv[1]](sys.argv[2])
