"""Each export is read back by the tool that it is made for, and holds the numbers of metrics.json."""

import io
import json
from hashlib import sha256

import pandas as pd
import pyarrow.parquet as pq
import pypdf
import pytest
import yaml
from huggingface_hub import ModelCard
from typer.testing import CliRunner

import side_ray
from side_ray.cli.app import app
from side_ray.config.file import parse_config
from side_ray.results.export import EXPORTS
from side_ray.results.recorded import Recorded
from side_ray.stages.report import report
from side_ray.storage import open_store
from tests.local import stages_here


@pytest.fixture
def run(uri) -> Recorded:
    return Recorded.open(open_store(uri))


def written(run: Recorded, name: str) -> bytes:
    return EXPORTS[name][0](run)


def test_model_card_has_the_verdict_and_a_row_for_each_condition(run):
    card = ModelCard(written(run, "hf-card").decode())
    values = {each.metric_type: each.metric_value for each in card.data.eval_results}
    assert values["verdict"] == run.metrics["verdict"]["outcome"]
    assert values["distinct"] == run.metrics["verdict"]["distinct"]
    assert values["td_2"] == run.metrics["conditions"][1]["discoveries"]["0.05"]["distinct"]
    assert "## Memorization audit" in card.text
    assert card.text.count("\n|") == 2 + len(run.metrics["conditions"])
    assert run.store.uri not in card.content


def test_text_from_outside_is_no_markup_in_the_card(run):
    run.metrics["conditions"][0]["method"] = "[x](javascript:1)|<b>"
    text = written(run, "hf-card").decode()
    assert "\\[x\\](javascript:1)\\|\\<b\\>" in text


def test_eval_results_are_entries_of_the_hub(run):
    entries = yaml.safe_load(written(run, "eval-results"))
    assert {"id": "digits", "task_id": "verdict"} in [each["dataset"] for each in entries]
    found = {each["dataset"]["task_id"]: each["value"] for each in entries}
    assert found["copied"] == run.metrics["verdict"]["copied"]
    assert all(each["date"] == run.metrics["provenance"]["at"] for each in entries)


def test_tables_are_those_of_the_report(run, uri):
    table = side_ray.open_run(uri).table
    assert len(pd.read_csv(io.BytesIO(written(run, "csv")))) == len(table)
    again = pq.read_table(io.BytesIO(written(run, "parquet"))).to_pandas()
    assert again["ams_count"].tolist() == table["ams_count"].tolist()


def test_croissant_names_every_table_with_its_digest_and_columns(run):
    found = json.loads(written(run, "croissant"))
    assert found["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    files = {each["@id"]: each for each in found["distribution"]}
    assert set(files) == {"metrics.csv", "extracted.csv", "extracted.parquet", "ledger.parquet"}
    for each in files.values():
        content = run.store.read(each["contentUrl"])
        assert each["sha256"] == sha256(content).hexdigest()
    for records in found["recordSet"]:
        columns = pq.read_schema(io.BytesIO(run.store.read(files[f"{records['name']}.parquet"]["contentUrl"]))).names
        assert [field["name"] for field in records["field"]] == columns
        assert all(field["source"]["fileObject"]["@id"] in files for field in records["field"])


def test_report_is_printed_where_chromium_is_and_purged_with_the_page(local_audit, copied):
    values = yaml.safe_load((copied / "config.yaml").read_text())
    values["run"]["uri"], values["report"]["pdf"] = str(copied), True
    stages_here(parse_config(values, "copy"), [report])
    (copied / "report.pdf").unlink()
    stages_here(parse_config(values, "copy"), [report])
    text = pypdf.PdfReader(copied / "report.pdf").pages[0].extract_text()
    assert "Signature" in text
    assert local_audit.report.read_json("metrics.json")["provenance"]["pixels"][:20] in text


def test_command_writes_the_files_that_are_asked_for(uri, tmp_path):
    done = CliRunner().invoke(app, ["export", uri, "--csv", "--croissant", "--out", str(tmp_path / "new")])
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["croissant.json", "metrics.csv"]
    nothing = CliRunner().invoke(app, ["export", uri])
    assert nothing.exit_code != 0
    shown = CliRunner().invoke(app, ["open", uri, "--no-browser"])
    assert shown.output.strip() == f"file://{uri}/report.html"
