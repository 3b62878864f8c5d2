"""The cost of an audit is computed before its data, weights and storage exist."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from side_ray.cli.app import app
from side_ray.config.file import load_config
from side_ray.diffusion.dpm import new_unet
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.cost import estimate

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"


def plan(*arguments: str):
    return CliRunner().invoke(app, ["plan", *arguments])


def test_the_papers_set_is_costed_without_its_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = plan(
        str(CONFIGS / "cifar10.yaml"), f"run.uri={tmp_path}/run", "extract.samples=50000", "--throughput", "100"
    )
    assert result.exit_code == 0, result.output
    lines = {line[:14].strip(): line[14:] for line in result.stdout.splitlines()}
    assert lines["samples"] == "56 × 50,000 + 50,000 synthetic = 2,850,000"
    assert lines["shards"] == "2,800"
    assert lines["U-Net"].startswith(f"{2_850_000 * 50:,} evaluations × ")
    assert lines["classifier"].startswith(f"{2_750_000 * 50:,} evaluations with gradient × ")
    assert lines["device-hours"].startswith("7.92 of sampling at 100.0 samples/s")
    assert "data/cifar-10-python.tar.gz" in lines["not ready"]
    assert not (tmp_path / "run").exists()


def test_a_wrong_setting_is_refused_all_the_same(tmp_path):
    result = plan(str(CONFIGS / "digits.yaml"), f"run.uri={tmp_path}/run", "extract.steps=5000")
    assert result.exit_code == 2
    assert "extract.steps" in result.stderr


def test_flops_are_those_of_the_network(tmp_path):
    """Independent count: two FLOPs per weight of a layer and output pixel."""
    config = load_config(CONFIGS / "digits.yaml", [f"run.uri={tmp_path}/run"])
    counted = 0

    def count(layer: torch.nn.Module, _, output: torch.Tensor) -> None:
        nonlocal counted
        counted += 2 * layer.weight.numel() * output.numel() // layer.weight.shape[0]

    unet = new_unet(config.dpm.unet.model_dump(), (1, 8, 8))
    for layer in unet.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        unet(torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64))
    assert estimate(Artifacts.open(config)).unet_flops == pytest.approx(counted, rel=0.02)
