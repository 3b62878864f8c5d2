import math
from hashlib import sha256
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from torch import nn

from side_ray.diffusion.guidance import ClassifierGuidance
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.optimal import OptimalDpm
from side_ray.diffusion.sampler import Noise, sample, sample_seed, target_of
from side_ray.diffusion.samplers import SAMPLERS
from side_ray.diffusion.samplers.ddim import Ddim
from side_ray.diffusion.samplers.ddpm import Ddpm
from side_ray.diffusion.samplers.dpmsolver import DpmSolver
from side_ray.errors import RunError, UserError

SHAPE = (1, 8, 8)
SEEDS = [sample_seed(7, "extract", i) for i in range(12)]


class SmoothClassifier(nn.Module):
    """Logits that depend on x and t, smooth, of random weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(1, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.out = nn.Linear(72, 4)
        self.timesteps: list[int] = []

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        self.timesteps.append(int(t[0]))
        return self.out(self.norm(self.conv(x)).tanh().flatten(1)) * (1 - t[:, None] / 2000)


def guidance(scale: float | torch.Tensor, rows: int = len(SEEDS)) -> ClassifierGuidance:
    scales = torch.full((rows,), scale) if isinstance(scale, float) else scale
    return ClassifierGuidance(SmoothClassifier().eval(), torch.arange(rows) % 4, scales)


def ddim_loop(dpm, noise, steps, eta=0.0, class_labels=None):
    """diffusers' own loop, as a user of an exported pipeline would write it."""
    scheduler = DDIMScheduler.from_config(dpm.schedule.config)
    scheduler.set_timesteps(steps)
    x = noise.normal()
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = dpm.unet(x, t, class_labels=class_labels).sample
            random = noise.normal() if eta > 0 and t > 0 else torch.zeros_like(x)
            step = scheduler.step(
                output, t, x, eta=eta, use_clipped_model_output=True, variance_noise=random if eta > 0 else None
            )
            x = step.prev_sample
    return x


# -- seeds and noise ---------------------------------------------------------------------------------------------------


def test_a_sample_seed_is_63_bits_of_sha256():
    expected = int(sha256(b"3/synthetic/41").hexdigest()[:16], 16) // 2
    assert sample_seed(3, "synthetic", 41) == expected < 2**63
    assert len({sample_seed(r, s, i) for r in range(3) for s in ("synthetic", "extract") for i in range(100)}) == 600


def test_targets_are_uniform():
    counts = np.bincount([target_of(sample_seed(0, "extract", i), 10) for i in range(5000)], minlength=10)
    assert len(counts) == 10
    assert ((counts - 500) ** 2 / 500).sum() < 27.9


def test_a_row_of_noise_depends_on_its_seed_alone():
    together, alone = Noise(SEEDS, SHAPE), Noise([SEEDS[5]], SHAPE)
    for _ in range(3):
        assert torch.equal(together.normal()[5], alone.normal()[0])


def test_the_stream_is_numpys_philox_in_float32():
    generator = np.random.Generator(np.random.Philox(key=SEEDS[0]))
    noise = Noise(SEEDS[:1], (3, 4, 5))
    for _ in range(2):
        expected = generator.standard_normal((3, 4, 5), dtype=np.float32)
        np.testing.assert_array_equal(noise.normal()[0].numpy(), expected)


def test_all_63_bits_of_a_seed_count():
    seed = SEEDS[0]
    draws = [Noise([s], SHAPE).normal() for s in (seed, seed ^ 1, seed ^ (1 << 40), seed ^ (1 << 62))]
    assert all(not torch.equal(draws[0], other) for other in draws[1:])


def test_noise_is_standard_normal_and_uncorrelated_between_seeds_and_calls():
    noise = Noise([sample_seed(0, "extract", i) for i in range(400)], SHAPE)
    first, second = noise.normal().flatten(1).double(), noise.normal().flatten(1).double()
    assert first.dtype == torch.float64
    assert abs(float(first.mean())) < 0.02
    assert abs(float(first.std()) - 1) < 0.02
    assert abs(float((first * second).mean())) < 0.03
    assert abs(float((first[1:] * first[:-1]).mean())) < 0.03


