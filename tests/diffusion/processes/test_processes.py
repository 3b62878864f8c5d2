"""Every noise process: the library's own images unguided, and the closed-form model's classes guided."""

import json

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    ScoreSdeVeScheduler,
)

from side_ray.diffusion.dpm import load_dpm, variance_preserving
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.optimal import ExactPosterior, OptimalDpm
from side_ray.diffusion.processes import load_process, process_of
from side_ray.diffusion.sampler import Noise, sample
from side_ray.diffusion.samplers.ddim import Ddim
from side_ray.diffusion.samplers.ddpm import Ddpm
from side_ray.diffusion.samplers.dpmsolver import DpmSolver
from side_ray.diffusion.samplers.unipc import UniPc
from side_ray.diffusion.spaces.view import View
from side_ray.errors import UserError

SEEDS, SHAPE = [1, 2, 3], (1, 8, 8)
SCHEDULERS = {
    "edm": EDMEulerScheduler(),
    "edm-v": EDMEulerScheduler(prediction_type="v_prediction", sigma_max=20.0, sigma_data=0.7),
    "edm-exponential": EDMEulerScheduler(sigma_schedule="exponential"),
    "flow": FlowMatchEulerDiscreteScheduler(),
    "flow-shift": FlowMatchEulerDiscreteScheduler(shift=3.0, shift_terminal=0.1),
    "ve": ScoreSdeVeScheduler(num_train_timesteps=500, sigma_max=50.0),
    "zero-snr": DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction"),
    "vp-v": DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"),
    "vp-x0": DDIMScheduler(prediction_type="sample"),
    "vp": DDIMScheduler(),
}


@pytest.fixture
def process(tmp_path):
    """Makes the noise process of a scheduler, by way of its file."""

    def make(name):
        SCHEDULERS[name].save_pretrained(tmp_path / name)
        return load_process(tmp_path / name)

    return make


@pytest.fixture
def saved(small_unet, tmp_path):
    """Makes the directory of a U-Net of random weights with a scheduler, and opens it."""

    def make(scheduler, **config):
        small_unet(**config).save_pretrained(tmp_path / "model" / "unet")
        scheduler.save_pretrained(tmp_path / "model" / "scheduler")
        return load_dpm(tmp_path / "model")

    return make


def library_loop(unet, scheduler, steps, noise):
    """The loop that a user of the library would write."""
    scheduler.set_timesteps(steps)
    x = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    with torch.no_grad():
        for t in scheduler.timesteps:
            entering = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            x = scheduler.step(unet(entering, t).sample, t, x).prev_sample
    return x


# -- the library's own loop --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["edm", "edm-v", "edm-exponential", "flow", "flow-shift"])
@pytest.mark.parametrize("steps", [2, 9])
def test_unguided_samples_equal_the_librarys_own_loop(saved, name, steps):
    scheduler = SCHEDULERS[name]
    dpm = saved(scheduler)
    theirs = library_loop(dpm.unet, type(scheduler).from_config(scheduler.config), steps, Noise(SEEDS, SHAPE).normal())
    ours = sample(dpm, Noise(SEEDS, SHAPE), Ddim(steps))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * float(theirs.abs().max().clamp(min=1)))


@pytest.mark.parametrize("steps", [5, 12])
def test_dpm_solver_in_edm_equals_the_librarys(saved, steps):
    settings = {"num_train_timesteps": 1000, "sigma_max": 20.0}
    dpm = saved(EDMEulerScheduler(**settings))
    theirs = library_loop(dpm.unet, EDMDPMSolverMultistepScheduler(**settings), steps, Noise(SEEDS, SHAPE).normal())
    ours = sample(dpm, Noise(SEEDS, SHAPE), DpmSolver(steps))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3 * float(theirs.abs().max().clamp(min=1)))


def test_a_zero_terminal_snr_is_sampled_from_its_first_step(small_unet, tmp_path):
    scheduler = DDIMScheduler(num_train_timesteps=20, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    assert float(scheduler.alphas_cumprod[-1]) == 0
    small_unet().save_pretrained(tmp_path / "unet")
    scheduler.save_pretrained(tmp_path / "scheduler")
    dpm = load_dpm(tmp_path)
    scheduler.set_timesteps(20)
    x = Noise(SEEDS, SHAPE).normal()
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(dpm.unet(x, t).sample, t, x, use_clipped_model_output=True).prev_sample
    torch.testing.assert_close(sample(dpm, Noise(SEEDS, SHAPE), Ddim(20)), x, rtol=0, atol=1e-4)


def test_ve_takes_the_euler_steps_of_its_flow(saved):
    # diffusers samples this process by a stochastic predictor and corrector only.
    dpm = saved(SCHEDULERS["ve"])
    sigmas = torch.logspace(torch.log10(torch.tensor(50.0)), -2, 10).tolist()
    x = Noise(SEEDS, SHAPE).normal() * 50
    with torch.no_grad():
        for sigma, then in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
            x = x - (then - sigma) * sigma * dpm.unet(x, torch.full((3,), sigma)).sample
    ours = sample(dpm, Noise(SEEDS, SHAPE), Ddim(10))
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-3)


