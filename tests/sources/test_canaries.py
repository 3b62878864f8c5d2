import csv
from pathlib import Path

import pytest

from side_ray.errors import UserError
from side_ray.results.privacy import Coins, coins_of
from side_ray.sources.canaries import plan_canaries
from side_ray.stages.prepare import prepare
from tests.audits import tiny_config
from tests.formats import pictures, write_folder
from tests.local import stages_here


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_every_pair_has_two_images_and_a_fair_coin(tmp_path):
    write_folder(tmp_path / "images", pictures(100), classes=0)
    lines = plan_canaries(str(tmp_path / "images"), 50, 3, str(tmp_path / "plan.csv"))
    rows = rows_of(tmp_path / "plan.csv")
    assert len({row["file"] for row in rows}) == 100
    pairs = [rows[i : i + 2] for i in range(0, 100, 2)]
    assert all(a["pair"] == b["pair"] and {a["train"], b["train"]} == {"0", "1"} for a, b in pairs)
    assert 10 < sum(a["train"] == "1" for a, _ in pairs) < 40
    assert "at most 2.8" in lines[2]
    with pytest.raises(UserError, match="exists; the coins of a plan are thrown once"):
        plan_canaries(str(tmp_path / "images"), 50, 3, str(tmp_path / "plan.csv"))
    with pytest.raises(UserError, match=r"--pairs 51: .* at most 50 pairs"):
        plan_canaries(str(tmp_path / "images"), 51, 3, str(tmp_path / "other.csv"))


def test_an_audit_finds_the_pairs_of_a_plan_on_the_sides_that_it_gave_them(tmp_path):
    write_folder(tmp_path / "images", pictures(60), classes=0)
    plan_canaries(str(tmp_path / "images"), 30, 0, str(tmp_path / "plan.csv"))
    for folder, side in (("trained", "1"), ("left", "0")):
        (tmp_path / folder).mkdir()
        for row in rows_of(tmp_path / "plan.csv"):
            if row["train"] == side:
                (tmp_path / folder / row["file"]).write_bytes((tmp_path / "images" / row["file"]).read_bytes())
    data = {"source": "folder", "path": str(tmp_path / "trained"), "holdout_path": str(tmp_path / "left")}
    data |= {"members": 30, "holdout": 15}
    model = {"kind": "optimal"}
    config = tiny_config(tmp_path / "run", data=data, dpm=model, privacy__canaries=str(tmp_path / "plan.csv"))
    artifacts = stages_here(config, [prepare])
    coins = coins_of(artifacts)
    assert isinstance(coins, Coins)
    assert (coins.pairs, coins.handicap) == (30, 0)
    assert {split for split, _ in coins.members} == {"member"}
    without = tiny_config(tmp_path / "run", data=data, dpm=model)
    assert coins_of(artifacts.sharing(without)) == "not_random"
    (tmp_path / "plan.csv").write_text("x")
    with pytest.raises(UserError, match=r"privacy\.canaries: .*plan\.csv is no plan of side-ray canaries"):
        coins_of(artifacts)
