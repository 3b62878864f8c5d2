"""The control on a real audit: other images, another DPM, the same classifiers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from side_ray.algorithm import run_until
from side_ray.errors import UserError
from side_ray.execution.progress import Reporter
from side_ray.images import decode_column
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.control import control_artifacts, control_conditions, control_samples, control_scores
from side_ray.runs.dataset import read_split
from side_ray.runs.plan import Condition
from tests.audits import tiny_config
from tests.bruteforce import check, nl2, split_of

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def controlled(tiny_audit, tmp_path_factory):
    """The tiny audit, extended by a control."""
    root = tmp_path_factory.mktemp("control") / "run"
    shutil.copytree(tiny_audit.run.store.uri, root)
    return run_until("report", tiny_config(root, control={"members": 70}), Reporter()).artifacts


@pytest.mark.slow
def test_the_audits_own_numbers_and_artifacts_stay_what_they_were(controlled, tiny_audit):
    own, found = (each.report.read_json("metrics.json") for each in (tiny_audit, controlled))
    assert own["conditions"] == found["conditions"]
    assert "control" not in own
    assert controlled.report.key != tiny_audit.report.key
    assert controlled.dpm.key == tiny_audit.dpm.key
    before, after = tiny_audit.run.latest(), controlled.run.latest()
    assert {name for name in after if after[name] != before.get(name)} == {"report"}
    assert check(Path(controlled.run.store.uri)) == []


@pytest.mark.slow
def test_control_was_trained_on_images_of_none_of_the_three_sets(controlled):
    other = control_artifacts(controlled)
    theirs = read_split(other.run.store, other.prepare.key, "member").images.reshape(70, -1)
    assert other.dpm.key != controlled.dpm.key
    digits = np.concatenate(
        [
            read_split(controlled.run.store, controlled.prepare.key, split).images.reshape(60, -1)
            for split in ("member", "calibration", "holdout")
        ]
    )
    # All of scikit-learn's digits are distinct in their pixels.
    assert not {row.tobytes() for row in theirs} & {row.tobytes() for row in digits}


@pytest.mark.slow
def test_counts_are_those_of_brute_force(controlled):
    root, metrics = Path(controlled.run.store.uri), controlled.report.read_json("metrics.json")
    other = control_artifacts(controlled)
    splits = [split_of(root / controlled.prepare.key, name) for name in ("member", "holdout")]
    rows = metrics["control"]["conditions"]
    assert [(row["method"], row["lambda"]) for row in rows] == [("random", 0.0), ("ti", 1.0), ("td", 2.0)]
    for condition, row in zip(control_conditions(controlled.config), rows, strict=True):
        table = control_samples(controlled, other, condition).read_first(4, ["image"])
        images = decode_column(table.column("image")).reshape(200, -1).astype(float)
        member, holdout = (nl2(images, split).min(1) <= np.float32(metrics["cut"]) for split in splits)
        assert row["n"] == 200
        assert row["calibrated"]["ams_count"] == member.sum()
        assert row["calibrated"]["holdout_count"] == holdout.sum()
        assert row["only_members"] == (member & ~holdout).sum()
        assert row["only_holdout"] == (holdout & ~member).sum()


@pytest.mark.slow
def test_control_samples_share_seeds_and_targets_with_the_audit(controlled):
    other = control_artifacts(controlled)
    condition = Condition("td", 2.0)
    ours, theirs = (
        shards.read_first(4, ["seed", "target", "image"])
        for shards in (controlled.samples(condition), control_samples(controlled, other, condition))
    )
    assert ours.select(["seed", "target"]).equals(theirs.select(["seed", "target"]))
    assert not ours.column("image").equals(theirs.column("image"))


@pytest.mark.slow
def test_the_page_says_what_came_out(controlled):
    page = controlled.run.store.read(f"{controlled.report.key}/index.html").decode()
    assert "Is it the model or the classifier?" in page
    assert "70 other images" in page


@pytest.mark.slow
def test_a_second_run_makes_nothing(controlled, ray_session):
    root = Path(controlled.run.store.uri)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.parquet")}
    run_until("report", controlled.config, Reporter())
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.parquet")} == before


@pytest.mark.slow
def test_a_damaged_shard_of_the_control_is_made_again(controlled, ray_session):
    other = control_artifacts(controlled)
    root, condition = Path(controlled.run.store.uri), Condition("td", 2.0)
    samples, scores = control_samples(controlled, other, condition), control_scores(controlled, other, condition)
    whole = (root / samples.key(1)).read_bytes()
    (root / samples.key(1)).write_bytes(whole[: len(whole) // 2])
    (root / scores.key(1)).unlink()
    for mark in ("_done.json", "_done_copy.json"):
        (root / controlled.control.key / mark).unlink()
    before = (root / controlled.control.key / "control.json").read_text()
    run_until("control", controlled.config, Reporter())
    assert (root / samples.key(1)).read_bytes() == whole
    assert json.loads((root / controlled.control.key / "control.json").read_text()) == json.loads(before)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"control": {"members": 1616}},
            r"1616 members and twice 1 unseen images are 1618, but digits holds 1617 behind",
        ),
        ({"control": {"members": 60}, "data__holdout": 900}, r"digits holds 1797"),
    ],
)
def test_too_few_other_images_are_reported_before_anything_starts(tmp_path, changes, words):
    with pytest.raises(UserError, match=words) as caught:
        run_until("prepare", tiny_config(tmp_path / "run", **changes), Reporter())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"control": {}, "dpm__path": "/x"}, "control: trains a second DPM"),
        ({"control": {"lambdas": [3]}}, "control.lambdas: holds a λ"),
        ({"control": {"member": 3}}, "control.member: unknown key"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        tiny_config(tmp_path / "run", **changes)


def test_only_the_asked_guidance_scales_are_repeated(tmp_path):
    config = tiny_config(tmp_path / "run", extract__lambdas=[0, 2, 5], control={"lambdas": [5]})
    assert [each.name for each in control_conditions(config)] == ["method=random/lambda=0.0", "method=td/lambda=5.0"]


def test_no_control_changes_no_name_of_an_artifact(tmp_path):
    plain, asked = (
        Artifacts.open(tiny_config(tmp_path / "run", **changes))
        for changes in ({}, {"control": {}, "theory": {"points": 9}})
    )
    for name in ("prepare", "dpm", "surrogate", "theory"):
        same = getattr(plain, name).key == getattr(asked, name).key
        assert same == (name != "theory")
    assert plain.report.key != asked.report.key
    assert Artifacts.open(tiny_config(tmp_path / "run", theory={"points": 9})).report.key == plain.report.key
