"""A small audit of real digits, end to end on a real Ray, and what repeated audits make again."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from diffusers import DDPMPipeline

from side_ray.algorithm import run_until
from side_ray.execution.progress import Reporter
from side_ray.images import decode_column
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.plan import Condition, conditions
from side_ray.stages.extract import extract
from side_ray.stages.prepare import prepare
from side_ray.stages.train_dpm import train_dpm
from tests.audits import tiny_config
from tests.bruteforce import check
from tests.local import stages_here, without_ray

pytestmark = pytest.mark.usefixtures("undrawn")


def directory(artifacts: Artifacts) -> Path:
    return Path(artifacts.run.store.uri)


def stamps(root: Path, *stages: str) -> dict[str, int]:
    """Modification time of each file of some stages."""
    files = [path for stage in stages for path in (root / stage).rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in files}


@pytest.fixture
def copied(tiny_audit, tmp_path):
    """A copy of the audit in the test's own directory."""
    shutil.copytree(directory(tiny_audit), tmp_path / "run")
    return tmp_path / "run"


def test_brute_force_finds_the_same_numbers(tiny_audit):
    assert check(directory(tiny_audit)) == []


def test_brute_force_would_notice_a_wrong_number(copied, tiny_audit):
    path = copied / tiny_audit.report.key / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["conditions"][0]["calibrated"]["ums_count"] += 1
    path.write_text(json.dumps(metrics))
    assert check(copied)


def test_sample_ids_are_whole_and_seeds_shared_between_conditions(tiny_audit):
    latest = json.loads((directory(tiny_audit) / "latest.json").read_text())
    assert sorted(latest["samples"]) == sorted(each.name for each in conditions(tiny_audit.config))
    seeds = []
    for key in latest["samples"].values():
        files = sorted((directory(tiny_audit) / key).glob("part-*.parquet"))
        assert [path.name for path in files] == [f"part-{i:06d}.parquet" for i in range(4)]
        tables = [pq.read_table(path, partitioning=None) for path in files]
        assert [i for table in tables for i in table.column("sample_id").to_pylist()] == list(range(200))
        seeds.append([seed for table in tables for seed in table.column("seed").to_pylist()])
    assert all(each == seeds[0] for each in seeds)
    assert len(set(seeds[0])) == 200


def test_targets_are_null_for_random_and_spread_over_the_classes_otherwise(tiny_audit):
    def targets(method: str, scale: float) -> list[int | None]:
        table = tiny_audit.samples(Condition(method, scale)).read_first(4, ["target"])  # type: ignore[arg-type]
        return table.column("target").to_pylist()

    kept = tiny_audit.surrogate.read_json("labels.json")["classes"]
    assert set(targets("random", 0.0)) == {None}
    assert set(targets("td", 2.0)) == set(range(kept))
    assert set(targets("ti", 1.0)) == set(range(10))


def test_the_trained_victim_opens_in_plain_diffusers(tiny_audit):
    pipeline = DDPMPipeline.from_pretrained(directory(tiny_audit) / tiny_audit.dpm.key)
    assert pipeline.unet.config.sample_size in (8, (8, 8), [8, 8])


def test_tables_open_in_other_readers(tiny_audit):
    import datasets
    import duckdb

    files = str(directory(tiny_audit) / tiny_audit.samples(Condition("td", 2.0)).directory / "part-*.parquet")
    assert duckdb.sql(f"select count(distinct seed) from read_parquet('{files}')").fetchall() == [(200,)]
    features = datasets.Features(
        sample_id=datasets.Value("int64"),
        seed=datasets.Value("int64"),
        target=datasets.Value("int64"),
        image=datasets.Image(),
    )
    images = datasets.Dataset.from_parquet(files, features=features, cache_dir=str(directory(tiny_audit) / ".hf"))
    assert images[0]["image"].size == (8, 8)


