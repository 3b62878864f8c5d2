import math

import numpy as np
import pytest
import torch

from side_ray.diffusion.likelihood import Hutchinson, draw, exact_divergence, log_likelihood
from side_ray.diffusion.noise_process import alpha_bar_at, log_sigma, new_schedule, timestep_at
from side_ray.diffusion.optimal import OptimalDpm
from side_ray.diffusion.sampler import Noise

STEPS = 40


@pytest.fixture
def victim(digits):
    return OptimalDpm(digits[0], new_schedule())


def points(dpm: OptimalDpm, count: int, spread: float) -> torch.Tensor:
    """Training images with Gaussian noise of standard deviation `spread`, float64."""
    noise = torch.randn(count, *dpm.image_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return dpm.images[:count].double() + spread * noise


def mixture(dpm: OptimalDpm, x: torch.Tensor, spread: float) -> torch.Tensor:
    """The victim's density at noise `spread` by torch's own distributions, float64 [B]."""
    component = torch.distributions.Normal(dpm.images.double(), spread)
    return component.log_prob(x[:, None]).flatten(2).sum(2).logsumexp(1) - math.log(len(dpm.images))


def own_spread(dpm: OptimalDpm) -> float:
    alpha_bar = float(dpm.alphas_cumprod[0])
    return math.sqrt((1 - alpha_bar) / alpha_bar)


def per_dimension(dpm: OptimalDpm, found: torch.Tensor, expected: torch.Tensor) -> float:
    """Error of the mean density, in nats per dimension."""
    return float((found - expected).mean().abs()) / math.prod(dpm.image_shape)


@pytest.mark.parametrize("spread", [None, 0.03, 0.1])
def test_flow_gives_the_exact_density_within_a_percent_per_dimension(victim, spread):
    spread = spread or own_spread(victim)
    x = points(victim, 60, spread)
    exact = mixture(victim, x, spread)
    found = log_likelihood(victim, x, steps=STEPS, divergence=Hutchinson(range(60)), variance=spread**2)
    error = per_dimension(victim, found, exact)
    assert error < 0.01
    assert error < 0.01 * float(exact.mean().abs()) / 64


def test_noise_below_the_models_own_is_a_point_near_its_core(victim):
    x = points(victim, 20, 0.001)
    found = log_likelihood(victim, x, steps=STEPS, divergence=Hutchinson(range(20)), variance=1e-6)
    assert per_dimension(victim, found, mixture(victim, x, own_spread(victim))) < 0.01


def test_a_tenth_of_the_steps_is_not_enough_so_the_tolerance_means_something(victim):
    x = points(victim, 20, 0.03)
    found = log_likelihood(victim, x, steps=4, divergence=Hutchinson(range(20)), variance=0.03**2)
    assert per_dimension(victim, found, mixture(victim, x, 0.03)) > 0.01


def test_flow_with_the_exact_divergence_is_right_image_by_image():
    images = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    victim = OptimalDpm(images, new_schedule())
    x = points(victim, 12, own_spread(victim))
    found = log_likelihood(victim, x, steps=STEPS, divergence=exact_divergence)
    assert float((found - mixture(victim, x, own_spread(victim))).abs().max()) / 16 < 0.01


def test_samples_of_the_flow_are_training_images_and_know_their_density(victim):
    x, log_p = draw(victim, Noise(range(30), victim.image_shape), steps=STEPS, divergence=Hutchinson(range(30)))
    nearest = torch.cdist(x.flatten(1), victim.images.double().flatten(1)).min(1).values
    assert float((nearest / math.sqrt(64)).median()) < 0.02
    assert per_dimension(victim, log_p, mixture(victim, x, own_spread(victim))) < 0.01


@pytest.mark.long
def test_density_of_a_network_does_not_depend_on_the_direction_of_the_flow(small_dpm):
    dpm = small_dpm(image_shape=(1, 2, 2))
    x, forth = draw(dpm, Noise(range(3), dpm.image_shape), steps=20, divergence=exact_divergence)
    back = log_likelihood(dpm, x, steps=20, divergence=exact_divergence)
    torch.testing.assert_close(back, forth, rtol=0, atol=0.02)


def test_hutchinson_is_unbiased_and_follows_the_seed():
    matrix = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.zeros(3, 6, dtype=torch.float64, requires_grad=True)

    def trace(probes: int, seed: int) -> torch.Tensor:
        return Hutchinson([seed, seed + 1, seed], probes)(x @ matrix.T, x)

    many = trace(4000, 0)
    assert float(many[1]) == pytest.approx(float(matrix.trace()), abs=0.3)
    one = trace(1, 7)
    assert float(one[0]) == float(one[2]) != float(one[1])
    assert exact_divergence(x @ matrix.T, x).tolist() == pytest.approx([float(matrix.trace())] * 3)


def test_fractional_timesteps_meet_the_whole_ones():
    levels = new_schedule().alphas_cumprod.double()
    whole = torch.tensor([0, 1, 500, 999])
    torch.testing.assert_close(alpha_bar_at(levels, whole.double()), levels[whole], rtol=1e-12, atol=0)
    between = alpha_bar_at(levels, torch.tensor([0.5, 998.25], dtype=torch.float64))
    assert levels[1] < between[0] < levels[0]
    assert levels[999] < between[1] < levels[998]


@pytest.mark.parametrize("t", [0.0, 0.25, 3.5, 998.75, 999.0])
def test_timestep_at_inverts_the_levels(t):
    levels = new_schedule().alphas_cumprod.double()
    alpha_bar = alpha_bar_at(levels, torch.tensor([t], dtype=torch.float64))
    assert timestep_at(levels, float(log_sigma(alpha_bar)[0])) == pytest.approx(t, abs=1e-9)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_network_takes_fractional_timesteps(small_dpm, prediction):
    dpm = small_dpm(prediction=prediction)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 1, 8, 8), dtype=np.float32))

    def eps(t: float) -> torch.Tensor:
        return dpm.differentiable_eps(x, torch.full((2,), t, dtype=torch.float64)).detach()

    torch.testing.assert_close(eps(40.0), dpm.eps(x, torch.tensor([40, 40])), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(eps(40.001), eps(40.0), rtol=1e-2, atol=1e-3)
    assert not torch.equal(eps(40.5), eps(40.0))
