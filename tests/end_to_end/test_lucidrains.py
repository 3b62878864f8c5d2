"""A model that lucidrains' `Trainer` trained and saved is audited as docs/models.md says."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from side_ray.sources.published.digits import load_digits
from tests.audits import ROOT
from tests.bruteforce import check
from tests.lucidrains import environment, package

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

MEMBERS, UNSEEN = 30, 240
COPIES = 20
"""Files of each member in the training's folder: `Trainer` wants 100, and starts its readers anew for each pass."""
STEPS = 800
CHANGED = {
    "dim=64, dim_mults=(1, 2, 4, 8), channels=3": "dim=16, dim_mults=(1, 2), channels=1",
    "image_size=32": "image_size=8",
}
"""Lines of the adapter that describe the training."""
AUDIT: dict[str, Any] = {
    "run": {"uri": "run", "seed": 0},
    "data": {
        "source": "folder",
        "path": "members",
        "holdout_path": "unseen",
        "members": MEMBERS,
        "holdout": UNSEEN // 2,
        "grayscale": True,
    },
    "surrogate": {
        "labels": "cluster",
        "classes": 15,
        "synthetic": 1000,
        "arch": "small",
        "stem": "cifar",
        "width": 16,
        "steps": 300,
        "lr": 4e-3,
    },
    "extract": {
        "methods": ["random", "td"],
        "lambdas": [0, 2],
        "samples": 300,
        "shard_size": 100,
        "batch_size": 50,
        "sampler": "ddim",
        "steps": 10,
    },
    "score": {"bands": {"low": [0.6, 0.8], "mid": [0.5, 0.6], "high": [0, 0.5]}, "false_match_rate": 0.02, "shards": 1},
    "report": {"pdf": False, "figures": False},
    "cluster": {"train_cpus": 1, "actors": [1, 1]},
}


def write_images(directory: Path) -> None:
    for name, first, count, copies in (
        ("members", 0, MEMBERS, 1),
        ("training", 0, MEMBERS, COPIES),
        ("unseen", 1000, UNSEEN, 1),
    ):
        (directory / name).mkdir()
        for number, image in enumerate(load_digits().images[first : first + count]):
            for copy in range(copies):
                Image.fromarray(image[:, :, 0]).save(directory / name / f"{number:03}-{copy}.png")


def train(directory: Path) -> None:
    """Train its own U-Net with its own trainer, for about a minute of one core, and leave the `model-10.pt` of `Trainer.save`."""
    library = package()
    torch.manual_seed(0)
    unet = library.Unet(dim=16, dim_mults=(1, 2), channels=1)
    diffusion = library.GaussianDiffusion(unet, image_size=8, sampling_timesteps=4)
    trainer = library.Trainer(
        diffusion,
        directory / "training",
        train_batch_size=32,
        train_lr=3e-3,
        train_num_steps=STEPS,
        ema_decay=0.98,
        ema_update_every=2,
        save_and_sample_every=STEPS // 10,
        num_samples=1,
        calculate_fid=False,
        augment_horizontal_flip=False,
        results_folder=directory,
    )
    trainer.train()


@pytest.fixture
def trained(tmp_path) -> Path:
    write_images(tmp_path)
    train(tmp_path)
    adapter = (ROOT / "docs" / "adapters" / "lucidrains.py").read_text()
    for old, new in CHANGED.items():
        assert old in adapter
        adapter = adapter.replace(old, new)
    (tmp_path / "lucidrains.py").write_text(adapter)
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(AUDIT))
    return tmp_path


def test_what_it_memorised_is_found(trained):
    overrides = ["dpm.path=lucidrains.py:load", "dpm.files=[model-10.pt]"]
    assert f'side-ray audit audit.yaml {overrides[0]} "{overrides[1]}"' in (ROOT / "docs" / "models.md").read_text()
    command = [sys.executable, "-m", "side_ray.cli", "audit", "audit.yaml", *overrides]
    done = subprocess.run(command, cwd=trained, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = trained / "run"
    assert check(run) == []
    report = json.loads((run / "latest.json").read_text())["report"]
    metrics = json.loads((run / report / "metrics.json").read_text())
    assert metrics["verdict"]["outcome"] == "found"
    assert metrics["verdict"]["distinct"] >= MEMBERS // 2
    assert [each["method"] for each in metrics["conditions"]] == ["random", "td"]
    for each in metrics["conditions"]:
        found = each["calibrated"]
        assert found["ams"] > 0.3
        assert found["holdout_ams"] < 0.1
        assert each["excess_ci"][0] > 0.2
