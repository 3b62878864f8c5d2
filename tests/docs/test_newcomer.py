"""A newcomer with the built wheel, an empty folder, a pipeline and images gets to an audit by the documentation alone."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.unet_dpm import new_unet, save_pipeline
from side_ray.sources.published.digits import load_digits
from tests.docs.pages import ROOT, commands

SMALL = [
    "data.holdout=60", "surrogate.labels=random", "surrogate.synthetic=500", "surrogate.classes=5", "surrogate.arch=small",
    "surrogate.width=16", "surrogate.steps=100", "extract.lambdas=[0, 2]", "extract.samples=500", "extract.steps=4",
    "report.pdf=false",
]  # fmt: skip
"""Settings that make the audit take a minute."""


@pytest.fixture
def installed(tmp_path) -> Path:
    """The environment of the newcomer: the built wheel, on top of the dependencies of this one."""
    wheels = tmp_path / "wheels"
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, ROOT], check=True
    )
    venv.create(tmp_path / ".venv", with_pip=False, symlinks=True)
    site = next((tmp_path / ".venv").glob("lib/python3*/site-packages"))
    (wheel,) = wheels.glob("side_ray-*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel]
    subprocess.run(install, check=True)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return tmp_path / ".venv" / "bin" / "python"


@pytest.mark.slow
def test_from_a_wheel_to_an_audit_of_a_pipeline(installed, tmp_path):
    home = tmp_path / "empty"
    digits = load_digits().images
    for name, images in (("train", digits[:60]), ("unseen", digits[60:200])):
        (home / name).mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(np.asarray(image)[:, :, 0]).save(home / name / f"{number:03d}.png")
    unet = new_unet({"block_out_channels": [8], "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"],
                     "layers_per_block": 1, "norm_num_groups": 4}, (1, 8, 8))  # fmt: skip
    save_pipeline(unet, new_schedule("linear", 1000).config, home / "my-pipeline")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments: str) -> str:
        command = [installed, "-m", "side_ray.cli", *arguments]
        done = subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, timeout=550)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = subprocess.run(
        [installed, "-c", "import side_ray; print(side_ray.__file__)"], cwd=home, env=env, capture_output=True
    )
    assert str(tmp_path) in where.stdout.decode()
    steps = [each for each in commands() if each.page == "README.md" and each.verb in ("init", "plan", "audit")]
    assert [each.verb for each in steps] == ["init", "plan", "audit"]
    for each in steps:
        printed = run(*each.arguments, *(SMALL if each.verb != "init" else []))
    assert "verdict: " in printed
    assert len(list(home.glob("runs/*/report.html"))) == 1
