"""Rating an image by the word that a multimodal LLM would say next: after which prompt, which words, at which weights.

A rating is one forward pass: the model reads the image, the question and the beginning of its own answer; the
probabilities of the level words as the next token, among each other, weigh the levels (Q-Align, arXiv 2312.17090). Nothing
is sampled, so that the same image always gets the same score.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float32

from r1jax.errors import UsageError

QUESTION = (
    "Rate the technical quality of this image, that is its noise, blur, compression, exposure and haze, with one word: "
    "excellent, good, fair, poor or bad."
)
ANSWER = "The quality of the image is"
LEVELS = (" excellent", " good", " fair", " poor", " bad")
WEIGHTS = (5.0, 4.0, 3.0, 2.0, 1.0)
# Q-SiT (arXiv 2503.09197). Its weights 1, .75, .5, .25, 0 are these on the scale of 1 to 5.
Q_SIT_QUESTION = (
    "Assume you are an image quality evaluator. \nYour rating should be chosen from the following five categories: "
    "Excellent, Good, Fair, Poor, and Bad (from high to low). \nHow would you rate the quality of this image?"
)
Q_SIT_ANSWER = "The quality of this image is "
Q_SIT_LEVELS = ("Excellent", "Good", "Fair", "Poor", "Bad")


@dataclasses.dataclass(frozen=True)
class Rating:
    """How a model is asked.

    Attributes:
      prompt: what the user says beside the image.
      prefix: how the model's answer begins, up to the level word.
      levels: the level words, with the space before them if the prefix ends in none.
      weights: the score that each level stands for; 1..5 keeps to the scale of scorers.

    Raises:
      UsageError: the levels and weights do not belong together.
    """

    prompt: str = QUESTION
    prefix: str = ANSWER
    levels: tuple[str, ...] = LEVELS
    weights: tuple[float, ...] = WEIGHTS

    def __post_init__(self) -> None:
        if len(self.levels) < 2 or len(set(self.levels)) != len(self.levels):
            raise UsageError(f"levels: {self.levels} are not two or more different words")
        if len(self.weights) != len(self.levels):
            raise UsageError(f"weights: {len(self.weights)} of them for {len(self.levels)} levels; want one a level")

    def score(self, logits: Float[np.ndarray, "b levels"]) -> Float32[np.ndarray, " b"]:
        """Returns the mean weight under the softmax of level logits (or log-probabilities)."""
        logits = np.asarray(logits, np.float64)
        share = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(share @ np.asarray(self.weights, np.float64) / share.sum(axis=1), np.float32)


def level_tokens(
    encode: Callable[[str], list[int]], decode: Callable[[list[int]], str], levels: tuple[str, ...]
) -> list[int]:
    """Returns the token that stands for each level word: its first that is more than white space.

    A word of several tokens is told from the others by its first, as in Q-SiT.

    Raises:
      UsageError: a word has no token, or two words begin with the same.
    """
    tokens: dict[int, str] = {}
    for word in levels:
        visible = [token for token in encode(word) if decode([token]).strip()]
        if not visible:
            raise UsageError(f"levels: the tokenizer has no token for {word!r}")
        if visible[0] in tokens:
            raise UsageError(
                f"levels: {tokens[visible[0]]!r} and {word!r} begin with the same token {decode(visible[:1])!r}; "
                "choose words that the tokenizer tells apart at once"
            )
        tokens[visible[0]] = word
    return list(tokens)