# -- equal to diffusers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [2, 7, 10])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_equals_diffusers(small_dpm, steps, eta):
    dpm = small_dpm()
    ours = sample(dpm, Noise(SEEDS, SHAPE), Ddim(steps, eta=eta))
    torch.testing.assert_close(ours, ddim_loop(dpm, Noise(SEEDS, SHAPE), steps, eta), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "cosine"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_ddim_equals_diffusers_for_every_schedule_and_prediction(small_dpm, kind, prediction):
    dpm = small_dpm(kind, prediction, image_shape=(3, 12, 8))
    ours = sample(dpm, Noise(SEEDS[:4], dpm.image_shape), Ddim(5))
    theirs = ddim_loop(dpm, Noise(SEEDS[:4], dpm.image_shape), 5)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_a_conditional_unet_equals_diffusers_too(small_dpm):
    dpm = small_dpm(num_class_embeds=5)
    labels = torch.arange(len(SEEDS)) % 5
    ours = sample(dpm, Noise(SEEDS, SHAPE), Ddim(10), class_labels=labels)
    theirs = ddim_loop(dpm, Noise(SEEDS, SHAPE), 10, class_labels=labels)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    other = sample(dpm, Noise(SEEDS, SHAPE), Ddim(10), class_labels=labels.flip(0))
    assert not torch.allclose(ours, other, atol=1e-2)


@pytest.mark.parametrize(("total", "steps"), [(10, 10), (50, 10), (1000, 7)])
def test_ancestral_ddpm_equals_diffusers(small_dpm, monkeypatch, total, steps):
    dpm = small_dpm(timesteps=total)
    assert dpm.schedule.config["variance_type"] == "fixed_small"
    noise = Noise(SEEDS, SHAPE)
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *args, **kwargs: noise.normal())
    scheduler = DDPMScheduler.from_config(dpm.schedule.config)
    scheduler.set_timesteps(steps)
    x = noise.normal()
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(dpm.unet(x, t).sample, t, x).prev_sample
    ours = sample(dpm, Noise(SEEDS, SHAPE), Ddpm(steps))
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-4)


def test_ddpm_is_ddim_at_eta_one(small_dpm):
    dpm = small_dpm()
    ddpm = sample(dpm, Noise(SEEDS, SHAPE), Ddpm(10))
    ddim = sample(dpm, Noise(SEEDS, SHAPE), Ddim(10, eta=1.0))
    assert torch.equal(ddpm, ddim)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [2, 5, 9, 10, 20])
def test_dpm_solver_equals_diffusers_where_nothing_is_clamped(digits, kind, steps):
    # The closed-form DPM predicts a mean of training images: never outside [-1, 1].
    dpm = OptimalDpm(digits[0], new_schedule(kind))
    scheduler = DPMSolverMultistepScheduler.from_config(dpm.schedule.config, timestep_spacing="leading")
    assert scheduler.config["prediction_type"] == "epsilon"
    scheduler.set_timesteps(steps)
    x = Noise(SEEDS, SHAPE).normal()
    for t in scheduler.timesteps:
        x = scheduler.step(dpm.eps(x, t.expand(len(x))), t, x).prev_sample
    ours = sample(dpm, Noise(SEEDS, SHAPE), DpmSolver(steps))
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-3)


def test_dpm_solver_equals_diffusers_fed_with_the_clamped_prediction(small_dpm):
    dpm = small_dpm()
    scheduler = DPMSolverMultistepScheduler.from_config(dpm.schedule.config, timestep_spacing="leading")
    scheduler.set_timesteps(8)
    x, clamped = Noise(SEEDS, SHAPE).normal(), 0
    with torch.no_grad():
        for t in scheduler.timesteps:
            signal, sigma = dpm.schedule.alphas_cumprod[t] ** 0.5, (1 - dpm.schedule.alphas_cumprod[t]) ** 0.5
            x0 = (x - sigma * dpm.unet(x, t).sample) / signal
            clamped += int((x0.abs() > 1).sum())
            eps = (x - signal * x0.clamp(-1, 1)) / sigma
            x = scheduler.step(eps, t, x).prev_sample
    assert clamped > 0
    ours = sample(dpm, Noise(SEEDS, SHAPE), DpmSolver(8))
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-3)


# -- timesteps ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [2, 7, 10, 30, 50, 70, 250, 333, 500, 1000])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_the_visited_timesteps_are_those_of_diffusers_leading_spacing(sampler, steps):
    scheduler = DDIMScheduler(num_train_timesteps=1000, timestep_spacing="leading")
    scheduler.set_timesteps(steps)
    assert SAMPLERS[sampler](steps).visited_timesteps(new_schedule()) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("steps", [501, 600, 999])
def test_ddim_visits_the_noisy_end_for_any_number_of_steps(steps):
    visited = Ddim(steps).visited_timesteps(new_schedule())
    assert len(set(visited)) == steps
    assert visited[0] >= 990
    assert visited[-1] == 0
    assert set(-np.diff(visited)) <= {1, 2}


