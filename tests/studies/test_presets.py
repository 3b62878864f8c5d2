"""All configs of the repository are valid, and those of the paper have its settings."""

from pathlib import Path

import pytest
import torch

from side_ray.config.file import load_config
from side_ray.diffusion.unet_dpm import new_unet

CONFIGS = sorted((Path(__file__).parents[2] / "jobs" / "configs").glob("*.yaml"))
# Training steps, members, samples per λ, similarity, image size: sections 5.1 and 5.3 of the paper (the image size is ours).
PAPER = {
    "cifar10": (1_600_000, 50_000, 10_000, "nl2", 32),
    "celeba_hq_fi": (258_000, 5_478, 50_000, "sscd", 128),
    "celeba_25000": (390_000, 25_000, 50_000, "sscd", 128),
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_is_valid(path):
    config = load_config(path)
    assert config.extract.samples % config.extract.batch_size == 0


@pytest.mark.parametrize("name", PAPER)
def test_presets_hold_the_papers_settings(name):
    config = load_config(Path(__file__).parents[2] / "jobs" / "configs" / f"{name}.yaml")
    steps, members, samples, similarity, size = PAPER[name]
    assert (config.dpm.steps, config.dpm.batch_size, config.dpm.lr) == (steps, 64, 1e-4)
    assert (config.data.members, config.extract.samples, config.score.similarity) == (members, samples, similarity)
    assert (config.surrogate.arch, config.surrogate.lr, config.surrogate.loss) == ("resnet34", 1e-4, "kl")
    assert config.extract.lambdas == list(range(51))
    assert (config.extract.sampler, config.data.image_size or 32) == ("ddim", size)
    with torch.device("meta"):
        unet = new_unet(config.dpm.unet.model_dump(), (3, size, size))
    assert sum(weights.numel() for weights in unet.parameters()) > 30e6


@pytest.mark.parametrize("name", [*PAPER, "digits"])
def test_tiny_variants_do_what_their_presets_do_in_small(name):
    folder = Path(__file__).parents[2] / "jobs" / "configs"
    whole, tiny = (load_config(folder / f"{each}.yaml") for each in (name, f"{name}_tiny"))
    assert tiny.data.holdout_path == whole.data.holdout_path
    assert (tiny.data.source, tiny.data.path, tiny.data.min_per_class) == (
        whole.data.source,
        whole.data.path,
        whole.data.min_per_class,
    )
    assert (tiny.surrogate.labels, tiny.surrogate.loss, tiny.surrogate.stem) == (
        whole.surrogate.labels,
        whole.surrogate.loss,
        whole.surrogate.stem,
    )
    assert (tiny.extract.methods, tiny.extract.sampler) == (whole.extract.methods, whole.extract.sampler)
    assert (tiny.score.similarity, tiny.score.checkpoint) == (whole.score.similarity, whole.score.checkpoint)
    assert tiny.dpm.steps * tiny.dpm.batch_size < 5000


def test_folder_template_imports_a_model():
    config = load_config(Path(__file__).parents[2] / "jobs" / "configs" / "folder.yaml")
    assert (config.dpm.kind, config.data.source, config.surrogate.labels) == ("import", "folder", "cluster")
    assert config.data.holdout_path is not None
