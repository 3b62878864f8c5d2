"""The models of docs/models.md are made and audited by the commands that stand there."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from docs.demos.latent_model import DETAIL, SIDE, TRAIN, detail_of, patches
from side_ray.config.file import load_config
from tests.bruteforce import check
from tests.docs.pages import ROOT, lines


def test_patches_are_distinct_and_have_detail():
    images, captions = patches()
    assert images.shape[1:] == (SIDE, SIDE, 3)
    assert min(map(detail_of, images)) >= DETAIL
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images) == len(set(captions))


def test_the_latent_config_fits_what_is_made():
    data, count = load_config(ROOT / "jobs" / "configs" / "latent.yaml").data, len(patches()[0])
    assert data.members == TRAIN
    assert TRAIN + 2 * data.holdout <= count


@pytest.fixture
def text():
    return pytest.importorskip("docs.demos.text_model", reason="needs the extra text", exc_type=ImportError)


def test_the_text_config_fits_what_is_made(text):
    config = load_config(ROOT / "jobs" / "configs" / "text.yaml")
    assert config.data.members == text.TRAIN
    assert 2 * config.data.holdout == text.UNSEEN < len(patches()[0]) - text.TRAIN


def test_the_text_model_tells_its_captions_apart(text):
    tokenizer, (_, captions) = text.make_tokenizer(), patches()
    tokens = tokenizer(captions).input_ids
    assert tokenizer.unk_token_id not in {each for some in tokens for each in some[1:-1]}
    assert max(map(len, tokens)) <= text.LENGTH
    assert len({tuple(each) for each in tokens}) == len(captions)


def follow(name: str, directory: Path) -> None:
    """Run the commands of docs/models.md that make a demo's model and audit it."""
    for line in [
        line for page, line in lines() if page == "models.md" and (f"{name}-model" in line or f"{name}.yaml" in line)
    ]:
        program, *words = (str(ROOT / each) if each.startswith("jobs/") else each for each in shlex.split(line))
        module = ["-m", "side_ray.cli"] if program == "side-ray" else []
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, *module, *words], cwd=directory, env=env, check=True)


def checked(run: Path) -> dict[str, Any]:
    """The metrics of a run, which agree with those recomputed from its images."""
    assert check(run) == []
    report = json.loads((run / "latest.json").read_text())["report"]
    return json.loads((run / report / "metrics.json").read_text())


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_latent_demo(tmp_path):
    follow("latent", tmp_path)
    metrics = checked(tmp_path / "runs" / "latent")
    assert metrics["verdict"]["outcome"] == "found"
    assert metrics["verdict"]["distinct"] > TRAIN / 2
    random, *side = (each["excess"] for each in metrics["conditions"])
    assert max(side) > 1.3 * random > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_text_demo(tmp_path, text):
    follow("text", tmp_path)
    every = {name: checked(tmp_path / "runs" / name) for name in ("text", "text-members", "text-unseen", "text-empty")}
    assert every["text"]["verdict"]["outcome"] == "found"
    assert every["text-members"]["verdict"]["outcome"] == "cannot_say"
    random = {name: metrics["conditions"][0]["excess"] for name, metrics in every.items()}
    assert random["text"] > 0
    assert random["text-members"] > random["text-empty"]
    assert [each["method"] for each in every["text-empty"]["conditions"]] == ["random", "td", "td"]
