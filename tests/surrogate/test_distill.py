import math

import pytest
import torch
from torch.nn import functional

from side_ray.diffusion.noise_process import new_schedule, noisy
from side_ray.diffusion.processes import VariancePreserving
from side_ray.diffusion.spaces.view import View
from side_ray.errors import RunError
from side_ray.surrogate.distill import (
    Accuracy,
    accuracy_by_timestep,
    cross_entropy,
    distillation_loss,
    draw,
    kl,
    require_better_than_chance,
)
from side_ray.surrogate.resnet import ResNet, ResNetConfig

ALPHAS_CUMPROD = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), dim=0)


def stripes(images: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [N, 1, 8, 8] in [-1, 1] of four classes: the position of a bright two-pixel row; labels [N]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (images,), generator=generator)
    x = torch.full((images, 1, 8, 8), -0.9)
    for row in range(2):
        x[torch.arange(images), 0, 2 * labels + row] = 0.9
    return x + 0.05 * torch.randn(x.shape, generator=generator), labels


def train(model: ResNet, steps: range, optimizer: torch.optim.Optimizer) -> ResNet:
    """Some steps of TDKD on stripes."""
    x0, labels = stripes(256, seed=0)
    teacher = functional.one_hot(labels, 4).float()
    for step in steps:
        now = draw(0, step, 64, len(x0), (1, 8, 8), 1000)
        logits = model.train()(noisy(x0[now.rows], now.t, now.eps, ALPHAS_CUMPROD), now.t)
        optimizer.zero_grad()
        kl(teacher[now.rows], logits).backward()
        optimizer.step()
    return model


def sgd(model: ResNet) -> torch.optim.Optimizer:
    """Plain SGD: the weights are all the state there is."""
    return torch.optim.SGD(model.parameters(), lr=0.05)


def fresh() -> ResNet:
    torch.manual_seed(0)
    config = ResNetConfig(num_classes=4, blocks=(1, 1), width=8, in_channels=1, stem="cifar", time=True, time_dim=16)
    return ResNet(config)


@pytest.fixture(scope="module")
def student() -> ResNet:
    model = fresh()
    return train(model, range(200), torch.optim.AdamW(model.parameters(), lr=3e-3))


def test_noisy_follows_the_schedule():
    x0, eps = torch.ones(2, 1, 2, 2), torch.full((2, 1, 2, 2), 3.0)
    x_t = noisy(x0, torch.tensor([0, 999]), eps, ALPHAS_CUMPROD)
    for row, t in enumerate((0, 999)):
        alpha = ALPHAS_CUMPROD[t].item()
        torch.testing.assert_close(x_t[row], torch.full((1, 2, 2), math.sqrt(alpha) + 3 * math.sqrt(1 - alpha)))
    assert x_t.dtype == torch.float32


def test_kl_by_hand_and_in_which_direction():
    teacher, student_p = torch.tensor([[0.9, 0.1], [0.5, 0.5]]), torch.tensor([[0.5, 0.5], [0.2, 0.8]])
    forward = (
        0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5) + 0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.8)
    ) / 2
    reverse = (
        0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1) + 0.2 * math.log(0.2 / 0.5) + 0.8 * math.log(0.8 / 0.5)
    ) / 2
    assert abs(forward - reverse) > 0.05
    assert kl(teacher, student_p.log()).item() == pytest.approx(forward, rel=1e-5)


def test_kl_vanishes_where_the_student_agrees_and_takes_zeros_of_the_teacher():
    p = torch.tensor([[0.7, 0.2, 0.1]])
    assert kl(p, p.log() + 5).item() == pytest.approx(0, abs=1e-6)
    assert kl(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2)).item() == pytest.approx(math.log(2), rel=1e-6)


def test_temperature_softens_both_sides_and_keeps_the_size():
    teacher, logits = torch.tensor([[0.8, 0.2]]), torch.tensor([[0.3, 1.1]])
    soft = math.sqrt(0.8) / (math.sqrt(0.8) + math.sqrt(0.2))
    student_p = 1 / (1 + math.exp(0.4))
    expected = 4 * (soft * math.log(soft / student_p) + (1 - soft) * math.log((1 - soft) / (1 - student_p)))
    assert kl(teacher, logits, temperature=2.0).item() == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_reads_the_teachers_argmax():
    teacher, logits = torch.tensor([[0.6, 0.4], [0.1, 0.9]]), torch.tensor([[2.0, 0.0], [1.0, 0.0]])
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1))) / 2
    assert cross_entropy(teacher, logits).item() == pytest.approx(expected, rel=1e-5)
    assert distillation_loss(teacher, logits, "cross_entropy") == cross_entropy(teacher, logits)
    assert distillation_loss(teacher, logits, "kl", 2.0) == kl(teacher, logits, 2.0)


