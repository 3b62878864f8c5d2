"""Classifier-free guidance is that of the closed form, and of the library's own loop."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
)

from side_ray.diffusion.condition import FreeGuidance
from side_ray.diffusion.optimal import ExactPosterior, OptimalDpm
from side_ray.diffusion.processes import load_process
from side_ray.diffusion.sampler import Noise, sample
from side_ray.diffusion.samplers.ddim import Ddim
from side_ray.diffusion.samplers.dpmsolver import DpmSolver
from side_ray.diffusion.unet_dpm import UnetDpm

SEEDS, NULL = list(range(6)), 10
PROCESSES = {
    "vp": DDPMScheduler(clip_sample=False),
    "zero-snr": DDPMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction", clip_sample=False),
    "edm": EDMEulerScheduler(sigma_max=20.0),
    "flow": FlowMatchEulerDiscreteScheduler(),
}


class Conditional(OptimalDpm):
    """The closed form of each class of digits, and of all of them as class 10."""

    num_classes = 11

    def __init__(self, images, labels, schedule):
        super().__init__(images, schedule)
        self.labels = labels

    def denoise(self, z_t, t, class_labels=None):
        times = torch.full((len(z_t),), t, dtype=torch.float64 if t != int(t) else torch.int64)
        whole, own = self.posterior(z_t, times)[1], self.posterior(z_t, times, self.labels, class_labels % NULL)[1]
        z0 = torch.where((class_labels == NULL)[:, None, None, None], whole, own)
        signal, sigma = self.process.level(t)
        return z0.float(), ((z_t.double() - signal * z0) / sigma).float()


def free(scale: float, null: int = NULL) -> FreeGuidance:
    return FreeGuidance(torch.full((len(SEEDS),), null), scale)


def schedule_of(name, tmp_path):
    PROCESSES[name].save_pretrained(tmp_path)
    return load_process(tmp_path)


# Not where the first step has α = 0: a classifier cannot guide it.
@pytest.mark.parametrize("name", ["vp", "edm"])
@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_in_the_closed_form_it_is_guidance_by_the_exact_posterior(digits, tmp_path, name, scale):
    """∇log p(y|z) of the mixture is α/σ²·(E[z₀|z, y] − E[z₀|z]): two ways to the same images."""
    schedule, targets, noise = schedule_of(name, tmp_path), torch.tensor([3, 1, 4, 1, 5, 9]), (SEEDS, (1, 8, 8))
    conditional, plain = Conditional(*digits, schedule), OptimalDpm(digits[0], schedule)
    ours = sample(conditional, Noise(*noise), Ddim(20), class_labels=targets, free=free(scale))
    guidance = ExactPosterior(plain, digits[1]).guidance(targets, torch.full((len(SEEDS),), scale))
    theirs = sample(plain, Noise(*noise), Ddim(20), guidance=guidance)
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", PROCESSES)
def test_it_reaches_only_the_class_asked_for_and_is_continuous_in_the_scale(digits, tmp_path, name):
    dpm = Conditional(*digits, schedule_of(name, tmp_path))
    targets = torch.tensor([3, 1, 4, 1, 5, 9])

    def images(scale):
        guided = None if scale == 1 else free(scale)
        return sample(dpm, Noise(SEEDS, (1, 8, 8)), Ddim(20), class_labels=targets, free=guided)

    for scale in (1.0, 2.0):
        nearest = torch.cdist(images(scale).flatten(1), digits[0].flatten(1)).argmin(1)
        assert digits[1][nearest].tolist() == targets.tolist()
    torch.testing.assert_close(images(1.0001), images(1.0), atol=1e-2, rtol=0)
    none = sample(dpm, Noise(SEEDS, (1, 8, 8)), Ddim(20), class_labels=torch.full((6,), NULL))
    torch.testing.assert_close(images(0.0), none, atol=1e-5, rtol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("scale", [0.0, 7.5])
def test_it_equals_the_librarys_own_loop(prediction, scale):
    """diffusers evaluates one batch of twice the size and guides in what the network outputs."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        8, 1, 1, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, num_class_embeds=11,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    ).eval()  # fmt: skip
    scheduler = DDIMScheduler(prediction_type=prediction, clip_sample=False)
    labels = torch.tensor([3, 1, 4, 1, 5, 9])
    dpm = UnetDpm(unet, DDPMScheduler(prediction_type=prediction, clip_sample=False))
    ours = sample(dpm, Noise(SEEDS, (1, 8, 8)), Ddim(8), class_labels=labels, free=free(scale))
    x = Noise(SEEDS, (1, 8, 8)).normal()
    scheduler.set_timesteps(8)
    with torch.no_grad():
        for t in scheduler.timesteps:
            both = unet(torch.cat([x, x]), t, class_labels=torch.cat([torch.full((6,), NULL), labels])).sample
            without, given = both.chunk(2)
            x = scheduler.step(without + scale * (given - without), t, x).prev_sample
    assert (ours - x).abs().max() < 2e-4 * x.abs().max()


def test_solvers_take_it_too(digits, tmp_path):
    dpm = Conditional(*digits, schedule_of("vp", tmp_path))
    targets = torch.tensor([3, 1, 4, 1, 5, 9])
    found = sample(dpm, Noise(SEEDS, (1, 8, 8)), DpmSolver(12), class_labels=targets, free=free(2.0))
    nearest = torch.cdist(found.flatten(1), digits[0].flatten(1)).argmin(1)
    assert digits[1][nearest].tolist() == targets.tolist()
