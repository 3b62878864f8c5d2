"""A descriptor from outside the package: a YAML file and weights in ONNX."""

from pathlib import Path

import numpy as np
import pytest

from side_ray.config.file import parse_config
from side_ray.errors import UserError
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.plan import conditions
from side_ray.similarity.descriptor import Descriptor
from side_ray.similarity.encoder import ImageEncoder, Policy
from tests.audits import tiny_values
from tests.local import audit_here
from tests.similarity.networks import onnx_model, weights

IMAGES = np.random.default_rng(1).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
TEXT = "weights: encoder.onnx\nname: Colours\nshort_side: 32\nsize: 24\nmean: [0.5, 0.5, 0.5]\nstd: [0.2, 0.3, 0.4]\n"


@pytest.fixture
def described(tmp_path: Path) -> Path:
    (tmp_path / "encoder.onnx").write_bytes(onnx_model())
    path = tmp_path / "colours.yaml"
    path.write_text(TEXT)
    return path


def test_images_are_prepared_as_the_file_says(described):
    similarity = Descriptor(str(described))
    pixels = similarity.encoder.preprocess(IMAGES).numpy()
    assert pixels.shape == (3, 3, 24, 24)
    wanted = ((pixels.mean((2, 3)) / 255 - 0.5) / [0.2, 0.3, 0.4]) @ weights()
    np.testing.assert_allclose(
        similarity.embed(IMAGES), wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=1e-5
    )
    assert similarity.params()["encoder"] == "Colours"
    assert similarity.params()["policy"] == "short side 32, square 24, bilinear"


@pytest.mark.parametrize(
    ("pooling", "shape", "wanted"),
    [
        ("first", (2, 5, 4), lambda x: x[:, 0]),
        ("mean", (2, 5, 4), lambda x: x.mean(1)),
        ("mean", (2, 4, 3, 3), lambda x: x.mean((2, 3))),
        ("none", (2, 4), lambda x: x),
    ],
)
def test_outputs_are_pooled(described, pooling, shape, wanted):
    policy = Policy(None, 24, ((0.0,) * 3, (1.0,) * 3))
    encoder = ImageEncoder(described.parent / "encoder.onnx", policy, "score.descriptor", pooling=pooling)
    output = np.random.default_rng(0).normal(size=shape)
    encoder.network = lambda batch: output
    found = encoder.embed(IMAGES[:2])
    np.testing.assert_allclose(found, wanted(output) / np.linalg.norm(wanted(output), axis=1, keepdims=True), atol=1e-6)


def test_an_output_that_is_not_pooled_is_refused(described):
    similarity = Descriptor(str(described))
    similarity.encoder.network = lambda batch: np.ones((len(batch), 5, 4))
    with pytest.raises(UserError, match="one vector per image") as caught:
        similarity.embed(IMAGES)
    assert caught.value.key == "score.descriptor"


@pytest.mark.long
def test_an_audit_compares_by_it_and_the_fingerprint_covers_file_and_weights(described, tmp_path):
    score = {"similarity": "descriptor", "descriptor": str(described), "shards": 1}
    changes = {"score": score, "extract__methods": ["random"], "extract__lambdas": [0]}
    artifacts = audit_here(tmp_path / "run", **changes)
    described_by = artifacts.report.read_json("metrics.json")["similarity"]
    assert (described_by["name"], described_by["encoder"]) == ("descriptor", "Colours")
    scores = artifacts.scores(conditions(artifacts.config)[0]).read_first(artifacts.sample_shards)
    assert (scores.column("best").to_numpy() <= 1 + 1e-6).all()

    def paths() -> set[str]:
        found = Artifacts.open(artifacts.config)
        return {found.scores(conditions(found.config)[0]).directory, found.features.images.directory}

    before = paths()
    described.write_text(TEXT.replace("24", "28"))
    assert not paths() & before
    described.write_text(TEXT)
    assert paths() == before
    encoder = described.parent / "encoder.onnx"
    encoder.write_bytes(encoder.read_bytes().replace(weights().tobytes(), (weights() * 2).tobytes()))
    assert not paths() & before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("weights: encoder.onnx\n", "size: is missing; give it, or short_side"),
        ("size: 24\n", "weights: is missing; add it"),
        ("weights: encoder.onnx\nsize: 24\npoling: mean\n", "poling: unknown key; did you mean pooling"),
        ("weights: encoder.onnx\nsize: 24\nstd: [0, 1, 1]\n", "std: must be positive"),
        ("weights: encoder.onnx\nsize: 24\nshort_side: 20\n", "no such square"),
        ("- weights\n", "holds no keys"),
        ("weights: [\n", "not valid YAML"),
        ("weights: absent.onnx\nsize: 24\n", "is not a file"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(described, text, message):
    described.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        Descriptor(str(described))
    assert "\n" not in str(caught.value)


def test_the_file_must_be_given_and_be_there(tmp_path):
    with pytest.raises(UserError, match="similarity descriptor needs the path of a YAML file"):
        parse_config(tiny_values("run", score={"similarity": "descriptor"}), "audit.yaml")
    with pytest.raises(UserError, match="is not a text file"):
        Descriptor(str(tmp_path / "absent.yaml"))
