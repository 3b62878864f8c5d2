"""The plan of a sweep: settings, their audits, and which trials survive. Without Ray."""

import pytest

from side_ray.errors import UserError
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.plan import Condition
from side_ray.runs.run import Run
from side_ray.runs.status import record, rows
from side_ray.storage import open_store
from side_ray.studies.sweep_plan import SweepPlan, audit_of, config_of, settings, survivors
from tests.audits import tiny_config


@pytest.fixture
def plan_of(tmp_path):
    def make(**sweep):
        config = tiny_config(tmp_path, **{f"sweep__{key}": value for key, value in sweep.items()})
        return SweepPlan(Artifacts(config, Run(open_store(str(tmp_path)))))

    return make


def test_the_grid_is_the_product_of_its_axes_and_random_is_one(plan_of):
    plan = plan_of(lambdas=[0, 1, 2], classes=[3, 5], arch=["small", "resnet18"])
    guided = [each for each in plan.settings if each.scale]
    assert len(guided) == 2 * 2 * 2
    assert [each.scale for each in plan.settings if each.arch == "small" and each.classes == 3] == [1, 2]
    assert [each.condition for each in plan.settings if not each.scale] == [Condition("random", 0.0)]
    assert len({each.name for each in plan.settings}) == 9
    assert len({plan.artifacts[each].surrogate.fingerprint for each in guided}) == 4
    assert len({plan.artifacts[each].synthetic.fingerprint for each in plan.settings}) == 1


def test_status_counts_what_trials_share_once(plan_of):
    plan = plan_of(lambdas=[0, 1, 2], classes=[3, 5])
    stages = plan.stages()
    assert [(each.stage, len(each.keys)) for each in stages] == [
        ("prepare", 1),
        ("train_dpm", 1),
        ("synthetic", 1),
        ("train_surrogate: student", 2),
        ("extract", 5),
        ("score", 5),
        ("sweep", 1),
    ]
    record(plan.base, stages)
    found = rows(plan.base.run.store, "run")
    assert [(row.done, row.total) for row in found] == [(0, each.total * len(each.keys)) for each in stages]


def test_without_axes_a_sweep_is_the_audits_own_grid(plan_of):
    assert [(each.scale, each.classes) for each in plan_of().settings] == [(0.0, None), (2.0, 5)]


def test_a_classifier_has_the_datas_classes_whatever_the_axis_says(plan_of):
    plan = plan_of(lambdas=[1], classes=[3, 5], labels=["cluster", "classifier"])
    assert [(each.labels, each.classes) for each in plan.settings] == [
        ("classifier", None),
        ("cluster", 3),
        ("cluster", 5),
    ]


def test_trials_have_the_artifacts_of_audits(plan_of, tmp_path):
    plan = plan_of(lambdas=[2], classes=[5, 7])
    audit = Artifacts(tiny_config(tmp_path), plan.base.run)
    mine = next(each for each in plan.settings if each.classes == 5)
    assert plan.artifacts[mine].scores(mine.condition) == audit.scores(Condition("td", 2.0))
    other = next(each for each in plan.settings if each.classes == 7)
    assert plan.artifacts[other].scores(other.condition) != audit.scores(Condition("td", 2.0))


def test_neither_the_section_nor_its_defaults_touch_an_audits_fingerprints(plan_of, tmp_path):
    base, swept = Artifacts(tiny_config(tmp_path), None), plan_of(lambdas=[1], classes=[3]).base  # type: ignore[arg-type]
    base.run = swept.run
    assert swept.report.key == base.report.key


def test_a_guidance_interval_changes_what_is_guided_alone(tmp_path):
    run = Run(open_store(str(tmp_path)))
    whole = Artifacts(tiny_config(tmp_path), run)
    part = Artifacts(tiny_config(tmp_path, extract__guidance_interval=[0.2, 0.8]), run)
    assert part.samples(Condition("random", 0.0)) == whole.samples(Condition("random", 0.0))
    for method, scale in (("td", 2.0), ("ti", 1.0)):
        assert part.samples(Condition(method, scale)) != whole.samples(Condition(method, scale))
    assert part.surrogate == whole.surrogate
    assert part.report.key != whole.report.key


