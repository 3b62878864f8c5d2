"""Classifiers and encoders that a config gives by path."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from side_ray.errors import UserError
from side_ray.similarity.encoder import CLIP
from side_ray.surrogate.encoders import Teacher, open_encoder, open_teacher
from side_ray.surrogate.labels import cluster_labels
from side_ray.surrogate.resnet import ResNet
from tests.formats import pictures
from tests.similarity.networks import onnx_model

IMAGES = pictures(12, (16, 16))


@pytest.fixture(scope="module")
def resnet34() -> ResNet:
    torch.manual_seed(0)
    return ResNet.preset("resnet34", 7, width=16).eval()


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_a_state_dict_in_torchvisions_layout_becomes_a_teacher(kind, resnet34, tmp_path):
    path = tmp_path / f"teacher.{kind}"
    save_file(resnet34.state_dict(), path) if kind == "safetensors" else torch.save(resnet34.state_dict(), path)
    teacher = open_teacher(str(path), 32, "imagenet")
    found = teacher.probabilities(IMAGES)
    assert (found.shape, found.dtype) == ((12, 7), np.float32)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    x = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float()
    x = torch.nn.functional.interpolate(x, size=(32, 32), mode="bilinear", antialias=True) / 255
    x = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        np.testing.assert_allclose(found, resnet34(x).softmax(1).numpy(), atol=1e-4)
        np.testing.assert_allclose(teacher.features(IMAGES), resnet34.features(x).numpy(), rtol=1e-3, atol=1e-4)


def test_blocks_stem_channels_and_classes_are_read_off_the_weights(tmp_path):
    small = ResNet.preset("resnet18", 3, stem="cifar", in_channels=1, width=8)
    save_file(small.state_dict(), tmp_path / "a.safetensors")
    config = open_teacher(str(tmp_path / "a.safetensors"), None, "symmetric").network.config
    assert (config.blocks, config.stem, config.in_channels, config.width) == ((2, 2, 2, 2), "cifar", 1, 8)
    with pytest.raises(UserError, match=r"surrogate\.teacher: takes images of 1 channels, the data has 3"):
        Teacher(small).probabilities(IMAGES)


def test_gray_images_are_shown_as_gray_rgb():
    network = ResNet.preset("resnet18", 3, width=8).eval()
    gray = IMAGES[:, :, :, :1]
    # The last bits depend on how the pixels lie in memory, on some processors.
    np.testing.assert_allclose(
        Teacher(network).features(gray), Teacher(network).features(gray.repeat(3, 3)), rtol=1e-4, atol=1e-6
    )


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_files_that_are_no_plain_weights_are_one_line_and_nothing_in_them_is_run(resnet34, tmp_path):
    marker, path = tmp_path / "executed", tmp_path / "a.pth"
    state = resnet34.state_dict()
    missing = {name: value for name, value in state.items() if name != "layer2.0.downsample.0.weight"}
    cases = {
        "no file of plain weights": lambda: path.write_bytes(pickle.dumps(Hostile(marker))),
        "no file of plain weights (": lambda: torch.save({"conv1.weight": Hostile(marker)}, path),
        "cannot be read": path.unlink,
        "holds more than weights": lambda: torch.save({"epoch": 3, "state_dict": state}, path),
        "no ResNet of torchvision's: it has no 'conv1.weight'": lambda: torch.save({"a": torch.zeros(1)}, path),
        "the state dict is not that of a": lambda: torch.save(missing, path),
        "holds more than weights; ": lambda: torch.save({1: torch.zeros(1)}, path),
        "no ResNet of torchvision's (": lambda: torch.save(state | {"conv1.weight": torch.zeros(())}, path),
        "it has 10,004 blocks": lambda: torch.save(state | {"layer1.9990.x": torch.zeros(1)}, path),
        "hold NaN or infinite values (bn1.bias)": lambda: torch.save(
            state | {"bn1.bias": torch.full((16,), torch.nan)}, path
        ),
        "no file of plain weights ([": lambda: path.write_bytes(path.read_bytes()[:5000]),
    }
    for message, prepare in cases.items():
        prepare()
        with pytest.raises(UserError) as caught:
            open_teacher(str(path), None, "imagenet")
        assert str(caught.value).startswith("surrogate.teacher: ")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not marker.exists()


class Vit(torch.nn.Module):
    """An image encoder of CLIP's kind: patches, attention, a projection of their mean."""

    def __init__(self, pooled: bool = True) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 16, 32, 32)
        self.queries, self.keys = torch.nn.Linear(16, 16), torch.nn.Linear(16, 16)
        self.projection = torch.nn.Linear(16, 8)
        self.pooled = pooled

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        attention = (self.queries(tokens) @ self.keys(tokens).transpose(1, 2)).softmax(2)
        tokens = tokens + attention @ tokens
        return self.projection(tokens.mean(1) if self.pooled else tokens)


def exported(path: Path, network: torch.nn.Module) -> str:
    torch.jit.script(network.eval()).save(str(path))
    return str(path)


def test_a_clip_image_encoder_makes_features_for_clusters(tmp_path):
    torch.manual_seed(1)
    network = Vit()
    path = exported(tmp_path / "clip.pt", network)
    images = np.concatenate([IMAGES // 4, 255 - IMAGES // 4])
    found = open_encoder("clip", "surrogate.encoder", path, "resize288", trusted=True)(images)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    x = torch.nn.functional.interpolate(x, size=(224, 224), mode="bicubic", antialias=True).round().clamp(0, 255) / 255
    mean, deviation = (torch.tensor(row).view(3, 1, 1) for row in CLIP)
    with torch.no_grad():
        expected = torch.nn.functional.normalize(network((x - mean) / deviation), dim=1)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    clusters = cluster_labels(found, 2, 0.1, seed=0)
    assert sorted(clusters.sizes) == [12, 12]
    assert len(set(clusters.assignment[:12])) == 1


def test_encoders_that_do_not_fit_are_told_by_their_own_key(tmp_path, capfd):
    tokens = exported(tmp_path / "tokens.pt", Vit(pooled=False))
    (tmp_path / "no.pt").write_bytes(b"weights")
    (tmp_path / "no.onnx").write_bytes(onnx_model().replace(b"MatMul", b"Mat\xf1ul"))
    for path, message in (
        (tokens, r"surrogate\.encoder: gives 12×49×8 values, not one vector per image"),
        (str(tmp_path / "no.pt"), r"surrogate\.encoder: .* is not an ONNX model"),
        (str(tmp_path / "no.onnx"), r"surrogate\.encoder: .* is not an ONNX model"),
        (str(tmp_path / "none.pt"), r"surrogate\.encoder: .* is not a file"),
    ):
        with pytest.raises(UserError, match=message):
            open_encoder("clip", "surrogate.encoder", path, "resize288", trusted=True)(IMAGES)
    assert capfd.readouterr().out == ""
