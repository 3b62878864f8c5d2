"""The tiny variant of each preset, from files in the published formats to the report. The tiny digits audit is the one that most
tests use."""

from pathlib import Path

import pytest

from side_ray.algorithm import run_until
from side_ray.config.file import load_config
from side_ray.execution.progress import Reporter
from tests.audits import CONFIGS
from tests.bruteforce import check
from tests.formats import write_celeba, write_celeba_hq_fi, write_cifar_archive
from tests.similarity.test_sscd import SSCD_ONNX as WEIGHTS


def cifar10(directory: Path) -> list[str]:
    archive = directory / "cifar-10-python.tar.gz"
    write_cifar_archive(archive, "python", per_batch=100)
    return [f"data.path={archive}", f"data.holdout_path={archive}"]


def celeba_25000(directory: Path) -> list[str]:
    write_celeba(directory / "celeba", 102)
    return [f"data.path={directory / 'celeba'}", f"score.checkpoint={WEIGHTS}"]


def celeba_hq_fi(directory: Path) -> list[str]:
    write_celeba_hq_fi(directory, persons=5, each=15, others=45)
    images = directory / "CelebA-HQ-img"
    paths = [f"data.path={images}", f"data.holdout_path={images}"]
    return [*paths, f"data.labels_file={directory / 'CelebA-HQ-identity.txt'}", f"score.checkpoint={WEIGHTS}"]


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(cifar10, marks=pytest.mark.slow),
        pytest.param(celeba_25000, marks=pytest.mark.slow),
        pytest.param(celeba_hq_fi, marks=pytest.mark.slow),
    ],
    ids=lambda files: files.__name__,
)
@pytest.mark.timeout(600)
def test_a_tiny_variant_goes_from_the_published_files_to_the_report(files, tmp_path, ray_session):
    overrides = [*files(tmp_path), f"run.uri={tmp_path / 'run'}"]
    config = load_config(CONFIGS / f"{files.__name__}_tiny.yaml", overrides)
    artifacts = run_until("report", config, Reporter()).artifacts
    metrics = artifacts.report.read_json("metrics.json")
    assert [(row["method"], row["lambda"]) for row in metrics["conditions"]] == [("random", 0), ("ti", 5), ("td", 5)]
    assert metrics["train_size"] == config.data.members
    assert metrics["surrogate"]["labels"] == "classifier"
    assert len(metrics["surrogate"]["accuracy"]) == 10
    if config.score.similarity == "nl2":
        assert check(tmp_path / "run") == []
