"""What a source holds and what is left out stands in info.json and the report; too few usable images are explained."""

import shutil

import pytest

from side_ray.errors import UserError
from side_ray.stages.import_samples import import_samples
from side_ray.stages.prepare import prepare
from side_ray.stages.report import report
from side_ray.stages.score import score
from side_ray.studies.given import given_config
from tests.audits import PAGE_ONLY, tiny_config
from tests.formats import pictures, write_folder
from tests.local import stages_here

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.mark.long
def test_given_samples_are_scored_against_all_images_that_can_be_used(tmp_path):
    write_folder(tmp_path / "train", pictures(61, (8, 8)), classes=0)
    write_folder(tmp_path / "made", pictures(10, (8, 8), seed=1), classes=0)
    (tmp_path / "train" / "00001.png").write_bytes(b"<html>404</html>")
    shutil.copy(tmp_path / "train" / "00002.png", tmp_path / "train" / "z.png")
    (tmp_path / "train" / "notes.txt").write_text("x")
    (tmp_path / "made" / "seeds.txt").write_text("x")
    for over, members in (([], 61), (["data.dedup=exact"], 60)):
        over = ["data.skip_corrupt=true", *PAGE_ONLY, *over]
        config = given_config(str(tmp_path / "made"), str(tmp_path / "train"), None, str(tmp_path / "run"), over)
        artifacts = stages_here(config, [prepare, import_samples, score, report])
        metrics = artifacts.report.read_json("metrics.json")
        assert metrics["train_size"] == members
        sources = artifacts.prepare.read_json("info.json")["sources"]
        assert metrics["sources"][:-1] == sources
        assert [(row["role"], row["found"], row["read"]) for row in metrics["sources"]] == [
            ("images", 63, 61),
            ("samples", 11, 10),
        ]
        assert sources[0]["left_out"] == [
            {"reason": "no images", "count": 1, "first": ["notes.txt"]},
            {"reason": "not an image of a known format", "count": 1, "first": ["00001.png"]},
        ]
        page = artifacts.report.store.read(f"{artifacts.report.key}/index.html").decode()
        assert "1 not an image of a known format (00001.png)" in page


def test_a_refusal_names_what_was_left_out_and_does_not_advise_fewer_members(tmp_path):
    write_folder(tmp_path / "images", pictures(20, (8, 8)), classes=0)
    (tmp_path / "images" / "00003.png").write_bytes(b"x")
    where = {"data__source": "folder", "data__path": str(tmp_path / "images"), "data__members": 16, "data__holdout": 2}
    config = tiny_config(tmp_path / "run", **where, data__skip_corrupt=True)
    with pytest.raises(
        UserError, match=r"but folder holds 19\. Left out were 1 not an image .* \(00003\.png\): restore"
    ) as caught:
        stages_here(config, [prepare])
    assert "lower" not in str(caught.value)
