import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from side_ray.cli import app
from side_ray.config.file import parse_config
from side_ray.results.pairs import thumbnails
from side_ray.results.pairs.chosen import around_the_cut, closest_of_each
from side_ray.results.pairs.pictures import Pictures
from side_ray.runs.plan import Condition
from side_ray.runs.run import PAGE
from side_ray.runs.scores import read_conditions
from side_ray.stages.report import report
from side_ray.storage.local import LocalStore
from tests.local import stages_here


@pytest.fixture
def scores(local_audit):
    return read_conditions(local_audit)


def never(name: str, data: bytes) -> None:
    raise AssertionError(name)


def pairs_of(page: str) -> dict:
    return json.loads(re.search(r'id="pairs-data">(.*?)</script>', page, re.DOTALL)[1])


def test_closest_of_each_method_are_distinct_and_in_order(scores):
    found = closest_of_each(scores, False, 5)
    assert sorted(found) == ["random", "td"]
    for method, pairs in found.items():
        each = Condition(method, pairs[0].condition.scale)
        assert len({pair.train_id for pair in pairs}) == len(pairs) == 5
        assert [pair.value for pair in pairs] == sorted(pair.value for pair in pairs)
        assert pairs[0].value == scores[each].best.min()
    farthest = max(found.best.max() for each, found in scores.items() if each.method == "td")
    assert closest_of_each(scores, True, 5)["td"][0].value == farthest


def test_pairs_around_the_cut_are_those_within_it_then_the_nearest_beyond(scores):
    limit = np.median(np.concatenate([found.best for found in scores.values()]))
    within = {each: found.best <= limit for each, found in scores.items()}
    pairs, count = around_the_cut(scores, within, False, 10_000)
    assert count == sum(int(inside.sum()) for inside in within.values())
    values = [pair.value for pair in pairs]
    assert max(values[:count]) <= limit < min(values[count:])
    assert values == sorted(values)
    assert len(values) == count + 24
    some, again = around_the_cut(scores, within, False, 7)
    assert again == count
    assert [pair.value for pair in some[:7]] == values[:7]
    assert around_the_cut(scores, within, False, 0) == ([], count)


def test_page_holds_the_images_of_its_pairs(local_audit, scores):
    page = pairs_of(local_audit.run.store.read(PAGE).decode())
    assert page["rows"]
    method, scale, sample, train, value, label, _, q_value, unseen, unseen_value = page["rows"][0]
    found = scores[Condition(method, scale)]
    assert found.best_id[sample] == train
    assert found.best[sample] == np.float32(value)
    assert 0 <= q_value <= 1
    assert 0 <= unseen < 120
    assert unseen_value > 0
    assert label in range(10)
    pictures = Pictures(local_audit, closest_of_each(scores, False, 1)["td"])
    pair = pictures.pairs[0]
    decoded = np.asarray(Image.open(io.BytesIO(pictures.items([pair])[0]["train_png"])))
    assert np.array_equal(decoded, pictures._members[pair.train_id][:, :, 0])
    assert len(page["samples"]) == len(page["rows"])
    assert set(page["train"]) == {str(row[3]) for row in page["rows"]}
    assert set(page["unseen"]) == {str(row[8]) for row in page["rows"]}


@pytest.mark.parametrize("redact", ["blur", "omit"])
def test_redacted_images_cannot_be_told(local_audit, scores, redact):
    chosen = closest_of_each(scores, False, 2)["td"]
    plain, hidden = Pictures(local_audit, chosen), Pictures(local_audit, chosen, redact=redact)
    for clear, item in zip(plain.items(chosen), hidden.items(chosen), strict=True):
        for name in ("train_png", "sample_png"):
            if redact == "omit":
                assert item[name] is None
                continue
            first, second = (np.asarray(Image.open(io.BytesIO(each[name])), float) for each in (clear, item))
            assert first.shape == second.shape
            assert second.std() < 0.6 * first.std()
    listed = hidden.listed(chosen, 2, 2, None, never)
    clear = plain.listed(chosen, 2, 2, None, never)
    assert not {*clear["samples"], *clear["train"].values(), *clear["unseen"].values()} & {
        *listed["samples"],
        *listed["train"].values(),
        *listed["unseen"].values(),
    }
    assert redact == "blur" or {*listed["samples"], *listed["train"].values()} == {""}


@pytest.mark.parametrize("redact", ["none", "blur", "omit"])
def test_pairs_that_the_page_does_not_hold_are_in_sheets(local_audit, scores, redact, monkeypatch):
    monkeypatch.setattr(thumbnails, "MOST_BYTES", 2_000)
    within = {each: np.ones(len(found.best), bool) for each, found in scores.items()}
    chosen, count = around_the_cut(scores, within, False, 10_000)
    files = {}
    listed = Pictures(local_audit, [], chosen, redact).listed(chosen, count, count, None, files.__setitem__)
    assert len(listed["rows"]) == listed["shown"] == count == 200
    if redact == "omit":
        assert not files
        assert listed["sheets"] is None
        return
    assert listed["sheets"] == {"folder": "pairs", "kind": "png", "cell": 8}
    sheets = {name: np.asarray(Image.open(io.BytesIO(data))) for name, data in files.items()}
    clear = Pictures(local_audit, chosen)
    for pair, found in zip(chosen, listed["samples"], strict=True):
        if isinstance(found, list):
            number, column, row, width, height = found
            shown = sheets[f"pairs/{number:03d}.png"][row * 8 : row * 8 + height, column * 8 : column * 8 + width]
            image = clear._samples[pair.condition, pair.sample_id][:, :, 0]
            assert np.array_equal(shown, image) == (redact == "none")


@pytest.mark.long
def test_both_pages_of_a_run_find_the_folder_and_so_does_a_copy_from_object_storage(
    local_audit, copied, monkeypatch, tmp_path
):
    monkeypatch.setattr(thumbnails, "MOST_BYTES", 2_000)
    values = local_audit.config.model_dump(mode="json")
    values["run"]["uri"], values["report"]["title"] = str(copied), "In sheets"
    config = parse_config(values, "copy")
    made = stages_here(config, [report]).report
    first, top = made.store.read(f"{made.key}/index.html").decode(), made.store.read(PAGE).decode()
    assert pairs_of(first)["sheets"]["folder"] == "pairs"
    assert pairs_of(top)["sheets"]["folder"] == f"{made.key}/pairs"
    assert (copied / made.key / "pairs" / "000.png").is_file()
    assert f"{made.key}/pairs/000.png" in made.digests()
    stages_here(config, [report])
    assert made.store.read(PAGE).decode() == top

    remote = LocalStore(copied)
    remote.uri = "s3://bucket/run"
    monkeypatch.setattr("side_ray.cli.reading.open_store", lambda *given, **named: remote)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (address,) = CliRunner().invoke(app, ["open", "s3://bucket/run", "--no-browser"]).output.split()
    page = Path(address.removeprefix("file://"))
    assert page.is_relative_to(tmp_path)
    assert page.read_text() == top
    sheet = pairs_of(top)["sheets"]["folder"] + "/000.png"
    assert (page.parent / sheet).read_bytes() == (copied / sheet).read_bytes()
