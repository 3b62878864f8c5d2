"""Class-conditional DPMs: training, import, sampling, extraction, and comparison of twins."""

import json

import pytest
import torch

from side_ray.algorithm import run_until
from side_ray.diffusion.condition import Condition
from side_ray.diffusion.dpm import load_dpm
from side_ray.errors import UserError
from side_ray.execution.audit import Audit
from side_ray.execution.progress import Reporter
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.plan import Condition as Sampled
from side_ray.stages.train_dpm import DpmRecipe
from side_ray.studies.theory import theory
from side_ray.studies.twins import run_twins
from side_ray.training.data import open_members
from tests.audits import tiny_config
from tests.bruteforce import check

FEW = {"dpm__steps": 30, "extract__methods": ["random"], "surrogate__synthetic": 50, "surrogate__classes": 2}


def audited(uri, **changes):
    return run_until("extract", tiny_config(uri, **(FEW | changes)), Reporter()).artifacts


def columns(artifacts, *names: str) -> list[list]:
    table = artifacts.samples(Sampled("random", 0.0)).read_first(4, list(names))
    return [table.column(name).to_pylist() for name in names]


@pytest.fixture(scope="module")
def random_twin(ray_session, tmp_path_factory):
    """A DPM with 4 random labels, sampled without guidance."""
    return audited(tmp_path_factory.mktemp("conditional") / "run", dpm__condition="random", dpm__condition_classes=4)


@pytest.mark.slow
def test_each_sample_draws_its_class_from_its_seed(random_twin):
    seeds, classes = columns(random_twin, "seed", "class")
    assert classes == Condition((15, 15, 15, 15)).classes_of(seeds).tolist()
    assert set(classes) == {0, 1, 2, 3}


@pytest.mark.slow
def test_the_class_condition_changes_the_samples(random_twin):
    dpm = load_dpm(random_twin.run.store.fetch_dir(random_twin.dpm.key))
    assert dpm.condition == Condition((15, 15, 15, 15))
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))[:1].repeat(4, 1, 1, 1)
    eps = dpm.eps(x, torch.full((4,), 500), torch.arange(4))
    assert all(not torch.equal(eps[0], other) for other in eps[1:])


@pytest.mark.slow
def test_an_imported_conditional_model_is_sampled_with_its_own_classes(random_twin, tmp_path):
    path = f"{random_twin.run.store.uri}/{random_twin.dpm.key}"
    artifacts = audited(tmp_path / "run", dpm__kind="import", dpm__path=path, dpm__steps=160)
    assert columns(artifacts, "class", "image") == columns(random_twin, "class", "image")


def test_unconditional_samples_have_no_class_column(tiny_audit):
    table = tiny_audit.samples(Sampled("random", 0.0)).read(0)
    assert "class" not in table.column_names


def test_recipes_differ_in_the_embedding_alone_and_learn_from_the_label(tiny_audit):
    dpm, device = tiny_audit.config.dpm, torch.device("cpu")
    members = open_members(tiny_audit.prepare, float("inf"), dpm.batch_size, None, 0, device)
    plain = DpmRecipe(members, dpm, 0, device)
    twin = DpmRecipe(members, dpm.model_copy(update={"condition": "unique"}), 0, device)
    names = [set(recipe.module.state_dict()) for recipe in (plain, twin)]
    assert names[1] - names[0] == {"class_embedding.weight"}
    assert twin.module.class_embedding.weight.shape[0] == members.count
    twin.loss(twin.module, *twin.draw(0, slice(0, 16))).backward()
    seen = twin.module.class_embedding.weight.grad.abs().sum(1) > 0
    assert seen.nonzero()[:, 0].tolist() == sorted(members.draw(0, slice(0, 16))[1].tolist())


def test_condition_is_in_the_models_fingerprint_and_its_absence_is_not(tmp_path):
    def key(**changes) -> str:
        return Artifacts.open(tiny_config(tmp_path / "run", **changes)).dpm.key

    assert key() == key(dpm__condition_classes=7)
    assert len({key(), *(key(dpm__condition=kind) for kind in ("labels", "random", "unique"))}) == 4
    assert key(dpm__condition="random") != key(dpm__condition="random", dpm__condition_classes=7)
    assert key(dpm__condition="unique") == key(dpm__condition="unique", dpm__condition_classes=7)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dpm__kind": "optimal", "dpm__condition": "unique"}, "dpm.condition: unique is for training"),
        ({"dpm__condition": "random", "dpm__condition_classes": 61}, "dpm.condition_classes: 61 classes for 60"),
    ],
)
def test_an_invalid_condition_is_refused_before_anything_starts(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        tiny_config(tmp_path / "run", **changes)


def test_only_a_trained_dpm_has_twins(tmp_path):
    with pytest.raises(UserError, match=r"dpm\.kind: twins have to be trained"):
        run_twins(tiny_config(tmp_path / "run", dpm__kind="optimal"), Reporter())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twins_are_audited_side_by_side_and_side_runs_on_them(ray_session, tmp_path):
    config = tiny_config(tmp_path / "run", extract__methods=["random", "td"], dpm__condition_classes=5)
    lines = run_twins(config, Reporter())
    artifacts = Artifacts.open(config)
    latest = artifacts.run.latest()
    assert latest["report"] == artifacts.report.key
    found = json.loads(artifacts.run.store.read(f"{latest['twins']}/twins.json"))
    assert [twin["condition"] for twin in found["twins"]] == ["none", "labels", "random", "unique"]
    assert [twin["classes"] for twin in found["twins"]] == [None, 10, 5, 60]
    for twin in found["twins"]:
        assert [(row["method"], row["lambda"]) for row in twin["conditions"]] == [("random", 0.0), ("td", 2.0)]
        assert ("against_unconditional" in twin["conditions"][0]) == (twin["condition"] != "none")
    plain = found["twins"][0]["conditions"][0]
    assert plain["common"]["ams_count"] == plain["own"]["ams_count"]
    assert plain["common"]["ums_best_count"] == plain["own"]["ums_best_count"]
    assert "## The paper's claim" in lines[0]
    csv = artifacts.run.store.read(f"{latest['twins']}/twins.csv").decode().splitlines()
    assert csv[0].startswith("condition,method,lambda,n")
    assert {line.split(",")[0] for line in csv[1:]} == {"none", "labels", "random", "unique"}
    assert check(tmp_path / "run") == []
    unique = tiny_config(
        tmp_path / "run", dpm__condition="unique", theory={"points": 20, "ode_steps": 8, "epsilons": [0.01]}
    )
    divergence = theory(Audit.open(unique, Reporter()))
    assert divergence["point_memorization"] is None
    assert all(entry["value"] > 0 for entry in divergence["divergence"])
    assert {row["n"] for twin in found["twins"] for row in twin["conditions"]} == {200}