def test_intervals_and_steps_are_axes(plan_of):
    plan = plan_of(lambdas=[2], intervals=[[0, 1], [0.2, 0.8]], steps=[4, 6])
    found = {(each.steps, each.interval) for each in plan.settings}
    assert found == {(4, (0.0, 1.0)), (4, (0.2, 0.8)), (6, (0.0, 1.0)), (6, (0.2, 0.8))}
    for each in plan.settings:
        extract = config_of(plan.config, each).extract
        assert (extract.steps, extract.guidance_interval) == (each.steps, each.interval)


def test_a_random_search_draws_distinct_settings_and_the_same_ones_again(plan_of):
    first, second = (plan_of(search="random", trials=4, lambdas=[0, 1, 2, 3], classes=[3, 5, 7]) for _ in range(2))
    assert first.settings == second.settings
    assert len(set(first.settings)) == 4
    drawn = plan_of(search="random", trials=6, lambda_range=[0.5, 20], classes=[3, 5]).settings
    assert len(drawn) == 6
    assert all(0.5 <= each.scale <= 20 for each in drawn)


def test_images_per_class_make_n_grow_with_the_classes(tmp_path):
    config = tiny_config(tmp_path, sweep__classes=[3, 5], extract__samples=None, extract__samples_per_target=40)
    found = {each.classes: config_of(config, each).extract.samples for each in settings(config) if each.scale}
    assert found == {3: 150, 5: 200}  # 120 and 200, rounded up to whole shards of 50


def test_the_best_setting_is_written_as_an_audit(plan_of):
    plan = plan_of(lambdas=[0, 4], classes=[7])
    audit = audit_of(plan.config, plan.settings[-1])
    assert (audit.extract.lambdas, audit.extract.methods, audit.surrogate.classes) == ([0.0, 4.0], ["random", "td"], 7)
    assert audit.sweep == type(audit.sweep)()


@pytest.mark.parametrize(
    ("sweep", "message"),
    {
        "arch": ({"arch": ["resnet50"]}, r"sweep: cluster,classes=5,resnet50.*surrogate\.arch: "),
        "labels": ({"labels": ["clip"]}, r"sweep: clip.*surrogate\.labels: "),
        "classes": ({"classes": [1]}, r"sweep\.classes\.0: input should be greater than or equal to 2"),
        "too many classes": ({"classes": [900]}, r"surrogate\.classes: 900 classes cannot come from 400 images"),
        "interval": ({"intervals": [[0.8, 0.2]]}, r"extract\.guidance_interval: .* from < to"),
        "band": ({"band": "lo"}, r"sweep\.band: there is no band lo; known: calibrated, low, mid, high"),
        "draws": ({"search": "random", "trials": 99}, r"sweep\.trials: 99 trials, but only 2 settings"),
    }.values(),
)
def test_a_setting_that_no_audit_can_have_is_refused_in_one_line(plan_of, sweep, message):
    with pytest.raises(UserError, match=message) as caught:
        plan_of(**sweep)
    assert "\n" not in str(caught.value)


def test_the_best_half_survives_including_ties(plan_of):
    names = plan_of(lambdas=[1, 2, 3, 4, 5]).settings
    assert survivors(dict(zip(names, [0.1, 0.5, 0.3, 0.3, 0.2], strict=True)), 0.4) == names[1:4]
    assert survivors(dict(zip(names, [0.1, 0.5, 0.3, 0.4, 0.2], strict=True)), 0.5) == names[1:4]
    assert survivors(dict(zip(names, [0.0] * 5, strict=True)), 0.2) == names


def test_rungs_are_whole_shards(plan_of):
    plan = plan_of(lambdas=[2], early_stopping={"after": [0.3, 0.5], "keep": 0.5})
    assert [plan.goal(plan.settings[0], share) for share in plan.rungs] == [100, 100, 200]
