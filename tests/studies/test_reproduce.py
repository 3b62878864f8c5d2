"""The paper's tables from a small run: files, numbers equal to those of the run, and errors of the verb."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from side_ray.cli.app import app
from side_ray.config.file import load_config
from side_ray.errors import UserError
from side_ray.execution.progress import Reporter
from side_ray.statistics.richness import rarefy
from side_ray.storage import open_store
from side_ray.studies.presets import PER_CLASS, TABLES, preset_config
from side_ray.studies.reproduce import of_run, reproduce, reproduce_from

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"


@pytest.fixture(scope="module")
def run(tiny_audit, tmp_path_factory) -> Path:
    """A copy of the small audit."""
    root = tmp_path_factory.mktemp("reproduce") / "run"
    shutil.copytree(tiny_audit.run.store.uri, root)
    return root


@pytest.mark.parametrize("table", ["table1", "table3", "table4", "fig4", "fig5"])
def test_every_table_of_a_run_has_data_a_figure_and_a_text(run, table):
    _, found = reproduce_from(table, str(run), None)
    directory = run / "reproduce" / table
    assert sorted(path.suffix for path in directory.iterdir()) == [".csv", ".parquet", ".svg", ".txt"]
    assert pq.read_table(directory / f"{table}.parquet").num_rows == len(found.rows) > 0
    assert (directory / f"{table}.svg").read_text().startswith("<svg")
    assert "Not comparable" in (directory / f"{table}.txt").read_text()


def test_the_numbers_are_the_reports(run, tiny_audit):
    metrics = json.loads((run / tiny_audit.report.key / "metrics.json").read_text())
    rows = reproduce_from("table1", str(run), None)[1].rows
    for each in metrics["conditions"]:  # one λ per method, so the mean over λ is this value
        for band, entry in each["bands"].items():
            mine = [row for row in rows if (row["method"], row["band"]) == (each["method"], band)]
            assert [row["ams"] for row in mine] == [100 * entry["ams"]]
            assert [row["ums"] for row in mine] == [100 * entry["ums"]]


def test_measured_unique_images_lie_in_the_simultaneous_band_of_eq_150(run, tiny_audit):
    found = reproduce_from("fig5", str(run), None)[1]
    metrics = json.loads((run / tiny_audit.report.key / "metrics.json").read_text())
    names = {row["condition"] for row in found.rows}
    assert len(names) == 2
    for name in names:
        rows = [row for row in found.rows if row["condition"] == name]
        assert all(row["low"] <= row["measured"] <= row["high"] for row in rows)
        assert f"{name}: " in found.text
        assert "inside the simultaneous 95 % band" in found.text
    # The curve and the report's UMS come from the same hits, so they have the same expectation.
    random = metrics["conditions"][0]
    curve = {point["m"]: point["distinct"] for point in random["richness"]["curve"] if not point["extrapolated"]}
    rows = [row for row in found.rows if row["condition"] == "Random" and row["m"] in curve]
    assert len(rows) > 10
    assert [row["expected"] for row in rows] == pytest.approx([curve[row["m"]] for row in rows])
    assert curve[200] == random["calibrated"]["ums_count"] == rarefy(np.ones(int(curve[200]), int), 200, 200)


@pytest.mark.slow
def test_tables_by_classes_run_a_student_for_each(tmp_path, ray_session):
    config = preset_config("table2", "tiny", [f"run.uri={tmp_path}/run", "sweep.classes=[3, 4, 5]"])
    store, found = reproduce("table2", config, Reporter())
    assert [row["score"] for row in found.rows] == ["ams", "ums", "ums_equal"]
    points = reproduce("fig7", config, Reporter())[1].rows
    assert [row["classes"] for row in points] == [3, 4, 5]
    assert [row["n"] for row in points] == [100, 100, 100]  # 60, 80 and 100 in whole shards of 50
    assert len(list((tmp_path / "run" / "surrogate").iterdir())) == 3
    assert (Path(store.uri) / "reproduce" / "fig7" / "fig7.csv").exists()


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("preset", PER_CLASS)
def test_every_preset_is_a_config_for_every_table(table, preset):
    config = preset_config(table, preset)
    if table in ("table2", "fig7"):
        assert config.extract.lambdas == [0, 5]
        assert config.extract.samples_per_target == PER_CLASS[preset]
        assert len(config.sweep.classes or []) >= 3
    elif preset == "paper":
        assert config.extract.lambdas == list(range(51))
        assert config.extract.samples == 50_000


def test_the_paper_s_size_is_that_of_the_audit_of_its_data_set():
    theirs = load_config(CONFIGS / "celeba_hq_fi.yaml")
    assert preset_config("table1", "paper").model_dump(exclude={"sweep"}) == theirs.model_dump(exclude={"sweep"})


def test_a_run_without_report_and_a_table_that_no_run_has_are_refused(tmp_path, run):
    with pytest.raises(UserError, match="holds no report; run side-ray audit first"):
        reproduce_from("table1", str(tmp_path), None)
    with pytest.raises(UserError, match="table2 needs one student per number of classes"):
        reproduce_from("table2", str(run), None)


@pytest.mark.parametrize("table", ["table1", "table3", "table4", "fig4", "fig5"])
@pytest.mark.parametrize("method", ["given", "lora"])
def test_a_run_without_the_methods_of_a_table_is_refused(tmp_path, table, method):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "metrics.json").write_text(json.dumps({"conditions": [{"method": method}]}))
    (tmp_path / "latest.json").write_text(json.dumps({"report": "report"}))
    with pytest.raises(
        UserError, match=rf"{table} compares Random, .*SIDE; .* has only (Given samples|SIDE \(LoRA\)): give"
    ):
        of_run(table, open_store(str(tmp_path)))


def test_figure_5_reads_the_scores_of_the_report_whatever_was_scored_since(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    latest = json.loads((tmp_path / "run" / "latest.json").read_text())
    latest["scores"] = {"method=random/lambda=0.0": latest["scores"]["method=td/lambda=2.0"]}
    (tmp_path / "run" / "latest.json").write_text(json.dumps(latest))
    found = [of_run("fig5", open_store(str(where))).rows for where in (run, tmp_path / "run")]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    {
        "table": (["reproduce", "table9"], "unknown table 'table9': choose one of table1, table2"),
        "preset": (["reproduce", "table1", "--preset", "huge"], "unknown preset 'huge': choose one of tiny, digits"),
        "key": (["reproduce", "table1", "extract.lamda=[0]"], "extract.lamda: unknown key; did you mean lambdas?"),
        "sweep": (
            ["sweep", str(CONFIGS / "digits_sweep.yaml"), "sweep.lamdas=[0]"],
            "sweep.lamdas: unknown key; did you mean lambdas?",
        ),
        "file": (["sweep", "nothing.yaml"], "nothing.yaml: no such config file"),
    }.values(),
)
def test_a_users_mistake_is_one_line_and_exit_2(arguments, message):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert re.fullmatch(r"side-ray: .*\n", result.stderr)