# -- the closed-form model ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", [Ddim, DpmSolver, UniPc])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_closed_form_model_makes_training_images_and_guided_only_the_class_asked_for(
    digits, process, sampler, name
):
    images, labels = digits
    dpm = OptimalDpm(images, process(name))
    seeds = list(range(20))
    plain = sample(dpm, Noise(seeds, SHAPE), sampler(20))
    assert torch.cdist(plain.flatten(1), images.flatten(1)).min(dim=1).values.max() < 0.05
    targets = torch.arange(20) % 10
    posterior = ExactPosterior(dpm, labels)
    by = {
        scale: sample(
            dpm, Noise(seeds, SHAPE), sampler(20), guidance=posterior.guidance(targets, torch.full((20,), scale))
        )
        for scale in (0.0, 1e-6, 1.0)
    }
    torch.testing.assert_close(by[0.0], plain, rtol=0, atol=0)
    assert float((by[1e-6] - plain).abs().max()) < 0.02
    nearest = torch.cdist(by[1.0].flatten(1), images.flatten(1)).min(dim=1)
    assert torch.equal(labels[nearest.indices], targets)
    assert nearest.values.max() < 0.05


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_closed_form_model_is_kept_with_its_process(digits, process, tmp_path, name):
    dpm = OptimalDpm(digits[0], process(name))
    dpm.save(tmp_path / "victim")
    again = load_dpm(tmp_path / "victim")
    for time in (0, 10, 400):
        assert process_of(again.schedule).level(time) == process_of(dpm.schedule).level(time)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_what_a_network_would_output_is_understood(digits, process, name):
    """z₀ and ε are recovered from each kind of output, made by its definition."""
    kind, z0 = process_of(process(name)), digits[0][:2]
    eps = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for time in (3, 200, kind.timesteps - 2):
        signal, sigma = kind.level(time)
        z_t = signal * z0 + sigma * eps
        prediction = kind.config.get("prediction_type")
        if name.startswith("edm"):
            data = kind.config["sigma_data"]
            skip, out = data**2 / (sigma**2 + data**2), sigma * data / (sigma**2 + data**2) ** 0.5
            output = (z0 - skip * z_t) / out * (-1 if prediction == "v_prediction" else 1)
        elif name.startswith("flow"):
            output = eps - z0
        elif name == "ve":
            output = -eps / sigma
        else:
            output = {"epsilon": eps, "sample": z0, "v_prediction": signal * eps - sigma * z0}[prediction]
        found = kind.leave(output, z_t, signal, sigma)
        torch.testing.assert_close(found[0], z0, rtol=0, atol=1e-4 / max(signal, 1e-2))
        torch.testing.assert_close(found[1], eps, rtol=0, atol=1e-3)


# -- classifiers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["edm", "flow", "ve"])
def test_a_classifier_sees_unit_variance_and_guides_by_the_chain_rule(digits, process, name):
    dpm = OptimalDpm(digits[0], process(name))
    view, t = View.of(dpm), torch.tensor([5, 300, 490])
    eps = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = view.noised(torch.zeros(3, 1, 8, 8), t, 3 * eps)
    assert seen.abs().max() < 3 * eps.abs().max() + 1e-3
    weights = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(1))

    def score(x):
        return (x * weights).tanh().sum()

    def guidance(x, t):
        x = x.detach().requires_grad_(True)
        return torch.autograd.grad(score(x), x)[0]

    signal, sigma = (each.view(-1, 1, 1, 1).float() for each in view.process.levels(t))
    z_t = (signal * digits[0][:3] + sigma * eps).requires_grad_(True)
    (expected,) = torch.autograd.grad(score(z_t * (signal**2 + sigma**2).rsqrt()), z_t)
    torch.testing.assert_close(view.guidance(guidance)(z_t.detach(), t), expected, rtol=1e-4, atol=1e-6)


def test_the_gradient_waits_where_no_signal_is_left(digits, process):
    dpm, levels = OptimalDpm(digits[0], process("flow")), []

    def guidance(z_t, t):
        levels.append(dpm.process.level(float(t[0]))[0])
        return torch.zeros_like(z_t)

    sample(dpm, Noise(SEEDS, SHAPE), Ddim(150), guidance=guidance)
    assert len(levels) < 150
    assert min(levels) >= 0.01
    everywhere = []
    plain = OptimalDpm(digits[0], new_schedule("cosine", 100))
    sample(plain, Noise(SEEDS, SHAPE), Ddim(100), guidance=lambda x, t: everywhere.append(t) or torch.zeros_like(x))
    assert len(everywhere) == 100


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_what_cannot_be_sampled_is_refused(digits, process, tmp_path):
    flow = OptimalDpm(digits[0], process("flow"))
    for sampler in (Ddim(10, eta=0.5), Ddpm(10)):
        with pytest.raises(UserError, match="for variance-preserving models"):
            sample(flow, Noise(SEEDS, SHAPE), sampler)
    with pytest.raises(UserError, match="2 to 1000 steps"):
        sample(flow, Noise(SEEDS, SHAPE), Ddim(1001))
    with pytest.raises(UserError, match="densities"):
        variance_preserving(flow)
    FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="use_dynamic_shifting"):
        load_process(tmp_path)
    DDIMScheduler(rescale_betas_zero_snr=True).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="zero SNR"):
        load_process(tmp_path)
    config = {"_class_name": "EDMEulerScheduler", "sigma_schedule": "none"}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"scheduler_config\.json is no valid"):
        load_process(tmp_path)
