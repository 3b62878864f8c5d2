import json
import math

import pytest
import torch

from side_ray.diffusion import optimal
from side_ray.diffusion.dpm import load_dpm
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.optimal import ExactPosterior, OptimalDpm
from side_ray.diffusion.sampler import Noise, sample, sample_seed, target_of
from side_ray.diffusion.samplers import SAMPLERS
from side_ray.diffusion.samplers.ddim import Ddim
from side_ray.errors import UserError

SHAPE = (1, 8, 8)


@pytest.fixture
def dpm(digits):
    return OptimalDpm(digits[0], new_schedule())


def noised(dpm: OptimalDpm, t: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """float64 [B, C, H, W]: the first B training images at the timesteps t."""
    noise = torch.randn(len(t), *dpm.image_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    alpha_bar = dpm.alphas_cumprod[t].view(-1, 1, 1, 1)
    return alpha_bar.sqrt() * dpm.images[: len(t)].double() + (1 - alpha_bar).sqrt() * noise


def finite_difference(function, x: torch.Tensor, h: float) -> torch.Tensor:
    """∇ of a function [B, C, H, W] → [B] whose rows do not depend on each other, by central differences in float64."""
    gradient = torch.zeros_like(x)
    for i in range(x[0].numel()):
        step = torch.zeros_like(x).flatten(1)
        step[:, i] = h
        step = step.reshape(x.shape)
        gradient.flatten(1)[:, i] = (function(x + step) - function(x - step)) / (2 * h)
    return gradient


def normalized_l2(generated: torch.Tensor, training: torch.Tensor) -> torch.Tensor:
    """float64 [N, M]: distances over half the mean of each generated image's 50 smallest ones."""
    distances = (generated.double()[:, None] - training.double()[None]).flatten(2).norm(dim=2)
    return distances / (0.5 * distances.sort(dim=1).values[:, :50].mean(dim=1, keepdim=True))


def seeds(n: int) -> list[int]:
    return [sample_seed(0, "extract", i) for i in range(n)]


# -- the model ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timestep", [0, 10, 300, 999])
def test_eps_is_the_formula(dpm, timestep):
    t = torch.full((5,), timestep)
    x = noised(dpm, t)
    alpha_bar = dpm.alphas_cumprod[timestep]
    gaps = (x[:, None] - alpha_bar.sqrt() * dpm.images.double()[None]).flatten(2)
    weights = (-(gaps**2).sum(2) / (2 * (1 - alpha_bar))).softmax(1)
    mean = torch.einsum("bi,ichw->bchw", weights, dpm.images.double())
    expected = (x - alpha_bar.sqrt() * mean) / (1 - alpha_bar).sqrt()
    torch.testing.assert_close(dpm.eps(x, t), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(dpm.eps(x.float(), t), expected.float(), rtol=1e-5, atol=1e-5)
    assert dpm.eps(x.float(), t).dtype == torch.float32


def test_eps_predicts_the_noise_better_than_any_other_function_of_its_family(dpm):
    # The training loss at one t over a large sample; the minimizer may not be improved by scaling or by a shift of t.
    generator = torch.Generator().manual_seed(0)
    t = torch.full((4000,), 400)
    index = torch.randint(len(dpm.images), (4000,), generator=generator)
    noise = torch.randn(4000, *SHAPE, generator=generator)
    x = dpm.schedule.add_noise(dpm.images[index], noise, t)
    best = ((dpm.eps(x, t) - noise) ** 2).mean()
    for other in (0.97 * dpm.eps(x, t), 1.03 * dpm.eps(x, t), dpm.eps(x, t + 30), dpm.eps(x, t - 30)):
        assert ((other - noise) ** 2).mean() > best


def test_blocks_of_training_images_change_nothing(dpm, monkeypatch):
    t = torch.tensor([0, 50, 400, 900])
    x = noised(dpm, t)
    posterior = ExactPosterior(dpm, torch.arange(60) % 7)
    guidance = posterior.guidance(torch.tensor([0, 3, 5, 6]), torch.ones(4))
    whole = dpm.eps(x, t), posterior(x, t), guidance(x, t)
    # Blocks of 4: most hold no image of some target, the first ones included.
    monkeypatch.setattr(optimal, "CHUNK_ELEMENTS", 64 * 4)
    assert len(list(dpm.blocks(x, t))) == 15
    for in_blocks, at_once in zip((dpm.eps(x, t), posterior(x, t), guidance(x, t)), whole, strict=True):
        torch.testing.assert_close(in_blocks, at_once, rtol=1e-9, atol=1e-9)


def test_it_is_exact_where_every_weight_underflows(dpm):
    # 50 standard deviations from every training image at t = 0, where exp of every exponent is 0 even in float64.
    x = torch.full((1, *SHAPE), 5.0)
    eps = dpm.eps(x, torch.tensor([0]))
    nearest = dpm.images[(x - dpm.images).flatten(1).norm(dim=1).argmin()]
    alpha_bar = float(dpm.alphas_cumprod[0])
    torch.testing.assert_close(eps[0], (x[0] - alpha_bar**0.5 * nearest) / (1 - alpha_bar) ** 0.5, rtol=1e-5, atol=0)


def test_log_density_is_the_gaussian_mixture(dpm):
    t = torch.tensor([20, 500])
    x = noised(dpm, t)
    for row in range(2):
        alpha_bar = dpm.alphas_cumprod[t[row]]
        component = torch.distributions.Normal(alpha_bar.sqrt() * dpm.images.double(), (1 - alpha_bar).sqrt())
        expected = component.log_prob(x[row]).flatten(1).sum(1).logsumexp(0) - math.log(60)
        assert float(dpm.log_density(x, t)[row]) == pytest.approx(float(expected), rel=1e-9)


def test_eps_is_minus_sigma_times_the_score(dpm):
    t = torch.tensor([30, 300, 700])
    x = noised(dpm, t)
    score = finite_difference(lambda z: dpm.log_density(z, t), x, 1e-5)
    sigma = (1 - dpm.alphas_cumprod[t]).sqrt().view(-1, 1, 1, 1)
    torch.testing.assert_close(dpm.eps(x, t), -sigma * score, rtol=1e-5, atol=1e-5)


def test_class_labels_are_refused(dpm):
    with pytest.raises(ValueError, match="no class labels"):
        dpm.eps(torch.zeros(1, *SHAPE), torch.tensor([0]), torch.tensor([1]))


def test_colour_images_that_are_not_square():
    images = torch.rand(12, 3, 6, 10, generator=torch.Generator().manual_seed(0)) * 2 - 1
    dpm = OptimalDpm(images, new_schedule("cosine", 100))
    drawn = sample(dpm, Noise(range(40), dpm.image_shape), Ddim(20))
    assert drawn.shape == (40, 3, 6, 10)
    # Not torch.cdist: in float32 it is off by 6e-3 between equal images.
    assert (drawn[:, None] - images[None]).flatten(2).norm(dim=2).min(1).values.max() < 1e-5


# -- its class posterior -----------------------------------------------------------------------------------------------


def test_the_posterior_is_bayes_rule(dpm, digits):
    labels = digits[1]
    t = torch.tensor([300, 600])
    x = noised(dpm, t)
    p = ExactPosterior(dpm, labels)(x, t).exp()
    torch.testing.assert_close(p.sum(1), torch.ones(2, dtype=torch.float64))
    for label in range(10):
        prior = float((labels == label).double().mean())
        likelihood = OptimalDpm(dpm.images[labels == label], dpm.schedule).log_density(x, t)
        expected = prior * (likelihood - dpm.log_density(x, t)).exp()
        torch.testing.assert_close(p[:, label], expected, rtol=1e-8, atol=1e-12)


def test_the_analytic_gradient_equals_a_finite_difference(dpm, digits):
    posterior = ExactPosterior(dpm, digits[1])
    t = torch.tensor([30, 200, 500, 900])
    x = noised(dpm, t)
    targets, scale = torch.tensor([7, 1, 2, 9]), torch.tensor([1.0, 2.0, 0.5, 3.0])
    analytic = posterior.guidance(targets, scale)(x, t)
    numeric = finite_difference(lambda z: scale * posterior(z, t).gather(1, targets[:, None])[:, 0], x, 1e-5)
    torch.testing.assert_close(analytic, numeric, rtol=1e-5, atol=1e-5)


def test_at_lambda_one_guidance_is_the_dpm_of_the_class_alone(dpm, digits):
    images, labels = digits
    t = torch.tensor([5, 250, 750])
    x = noised(dpm, t)
    gradient = ExactPosterior(dpm, labels).guidance(torch.full((3,), 4), torch.ones(3))(x, t)
    sigma = (1 - dpm.alphas_cumprod[t]).sqrt().view(-1, 1, 1, 1)
    alone = OptimalDpm(images[labels == 4], dpm.schedule)
    torch.testing.assert_close(dpm.eps(x, t) - sigma * gradient, alone.eps(x, t), rtol=1e-8, atol=1e-8)


def test_labels_and_targets_that_do_not_fit_are_refused(dpm, digits):
    with pytest.raises(ValueError, match="one label per training image"):
        ExactPosterior(dpm, torch.zeros(59).long())
    with pytest.raises(ValueError, match="at least one training image"):
        ExactPosterior(dpm, torch.full((60,), 2))
    with pytest.raises(ValueError, match="targets must be in"):
        ExactPosterior(dpm, digits[1]).guidance(torch.tensor([10]), torch.ones(1))


# -- what it emits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 50), ("ddpm", 50), ("dpmsolver++", 40)])
def test_unguided_it_emits_training_images_only_and_all_of_them(dpm, sampler, steps):
    drawn = sample(dpm, Noise(seeds(1500), SHAPE), SAMPLERS[sampler](steps))
    best, index = normalized_l2(drawn, dpm.images).min(dim=1)
    assert float((best < 0.05).double().mean()) == 1.0
    assert len(index.unique()) == len(dpm.images)


@pytest.mark.parametrize("schedule", ["cosine", "scaled_linear"])
def test_unguided_with_other_schedules(digits, schedule):
    dpm = OptimalDpm(digits[0], new_schedule(schedule))
    best = normalized_l2(sample(dpm, Noise(seeds(200), SHAPE), Ddim(50)), dpm.images).min(dim=1).values
    assert best.max() < 0.05


@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 50), ("ddpm", 50), ("dpmsolver++", 40)])
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_guided_to_a_class_it_emits_that_class_only(dpm, digits, sampler, steps, scale):
    images, labels = digits
    targets = torch.tensor([target_of(seed, 10) for seed in seeds(500)])
    guidance = ExactPosterior(dpm, labels).guidance(targets, torch.full((500,), scale))
    drawn = sample(dpm, Noise(seeds(500), SHAPE), SAMPLERS[sampler](steps), guidance=guidance)
    best, index = normalized_l2(drawn, images).min(dim=1)
    assert best.max() < 0.05
    assert torch.equal(labels[index], targets)


