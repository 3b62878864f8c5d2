import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)

from side_ray.diffusion.noise_process import alphas_cumprod, load_schedule, new_schedule
from side_ray.errors import UserError


def test_linear_is_the_schedule_of_ho_et_al():
    levels = alphas_cumprod(new_schedule("linear", 1000)).numpy()
    np.testing.assert_allclose(levels, np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), rtol=2e-5)


def test_scaled_linear_is_linear_in_the_root_of_beta():
    levels = alphas_cumprod(new_schedule("scaled_linear", 100)).numpy()
    np.testing.assert_allclose(levels, np.cumprod(1 - np.linspace(1e-4**0.5, 0.02**0.5, 100) ** 2), rtol=1e-5)


def test_cosine_is_the_schedule_of_nichol_and_dhariwal():
    def f(u):
        return np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2

    levels = alphas_cumprod(new_schedule("cosine", 1000)).numpy()
    np.testing.assert_allclose(levels[:990], (f(np.arange(1, 1001) / 1000) / f(0))[:990], rtol=1e-4)


@pytest.mark.parametrize("arguments", [("square",), ("linear", 1000, "noise"), ("linear", 1)])
def test_a_schedule_that_does_not_exist_is_refused(arguments):
    with pytest.raises(UserError):
        new_schedule(*arguments)


@pytest.mark.parametrize("scheduler", [DDIMScheduler, PNDMScheduler, DPMSolverMultistepScheduler])
def test_the_noise_levels_are_read_whoever_wrote_them(tmp_path, scheduler):
    written = scheduler(
        num_train_timesteps=77, beta_start=1e-3, beta_schedule="scaled_linear", prediction_type="v_prediction"
    )
    written.save_pretrained(tmp_path)
    read = load_schedule(tmp_path)
    assert torch.equal(read.alphas_cumprod, written.alphas_cumprod)
    assert read.config["prediction_type"] == "v_prediction"


def test_an_early_config_without_prediction_type_predicts_epsilon(tmp_path):
    config = {"num_train_timesteps": 10, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    assert load_schedule(tmp_path).config["prediction_type"] == "epsilon"


@pytest.mark.parametrize(("old", "prediction"), [(False, "sample"), (True, "epsilon")])
def test_predict_epsilon_of_early_versions_is_taken_as_it_was_meant(tmp_path, old, prediction):
    config = {"num_train_timesteps": 10, "beta_schedule": "linear", "predict_epsilon": old}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    assert load_schedule(tmp_path).config["prediction_type"] == prediction
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config | {"prediction_type": "v_prediction"}))
    with pytest.raises(UserError, match="'v_prediction' contradicts predict_epsilon"):
        load_schedule(tmp_path)


@pytest.mark.parametrize("timesteps", [10**8, 1, 10.5, "1000", None, True])
def test_absurd_numbers_of_timesteps_are_refused_before_anything_is_allocated(tmp_path, timesteps, monkeypatch):
    monkeypatch.setattr(DDPMScheduler, "from_config", None)
    config = {"num_train_timesteps": timesteps, "beta_schedule": "linear"}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="num_train_timesteps must be a number from 2 to 100,000"):
        load_schedule(tmp_path)


GOOD = {"num_train_timesteps": 3, "beta_schedule": "linear"}


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[1, 2]",
        json.dumps({"num_train_timesteps": 3}),
        json.dumps({"beta_schedule": "linear"}),
        json.dumps(GOOD | {"beta_schedule": "exponential"}),
        json.dumps(GOOD | {"num_train_timesteps": "many"}),
        json.dumps(GOOD | {"prediction_type": "flow_prediction"}),
        json.dumps(GOOD | {"trained_betas": [0.1, 0.2]}),
        json.dumps(GOOD | {"trained_betas": [0.1, 0.2, 1.0]}),
        json.dumps(GOOD | {"trained_betas": ["a", "b", "c"]}),
        json.dumps(GOOD | {"beta_start": 0.0}),
        json.dumps(FlowMatchEulerDiscreteScheduler().config, default=str),
    ],
)
def test_a_config_without_a_usable_schedule_gets_one_line_with_the_path(tmp_path: Path, content: str):
    (tmp_path / "scheduler_config.json").write_text(content)
    with pytest.raises(UserError) as caught:
        load_schedule(tmp_path)
    assert str(tmp_path / "scheduler_config.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_schedule_that_ends_in_zero_snr_is_refused_by_name(tmp_path):
    DDIMScheduler(rescale_betas_zero_snr=True).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="rescale_betas_zero_snr"):
        load_schedule(tmp_path)


def test_an_absent_config_is_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_schedule(tmp_path)
