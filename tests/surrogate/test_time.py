"""The student of each noise process is told the noise level by the time of that process."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from side_ray.config import SurrogateSection
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.optimal import OptimalDpm
from side_ray.diffusion.processes import of_library
from side_ray.diffusion.processes.table import Table
from side_ray.diffusion.spaces.view import View
from side_ray.stages.train_surrogate import StudentRecipe
from side_ray.surrogate.resnet import ResNet

LEVELS = (0.1, 0.3, 1.0, 3.0)
"""σ/α."""
SCHEDULES = {
    "vp": new_schedule,
    "edm": lambda: of_library({"_class_name": "EDMEulerScheduler"}),
    "flow": lambda: of_library({"_class_name": "FlowMatchEulerDiscreteScheduler"}),
    "ve": lambda: of_library({"_class_name": "ScoreSdeVeScheduler", "sigma_max": 50.0, "num_train_timesteps": 500}),
    "few-levels": lambda: Table(torch.ones(30), torch.logspace(-2, 1.5, 30), "sample"),
}


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    found = load_digits()
    images = torch.tensor(found.images).float()[:, None] / 8 - 1
    return images, torch.tensor(found.target)


def accuracy(schedule) -> list[float]:
    """Of a student of the closed-form model's noisy images, at each of `LEVELS`, on images that it was not trained on."""
    images, labels = digits()
    pixels = ((images + 1) * 127.5).round().to(torch.uint8)
    view = View.of(OptimalDpm(images[:10], schedule))
    section = SurrogateSection(arch="small", stem="cifar", width=8, batch_size=64, lr=4e-3)
    teacher = torch.nn.functional.one_hot(labels, 10).float().numpy()
    recipe = StudentRecipe(pixels, teacher, view, section, 0, torch.device("cpu"))
    optimizer = torch.optim.AdamW(recipe.module.parameters(), lr=4e-3)
    for step in range(300):
        loss = recipe.loss(recipe.module, *recipe.draw(step, slice(0, 64)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    student = recipe.module.eval()
    unseen, truth = images[recipe.trained_on :].repeat(4, 1, 1, 1), labels[recipe.trained_on :].repeat(4)
    found = []
    for time in times_of(view):
        t = torch.full((len(unseen),), time, dtype=torch.float64)
        noise = torch.randn(unseen.shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            found.append(float((student(view.noised(unseen, t, noise), t).argmax(1) == truth).float().mean()))
    return found


def times_of(view: View) -> np.ndarray:
    """The times at `LEVELS`."""
    signal, sigma = view.process.levels(torch.arange(view.timesteps))
    return np.interp(LEVELS, (sigma / signal).numpy(), np.arange(view.timesteps))


@pytest.mark.parametrize("name", SCHEDULES)
def test_noise_levels_are_times_that_the_embedding_tells_apart(name):
    """Its sinusoids are made for whole numbers: σ itself, or a time in [0, 1], would be nearly one value to most of them."""
    view = View.of(OptimalDpm(digits()[0][:2], SCHEDULES[name]()))
    assert np.diff(times_of(view)).min() >= 3
    told = ResNet.preset("small", 2, in_channels=1, time=True).sinusoid(torch.tensor(times_of(view)))
    assert float(torch.pdist(told).min()) > 1


@pytest.fixture(scope="module")
def variance_preserving() -> list[float]:
    found = accuracy(SCHEDULES["vp"]())
    assert min(found[:2]) > 0.8
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "vp"])
def test_a_student_is_as_good_at_each_noise_level_as_with_a_variance_preserving_model(name, variance_preserving):
    found = accuracy(SCHEDULES[name]())
    assert all(own > usual - 0.05 for own, usual in zip(found, variance_preserving, strict=True))
