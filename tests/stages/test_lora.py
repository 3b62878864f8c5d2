"""SIDE by a LoRA surrogate in an audit: trained, guiding, damaged and made again."""

from pathlib import Path

import pytest
from rich.console import Console

import side_ray
from side_ray.algorithm import run_until
from side_ray.errors import UserError
from side_ray.execution.progress import Reporter
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.cost.sampling import estimate, unit_flops
from side_ray.runs.plan import Condition, conditions
from side_ray.runs.status import planned
from tests.audits import tiny_config
from tests.bruteforce import check

pytest.importorskip("peft", reason="needs the extra text")
LORA = Condition("lora", 2.0)


def config_of(tmp_path, **changes):
    surrogate = {"kind": "lora", "labels": "random", "classes": 5, "synthetic": 100, "steps": 20, "checkpoint_every": 8}
    methods = {"extract__methods": ["random", "td"], "extract__samples": 100}
    return tiny_config(tmp_path / "run", surrogate=surrogate, **methods, **changes)


def test_its_conditions_and_fingerprints_are_its_own(tmp_path):
    config, plain = config_of(tmp_path), tiny_config(tmp_path / "run")
    assert [each.method for each in conditions(config)] == ["random", "lora"]
    assert "kind" not in plain.surrogate.model_dump()
    one, other = (Artifacts.open(config_of(tmp_path)) for _ in range(2))
    assert one.samples(LORA).fingerprint == other.samples(LORA).fingerprint
    ranked = config.model_copy(update={"surrogate": config.surrogate.model_copy(update={"rank": 4})})
    assert Artifacts.open(ranked).samples(LORA).fingerprint != one.samples(LORA).fingerprint
    assert (
        Artifacts.open(ranked).samples(Condition("random", 0)).directory
        == one.samples(Condition("random", 0)).directory
    )


@pytest.mark.long
def test_its_stage_and_its_work_are_planned(tmp_path):
    artifacts = Artifacts.open(config_of(tmp_path, extract__steps=10))
    cost, flops = estimate(artifacts), unit_flops(artifacts)
    assert {"train_surrogate: lora"} == {each.stage for each in planned(artifacts) if "surrogate" in each.stage}
    sampling = flops["synthetic"][0] * 100 + sum(flops["extract"]) * 2 * 100
    assert sampling == pytest.approx(cost.flops)
    assert flops["train_surrogate: lora"][0] > flops["synthetic"][0]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"dpm__kind": "optimal"}, r"surrogate\.kind"),
        ({"control": {"members": 60}}, "control"),
    ],
)
def test_what_has_no_network_of_its_own_is_refused(tmp_path, changes, key):
    with pytest.raises(UserError, match=key):
        config_of(tmp_path, **changes)


@pytest.mark.slow
def test_an_audit_by_lora(ray_session, tmp_path):
    config = config_of(tmp_path)
    artifacts = run_until("report", config, Reporter(Console(quiet=True))).artifacts
    metrics = artifacts.report.read_json("metrics.json")
    assert [each["method"] for each in metrics["conditions"]] == ["random", "lora"]
    assert metrics["surrogate"]["kind"] == "lora"
    assert len(metrics["surrogate"]["losses"]) == 10
    assert check(tmp_path / "run") == []
    page = (tmp_path / "run" / "report.html").read_text()
    assert "SIDE (LoRA)" in page
    run = side_ray.open_run(str(tmp_path / "run"))
    assert run.remake("lora", 2, 7).identical
    assert run.remake("random", 0, 7).identical
    weights = Path(artifacts.run.store.uri) / artifacts.surrogate.child("lora").key / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(b"x" * 100)
    run_until("report", config, Reporter(Console(quiet=True)))
    assert weights.read_bytes() == before
    assert run.remake("lora", 2, 7).identical
