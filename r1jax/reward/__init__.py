"""Quality scores as rewards: scorers, and the service that runs one beside the training process.

    scorer.py      what a scorer is; finding one by name or in a file
    lite.py, vlm.py, deqa.py, iqa.py, mixture.py
                   scorers: embedded, of transformers, DeQA-Score in Flax, of pyiqa, several as one
    levels.py      how a multimodal LLM is asked, and its answer read
    http.py, remote.py
                   scorers behind an OpenAI-compatible server, and behind our own, which is server.py
    service.py     RewardService: submit images, collect scores
    host_call.py   the same from inside a jitted program
    queue.py       images that wait for a score; what happens when a scorer fails
    worker.py      the scorer's own process; process.py is this side of it
    slots.py       the memory both sides share
    cache.py       scores that are known already

This package imports no JAX (a worker whose scorer needs none starts in a fraction of a second), so the
functions for jitted programs are imported from `r1jax.reward.host_call`.
"""

from r1jax.reward.scorer import GraphScorer, Scorer, register_scorer, scorer
from r1jax.reward.service import RewardService

__all__ = ["GraphScorer", "RewardService", "Scorer", "register_scorer", "scorer"]