def test_lambda_to_zero_is_continuous(dpm, digits):
    targets = torch.tensor([target_of(seed, 10) for seed in seeds(300)])
    posterior = ExactPosterior(dpm, digits[1])

    def draw(scale: float) -> torch.Tensor:
        guidance = posterior.guidance(targets, torch.full((300,), scale))
        return sample(dpm, Noise(seeds(300), SHAPE), Ddim(50), guidance=guidance)

    plain = sample(dpm, Noise(seeds(300), SHAPE), Ddim(50))
    assert torch.equal(draw(0.0), plain)
    moved = {scale: (draw(scale) - plain).flatten(1).norm(dim=1) for scale in (1.0, 1e-2, 1e-3, 1e-4)}
    # The model emits isolated points: with λ the share of samples that end at another one vanishes …
    elsewhere = [float((moved[scale] > 0.5).double().mean()) for scale in moved]
    assert elsewhere[0] > 0.9
    assert elsewhere[1] < 0.1
    assert elsewhere[3] == 0
    # … and the others are off by λ·(E[x₀|x_t, y] − E[x₀|x_t]).
    medians = [float(moved[scale].median()) for scale in (1e-2, 1e-3, 1e-4)]
    assert medians[0] / medians[1] == pytest.approx(10, rel=0.05)
    assert medians[1] / medians[2] == pytest.approx(10, rel=0.05)


