"""The time left of an audit, from the rates of its stages."""

import io

import pytest
from rich.console import Console

from side_ray.execution.forecast import BESIDE_S, OTHERWISE_S, Forecast, Part, parts_of
from side_ray.execution.progress import Reporter
from side_ray.report.wording import about
from side_ray.runs.cost.sampling import estimate, unit_flops

PARTS = [
    Part("train_dpm", 100, model=20.0),
    Part("synthetic", 1000, model=4.0),
    Part("train_surrogate: student", 50, classifier=40.0),
    Part("extract", 2000, model=4.0, classifier=1.0),
    Part("report", 1),
]
BESIDE = 3 * OTHERWISE_S + BESIDE_S["report"]


@pytest.fixture
def forecast(local_audit) -> Forecast:
    return Forecast(local_audit, PARTS)


def test_later_stages_are_taken_to_compute_as_fast(forecast):
    # 2 units of 20 FLOPs a second: 40 FLOP/s. 4,000 + 2,000 + 10,000 FLOPs follow.
    assert forecast.left("train_dpm", 2.0, 60) == pytest.approx(60 / 2 + 16_000 / 40 + BESIDE)


def test_each_stage_makes_it_better(forecast):
    forecast.left("train_dpm", 2.0, 0)
    # Sampling is twice as fast; then the classifier half as fast as that.
    forecast.left("synthesize", 20.0, 0)
    assert forecast.left("train_surrogate: student", 1.0, 10) == pytest.approx(
        10 + 2000 * (4 / 80 + 1 / 40) + BESIDE - 10
    )
    assert forecast.left("extract", 8.0, 800) == pytest.approx(100 + BESIDE_S["report"])


def test_nothing_is_said_before_something_is_measured(forecast):
    assert forecast.left("prepare: read", 3.0, 5) is None
    assert forecast.left("train_dpm", 0.0, 100) is None


def test_the_control_comes_after_the_audit(local_audit):
    parts = [
        Part("train_dpm", 10, model=1.0),
        Part("extract", 10, model=1.0),
        Part("control: train_dpm", 30, model=1.0),
    ]
    forecast = Forecast(local_audit, parts)
    forecast.left("extract", 1.0, 10)
    assert forecast.left("train_dpm", 1.0, 30) == 30


def test_a_finished_audit_has_nothing_left(local_audit):
    assert parts_of(local_audit) == []


def test_the_work_is_that_of_the_plan(local_audit):
    config, cost, flops = local_audit.config, estimate(local_audit), unit_flops(local_audit)
    sampling = flops["synthetic"][0] * config.surrogate.synthetic + sum(flops["extract"]) * 2 * config.extract.samples
    assert sampling == pytest.approx(cost.flops)


def test_a_model_that_is_not_trained_here_takes_no_steps(local_audit):
    assert local_audit.config.dpm.kind == "optimal"
    assert unit_flops(local_audit)["train_dpm"] == (0.0, 0.0)


def test_the_reporter_adds_it_to_a_bar():
    text = io.StringIO()
    reporter = Reporter(Console(file=text, soft_wrap=True))
    with reporter.bar("extract", 200, "samples") as bar:
        bar.update(100, 10.0, "")
        assert reporter.overall(bar) == ""
        reporter.forecast = lambda title, rate, left: left / rate + 350
        reporter.step(3, 7, "extract")
        assert reporter.overall(bar) == "; stage 3 of 7, about 6 min left"


@pytest.mark.parametrize(
    ("seconds", "text"), [(3, "10 s"), (84, "80 s"), (118, "2 min"), (3570, "60 min"), (9000, "2.5 h")]
)
def test_an_estimate_is_no_more_exact_than_it_can_be(seconds, text):
    assert about(seconds) == text
