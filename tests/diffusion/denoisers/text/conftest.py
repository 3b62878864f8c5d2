"""What the kinds of text-conditioned models are compared by: the library's own pipeline."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch

from side_ray.diffusion.condition.drawn import Conditioning, Conditions
from side_ray.diffusion.dpm import load_dpm
from side_ray.diffusion.sampler import Noise, decoded, sample_latents
from side_ray.diffusion.samplers.ddim import Ddim

SEEDS = [1, 2, 3]


@pytest.fixture
def ours() -> Callable[..., torch.Tensor]:
    """Makes images [3, C, H, W] in [0, 1] of three prompts, from the noise of `SEEDS`; or their latents."""

    def make(directory, prompts, scale=1.0, steps=4, latents=False):
        dpm = load_dpm(directory)
        asked = Conditioning(scale=scale, prompts="captions", texts=tuple(prompts))
        given, free = asked.batch(dpm, Conditions(prompts=list(prompts)), np.arange(3))
        z = sample_latents(dpm, Noise(SEEDS, dpm.latent_shape), Ddim(steps), class_labels=given, free=free)
        return z if latents else (decoded(dpm, z) / 2 + 0.5).clamp(0, 1)

    return make


@pytest.fixture
def edit() -> Callable[..., None]:
    """Changes keys of a JSON file."""

    def change(path, **changes):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change