@pytest.mark.parametrize("steps", [2, 6, 10, 50, 120, 499, 999])
def test_the_timesteps_of_dpm_solver_are_those_of_a_saved_pipeline(tmp_path, steps):
    new_schedule().save_pretrained(tmp_path)
    scheduler = DPMSolverMultistepScheduler.from_config(DDPMScheduler.from_pretrained(tmp_path).config)
    scheduler.set_timesteps(steps)
    visited = DpmSolver(steps).visited_timesteps(new_schedule())
    assert visited == scheduler.timesteps.tolist()
    assert all(isinstance(t, int) for t in visited)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "cosine"])
@pytest.mark.parametrize("steps", [200, 250, 400, 600, 800])
def test_dpm_solver_visits_the_noisy_end_for_any_number_of_steps(kind, steps):
    visited = DpmSolver(steps).visited_timesteps(new_schedule(kind))
    assert len(set(visited)) == steps
    assert 990 <= visited[0] <= 999
    assert 0 < visited[-1] <= 1000 // steps + 1
    # Fully noised for a cosine schedule as well, but not so far that x₀ is lost in rounding.
    assert new_schedule(kind).alphas_cumprod[visited[0]] > 1e-5


def test_dpm_solver_refuses_more_steps_than_there_are_timesteps_with_signal():
    schedule = DDPMScheduler(beta_end=0.2)
    with pytest.raises(UserError, match="pure noise"):
        DpmSolver(600).visited_timesteps(schedule)


@pytest.mark.parametrize(
    ("sampler", "steps"),
    [("ddim", 1), ("ddim", 1001), ("ddpm", 0), ("dpmsolver++", 1), ("dpmsolver++", 1000), ("ddim", -3)],
)
def test_impossible_steps_are_refused_in_one_line(small_dpm, sampler, steps):
    with pytest.raises(UserError) as caught:
        sample(small_dpm(), Noise(SEEDS, SHAPE), SAMPLERS[sampler](steps))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sampler", SAMPLERS.names)
def test_unet_and_classifier_get_the_original_timesteps_and_as_many_as_said(small_dpm, monkeypatch, sampler):
    dpm, guide, seen = small_dpm(), guidance(1.0), []
    eps = dpm.eps

    def recording(x, t, class_labels=None):
        assert not torch.is_grad_enabled()
        seen.append(t.tolist())
        return eps(x, t, class_labels)

    monkeypatch.setattr(dpm, "eps", recording)
    drawn = sample(dpm, Noise(SEEDS, SHAPE), SAMPLERS[sampler](10), guidance=guide)
    visited = SAMPLERS[sampler](10).visited_timesteps(dpm.schedule)
    assert seen == [[t] * len(SEEDS) for t in visited]
    assert guide.classifier.timesteps == visited
    assert len(seen) == SAMPLERS[sampler](10).evaluations
    assert visited[0] >= 900
    assert not drawn.requires_grad


# -- guidance ----------------------------------------------------------------------------------------------------------


def test_guidance_shifts_eps_by_minus_sigma_lambda_gradient(small_dpm):
    # One step by hand, from the equations.
    dpm, guide = small_dpm(), guidance(3.0)
    x = Noise(SEEDS, SHAPE).normal()
    for t, then in ((500, float(dpm.alphas_cumprod[0])), (0, 1.0)):
        now = float(dpm.alphas_cumprod[t])
        batch_t = torch.full((len(x),), t)
        eps = dpm.eps(x, batch_t) - math.sqrt(1 - now) * guide(x, batch_t)
        x0 = ((x - math.sqrt(1 - now) * eps) / math.sqrt(now)).clamp(-1, 1)
        eps = (x - math.sqrt(now) * x0) / math.sqrt(1 - now)
        x = math.sqrt(then) * x0 + math.sqrt(1 - then) * eps
    ours = sample(dpm, Noise(SEEDS, SHAPE), Ddim(2), guidance=guidance(3.0))
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS.names)
def test_guidance_raises_the_probability_of_the_target(small_dpm, sampler):
    dpm, targets = small_dpm(), torch.arange(len(SEEDS)) % 4
    classifier = SmoothClassifier().eval()

    def log_p(scale):
        guide = ClassifierGuidance(classifier, targets, torch.full((len(SEEDS),), scale))
        drawn = sample(dpm, Noise(SEEDS, SHAPE), SAMPLERS[sampler](5), guidance=guide)
        return classifier(drawn, torch.zeros(len(SEEDS)).long()).log_softmax(1).gather(1, targets[:, None]).mean()

    assert log_p(20.0) > log_p(5.0) > log_p(0.0)