def test_the_gradient_of_kl_is_student_minus_teacher():
    teacher, logits = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([[0.1, -0.4, 2.0]], requires_grad=True)
    kl(teacher, logits).backward()
    torch.testing.assert_close(logits.grad, logits.detach().softmax(1) - teacher)


def test_draws_are_a_function_of_seed_and_step():
    one, again = draw(2**62, 5, 32, 100, (1, 4, 4), 1000), draw(2**62, 5, 32, 100, (1, 4, 4), 1000)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    for other in (draw(2**62, 6, 32, 100, (1, 4, 4), 1000), draw(2**62 + 1, 5, 32, 100, (1, 4, 4), 1000)):
        assert not torch.equal(one.rows, other.rows)
        assert not torch.equal(one.t, other.t)
        assert not torch.equal(one.eps, other.eps)


def test_draws_cover_rows_and_timesteps_evenly():
    now = draw(0, 0, 20_000, 10, (2,), 1000)
    assert (torch.bincount(now.rows, minlength=10) - 2000).abs().max() < 250
    assert (now.t.min(), now.t.max()) == (0, 999)
    assert (torch.bincount(now.t // 100, minlength=10) - 2000).abs().max() < 250
    assert now.eps.mean().abs() < 0.03
    assert (now.eps.std() - 1).abs() < 0.03


def test_a_training_resumed_from_its_weights_equals_an_undisturbed_one(tmp_path):
    model = fresh()
    undisturbed = train(model, range(12), sgd(model))
    stopped = fresh()
    train(stopped, range(7), sgd(stopped)).save(tmp_path)
    loaded = ResNet.load(tmp_path)
    resumed = train(loaded, range(7, 12), sgd(loaded))
    for name, value in undisturbed.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.long
def test_a_student_beats_chance_where_the_image_is_visible_and_nowhere_else(student):
    curve = accuracy_by_timestep(
        student, *stripes(500, seed=9), View(VariancePreserving(new_schedule()), None), bins=10
    )
    assert [(a.first, a.last) for a in curve] == [(i, i + 99) for i in range(0, 1000, 100)]
    assert all(a.count == 500 for a in curve)
    assert curve[0].share > 0.95
    assert abs(curve[-1].share - 0.25) < 0.15
    require_better_than_chance(curve, stripes(500, seed=9)[1])


def test_the_student_uses_t(student):
    x0, labels = stripes(500, seed=9)
    x_t = noisy(x0, torch.full((500,), 600), draw(0, 0, 500, 1, (1, 8, 8), 1).eps, ALPHAS_CUMPROD)
    with torch.no_grad():
        told, misled = (student.eval()(x_t, torch.full((500,), t)) for t in (600, 0))
    losses = [functional.cross_entropy(logits, labels).item() for logits in (told, misled)]
    assert losses[0] < losses[1] - 0.05


def test_accuracy_leaves_the_students_mode_and_statistics_alone(student):
    before = {k: v.clone() for k, v in student.state_dict().items()}
    student.train()
    first = accuracy_by_timestep(
        student, *stripes(40, seed=1), View(VariancePreserving(new_schedule()), None), bins=3, batch=16
    )
    assert student.training
    assert all(torch.equal(v, student.state_dict()[k]) for k, v in before.items())
    assert first == accuracy_by_timestep(
        student, *stripes(40, seed=1), View(VariancePreserving(new_schedule()), None), bins=3, batch=16
    )
    assert [(a.first, a.last) for a in first] == [(0, 332), (333, 666), (667, 999)]


def test_accuracy_draws_every_timestep_of_a_bin_and_none_outside():
    seen = []
    accuracy_by_timestep(
        lambda x, t: seen.append(t) or torch.zeros(len(x), 4),
        *stripes(3000, seed=0),
        View(VariancePreserving(new_schedule()), None),
        bins=10,
    )
    per_bin = torch.cat(seen).view(10, 3000)
    assert all((per_bin[i].min(), per_bin[i].max()) == (100 * i, 100 * i + 99) for i in range(10))


def test_a_student_at_chance_is_an_error_that_says_so():
    labels = torch.tensor([0] * 60 + [1] * 40)
    guessing = [Accuracy(0, 99, 60, 100), Accuracy(100, 199, 100, 100)]
    with pytest.raises(RunError, match=r"60\.0% of 100 .*t ≤ 99.* commonest label \(60\.0%\)"):
        require_better_than_chance(guessing, labels)
    require_better_than_chance([Accuracy(0, 99, 80, 100)], labels)
