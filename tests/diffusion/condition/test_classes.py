import numpy as np
import pytest

from side_ray.diffusion.condition import FILE, Condition, condition_labels
from side_ray.diffusion.dpm import load_dpm
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.sampler import sample_seed, target_of
from side_ray.diffusion.unet_dpm import save_pipeline
from side_ray.errors import UserError

OWN = np.array([2, 0, 2, 1, 1, 2])
SEEDS = [sample_seed(0, "extract", i) for i in range(6000)]


def test_labels_of_each_kind():
    assert condition_labels("none", OWN, 6, 2, 0) is None
    assert condition_labels("labels", OWN, 6, 2, 0).tolist() == OWN.tolist()
    assert condition_labels("unique", None, 6, 2, 0).tolist() == list(range(6))
    drawn = condition_labels("random", None, 100, 10, 0)
    assert np.bincount(drawn).tolist() == [10] * 10
    assert drawn.tolist() == condition_labels("random", None, 100, 10, 0).tolist()
    assert drawn.tolist() != condition_labels("random", None, 100, 10, 1).tolist()


@pytest.mark.parametrize(
    ("kind", "own", "classes", "words"),
    [
        ("labels", None, 2, "6 of 6"),
        ("labels", np.array([0, -1, 1, 0, 0, 0]), 2, "1 of 6"),
        ("random", OWN, 7, "2 to 6"),
    ],
)
def test_what_cannot_be_a_condition_is_refused_in_one_line(kind, own, classes, words):
    with pytest.raises(UserError, match=words) as caught:
        condition_labels(kind, own, 6, classes, 0)
    assert "\n" not in str(caught.value)


def test_classes_come_in_the_training_proportions_and_empty_ones_never():
    condition = Condition((30, 0, 10, 60))
    shares = np.bincount(condition.classes_of(SEEDS), minlength=4) / len(SEEDS)
    assert shares[1] == 0
    assert shares == pytest.approx([0.3, 0, 0.1, 0.6], abs=0.03)


def test_the_class_is_the_seeds_own_and_independent_of_the_guidance_target():
    condition = Condition.uniform(10)
    classes = condition.classes_of(SEEDS)
    assert classes[[5, 17]].tolist() == condition.classes_of([SEEDS[5], SEEDS[17]]).tolist()
    targets = np.array([target_of(seed, 10) for seed in SEEDS])
    together = np.histogram2d(classes, targets, bins=10)[0]
    # Chi-squared of 81 degrees of freedom: 145 is beyond its 99.99 % quantile.
    assert ((together - 60) ** 2 / 60).sum() < 145


def test_condition_travels_with_the_model(small_unet, tmp_path):
    save_pipeline(small_unet(num_class_embeds=3), new_schedule().config, tmp_path)
    assert load_dpm(tmp_path).condition == Condition.uniform(3)
    Condition((5, 0, 1)).save(tmp_path)
    assert load_dpm(tmp_path).condition == Condition((5, 0, 1))


@pytest.mark.parametrize(
    "text", ['{"counts": [1, 2]}', '{"counts": [0, 0, 0]}', '{"counts": "3"}', '{"counts": [1, 2, -1]}', "{}"]
)
def test_a_condition_that_does_not_fit_the_model_is_refused(small_unet, tmp_path, text):
    save_pipeline(small_unet(num_class_embeds=3), new_schedule().config, tmp_path)
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError, match=FILE):
        load_dpm(tmp_path)


def test_unconditional_models_have_none(small_dpm):
    assert small_dpm().condition is None
    assert small_dpm(num_class_embeds=4).condition == Condition.uniform(4)
