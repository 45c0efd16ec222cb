"""The real package pyiqa, where it is installed. Its weights cannot be had without network: the networks here are random."""

import numpy as np
import pytest
from PIL import Image

from r1jax.reward import RewardService, scorer

pyiqa = pytest.importorskip("pyiqa")
torch = pytest.importorskip("torch")

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(1200)]


def images(num, height, width):
    coarse = np.random.default_rng(0).integers(0, 256, (num, 6, 6, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC)) for one in coarse])


@pytest.fixture
def without_downloads(monkeypatch):
    """Lets pyiqa build its networks without their weights."""
    import timm
    from pyiqa.archs import clip_model, clipiqa_arch, maniqa_arch, musiq_arch

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: create(name, pretrained=False))
    for arch in (maniqa_arch, musiq_arch):
        monkeypatch.setattr(arch, "load_pretrained_network", lambda *args, **kwargs: None)
    resnet_50 = (1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 12)
    monkeypatch.setattr(clipiqa_arch, "load", lambda name, device: clip_model.CLIP(*resnet_50).eval())
    torch.manual_seed(0)


@pytest.mark.parametrize(("name", "top", "num"), [("maniqa", 1, 1), ("clip-iqa", 1, 3), ("musiq", 100, 3)])
def test_scores_are_those_of_the_package_on_the_file(name, top, num, without_downloads, tmp_path):
    built = scorer(name, {"device": "cpu"})
    pictures, values = images(num, 224, 250), []
    for picture in pictures:
        Image.fromarray(picture).save(tmp_path / "photo.png")
        values.append(float(built._metric(str(tmp_path / "photo.png"))))
    scores = built.score(pictures)
    assert scores.dtype == np.float32 and scores.shape == (num,) and len(set(scores)) == num
    np.testing.assert_allclose(scores, 1 + 4 * np.array(values) / top, atol=1e-4)


def test_a_metric_without_weights_works_in_its_own_process():
    options = {"metric": "entropy", "low": 0.0, "high": 8.0, "device": "cpu"}
    pictures = images(3, 40, 50)
    pictures[2] = 128  # one grey level: no entropy
    with RewardService("musiq", timeout_s=60, options=options) as service:
        scores = service.score(pictures)
        assert service.name == "pyiqa-entropy" and service.version.startswith(pyiqa.__version__)
    assert scores[2] == pytest.approx(1, abs=1e-3) and (scores[:2] > 3).all() and (scores[:2] <= 5).all()
