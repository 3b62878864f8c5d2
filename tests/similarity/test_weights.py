"""Weights of encoders: TorchScript runs only where it is trusted, and ONNX reads nothing outside its folder."""

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from side_ray.errors import LONGEST_LINE, UserError
from side_ray.runs.artifacts import Artifacts, check_label_weights
from side_ray.similarity.sscd import Sscd
from side_ray.similarity.weights import digest
from tests.audits import tiny_config
from tests.similarity.networks import onnx_model, weights

IMAGES = np.random.default_rng(1).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pt"
    torch.jit.script(torch.nn.Flatten(1)).save(str(path))
    return path


@pytest.mark.parametrize("name", ["weights.pt", "weights.onnx", "weights"])
def test_torchscript_is_opened_only_if_it_is_trusted(script, name, monkeypatch):
    path = script.rename(script.parent / name)
    with monkeypatch.context() as patched:
        patched.setattr(torch.jit, "load", None)
        with pytest.raises(
            UserError, match=r"^score\.checkpoint: .* is TorchScript, .* or set score\.trust_checkpoint="
        ):
            Sscd(path)
    assert Sscd(path, "resize320", trusted=True).encoder.format == "torchscript"


def test_the_permission_is_asked_for_before_anything_starts_and_moves_no_fingerprint(script):
    score = {"similarity": "sscd", "checkpoint": str(script)}
    changes = {"surrogate__features": "clip", "surrogate__encoder": str(script)}
    config = tiny_config("run", score=score, **changes)
    trusted = tiny_config("run", score=score | {"trust_checkpoint": True}, **changes, surrogate__trust_encoder=True)
    with pytest.raises(UserError, match=r"^surrogate\.encoder: .* or set surrogate\.trust_encoder=true"):
        check_label_weights(config)
    check_label_weights(trusted)
    one, other = Artifacts.open(config), Artifacts.open(trusted)
    assert one.surrogate.key == other.surrogate.key
    assert one.cut.directory == other.cut.directory


@pytest.mark.parametrize("external", [None, "w.bin", "data/w.bin", "./w.bin"])
def test_onnx_is_read_with_the_weights_beside_it(tmp_path, external):
    path = tmp_path / "encoder"
    path.write_bytes(onnx_model(external))
    if external:
        (tmp_path / external).parent.mkdir(exist_ok=True)
        (tmp_path / external).write_bytes(weights().tobytes())
    found = Sscd(path, "resize320").embed(IMAGES)
    assert found.shape == (3, 8)
    before = digest(path)
    if external:
        (tmp_path / external).write_bytes((weights() * 2).tobytes())
    assert (digest(path) == before) == (external is None)


@pytest.mark.parametrize(
    "name", ["../w.bin", "{root}/w.bin", "data/../../w.bin", "link.bin", "linked/w.bin", "..\\w.bin"]
)
def test_onnx_may_not_leave_its_folder(tmp_path, name, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "InferenceSession", None)
    folder = tmp_path / "model"
    (folder / "data").mkdir(parents=True)
    (tmp_path / "w.bin").write_bytes(weights().tobytes())
    os.symlink(tmp_path / "w.bin", folder / "link.bin")
    os.symlink(tmp_path, folder / "linked")
    (folder / "encoder.onnx").write_bytes(onnx_model(name.format(root=tmp_path)))
    with pytest.raises(UserError, match=r"^score\.checkpoint: .* which is no plain file in its folder"):
        Sscd(folder / "encoder.onnx")


@pytest.mark.parametrize("name", ["*/_ORT_MEM_ADDR_/*", "gone.bin", "", "x" * 5000])
def test_onnx_with_weights_that_are_no_file(tmp_path, name):
    (tmp_path / "encoder.onnx").write_bytes(onnx_model(name))
    with pytest.raises(UserError, match="no plain file in its folder") as caught:
        Sscd(tmp_path / "encoder.onnx")
    assert len(str(caught.value)) <= LONGEST_LINE


def test_damaged_models_are_one_line(tmp_path):
    whole, path = onnx_model(), tmp_path / "encoder.onnx"
    rng = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(0, 256)
        path.write_bytes(data[: rng.integers(0, len(data) + 1)])
        with suppress(UserError):
            Sscd(path, "resize320").embed(IMAGES[:1])
    path.write_bytes(whole.replace(b"\x0a\x03\x12\x01h", b""))
    with pytest.raises(UserError):
        Sscd(path, "resize320").embed(IMAGES[:1])
    for content in (b"", b"\x08", b"\x3a\xff\xff\xff\xff\x0f", b"ORTM" * 4, b"\x3a\x7e" * 200):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"check the file|own format"):
            Sscd(path)
