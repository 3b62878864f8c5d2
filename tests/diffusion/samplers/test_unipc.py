"""UniPC: the library's own loop from the same noise."""

import pytest
import torch
from diffusers import UniPCMultistepScheduler

from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.optimal import OptimalDpm
from side_ray.diffusion.processes import OTHERS, of_library
from side_ray.diffusion.sampler import Noise, sample
from side_ray.diffusion.samplers.unipc import UniPc, unipc

SEEDS, SHAPE = [1, 2, 3], (1, 8, 8)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [2, 3, 5, 10, 20])
def test_unguided_samples_equal_diffusers_where_nothing_is_clamped(digits, kind, steps):
    # The closed-form DPM predicts a mean of training images: never outside [-1, 1].
    dpm = OptimalDpm(digits[0], new_schedule(kind))
    scheduler = UniPCMultistepScheduler.from_config(dpm.schedule.config, timestep_spacing="leading")
    assert (scheduler.config["solver_type"], scheduler.config["solver_order"]) == ("bh2", 2)
    scheduler.set_timesteps(steps)
    x = Noise(SEEDS, SHAPE).normal()
    for t in scheduler.timesteps:
        x = scheduler.step(dpm.eps(x, t.expand(len(x))), t, x).prev_sample
    ours = sample(dpm, Noise(SEEDS, SHAPE), UniPc(steps))
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-3)


def test_samples_equal_diffusers_fed_with_the_clamped_prediction(small_dpm):
    dpm = small_dpm()
    scheduler = UniPCMultistepScheduler.from_config(dpm.schedule.config, timestep_spacing="leading")
    scheduler.set_timesteps(8)
    x, clamped = Noise(SEEDS, SHAPE).normal(), 0
    with torch.no_grad():
        for t in scheduler.timesteps:
            signal, sigma = dpm.schedule.alphas_cumprod[t] ** 0.5, (1 - dpm.schedule.alphas_cumprod[t]) ** 0.5
            x0 = (x - sigma * dpm.unet(x, t).sample) / signal
            clamped += int((x0.abs() > 1).sum())
            x = scheduler.step((x - signal * x0.clamp(-1, 1)) / sigma, t, x).prev_sample
    assert clamped > 0
    torch.testing.assert_close(sample(dpm, Noise(SEEDS, SHAPE), UniPc(8)), x, rtol=0, atol=1e-3)


@pytest.mark.parametrize("steps", [2, 6, 20])
def test_flow_matching_equals_diffusers_at_its_noise_levels(digits, steps):
    flow = of_library({"_class_name": next(name for name in OTHERS if name.startswith("Flow"))})
    dpm = OptimalDpm(digits[0], flow)
    scheduler = UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction")
    scheduler.set_timesteps(steps)
    sigmas = scheduler.sigmas[:-1].double().tolist()
    advance = unipc([(1 - sigma, sigma) for sigma in sigmas])
    ours = theirs = Noise(SEEDS, SHAPE).normal()
    for k, (t, sigma) in enumerate(zip(scheduler.timesteps, sigmas, strict=True)):
        time = sigma * flow.timesteps - 1
        z0, eps = dpm.denoise(theirs, time, None)
        theirs = scheduler.step(eps - z0, t, theirs).prev_sample
        ours = advance(ours, dpm.denoise(ours, time, None)[0], k)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)
