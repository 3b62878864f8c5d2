"""Every image is made by `draw`: it is the sampler in padded batches, and a sample depends on its seed and the settings."""

import numpy as np
import pytest
import torch
from torch import nn

from side_ray.config import ExtractSection
from side_ray.diffusion import draw as drawing
from side_ray.diffusion.condition import Condition
from side_ray.diffusion.draw import DrawSettings, draw
from side_ray.diffusion.guidance import ClassifierGuidance, ClassifierSurrogate
from side_ray.diffusion.sampler import Noise, sample, sample_latents, sample_seed, target_of
from side_ray.diffusion.samplers.ddim import Ddim
from side_ray.images import to_uint8

CLASSES = 4
SEEDS = [sample_seed(7, "extract", i) for i in range(13)]


class Classifier(nn.Module):
    """Logits that depend on x and t, of random weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(1, 8, 3, stride=2)
        self.out = nn.Linear(72, CLASSES)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.out(self.conv(x).tanh().flatten(1)) * (1 - t[:, None] / 2000)


def settings(precision: str = "fp32", **changes) -> DrawSettings:
    values = {"sampler": "ddim", "steps": 6, "eta": 0.5, "batch_size": 8, "guidance_interval": (0.0, 0.8), **changes}
    return DrawSettings.of(ExtractSection(lambdas=[0, 5], samples=20, **values), precision)


def surrogate(scale: float = 5.0) -> ClassifierSurrogate:
    return ClassifierSurrogate(Classifier().eval(), CLASSES, scale)


def padded_loop(dpm, seeds, classifier, scale, batch, autocast=None) -> np.ndarray:
    """The loop that shards were made with before `draw`, written out, at the settings of `settings`."""
    targets = [target_of(seed, CLASSES) for seed in seeds] if classifier else []
    classes = dpm.condition.classes_of(seeds) if dpm.condition else None
    parts = []
    for start in range(0, len(seeds), batch):
        chosen = slice(start, start + batch)
        wanted, rows = seeds[chosen], targets[chosen]
        padding = batch - len(wanted)
        guidance = labels = None
        if classifier:
            aims = torch.tensor(rows + rows[-1:] * padding)
            guidance = ClassifierGuidance(classifier, aims, torch.full((batch,), scale))
        if classes is not None:
            labels = torch.from_numpy(np.pad(classes[chosen], (0, padding), "edge"))
        noise = Noise(wanted + wanted[-1:] * padding, dpm.image_shape)
        with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
            images = sample(
                dpm,
                noise,
                Ddim(6, eta=0.5),
                guidance=guidance,
                class_labels=labels,
                guidance_interval=(0.0, 0.8),
            )
        parts.append(to_uint8(images[: len(wanted)]))
    return np.concatenate(parts)


@pytest.mark.parametrize("shard", [1, 8, 13])
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("conditional", [False, True])
def test_shards_are_made_of_the_padded_batches_of_old(small_dpm, shard, guided, conditional):
    dpm = small_dpm(num_class_embeds=3) if conditional else small_dpm()
    if conditional:
        dpm.condition = Condition((5, 1, 2))
    classifier = Classifier().eval() if guided else None
    for start in {0, len(SEEDS) // shard * shard - shard}:
        seeds = SEEDS[start : start + shard]
        drawn = draw(dpm, seeds, settings(), surrogate() if guided else None)
        assert np.array_equal(drawn.images, padded_loop(dpm, seeds, classifier, 5.0, 8))
        assert drawn.images.shape == (len(seeds), 8, 8, 1)
        assert drawn.images.dtype == np.uint8
        assert (drawn.batch_size, drawn.note) == (8, "")
        assert (drawn.targets is None) == (not guided)
        if guided:
            assert drawn.targets.tolist() == [seed % CLASSES for seed in seeds]
        assert (drawn.classes is None) == (not conditional)
        if conditional:
            assert np.array_equal(drawn.classes, dpm.condition.classes_of(seeds))


def test_precision_is_that_of_autocast(small_dpm):
    dpm = small_dpm()
    half = draw(dpm, SEEDS[:8], settings("bf16")).images
    assert np.array_equal(half, padded_loop(dpm, SEEDS[:8], None, 0.0, 8, torch.bfloat16))
    assert not np.array_equal(half, draw(dpm, SEEDS[:8], settings()).images)


def test_a_sample_drawn_again_alone_is_the_row_of_its_shard(small_dpm):
    dpm, guide = small_dpm(num_class_embeds=3), surrogate()
    shard = draw(dpm, SEEDS, settings(), guide)
    for row in (0, 5, 8, 12):
        alone = draw(dpm, [SEEDS[row]], settings(), guide)
        assert np.array_equal(alone.images[0], shard.images[row])
        assert (alone.targets[0], alone.classes[0]) == (shard.targets[row], shard.classes[row])


def test_the_guidance_interval_counts(small_dpm):
    dpm, guide = small_dpm(), surrogate()
    drawn = [draw(dpm, SEEDS[:8], settings(guidance_interval=i), guide).images for i in ((0.0, 0.5), (0.5, 1.0))]
    assert not np.array_equal(*drawn)


def test_lambda_zero_is_plain_sampling(small_dpm):
    dpm = small_dpm()
    assert np.array_equal(draw(dpm, SEEDS, settings(), surrogate(0.0)).images, draw(dpm, SEEDS, settings()).images)


@pytest.fixture
def small_device(monkeypatch) -> list[int]:
    """A device that runs out of memory with more than two rows; the batch sizes tried."""
    tried: list[int] = []

    def too_large(model, noise, *rest, **changes):
        tried.append(noise.shape[0])
        if noise.shape[0] > 2:
            raise torch.OutOfMemoryError("out of memory")
        return sample_latents(model, noise, *rest, **changes)

    monkeypatch.setattr(drawing, "sample_latents", too_large)
    return tried


def test_out_of_memory_halves_the_batch(small_dpm, small_device):
    dpm, guide = small_dpm(), surrogate()
    drawn = draw(dpm, SEEDS[:5], settings(), guide)
    assert small_device == [8, 4, 2, 2, 2]
    assert (drawn.batch_size, drawn.note) == (2, "sampled 2 at a time instead of 8: the device ran out of memory")
    assert np.array_equal(drawn.images, padded_loop(dpm, SEEDS[:5], guide.classifier, 5.0, 2))


def test_a_later_draw_begins_with_the_batch_that_fitted_and_says_so(small_dpm, small_device):
    drawn = draw(small_dpm(), SEEDS[:3], settings(), batch_size=2)
    assert small_device == [2, 2]
    assert drawn.note == "sampled 2 at a time instead of 8: the device ran out of memory"


def test_a_device_without_room_for_one_image_is_an_error(small_dpm, monkeypatch):
    def full(*args, **changes):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(drawing, "sample_latents", full)
    with pytest.raises(torch.OutOfMemoryError):
        draw(small_dpm(), SEEDS[:3], settings())
