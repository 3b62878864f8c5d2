"""The cost of an audit is computed before its data, weights and storage exist."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from side_ray.cli.app import app
from side_ray.config.file import load_config
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.unet_dpm import new_unet, save_pipeline
from side_ray.errors import UserError
from side_ray.images import encode_png
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.cost.sampling import estimate, probe
from side_ray.runs.cost.search import plan_search
from side_ray.sources.select import SPLITS
from tests.audits import tiny_config

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"


def plan(*arguments: str):
    return CliRunner().invoke(app, ["plan", *arguments])


@pytest.mark.long
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


@pytest.mark.long
def test_time_and_price_follow_from_the_throughput(tmp_path):
    given = [str(CONFIGS / "digits.yaml"), f"run.uri={tmp_path}/run", "cluster.price_per_hour=1.5", "--json"]
    slow, fast = (json.loads(plan(*given, "--throughput", rate).stdout) for rate in ("10", "1000"))
    assert slow["price"] == pytest.approx(sum(slow["seconds"].values()) / 3600 * 1.5)
    # A guided sample costs more than the mean one, which includes Random's.
    assert 9_000 / 10 * 0.7 < slow["seconds"]["extract"] < 9_000 / 10 + 10
    for stage in ("train_dpm", "synthetic", "train_surrogate: student", "privacy"):
        assert slow["seconds"][stage] - 5 == pytest.approx(100 * (fast["seconds"][stage] - 5))
    unknown = json.loads(plan(*given).stdout)
    assert (unknown["seconds"], unknown["price"]) == (None, None)


def test_a_finished_audit_takes_no_time(local_audit, tmp_path):
    path = tmp_path / "audit.yaml"
    path.write_text(local_audit.config.to_yaml())
    result = plan(str(path), "--throughput", "10")
    assert "time          nothing is left to do" in result.stdout


def test_given_samples_are_planned_by_a_probe(tmp_path):
    for name, count in (("samples", 20), ("train", 30), ("unseen", 12)):
        (tmp_path / name).mkdir()
        for number in range(count):
            image = np.random.default_rng(number).integers(0, 256, (8, 8, 1), dtype=np.uint8)
            (tmp_path / name / f"{number}.png").write_bytes(encode_png(image))
    paths = [f"--{name}={tmp_path / name}" for name in ("samples", "train", "unseen")]
    result = CliRunner().invoke(app, ["score", "--plan", *paths, f"--run={tmp_path}/run", "cluster.price_per_hour=2"])
    assert result.exit_code == 0, result.output
    lines = {line[:14].strip(): line[14:] for line in result.stdout.splitlines()}
    assert lines["samples"] == f"20 of {tmp_path}/samples"
    assert lines["compared with"] == "30 members, 2 × 6 unseen, by nl2"
    assert re.match(r"about \d+ s on one device", lines["time"])
    assert lines["price"].startswith("about 0.0")
    assert not (tmp_path / "run").exists()


def test_a_wrong_setting_is_refused_all_the_same(tmp_path):
    result = plan(str(CONFIGS / "digits.yaml"), f"run.uri={tmp_path}/run", "extract.steps=5000")
    assert result.exit_code == 2
    assert "extract.steps" in result.stderr


@pytest.mark.parametrize(("features", "dimension", "parts"), [(300, 64, 1), (50_000, 3072, 1), (10**6, 3072, 6)])
def test_large_sets_are_split_and_small_ones_are_not(features, dimension, parts):
    sizes = dict.fromkeys(SPLITS, features)
    assert plan_search(tiny_config("/tmp/unused", score__shards=None), sizes, dimension, False).parts == parts
    assert plan_search(tiny_config("/tmp/unused", score__shards=3), sizes, dimension, False).parts == 3


@pytest.mark.parametrize("memory", [0.8, 1.0, 2.5, 16.0])
@pytest.mark.parametrize(("members", "dimension"), [(10**5, 64), (10**6, 512), (3 * 10**6, 1024), (10**8, 512)])
@pytest.mark.parametrize("engine", ["auto", "faiss"])
def test_parts_fit_into_a_node(memory, members, dimension, engine):
    config = tiny_config("/tmp/unused", cluster__memory_gb=memory, score={"engine": engine})
    sizes = {"member": members, "calibration": members // 10, "holdout": members // 10}
    try:
        found = plan_search(config, sizes, dimension, True)
    except UserError:
        # Features and their copy in 8 bits in the largest number of parts, and the process.
        assert 2.4 * members * dimension * 5 / 10_000 + 0.75 * 2**30 > memory * 2**30
        return
    rows = [-(-2 * size // found.parts) for size in sizes.values()]
    assert sum(rows) * dimension * 4 < found.actor_bytes <= memory * 2**30
    assert max(rows) * dimension * 4 <= 2**31 + dimension * 4
    assert found.nodes(memory) * (memory * 2**30 // found.actor_bytes) >= found.parts
    assert (found.nodes(memory) - 1) * (memory * 2**30 // found.actor_bytes) < found.parts


HUGE = (
    "data.source=parquet",
    "data.path=/nowhere/*.parquet",
    "data.image_size=64",
    "data.holdout=1000000",
    "dpm.kind=optimal",
    "score.shards=null",
    "score.similarity=descriptor",
    "score.descriptor=/nowhere/descriptor.yaml",
    "surrogate.labels=random",
    "extract.methods=[random]",
    "extract.lambdas=[0]",
    "extract.samples=10000",
    "surrogate.synthetic=4000",
)


def huge(run: Path, *more: str):
    return plan(str(CONFIGS / "digits.yaml"), f"run.uri={run}", *HUGE, *more)


@pytest.mark.parametrize(
    ("members", "parts", "features", "nodes"),
    [(10**8, 191, "389.1 GiB", "11 of 64 GiB with 19"), (150_000_000, 287, "579.8 GiB", "16 of 64 GiB with 19")],
)
def test_a_training_set_of_a_hundred_million_is_a_plan(members, parts, features, nodes, tmp_path):
    result = huge(tmp_path / "run", f"data.members={members}", "cluster.memory_gb=64")
    assert result.exit_code == 0, result.stderr
    lines = {line[:14].strip(): line[14:] for line in result.stdout.splitlines()}
    rows = members + 2 * 10**6
    assert lines["features"] == f"{rows:,} × 1,024 × 4 B = {features} in {parts} parts, one actor each"
    assert lines["nodes"].startswith(f"{parts} × ")
    assert f"; {nodes} actors each" in lines["nodes"]
    assert lines["descriptors"] == f"{rows + 14_000:,} images, each once"
    pairs = 10_000 * rows + 4_000 * 2 * 10**6 + rows * rows
    assert lines["comparisons"].startswith(f"{pairs:.3g} pairs × 2 × 1,024 = {pairs * 2048:.3g} FLOP: ")
    hours = pairs * 2048 / 1e11 / parts / 3600
    assert f"{hours:,.2f} hours on {parts} actors" in lines["comparisons"]
    numbers = json.loads(huge(tmp_path / "run", f"data.members={members}", "--json").stdout)["search"]["descriptor"]
    assert (numbers["parts"], numbers["nodes"]) == (parts, None)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("more", [["cluster.memory_gb=0.5"], ["cluster.memory_gb=16", "score.shards=3"]])
def test_a_node_that_holds_no_part_is_refused(more, tmp_path):
    result = huge(tmp_path / "run", "data.members=100000000", *more)
    assert result.exit_code == 2
    assert re.fullmatch(
        r"side-ray: cluster.memory_gb: \S+ GiB cannot hold one of .* parts .*; raise it.*\n", result.stderr
    )


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


@pytest.mark.long
def test_classifier_free_guidance_evaluates_the_model_twice(tmp_path):
    unet = new_unet({"block_out_channels": (8, 16), "norm_num_groups": 4, "num_class_embeds": 11}, (1, 8, 8))
    save_pipeline(unet, new_schedule("linear", 50).config, tmp_path / "model")

    def cost(**dpm) -> int:
        section = {"path": str(tmp_path / "model"), "null_class": 10, **dpm}
        return estimate(Artifacts.open(tiny_config(tmp_path / "run", dpm=section, extract__steps=4))).unet_evaluations

    once = cost()
    assert cost(guidance_scale=3.0) == 2 * once
    assert cost(guidance_scale=3.0, classes="null_class") == cost(classes="uniform") == once


def test_a_lora_surrogate_evaluates_the_model_twice_where_it_guides(tmp_path):
    def cost(**changes):
        methods = {"extract__methods": ["random", "td"], "extract__lambdas": [0, 1, 2], "extract__steps": 10}
        found = estimate(Artifacts.open(tiny_config(tmp_path / "run", **methods, **changes)))
        return found.unet_evaluations, found.classifier_evaluations

    (plain, classifier), guided = cost(), 2 * 200 * 10
    assert classifier == guided
    assert cost(surrogate__kind="lora") == (plain + guided, 0)
    half = {"surrogate__kind": "lora", "extract__guidance_interval": [0.0, 0.5]}
    assert cost(**half) == (plain + guided // 2, 0)
    assert probe(Artifacts.open(tiny_config(tmp_path / "run", surrogate__kind="lora"))) > 0


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_probe_samples_as_the_audit_will(tmp_path, precision, dtype):
    """With its precision, and guided only within its interval: 3 of 10 steps, in a first batch and in the timed one."""
    config = tiny_config(
        tmp_path / "run", extract__steps=10, extract__guidance_interval=[0.2, 0.5], cluster__precision=precision
    )
    calls: dict[str, list[torch.dtype]] = {"UNet2DModel": [], "ResNet": []}

    def count(module: torch.nn.Module, _, output: Any) -> None:
        if type(module).__name__ in calls:
            found = output[0] if isinstance(output, tuple) else output
            calls[type(module).__name__].append(found.dtype)

    handle = torch.nn.modules.module.register_module_forward_hook(count)
    try:
        assert probe(Artifacts.open(config)) > 0
    finally:
        handle.remove()
    assert calls == {"UNet2DModel": [dtype] * 20, "ResNet": [torch.float32] * 6}
