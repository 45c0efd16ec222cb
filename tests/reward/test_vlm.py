"""Vision-language models as scorers: the score is the one that the model's own logits give, in any batch."""

import pathlib
import sys

import numpy as np
import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(pathlib.Path(__file__).parent))

import tiny_vlm
import torch
import transformers
from PIL import Image

from r1jax.errors import R1JaxError, UsageError
from r1jax.reward import levels as words
from r1jax.reward import scorer
from r1jax.reward.scorer import identity
from r1jax.reward.vlm import TransformersScorer, crop_boxes

pytestmark = pytest.mark.torch
KINDS = ("llava_onevision", "qwen2_5_vl", "qwen3_vl", "smolvlm")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def folder(kind):
        if kind not in made:
            made[kind] = tiny_vlm.make(kind, tmp_path_factory.mktemp("models") / kind)
        return str(made[kind])

    return folder


def images(sizes, seed=0):
    """Smooth random images, so that resizing leaves something of them."""
    rng = np.random.default_rng(seed)
    made = []
    for height, width in sizes:
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
        made.append(np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)))
    return made


def by_hand(kind, folder, image, question=words.QUESTION, answer=words.ANSWER, levels=words.LEVELS):
    """The score from all logits of the model, its prompt written out."""
    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    text = tiny_vlm.chat_text(kind, question, answer)
    inputs = processor(images=[Image.fromarray(image)], text=[text], return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1].double()
    first = [processor.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in levels]
    share = torch.softmax(logits[first], 0)
    return float(5 * share[0] + 4 * share[1] + 3 * share[2] + 2 * share[3] + share[4])


def score_each(built, pictures):
    """The scores of images of any sizes; those of one size are scored together."""
    shapes = [picture.shape for picture in pictures]
    scores = np.zeros(len(pictures), np.float32)
    for shape in set(shapes):
        rows = [row for row, other in enumerate(shapes) if other == shape]
        scores[rows] = built.score(np.stack([pictures[row] for row in rows]))
    return scores


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_logits_in_any_batch_and_order(kind, folders):
    built = TransformersScorer(folders(kind))
    pictures = images([(64, 64)] * 5 + [(40, 90), (90, 40), (90, 40)])
    wanted = np.array([by_hand(kind, folders(kind), image) for image in pictures])
    assert wanted.std() > 1e-3  # else the model is blind, and this shows nothing
    np.testing.assert_allclose(built.score(pictures[0][None]), wanted[:1], atol=1e-5)
    np.testing.assert_allclose(built.score(np.stack(pictures[:3])), wanted[:3], atol=1e-5)
    np.testing.assert_allclose(score_each(built, pictures), wanted, atol=1e-5)
    order = np.random.default_rng(1).permutation(8)
    shuffled = score_each(built, [pictures[i] for i in order])
    np.testing.assert_allclose(shuffled, wanted[order], atol=1e-5)


def test_q_sit_asks_as_its_authors_do(folders):
    built = scorer("q-sit-mini", {"model": folders("llava_onevision")})
    picture = images([(50, 70)])[0]
    wanted = by_hand(
        "llava_onevision", folders("llava_onevision"), picture, words.Q_SIT_QUESTION, words.Q_SIT_ANSWER, words.Q_SIT_LEVELS
    )
    np.testing.assert_allclose(built.score(picture[None]), [wanted], atol=1e-5)
    other = scorer("vlm", {"model": folders("llava_onevision")})
    assert abs(other.score(picture[None])[0] - wanted) > 1e-4
    assert identity(other) != identity(built)


@pytest.mark.parametrize(
    ("name", "kind", "answer"),
    [
        ("qwen2.5-vl", "qwen2_5_vl", words.ANSWER),
        ("qwen3-vl", "qwen3_vl", words.ANSWER),
        ("smolvlm", "smolvlm", f" {words.ANSWER}"),  # its turn begins "Assistant:", without a space
    ],
)
def test_presets_ask_the_general_question(name, kind, answer, folders):
    picture = images([(50, 70)])[0]
    built = scorer(name, {"model": folders(kind)})
    np.testing.assert_allclose(built.score(picture[None]), [by_hand(kind, folders(kind), picture, answer=answer)], atol=1e-5)


def test_crops_are_rated_beside_the_whole_image(folders):
    plain = TransformersScorer(folders("llava_onevision"), batch_size=3)
    cropping = TransformersScorer(folders("llava_onevision"), crops=2, crop_size=32)
    pictures = np.stack(images([(64, 80)] * 2))
    boxes = crop_boxes(64, 80, 2, 32)
    parts = [plain.score(pictures[:, top:bottom, left:right]) for top, bottom, left, right in boxes]
    np.testing.assert_allclose(cropping.score(pictures), (plain.score(pictures) + np.mean(parts, 0)) / 2, atol=1e-5)
    small = pictures[:, :32, :32]
    np.testing.assert_allclose(cropping.score(small), plain.score(small), atol=1e-6)


def test_crop_boxes_lie_inside_and_apart():
    for height, width in ((500, 449), (448, 700), (30, 900)):
        boxes = crop_boxes(height, width, 5, 448)
        assert len(boxes) == 5
        assert all(0 <= top < bottom <= height and 0 <= left < right <= width for top, bottom, left, right in boxes)
        assert len(set(boxes)) > 1
    assert crop_boxes(448, 300, 5, 448) == []


def test_levels_that_begin_alike_are_refused(folders):
    with pytest.raises(UsageError, match="'Aab' and 'Aac' begin with the same token 'A'"):
        TransformersScorer(folders("llava_onevision"), levels=("Aab", "Aac"), weights=(2, 1))
    split = TransformersScorer(folders("llava_onevision"), levels=("Zxq", "Wxq"), weights=(2, 1))
    assert 1 < split.score(np.stack(images([(30, 30)])))[0] < 2


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"weights": (1, 2)}, "weights: 2 of them for 5 levels"),
        ({"levels": (" good", " good")}, "two or more different words"),
        ({"dtype": "float7"}, "torch has no 'float7'"),
        ({"sharpness": 3}, "unexpected keyword argument 'sharpness'; its options are model, prompt"),
    ],
)
def test_wrong_options_are_one_line(options, line, folders):
    with pytest.raises(UsageError) as caught:
        scorer("vlm", {"model": folders("llava_onevision"), **options})
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(R1JaxError, match="cannot be loaded"):
        scorer("vlm", {"model": str(tmp_path)})
    with pytest.raises(UsageError, match="missing a required argument: 'model'"):
        scorer("vlm")
