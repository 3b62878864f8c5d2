"""A sampler is one class and one registered name: a toy one from outside the package is configured and samples."""

import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError

from side_ray.config import ExtractSection
from side_ray.config.base import Positive, Section
from side_ray.diffusion.draw import DrawSettings, draw, sampler_of
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.samplers import SAMPLERS
from side_ray.diffusion.samplers.base import Sampler
from side_ray.images import to_uint8

BEFORE = {"sampler": "ddim", "steps": 50, "eta": 0.0, "shard_size": 1000, "batch_size": 100}


class ShrinkOptions(Section):
    shrink: Positive = 1.0


class OneStep(Sampler):
    """From pure noise to x̂₀ at once, times `extract.shrink`."""

    name = "one-step"
    Options = ShrinkOptions

    def visited_timesteps(self, schedule):
        self.require_steps(1, 1)
        return [schedule.config["num_train_timesteps"] - 1]

    def begin(self, schedule, normal):
        return lambda x, x0, k: x0 * self.options.shrink


@pytest.fixture
def one_step():
    SAMPLERS.register("one_step", OneStep)
    yield
    SAMPLERS.unregister("one_step")


def section(**changes) -> ExtractSection:
    return ExtractSection(lambdas=[0, 1], samples=1000, **changes)


def test_a_toy_sampler_samples_by_its_name_and_its_key(one_step, small_dpm):
    dpm = small_dpm()
    images = {}
    for shrink in (1.0, 0.5):
        extract = section(sampler="one_step", steps=1, shrink=shrink, batch_size=2)
        images[shrink] = draw(dpm, [7, 8, 9], DrawSettings.of(extract, "fp32")).images
    assert images[1.0].std() > 1
    halved = to_uint8((torch.from_numpy(images[1.0]).permute(0, 3, 1, 2) / 127.5 - 1) * 0.5)
    assert abs(halved.astype(int) - images[0.5]).max() <= 1


def test_a_toy_samplers_key_belongs_to_what_its_samples_depend_on_and_to_no_others(one_step):
    toys = [section(sampler="one_step", steps=1, shrink=shrink).sampling_settings() for shrink in (1.0, 0.5)]
    assert [toy["shrink"] for toy in toys] == [1.0, 0.5]
    assert section().sampling_settings() == BEFORE


def test_keys_of_samplers_that_are_not_chosen_are_refused(one_step):
    with pytest.raises(ValidationError, match=r"extract\.shrink: is for extract\.sampler one_step, not ddim; drop it"):
        section(shrink=0.5)
    with pytest.raises(ValidationError, match=r"extract\.eta: is for extract\.sampler ddim, not ddpm; drop it"):
        section(sampler="ddpm", eta=0.5)
    with pytest.raises(ValidationError, match=r"extract\.shrink: input should be greater than 0"):
        section(sampler="one_step", shrink=-1)


def test_an_unknown_sampler_is_refused_with_the_known_ones():
    with pytest.raises(
        ValidationError, match=r"extract\.sampler: 'euler' is unknown; use one of ddim, ddpm, dpmsolver"
    ):
        section(sampler="euler")


def test_a_config_dumps_as_before_the_registry():
    assert section().model_dump(mode="json") == {
        **BEFORE,
        "methods": ["random", "ti", "td"],
        "lambdas": [0.0, 1.0],
        "ti_lambdas": None,
        "samples": 1000,
    }
    assert section(eta=0.25).sampling_settings() == {**BEFORE, "eta": 0.25}
    assert ExtractSection(**section(eta=0.25).model_dump()) == section(eta=0.25)


@pytest.mark.parametrize("name", SAMPLERS.names)
def test_every_sampler_says_what_it_is_and_how_often_it_evaluates_the_model(name):
    sampler = sampler_of(section(sampler=name, steps=10))
    assert str(sampler) == f"{name}-10"
    assert sampler.evaluations == len(sampler.visited_timesteps(new_schedule())) == 10


def test_reading_the_samplers_keys_loads_no_torch():
    code = (
        "import side_ray.config as c; c.ExtractSection(lambdas=[0, 1], samples=1000); import sys; print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "diffusers", "ray"} & set(loaded)