# -- files -------------------------------------------------------------------------------------------------------------


def test_round_trip_through_load_dpm(dpm, tmp_path):
    dpm.save(tmp_path / "victim")
    again = load_dpm(tmp_path / "victim")
    assert isinstance(again, OptimalDpm)
    assert torch.equal(again.images, dpm.images)
    assert torch.equal(again.alphas_cumprod, dpm.alphas_cumprod)
    assert json.loads((tmp_path / "victim" / "config.json").read_text())["kind"] == "optimal"
    draws = [sample(model, Noise(seeds(4), SHAPE), Ddim(10)) for model in (dpm, again)]
    assert torch.equal(*draws)


@pytest.mark.parametrize("damage", ["absent", "truncated", "other", "fewer"])
def test_broken_files_get_one_line(dpm, tmp_path, damage):
    dpm.save(tmp_path)
    path = tmp_path / "images.safetensors"
    if damage == "absent":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "other":
        optimal.save_file({"pictures": dpm.images}, path)
    else:
        optimal.save_file({"images": dpm.images[:3]}, path)
    with pytest.raises(UserError, match=r"images\.safetensors") as caught:
        load_dpm(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_training_images_is_no_model():
    with pytest.raises(ValueError, match="N ≥ 1"):
        OptimalDpm(torch.zeros(0, 1, 8, 8), new_schedule())
