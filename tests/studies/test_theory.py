"""`side-ray theory` on real models: the trained DPM of the tiny audit, and the closed-form DPM with known results."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from side_ray.algorithm import run_until
from side_ray.errors import UserError
from side_ray.execution.audit import Audit
from side_ray.execution.progress import Reporter
from side_ray.runs.artifacts import Artifacts
from side_ray.studies.theory import run_theory, theory
from tests.audits import tiny_config
from tests.local import without_ray

SMALL = {"points": 30, "batch_size": 15, "timesteps": [100, 400], "draws": 3, "ode_steps": 12, "epsilons": [0.01]}


@pytest.fixture
def here():
    """Shards are made in this process."""
    with without_ray():
        yield


@pytest.fixture(scope="module")
def trained(tiny_audit, tmp_path_factory):
    """The theory of the tiny audit's DPM: artifacts, printed lines, and theory.json."""
    root = tmp_path_factory.mktemp("theory") / "run"
    shutil.copytree(tiny_audit.run.store.uri, root)
    config = tiny_config(root, theory=SMALL)
    with without_ray():
        lines = run_theory(config, Reporter())
    artifacts = Artifacts.open(config)
    return artifacts, lines, artifacts.theory.read_json("theory.json")


def test_the_audit_is_left_as_it_was(trained, tiny_audit):
    artifacts, _, _ = trained
    assert artifacts.dpm.key == tiny_audit.dpm.key
    assert artifacts.report.key == tiny_audit.report.key
    latest = artifacts.run.latest()
    assert latest.pop("theory") == artifacts.theory.key
    assert latest == tiny_audit.run.latest()


def test_every_latent_and_labelling_is_there_and_the_averages_hold(trained):
    _, lines, found = trained
    assert [(each["latent"], each["t"]) for each in found["latents"]] == [
        (name, t) for name in ("x_t", "middle block") for t in (100, 400)
    ]
    for each in found["latents"]:
        assert each["count"] == 3 * 60
        assert list(each["labellings"]) == ["true", "random", "cluster"]
        for labels in each["labellings"].values():
            assert all(row["eq_7"] for row in labels["labels"])
            assert labels["mean_trace"] <= each["trace"] * (1 + 1e-9)
            assert labels["pooled_ratio"] <= 1
            assert labels["mean_ratio"] <= 1
            assert sum(row["count"] for row in labels["labels"]) == each["count"]
        # Random labels carry no information about the images; clusters of their pixels carry much.
        explained = {name: labels["explained"] for name, labels in each["labellings"].items()}
        assert explained["random"] < explained["cluster"]
    assert any("the average holds" in line for line in lines)


def test_closed_forms_agree_with_monte_carlo_and_differences_on_real_latents(trained):
    _, _, found = trained
    rows = [row for each in found["latents"] for row in each["gaussian"] or []]
    assert rows
    for row in rows:
        assert row["point_monte_carlo"] == pytest.approx(row["point"], rel=0.01)
        assert row["derivative_numerical"] == pytest.approx(row["derivative"]["isotropic"], rel=1e-3, abs=1e-3)
        assert row["derivative"]["corrected"] <= row["derivative"]["isotropic"] <= row["derivative"]["printed"]


def test_text_names_each_failure(trained):
    artifacts, _, found = trained
    text = artifacts.run.store.read(f"{artifacts.theory.key}/theory.md").decode()
    for each in found["latents"]:
        for labels in each["labellings"].values():
            failing = [row["label"] for row in labels["labels"] if not row["eq_8"]]
            assert not failing or f"Eq. 8 fails for {len(failing)} label" in text
    names = {entry.key.rsplit("/", 1)[-1] for entry in artifacts.run.store.list(artifacts.theory.key)}
    assert {
        "theory.json",
        "theory.md",
        "divergence.svg",
        "labels-x-t-t100.svg",
        "labels-middle-block-t400.svg",
    } <= names


def test_a_second_run_makes_nothing(trained):
    artifacts, _, found = trained
    root = Path(artifacts.run.store.uri) / artifacts.theory.key
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    assert theory(Audit.open(artifacts.config, Reporter())) == found
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_lost_shard_is_made_again_to_the_same_numbers(trained, here):
    artifacts, _, found = trained
    root = Path(artifacts.run.store.uri) / artifacts.theory.key
    for mark in ("_done.json", "_done_copy.json"):
        (root / mark).unlink()
    next(root.glob("data/epsilon=*/part-000001.parquet")).unlink()
    again = theory(Audit.open(artifacts.config, Reporter()))
    assert json.dumps(again) == json.dumps(found)


@pytest.mark.long
def test_the_closed_form_is_at_no_distance_from_its_smoothed_training_set(tmp_path, here):
    settings = SMALL | {"points": 40, "batch_size": 20, "ode_steps": 40}
    config = tiny_config(tmp_path / "run", dpm__kind="optimal", theory=settings)
    found = theory(run_until("train_dpm", config, Reporter()))
    assert [each["latent"] for each in found["latents"]] == ["x_t", "x_t"]
    for entry in found["divergence"]:
        assert abs(entry["exact"]["value"]) < 1e-6
        assert abs(entry["per_dimension"]) < 0.01
    per_image = found["point_memorization"]["per_image"]
    assert np.all(np.diff([entry["value"] for entry in per_image]) < 0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"timesteps": [1000]}, "theory.timesteps: 1000 is beyond"), ({"classes": 61}, "theory.classes: 61")],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, here, settings, words):
    config = tiny_config(tmp_path / "run", dpm__kind="optimal", theory=SMALL | {"points": 2} | settings)
    with pytest.raises(UserError, match=words) as caught:
        theory(run_until("train_dpm", config, Reporter()))
    assert "\n" not in str(caught.value)
