"""The verdict on simulated victims with known truth; the full simulation is `python -m bench.verdict`."""

import numpy as np
import pytest

from bench.verdict import CASES, summary, trials
from side_ray.statistics.evidence.ledger import Surroundings, at_equal_cost, leading_rows, ledger, reach, weigh
from side_ray.statistics.evidence.pool import Competition, PoolShape
from side_ray.statistics.evidence.verdict import FDR, judge, with_members_captions


def won_by(winners: list[int], closeness: float = 0.0) -> Competition:
    return Competition(
        np.array(winners), np.full(len(winners), closeness, np.float32), np.arange(len(winners)), np.array(winners)
    )


@pytest.mark.parametrize(
    ("case", "outcome"),
    [("nothing, d = m", "none_found"), ("10 % planted, d = 2 m", "found"), ("half blank, one kind planted", "found")],
)
def test_simulated_victims(case, outcome):
    for trial in trials(CASES[case], 1):
        assert trial.judgement.verdict.outcome == outcome
        assert trial.excess.established == (outcome == "found")


def test_without_unseen_images_it_cannot_say():
    verdict = judge(PoolShape.plain(10, 0), [won_by([1, 2])], -0.5, 0.001).verdict
    assert (verdict.outcome, verdict.reason) == ("cannot_say", "no_unseen")
    assert "data.holdout" in verdict.remedy


def test_too_few_images_cannot_say_none():
    verdict = judge(PoolShape.plain(4, 8), [won_by([4, 0])], -0.5, 0.001).verdict
    assert (verdict.outcome, verdict.reason) == ("cannot_say", "too_small")


def test_unseen_images_of_another_kind_are_noticed():
    verdict = judge(PoolShape.plain(50, 100), [won_by([*range(50, 130), 3])], -0.5, 0.001).verdict
    assert (verdict.outcome, verdict.reason) == ("cannot_say", "not_alike")


def test_captions_of_members_are_no_evidence():
    (found,), (none,) = (trials(CASES[case], 1) for case in ("10 % planted, d = 2 m", "nothing, d = m"))
    verdict = with_members_captions(found.judgement.verdict)
    assert (verdict.outcome, verdict.reason) == ("cannot_say", "captions")
    assert verdict.distinct == found.judgement.verdict.distinct
    assert "dpm.prompts=captions" in verdict.remedy
    assert with_members_captions(none.judgement.verdict) == none.judgement.verdict


def test_fewer_than_can_be_counted_are_found_but_not_counted():
    winners = [0, 1, 2, 3, 4, 5, 6, *range(100, 150)]
    found = Competition(np.array(winners), -np.arange(len(winners), dtype=np.float32), *[np.empty(0, int)] * 2)
    verdict = judge(PoolShape.plain(100, 200), [found], -3.5, 0.001).verdict
    assert (verdict.outcome, verdict.reason, verdict.distinct) == ("found", "few", 1)
    assert verdict.smallest_claimable == 10


def test_revealed_and_copied_are_counted_apart():
    winners = list(range(40))
    found = Competition(np.array(winners), -np.arange(40, dtype=np.float32), *[np.empty(0, int)] * 2)
    judgement = judge(PoolShape.plain(100, 200), [found], -9.5, 0.001)
    assert (judgement.verdict.distinct, judgement.verdict.copied) == (40, 10)
    low, high = judgement.verdict.distinct_ci
    assert 30 <= low <= 40 <= high <= 60


def test_every_condition_and_every_image_gets_its_numbers():
    found = {("random", 0.0): won_by([0] * 5 + list(range(1, 30))), ("td", 2.0): won_by([31] + [60] * 33)}
    shape = PoolShape.plain(50, 100)
    evidence = weigh(shape, found, -0.5, 0.001)
    random, guided = evidence.conditions["random", 0.0], evidence.conditions["td", 2.0]
    assert random["discoveries"]["0.05"] == {"samples": 34, "distinct": 30}
    assert guided["discoveries"]["0.05"] == {"samples": 0, "distinct": 0}
    assert random["excess"] == 1
    assert guided["excess"] == pytest.approx(1 / 34 - 33 / 34 * 0.5)
    assert guided["excess_over_random"]["difference"] < 0
    around = Surroundings(np.linspace(1, 2, 50), np.full(50, 0.7, np.float32), np.arange(50))
    table = ledger(shape, evidence.judgement, found, None, around, -1)
    assert table["matches"][:3].tolist() == [5, 1, 1]
    assert table["methods"][0] == ["random"]
    assert table["methods"][31] == ["td"]
    assert table["probability"][0] == pytest.approx(5 / 34)
    assert table["probability_low"][0] < 5 / 34 < table["probability_high"][0]
    assert table["revealed"].sum() == evidence.judgement.verdict.distinct
    assert table["best"][49] is None
    assert table["local_density"][0] == pytest.approx(1.5)
    assert [each.tolist() for each in table["condition_matches"][:2]] == [[5, 0], [1, 0]]
    rows = leading_rows(table, 10)
    assert [row["matches"] for row in rows[:2]] == [5, 1]
    assert len(rows) == 10


def test_a_costlier_condition_reveals_what_fewer_samples_do():
    shape = PoolShape.plain(50, 100)
    found = {"plain": (shape, won_by([*range(30)] * 2)), "guided": (shape, won_by([*range(40), *[60] * 20]))}
    rows = at_equal_cost(found, {"plain": 10.0, "guided": 16.0})
    assert rows["plain"] == {"per_sample": 10.0, "samples": 60, "distinct": 30}
    assert rows["guided"] == {"per_sample": 16.0, "samples": 37, "distinct": 37}


def test_images_within_reach_never_exceed_the_training_set_and_are_withheld_at_low_coverage():
    counts = np.array([1] * 20 + [2] * 2 + [0] * 8)
    table = {"train_id": np.arange(30), "group": np.arange(30), "revealed": np.arange(30) < 29}
    withheld = reach(table | {"condition_matches": counts[:, None]}, 0, 1000)
    assert withheld["coverage"] < 0.5
    assert withheld["chao2"] is None
    assert max(row["m"] for row in withheld["curve"]) == 1000
    counts = np.array([1] * 12 + [3] * 10 + [0] * 8)
    found = reach(table | {"condition_matches": counts[:, None]}, 0, 1000)
    assert found["chao2"]["value"] == 30
    assert found["chao2"]["ci"][1] == 30
    assert max(row["m"] for row in found["curve"]) == 2000
    assert max(row["ci"][1] for row in found["curve"]) <= 30


@pytest.mark.slow
@pytest.mark.parametrize("case", list(CASES))
def test_rates_hold_in_500_simulations(case):
    """With 500 runs the standard error of a share of 5 % is 1 %."""
    numbers = summary(list(trials(CASES[case], 500)))
    assert numbers["cannot_say"] <= 0.10
    assert numbers["realised_fdr"] <= FDR
    assert numbers.get("different", 0.0) <= 0.05 + 2 * 0.01
    assert numbers["covered"] >= 0.93
    if CASES[case].planted:
        assert numbers["found"] >= 0.8
        assert numbers["covered"] <= 0.97
    else:
        assert numbers["found"] <= 0.05
        assert numbers["covered"] <= (0.98 if CASES[case].cut > 0.6 else 1.0)
