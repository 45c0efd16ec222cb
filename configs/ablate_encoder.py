"""Ablation: what the policy sees. The paper's encoder is CLIP ViT-L/14.

    r1jax sweep configs/ablate_encoder.py --tree 'trees/{agent.encoder}' --eval-tree 'trees/{agent.encoder}_test' --seeds 3

A tree for each encoder, built as configs/ablation.py says but into trees/ENCODER and trees/ENCODER_test, with
--agent.encoder=ENCODER. lite_foresight has learned from trees of 6,533, 3,000 and 2,000 images, and from those of the
scorer, what the lite tools do. For CLIP add a variant {"agent.encoder": "clip_vit_l14"}: its weights are not part of the
package.
"""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

from r1jax.config import Config, load

SMALL = {"ppo.updates": 30, "eval.every": 30}


def config() -> Config:
    base = load(pathlib.Path(__file__).with_name("ablation.py"))
    return dataclasses.replace(base, name="ablate_encoder")


def sweep() -> Iterator[dict[str, Any]]:
    for encoder in ("lite_scorer", "lite_statistics", "lite_foresight", "pixels"):
        yield {"agent.encoder": encoder}
