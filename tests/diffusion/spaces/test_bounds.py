"""x̂₀ is held as the model's own scheduler says, and a guided one in any case."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from side_ray.diffusion.sampler import Noise, sample
from side_ray.diffusion.samplers.ddim import Ddim
from side_ray.diffusion.samplers.ddpm import Ddpm
from side_ray.diffusion.spaces.bounds import Bounds
from side_ray.diffusion.spaces.pixels import PixelCodec
from side_ray.diffusion.unet_dpm import UnetDpm
from side_ray.errors import UserError

SEEDS, SHAPE = [1, 2, 3], (1, 8, 8)
CONFIGS = {
    "clip_sample false": {"clip_sample": False},
    "clip_sample_range": {"clip_sample_range": 0.5},
    "thresholding": {"thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": 2.0},
}


def made(small_unet, **changes):
    return UnetDpm(small_unet(), DDPMScheduler(**changes))


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_unguided_samples_equal_diffusers_own_loop(small_unet, changes):
    dpm = made(small_unet, **changes)
    scheduler = DDIMScheduler.from_config(dpm.schedule.config)
    scheduler.set_timesteps(10)
    x = Noise(SEEDS, SHAPE).normal()
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(dpm.unet(x, t).sample, t, x, use_clipped_model_output=True).prev_sample
    ours = sample(dpm, Noise(SEEDS, SHAPE), Ddim(10))
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-4 * max(1.0, float(x.abs().max())))
    assert not torch.allclose(ours, sample(made(small_unet), Noise(SEEDS, SHAPE), Ddim(10)), atol=1e-2)


@pytest.mark.parametrize("steps", [10, 50])
def test_ddpm_adds_the_noise_of_a_large_variance(small_unet, monkeypatch, steps):
    dpm, noise = made(small_unet, variance_type="fixed_large"), Noise(SEEDS, SHAPE)
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *args, **kwargs: noise.normal())
    scheduler = DDPMScheduler.from_config(dpm.schedule.config)
    scheduler.set_timesteps(steps)
    x = noise.normal()
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(dpm.unet(x, t).sample, t, x).prev_sample
    ours = sample(dpm, Noise(SEEDS, SHAPE), Ddpm(steps))
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-4)
    assert not torch.allclose(ours, sample(made(small_unet), Noise(SEEDS, SHAPE), Ddpm(steps)), atol=1e-2)


def test_ddpm_refuses_learned_variances(small_unet):
    with pytest.raises(UserError, match="learned_range"):
        sample(made(small_unet, variance_type="learned_range"), Noise(SEEDS, SHAPE), Ddpm(10))


@pytest.mark.parametrize("codec", [None, PixelCodec((0.0,), (1.0,))])
def test_a_guided_image_leaves_the_range_no_farther_than_the_unguided_one(codec):
    bounds = Bounds(codec, clip=None)
    low, high = (-1, 1) if codec is None else (0, 1)
    plain = torch.tensor([low - 0.5, high + 0.5, 0.5, 0.5, 0.5]).view(1, 1, 1, 5)
    guided = torch.tensor([low - 2.0, high + 2.0, high + 3.0, low - 3.0, 0.6]).view(1, 1, 1, 5)
    expected = torch.tensor([low - 0.5, high + 0.5, high, low, 0.6])
    torch.testing.assert_close(bounds(guided, plain).flatten(), expected)
    assert bounds(plain, plain) is plain


def test_guidance_without_clipping_goes_to_plain_samples_as_its_scale_goes_to_zero(small_unet):
    dpm = made(small_unet, clip_sample=False)
    plain = sample(dpm, Noise(SEEDS, SHAPE), Ddim(10))
    spans = []
    for scale in (0.0, 1e-3, 1e-2):
        guided = sample(dpm, Noise(SEEDS, SHAPE), Ddim(10), guidance=lambda x, t, scale=scale: scale * torch.tanh(x))
        spans.append(float((guided - plain).abs().max()))
    assert spans[0] == 0
    assert 0 < spans[1] < spans[2] < 0.1 * float(plain.abs().max())
