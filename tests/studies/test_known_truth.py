"""The verdict on photographs whose truth is known: models in closed form, of images that were audited and of others."""

import numpy as np
import pytest
import torch

import side_ray
from side_ray.diffusion.draw import DrawSettings, draw
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.optimal import OptimalDpm
from side_ray.diffusion.sampler import sample_seed
from side_ray.diffusion.samplers import SAMPLERS
from side_ray.images import to_float
from tests.bruteforce import check
from tests.local import without_ray

pytestmark = pytest.mark.slow
MEMBERS, UNSEEN, OTHERS, SAMPLES = 120, 480, 200, 1000


@pytest.fixture(scope="module")
def patches() -> np.ndarray:
    """uint8 [N, 8, 8, 1]: the parts of scikit-learn's photographs that have some contrast, in random order."""
    from sklearn.datasets import load_sample_images

    found = []
    for photo in load_sample_images().images:
        gray = photo[:416, :640].mean(2)
        blocks = gray.reshape(26, 16, 40, 16).transpose(0, 2, 1, 3).reshape(-1, 8, 2, 8, 2).mean((2, 4))
        found.append(blocks[blocks.std((1, 2)) > 12])
    every = np.concatenate(found)
    return np.random.default_rng(0).permutation(every).round().astype(np.uint8)[..., None]


def samples_of(images: np.ndarray) -> np.ndarray:
    """Samples of the closed-form model of these images, which copies them and knows no others."""
    model = OptimalDpm(to_float(images), new_schedule())
    settings = DrawSettings(SAMPLERS["ddim"](20), (0.0, 1.0), 250, "fp32")
    with torch.no_grad():
        return draw(model, [sample_seed(1, "extract", i) for i in range(SAMPLES)], settings).images


def verdict_of(samples: np.ndarray, members: np.ndarray, unseen: np.ndarray, run) -> dict:
    with without_ray():
        result = side_ray.score_images(samples, members, unseen, run=str(run))
    assert check(run) == [] or result.metrics["cut"] is None
    return result.metrics["verdict"] | {"ledger": result.metrics["ledger"]}


def test_blank_images_of_a_model_that_memorised_nothing_are_not_found(patches, tmp_path):
    rng = np.random.default_rng(1)
    blanks = (rng.choice([8, 247], (9, 1, 1, 1)) + rng.integers(-2, 3, (9, 8, 8, 1))).astype(np.uint8)
    members = np.concatenate([patches[:MEMBERS], blanks[:2]])
    unseen = np.concatenate([patches[MEMBERS : MEMBERS + UNSEEN], blanks[2:6]])
    others = np.concatenate([patches[-OTHERS:], *[blanks[6:]] * 10])
    verdict = verdict_of(samples_of(others), members, unseen, tmp_path / "run")
    assert verdict["outcome"] == "none_found"
    assert verdict["ledger"]["revealed"] == 0


def test_memorised_images_are_found_beside_near_black_ones(patches, tmp_path):
    black = (patches // 20).astype(np.uint8)
    half, unseen = MEMBERS // 2, UNSEEN // 2
    members = np.concatenate([patches[:half], black[half:MEMBERS]])
    held = np.concatenate([patches[MEMBERS : MEMBERS + unseen], black[MEMBERS + unseen : MEMBERS + UNSEEN]])
    # The model was trained on the bright members, and on other dark images.
    verdict = verdict_of(samples_of(np.concatenate([patches[:half], black[-OTHERS:]])), members, held, tmp_path / "run")
    assert verdict["outcome"] == "found"
    assert verdict["distinct"] > half / 2
    revealed = [row["train_id"] for row in verdict["ledger"]["rows"]]
    assert np.mean(np.array(revealed) < half) > 0.9
