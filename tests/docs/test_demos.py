"""The latent model of docs/models.md is made and audited by the commands that stand there."""

import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest

from docs.demos.latent_model import DETAIL, SIDE, TRAIN, detail_of, patches
from side_ray.config.file import load_config
from tests.bruteforce import check
from tests.docs.pages import ROOT, lines


def test_patches_are_distinct_and_have_detail():
    images = patches()
    assert images.shape[1:] == (SIDE, SIDE, 3)
    assert min(map(detail_of, images)) >= DETAIL
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)


def test_the_latent_config_fits_what_is_made():
    data, count = load_config(ROOT / "jobs" / "configs" / "latent.yaml").data, len(patches())
    assert data.members == TRAIN
    assert TRAIN + 2 * data.holdout <= count


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_latent_demo(tmp_path):
    for line in [line for page, line in lines() if page == "models.md" and "latent" in line]:
        program, *words = (str(ROOT / each) if each.startswith("jobs/") else each for each in shlex.split(line))
        module = ["-m", "side_ray.cli"] if program == "side-ray" else []
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, *module, *words], cwd=tmp_path, env=env, check=True)
    run = tmp_path / "runs" / "latent"
    assert check(run) == []
    report = json.loads((run / "latest.json").read_text())["report"]
    metrics = json.loads((run / report / "metrics.json").read_text())
    assert metrics["verdict"]["outcome"] == "found"
    assert metrics["verdict"]["distinct"] > TRAIN / 2
    random, *side = (each["excess"] for each in metrics["conditions"])
    assert max(side) > 1.3 * random > 0
