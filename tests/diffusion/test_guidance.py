import pytest
import torch
from torch import nn

from side_ray.diffusion.guidance import ClassifierGuidance
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.optimal import ExactPosterior, OptimalDpm


class LinearClassifier(nn.Module):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.weight.T


class BatchNormClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.out = nn.Linear(8 * 36, 3)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.out(self.norm(self.conv(x)).relu().flatten(1))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 1, 8, 8, generator=generator), torch.tensor([5, 5, 5, 5])


def test_it_is_lambda_times_the_gradient_of_plus_log_p(batch):
    x, t = batch
    weight = torch.randn(3, 64, generator=torch.Generator().manual_seed(2))
    targets, scale = torch.tensor([0, 1, 2, 0]), torch.tensor([1.0, 2.5, 0.5, 10.0])
    gradient = ClassifierGuidance(LinearClassifier(weight).eval(), targets, scale)(x, t)
    # ∇ log softmax_y(Wx) = W_y − Σ_k p_k W_k
    p = (x.flatten(1) @ weight.T).softmax(1)
    expected = scale[:, None] * (weight[targets] - p @ weight)
    torch.testing.assert_close(gradient.flatten(1), expected, rtol=1e-5, atol=1e-5)


def test_a_step_along_it_makes_the_target_likelier(batch):
    x, t = batch
    classifier = BatchNormClassifier().eval()
    targets = torch.tensor([0, 1, 2, 1])
    step = ClassifierGuidance(classifier, targets, torch.ones(4))(x, t)
    with torch.no_grad():
        before, after = (classifier(z, t).log_softmax(1).gather(1, targets[:, None]) for z in (x, x + 1e-2 * step))
    assert bool((after > before).all())


def test_rows_of_lambda_zero_are_exact_zeros_and_nothing_is_left_behind(batch):
    x, t = batch
    classifier = BatchNormClassifier().eval()
    with torch.no_grad():
        gradient = ClassifierGuidance(classifier, torch.zeros(4).long(), torch.tensor([0.0, 1, 0, 1]))(x, t)
    assert not gradient[[0, 2]].any()
    assert gradient[1].any()
    assert gradient[3].any()
    assert not gradient.requires_grad
    assert not x.requires_grad
    assert gradient.dtype == torch.float32
    assert all(parameter.grad is None for parameter in classifier.parameters())


def test_batch_norm_does_not_leak_between_rows(batch):
    x, t = batch
    others = torch.cat([x[:1], 5 * x[1:] + 3])
    targets, scale = torch.zeros(4).long(), torch.ones(4)
    guidance = ClassifierGuidance(BatchNormClassifier().eval(), targets, scale)
    torch.testing.assert_close(guidance(x, t)[0], guidance(others, t)[0], rtol=1e-5, atol=1e-7)

    # The same gradient with batch statistics does depend on the other rows, so the check above can fail.
    training = BatchNormClassifier().train()
    leaking = [
        torch.autograd.grad(training(z, t).log_softmax(1)[:, 0].sum(), z)[0][0]
        for z in (x.clone().requires_grad_(), others.clone().requires_grad_())
    ]
    assert (leaking[0] - leaking[1]).abs().max() > 1e-3


def test_a_classifier_in_training_mode_is_refused_at_once_and_at_every_call(batch):
    x, t = batch
    targets, scale = torch.zeros(4).long(), torch.ones(4)
    classifier = BatchNormClassifier().eval()
    guidance = ClassifierGuidance(classifier, targets, scale)
    classifier.norm.train()
    with pytest.raises(ValueError, match="training mode"):
        guidance(x, t)
    with pytest.raises(ValueError, match="training mode"):
        ClassifierGuidance(classifier, targets, scale)


def test_a_target_that_is_no_class_is_refused(batch):
    x, t = batch
    guidance = ClassifierGuidance(BatchNormClassifier().eval(), torch.tensor([0, 1, 2, 3]), torch.ones(4))
    with pytest.raises(ValueError, match="3 classes"):
        guidance(x, t)


def test_one_target_and_one_lambda_per_row():
    with pytest.raises(ValueError, match="per row"):
        ClassifierGuidance(BatchNormClassifier().eval(), torch.zeros(4).long(), torch.ones(3))


def test_automatic_differentiation_of_the_exact_posterior_is_the_analytic_gradient(digits):
    images, labels = digits
    posterior = ExactPosterior(OptimalDpm(images, new_schedule()), labels)
    generator = torch.Generator().manual_seed(3)
    t = torch.tensor([50, 200, 400, 700])
    x = posterior.dpm.schedule.add_noise(images[:4], torch.randn(4, 1, 8, 8, generator=generator), t)
    targets, scale = torch.tensor([3, 0, 5, 8]), torch.tensor([1.0, 2, 3, 4])
    by_autograd = ClassifierGuidance(posterior, targets, scale)(x, t)
    analytic = posterior.guidance(targets, scale)(x, t)
    torch.testing.assert_close(by_autograd, analytic, rtol=1e-4, atol=1e-4)
