"""Labels of the synthetic set from weights in the config."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from side_ray.errors import UserError
from side_ray.execution.audit import Audit
from side_ray.images import decode_column
from side_ray.report.figures import build_figures
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.run import Run
from side_ray.stages.label import LABELS, label, read_labels
from side_ray.storage import open_store
from side_ray.surrogate.encoders import open_teacher
from side_ray.surrogate.resnet import ResNet
from tests.audits import tiny_config
from tests.local import without_ray
from tests.stages.test_prepare import Listener
from tests.surrogate.test_encoders import Vit, exported


@pytest.fixture
def run(tiny_audit, tmp_path):
    """A run with a synthetic set but no labels."""
    for stage in ("prepare", "synthetic"):
        shutil.copytree(f"{tiny_audit.run.store.uri}/{stage}", tmp_path / "run" / stage)
    return str(tmp_path / "run")


@pytest.fixture
def teacher(tmp_path) -> str:
    torch.manual_seed(2)
    network = ResNet.preset("resnet18", 6, stem="cifar", in_channels=1, width=8)
    save_file(network.state_dict(), tmp_path / "teacher.safetensors")
    return str(tmp_path / "teacher.safetensors")


def labelled(run: str, **changes) -> tuple[Artifacts, str]:
    config = tiny_config(run, **{f"surrogate__{name}": value for name, value in changes.items()})
    listener = Listener()
    audit = Audit.open(config, listener)
    artifacts = audit.artifacts
    assert not artifacts.run.store.exists(f"{artifacts.surrogate.key}/{LABELS}")
    with without_ray():
        label(audit)
    return artifacts, listener.lines[-1]


def test_a_given_classifier_labels_the_synthetic_set(run, teacher):
    artifacts, line = labelled(run, labels="classifier", teacher=teacher, teacher_input="symmetric")
    images = decode_column(artifacts.synthetic.read_first(8, ["image"]).column("image"))
    # The last bits of a network's output depend on the batch, which is one shard.
    opened = open_teacher(teacher, None, "symmetric")
    expected = np.concatenate([opened.probabilities(images[start : start + 50]) for start in range(0, 400, 50)])
    table = read_labels(artifacts)
    assert table.column("label").to_pylist() == expected.argmax(1).tolist()
    np.testing.assert_array_equal(np.stack(table.column("teacher").to_numpy(zero_copy_only=False)), expected)
    assert line == "label: 6 classifier labels for 400 synthetic images"


def test_clusters_of_a_classifiers_features_and_of_an_encoders(run, teacher, tmp_path):
    by_teacher, line = labelled(run, features="teacher", teacher=teacher, teacher_input="symmetric", cohesion=0.05)
    found = by_teacher.surrogate.read_json("labels.json")
    assert f"{found['classes']} of 5 clusters of teacher features kept (" in line
    assert (sum(found["sizes"]), found["asked"]) == (400, 5)
    clip = exported(tmp_path / "clip.pt", Vit())
    by_clip, _ = labelled(run, features="clip", encoder=clip, trust_encoder=True, cohesion=0.05)
    by_sscd, line = labelled(run, features="sscd", encoder=clip, trust_encoder=True, cohesion=0.05)
    assert "clusters of sscd features kept" in line
    keys = {each.surrogate.key for each in (by_teacher, by_clip, by_sscd)}
    assert len(keys) == 3
    labels = {tuple(read_labels(each).column("label").to_pylist()) for each in (by_teacher, by_clip, by_sscd)}
    assert len(labels) == 3


def test_other_weights_at_the_same_path_are_another_artifact(run, teacher, tmp_path):
    changes = {"surrogate__labels": "classifier", "surrogate__teacher": teacher}

    def key() -> str:
        return Artifacts(tiny_config(run, **changes), Run(open_store(run))).surrogate.key

    before = key()
    save_file(ResNet.preset("resnet18", 6, stem="cifar", in_channels=1, width=8).state_dict(), teacher)
    assert key() != before
    (tmp_path / "teacher.safetensors").unlink()
    with pytest.raises(UserError, match=r"surrogate\.teacher: .* is not a file that can be read"):
        key()


def test_kept_clusters_and_accuracy_by_timestep_are_in_the_report(tiny_audit):
    metrics = tiny_audit.report.read_json("metrics.json")
    found = tiny_audit.surrogate.read_json("labels.json")
    shown = metrics["surrogate"]
    assert (shown["labels"], shown["features"], shown["kept"], shown["sizes"]) == (
        "cluster",
        "pixels",
        found["kept"],
        found["sizes"],
    )
    assert [row["first"] for row in shown["accuracy"]] == list(range(0, 1000, 100))
    assert (
        "Clusters of the synthetic set" in tiny_audit.report.store.read(f"{tiny_audit.report.key}/index.html").decode()
    )
    (figure,) = build_figures(metrics, curves=[{"stage": "clusters", "sizes": [3, 9, 4], "kept": [0, 1]}])[-1:]
    assert "2 of 3 are kept, of 3 to 9 images; 4 of 16 images are in clusters that were dropped" in figure.alt
