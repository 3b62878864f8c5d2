"""SSCD descriptors: preprocessing, image kinds, checkpoints."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from side_ray.errors import UserError
from side_ray.similarity.sscd import Sscd

SSCD_ONNX = Path(os.environ.get("SIDE_RAY_SSCD_ONNX", Path.home() / ".cache" / "side-ray" / "sscd.onnx"))
"""An ONNX export of Meta's sscd_disc_mixup; not part of the repository."""


class Descriptor(torch.nn.Module):
    """A stand-in for the weights alone: TorchScript of the same signature, float [B, 3, H, W] → [B, 512]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = torch.nn.Conv2d(3, 512, 16, stride=16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x).mean(dim=(2, 3)) * 3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sscd") / "sscd.torchscript.pt"
    torch.jit.script(Descriptor()).save(str(path))
    return path


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).copy()


@pytest.mark.parametrize(
    ("policy", "shape"), [("resize288", (288, 431)), ("resize320", (320, 320)), ("center224", (224, 224))]
)
def test_policies_resize_as_pillow_does(checkpoint: Path, policy: str, shape: tuple[int, int]) -> None:
    image = photo(427, 640)
    encoder = Sscd(checkpoint, policy, trusted=True).encoder
    found = encoder.preprocess(image[None])[0].permute(1, 2, 0).numpy()
    assert found.shape == (*shape, 3)
    size = encoder.policy.size(427, 640)
    wanted = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)).astype(float)
    if policy == "center224":
        assert size == (256, 383)
        wanted = wanted[16:240, 80:304]
    assert np.abs(found - wanted).max() <= 1


def test_descriptors_are_unit_vectors_of_the_normalized_input(checkpoint: Path) -> None:
    image = photo(320, 320)
    features = Sscd(checkpoint, "resize320", trusted=True).embed(image[None])
    x = torch.from_numpy(image).permute(2, 0, 1).float()[None] / 255
    x = (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        wanted = torch.nn.functional.normalize(Descriptor()(x)).numpy()
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, wanted, atol=1e-5)
    assert np.linalg.norm(features.astype(float), axis=1) == pytest.approx(1, abs=1e-6)


def test_gray_alpha_and_sizes_in_any_order(checkpoint: Path) -> None:
    gray = photo(60, 80)[..., :1]
    color, small = photo(300, 400, 1), photo(3, 5, 2)
    images = [
        gray,
        color,
        np.repeat(gray, 3, axis=2),
        small,
        np.concatenate([gray, gray], axis=2),
        np.concatenate([color, color[..., :1]], axis=2),
        color,
    ]
    features = Sscd(checkpoint, trusted=True, batch_size=2).embed(images)
    assert features.shape == (7, 512)
    np.testing.assert_allclose(features[[0, 0, 1, 1]], features[[2, 4, 5, 6]], atol=1e-6)
    assert features[0] @ features[1] < 0.999


def test_batches_give_what_single_images_give(checkpoint: Path) -> None:
    images = np.stack([photo(64, 64, seed) for seed in range(5)])
    similarity = Sscd(checkpoint, trusted=True, batch_size=3)
    together = similarity.embed(images)
    alone = np.concatenate([similarity.embed(image[None]) for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_results_name_checkpoint_and_policy(checkpoint: Path) -> None:
    params = Sscd(checkpoint, "center224", trusted=True).params()
    assert params["checkpoint"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert params["policy"] == "center224"
    assert params["normalization"] == [[0.5] * 3, [0.5] * 3]


def test_what_cannot_be_used_is_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a file"):
        Sscd(tmp_path / "absent.pt")
    with pytest.raises(UserError, match="preprocessing"):
        Sscd(checkpoint, "resize1")
    for name in ("broken.pt", "broken.onnx"):
        (tmp_path / name).write_bytes(b"not a network")
        with pytest.raises(UserError, match="check the file") as caught:
            Sscd(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="elongated"):
        Sscd(checkpoint, trusted=True).embed([np.zeros((1, 40, 3), np.uint8)])
    with pytest.raises(UserError, match="channels"):
        Sscd(checkpoint, trusted=True).embed([np.zeros((9, 9, 5), np.uint8)])
    assert Sscd(checkpoint, trusted=True).embed([]).shape[0] == 0


@pytest.mark.skipif(not SSCD_ONNX.exists(), reason="SSCD weights are not on this machine (SIDE_RAY_SSCD_ONNX)")
def test_the_real_network_knows_copies() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    china, flower = datasets.load_sample_images().images
    noisy = np.clip(china + np.random.default_rng(0).normal(0, 20, china.shape), 0, 255).astype(np.uint8)
    similarity = Sscd(SSCD_ONNX)
    features = similarity.embed([china, flower, china[53:373, 80:560], china[:, ::-1], noisy])
    cosines = features @ features.T
    assert abs(cosines[0, 1]) < 0.15
    assert cosines[0, 2] > 0.65
    assert cosines[0, 3] > 0.85
    assert cosines[0, 4] > 0.8
    assert similarity.params()["normalization"] == "in the checkpoint"
