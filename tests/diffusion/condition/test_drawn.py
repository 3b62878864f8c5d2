"""Which condition each sample is drawn with, and what cannot be."""

from dataclasses import replace

import numpy as np
import pytest

from side_ray.config import DpmSection, ExtractSection
from side_ray.diffusion.condition import Condition
from side_ray.diffusion.condition.drawn import Conditioning
from side_ray.diffusion.draw import DrawSettings, draw
from side_ray.diffusion.sampler import sample_seed
from side_ray.errors import UserError

SEEDS = [sample_seed(0, "extract", i) for i in range(3000)]


def shares(conditioning: Conditioning, model) -> list[float]:
    classes = conditioning.drawn(model, SEEDS).classes
    return (np.bincount(classes, minlength=4) / len(SEEDS)).tolist()


@pytest.mark.parametrize(
    ("conditioning", "expected"),
    [
        (Conditioning(), [0.6, 0.2, 0.1, 0.1]),
        (Conditioning(null_class=0), [0, 0.5, 0.25, 0.25]),
        (Conditioning("uniform"), [0.25] * 4),
        (Conditioning("uniform", null_class=3), [1 / 3, 1 / 3, 1 / 3, 0]),
        (Conditioning("labels", (1, 0, 3)), [0.25, 0, 0.75, 0]),
        (Conditioning("null_class", null_class=2), [0, 0, 1, 0]),
    ],
)
def test_classes_are_drawn_as_asked(small_dpm, conditioning, expected):
    model = small_dpm(num_class_embeds=4)
    model.condition = Condition((6, 2, 1, 1))
    assert shares(conditioning, model) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    ("asked", "classes", "words"),
    [
        ({"guidance_scale": 3.0}, None, "dpm.guidance_scale: the model takes no condition"),
        ({"classes": "uniform"}, None, "dpm.classes: the model takes no condition"),
        ({"prompts": "empty"}, None, "dpm.prompts: the model takes no condition"),
        ({"prompts": "empty"}, 4, "dpm.prompts: the model takes classes; drop it"),
        (
            {"guidance_scale": 3.0},
            4,
            "dpm.guidance_scale: needs the class that stands for no class among the model's 4",
        ),
        ({"classes": "null_class"}, 4, "dpm.classes: needs the class that stands for no class"),
        ({"classes": "labels"}, 4, "dpm.classes: labels, but the data have 5 classes and the model 4"),
    ],
)
def test_a_model_that_cannot_be_conditioned_so_is_refused_in_one_line(small_dpm, asked, classes, words):
    model = small_dpm(**({} if classes is None else {"num_class_embeds": classes}))
    conditioning = replace(Conditioning.of(DpmSection(path="model", **asked)), counts=(1,) * 5)
    with pytest.raises(UserError) as caught:
        conditioning.drawn(model, SEEDS)
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"guidance_scale": 2.0}, "dpm.guidance_scale: is for an imported model"),
        ({"guidance_scale": -1.0, "path": "model"}, "guidance_scale"),
        ({"classes": "null_class"}, "dpm.classes: null_class is for an imported model"),
        ({"prompts": "empty"}, "dpm.prompts: is for an imported model"),
        ({"classes": "uniform"}, "dpm.classes: uniform is for a class-conditional model"),
    ],
)
def test_what_a_model_trained_here_cannot_be_asked(asked, words):
    with pytest.raises(ValueError, match=words):
        DpmSection(**asked)


def test_guided_samples_depend_on_their_seed_and_settings_alone(small_dpm):
    model = small_dpm(num_class_embeds=4)
    extract = ExtractSection(lambdas=[0, 1], samples=8, steps=5, batch_size=8)

    def images(seeds, conditioning):
        return draw(model, seeds, DrawSettings.of(extract, "fp32", conditioning)).images

    guided = Conditioning(null_class=3, scale=4.0)
    shard = images(SEEDS[:13], guided)
    for row in (0, 7, 12):
        assert np.array_equal(images([SEEDS[row]], guided)[0], shard[row])
    assert not np.array_equal(shard, images(SEEDS[:13], Conditioning(null_class=3)))
    # Guided away from no class to no class is plain sampling without one, to the last bit.
    plain, none = Conditioning("null_class", null_class=3), Conditioning("null_class", null_class=3, scale=4.0)
    assert np.array_equal(images(SEEDS[:8], plain), images(SEEDS[:8], none))