@pytest.mark.parametrize("sampler", SAMPLERS.names)
def test_lambda_to_zero_is_continuous(small_dpm, sampler):
    dpm = small_dpm()
    plain = sample(dpm, Noise(SEEDS, SHAPE), SAMPLERS[sampler](5))
    moved = [
        float((sample(dpm, Noise(SEEDS, SHAPE), SAMPLERS[sampler](5), guidance=guidance(s)) - plain).norm())
        for s in (1.0, 0.1, 0.01, 0.0)
    ]
    assert moved[0] > moved[1] > 0.01
    # Not exactly 10, because some pixels are clamped.
    assert moved[1] / moved[2] == pytest.approx(10, rel=0.25)
    assert moved[3] == 0


@pytest.mark.parametrize("sampler", SAMPLERS.names)
def test_lambda_may_differ_from_row_to_row(small_dpm, sampler):
    dpm, scales = small_dpm(), [0.0, 2.0, 10.0]
    mixed = torch.tensor(scales * 4)
    drawn = sample(dpm, Noise(SEEDS, SHAPE), SAMPLERS[sampler](5), guidance=guidance(mixed))
    for scale in scales:
        same = sample(dpm, Noise(SEEDS, SHAPE), SAMPLERS[sampler](5), guidance=guidance(scale))
        torch.testing.assert_close(drawn[mixed == scale], same[mixed == scale], rtol=0, atol=1e-5)


def test_the_guidance_interval_says_where_the_classifier_is_asked(small_dpm):
    guide = guidance(5.0)
    sample(small_dpm(), Noise(SEEDS, SHAPE), Ddim(10), guidance=guide, guidance_interval=(0.2, 0.5))
    assert guide.classifier.timesteps == [400, 300, 200]


def test_an_empty_guidance_interval_is_plain_sampling(small_dpm):
    dpm = small_dpm()
    plain = sample(dpm, Noise(SEEDS, SHAPE), Ddim(10))
    empty = sample(dpm, Noise(SEEDS, SHAPE), Ddim(10), guidance=guidance(5.0), guidance_interval=(0.5, 0.5))
    assert torch.equal(plain, empty)


def test_guidance_comes_on_top_of_the_class_condition(small_dpm):
    dpm, labels = small_dpm(num_class_embeds=5), torch.arange(len(SEEDS)) % 5
    draws = [
        sample(dpm, Noise(SEEDS, SHAPE), Ddim(10), class_labels=c, guidance=g)
        for c, g in ((labels, None), (labels, guidance(5.0)), (labels.flip(0), guidance(5.0)))
    ]
    assert all(not torch.allclose(a, b, atol=1e-2) for a, b in pairwise(draws))


# -- every image -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS.names)
@pytest.mark.parametrize("guided", [False, True])
def test_another_batch_size_gives_the_same_images(small_dpm, sampler, guided):
    # The noise is bit-equal; a network's last bits depend on the batch. 1e-4 is an eightieth of one level of 256.
    dpm = small_dpm()
    options = {"eta": 0.5} if sampler == "ddim" else {}

    def draw(rows: range) -> torch.Tensor:
        guide = None
        if guided:
            targets = torch.tensor([target_of(SEEDS[i], 4) for i in rows])
            guide = ClassifierGuidance(SmoothClassifier().eval(), targets, torch.full((len(rows),), 5.0))
        seeds = [SEEDS[i] for i in rows]
        return sample(dpm, Noise(seeds, SHAPE), SAMPLERS[sampler](5, **options), guidance=guide)

    whole = draw(range(12))
    parts = torch.cat([draw(range(0, 5)), draw(range(5, 6)), draw(range(6, 12))])
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS.names)
def test_images_are_in_range_finite_and_the_same_every_time(small_dpm, sampler):
    draws = [sample(small_dpm(), Noise(SEEDS, SHAPE), SAMPLERS[sampler](5), guidance=guidance(50.0)) for _ in range(2)]
    assert torch.equal(*draws)
    assert draws[0].dtype == torch.float32
    assert draws[0].shape == (len(SEEDS), *SHAPE)
    assert draws[0].abs().max() <= 1
    assert draws[0].std() > 0.1


def test_broken_weights_end_in_an_error_and_not_in_images(small_dpm):
    dpm = small_dpm()
    with torch.no_grad():
        dpm.unet.conv_out.bias.fill_(math.nan)
    with pytest.raises(RunError, match="NaN"):
        sample(dpm, Noise(SEEDS, SHAPE), Ddim(5))
