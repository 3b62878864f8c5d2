"""The preview during a training samples as the audit will: by `draw`, with the classes in the proportion of the training."""

import numpy as np
import pytest
import torch

from side_ray.config import DpmSection, ExtractSection, ScoreSection
from side_ray.diffusion.draw import DrawSettings, draw
from side_ray.diffusion.sampler import sample_seed
from side_ray.diffusion.unet_dpm import UnetDpm
from side_ray.images import ImageSet
from side_ray.stages.train_dpm import DpmRecipe
from side_ray.training.members import Members
from side_ray.training.preview import GRID, STREAM, PreviewSpec, tiled

SEED = 3


class FewMembers(Members):
    """Eight images of zeros, seven of them labelled 0."""

    count, shape = 8, (1, 8, 8)
    labels = torch.tensor([0] * 7 + [1])

    def draw(self, step, rows):
        raise NotImplementedError

    def pieces(self):
        yield ImageSet(np.arange(8), np.zeros((8, 8, 8, 1), np.uint8), None)

    def close(self):
        pass


@pytest.fixture(params=["fp32", "bf16"])
def recipe(request) -> DpmRecipe:
    extract = ExtractSection(lambdas=[0, 1], samples=100, batch_size=40, steps=3)
    spec = PreviewSpec(
        SEED, DrawSettings.of(extract, request.param), ScoreSection(), None, False, np.empty(0, np.int64)
    )
    unet = {"block_out_channels": [8], "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
    dpm = DpmSection(condition="labels", unet={**unet, "norm_num_groups": 4})
    made = DpmRecipe(FewMembers(), dpm, SEED, torch.device("cpu"), spec)
    made.module.eval()
    return made


def test_the_grid_is_what_the_audit_would_draw(recipe):
    measured, grid = recipe.preview()
    seeds = [sample_seed(SEED, STREAM, i) for i in range(GRID)]
    drawn = draw(UnetDpm(recipe.module, recipe.schedule, recipe.condition), seeds, recipe.preview_spec.settings)
    assert measured == {}
    assert np.array_equal(grid, tiled(drawn.images))
    assert 0.7 < (drawn.classes == 0).mean() < 1