def test_a_second_run_makes_nothing_and_clears_away_what_killed_writers_left(copied, ray_session):
    before = stamps(copied, "prepare", "dpm", "synthetic", "surrogate", "samples", "scores", "report")
    left, being_written = (Path(copied) / "samples" / f".part-000001.parquet.{each * 32}.tmp" for each in "ab")
    for path in (left, being_written):
        path.write_bytes(b"half")
    os.utime(left, (time.time() - 2 * 86_400,) * 2)
    run_until("report", tiny_config(copied), Reporter())
    assert not left.exists()
    assert being_written.exists()
    being_written.unlink()
    assert stamps(copied, "prepare", "dpm", "synthetic", "surrogate", "samples", "scores", "report") == before


def test_a_longer_grid_and_more_samples_add_only_what_is_new(copied):
    before = stamps(copied, "dpm", "synthetic", "surrogate", "samples", "scores")
    changed = tiny_config(copied, extract__lambdas=[0, 2, 4], extract__samples=250)
    with without_ray():
        artifacts = run_until("report", changed, Reporter()).artifacts
    after = stamps(copied, "dpm", "synthetic", "surrogate", "samples", "scores")
    assert {name: after[name] for name in before} == before
    new = {name for name in after if name not in before and name.startswith("samples")}
    assert len(new) == 3 + 5  # the fifth shard of three existing conditions, and all five of the new one
    assert check(copied) == []
    assert {each["lambda"] for each in artifacts.report.read_json("metrics.json")["conditions"]} == {0, 1, 2, 4}


def test_a_changed_band_scores_again_and_samples_nothing(copied):
    before = stamps(copied, "dpm", "synthetic", "surrogate", "samples")
    changed = tiny_config(copied, score__bands={"wide": [0.8, 3.0], "tight": [None, 0.8]})
    with without_ray():
        artifacts = run_until("report", changed, Reporter()).artifacts
    assert stamps(copied, "dpm", "synthetic", "surrogate", "samples") == before
    entry = artifacts.report.read_json("metrics.json")["conditions"][0]
    assert set(entry["bands"]) == {"wide", "tight"}
    assert check(copied) == []


@pytest.mark.slow
def test_a_damaged_shard_is_found_and_made_again(copied, tiny_audit, ray_session):
    key = tiny_audit.samples(Condition("td", 2.0)).key(1)
    whole = pq.read_table(copied / key)
    for damaged in (copied / key, copied / tiny_audit.synthetic.key(2)):
        damaged.write_bytes(damaged.read_bytes()[:200])
    shutil.rmtree(copied / "scores")
    shutil.rmtree(copied / "report")
    run_until("report", tiny_config(copied), Reporter())
    again = pq.read_table(copied / key)
    assert np.array_equal(decode_column(again.column("image")), decode_column(whole.column("image")))
    assert check(copied) == []


@pytest.mark.slow
def test_replicated_scorers_find_what_split_ones_find(copied, tiny_audit, ray_session):
    shutil.rmtree(copied / "scores")
    shutil.rmtree(copied / "report")
    artifacts = run_until("report", tiny_config(copied, score__shards=1), Reporter()).artifacts
    before, after = (each.report.read_json("metrics.json")["conditions"] for each in (tiny_audit, artifacts))
    assert after == before


@pytest.mark.slow
def test_the_optimal_victim_is_all_copies(tmp_path, ray_session):
    config = tiny_config(
        tmp_path / "run",
        dpm__kind="optimal",
        extract__steps=20,
        surrogate__labels="classifier",
        extract__methods=["random", "td"],
        surrogate__ti_steps=80,
    )
    metrics = run_until("report", config, Reporter()).artifacts.report.read_json("metrics.json")
    random = metrics["conditions"][0]
    assert random["cumulative"]["high"]["ams"] == 1.0
    assert random["top_mean"]["10"] < 0.05
    assert check(tmp_path / "run") == []


def test_an_imported_pipeline_is_audited_like_a_trained_one(tmp_path, tiny_audit):
    path = str(directory(tiny_audit) / tiny_audit.dpm.key)
    config = tiny_config(tmp_path / "run", dpm__path=path, dpm__kind="import", extract__methods=["random"])
    artifacts = stages_here(config, [prepare, train_dpm, extract])
    ours, theirs = (
        each.samples(Condition("random", 0.0)).read_first(4).column("image").combine_chunks()
        for each in (artifacts, tiny_audit)
    )
    assert ours.equals(theirs)
