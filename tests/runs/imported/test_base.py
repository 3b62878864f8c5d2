"""The base of a fine-tuned model in a config: what is asked for, what identifies it, what it costs, and what is refused."""

import shutil
from pathlib import Path

import pytest
import torch

from side_ray.config import RunSection
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.unet_dpm import new_unet, save_pipeline
from side_ray.errors import UserError
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.cost.sampling import estimate, plan_lines, unit_flops
from side_ray.runs.imported.opening import opened_base
from side_ray.runs.plan import Condition, conditions, describe
from side_ray.runs.preflight import check_places, preflight, require_base
from side_ray.runs.status import planned
from side_ray.studies.sweep_plan import Setting, config_of
from tests.audits import tiny_config

BASE, RANDOM = Condition("base", 1.0), Condition("random", 0.0)


def save(directory: Path, seed: int, size: int = 8, timesteps: int = 1000) -> Path:
    torch.manual_seed(seed)
    unet = new_unet({"block_out_channels": (8, 16), "norm_num_groups": 4}, (1, size, size))
    save_pipeline(unet, new_schedule("linear", timesteps).config, directory)
    return directory


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[str, str]:
    """A model and its base, which no test changes."""
    directory = tmp_path_factory.mktemp("models")
    return str(save(directory / "tuned", 0)), str(save(directory / "base", 1))


def config(models, dpm=None, **extract):
    section = {"path": models[0], "base": models[1], **(dpm or {})}
    settings = {"methods": ["random"], "samples": 100, "sampler": "ddim", "steps": 10, **extract}
    return tiny_config("/nowhere/run", dpm=section, **{f"extract__{key}": value for key, value in settings.items()})


def without(models):
    return config(models, {"base": None})


def test_it_adds_conditions_of_its_own(models):
    assert conditions(config(models)) == [RANDOM, *(Condition("base", each) for each in (1.0, 2.0, 4.0))]
    assert conditions(config(models, base_lambdas=[0, 3])) == [RANDOM, Condition("base", 3.0)]
    assert conditions(without(models)) == [RANDOM]
    assert "base" not in without(models).dpm.model_dump()
    assert f"and its base {models[1]}" in describe(config(models))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dpm": {"base": None}, "base_lambdas": [1]}, r"extract\.base_lambdas: .*give it as dpm\.base"),
        ({"dpm": {"base": None}, "base_interval": [0, 1]}, r"extract\.base_interval: .*give it as dpm\.base"),
        ({"base_lambdas": [0]}, r"extract\.base_lambdas: holds no λ > 0"),
        ({"base_lambdas": [-1]}, r"extract\.base_lambdas"),
        ({"base_interval": [0.5, 0.5]}, r"extract\.base_interval: .*holds nothing"),
        ({"dpm": {"kind": "train", "path": None}}, r"dpm\.base: is for an imported model"),
    ],
)
def test_what_makes_no_sense_is_refused(models, changes, words):
    with pytest.raises(UserError, match=words):
        config(models, **changes)


def test_the_model_itself_is_no_base(models, tmp_path):
    with pytest.raises(UserError, match=r"dpm\.base: is dpm\.path itself"):
        config((models[0], models[0]))
    again = save(tmp_path / "again", 0)
    with pytest.raises(UserError, match=r"dpm\.base: it makes the same as dpm\.path, bit by bit"):
        require_base(Artifacts.open(config((models[0], str(again)))))
    require_base(Artifacts.open(config(models)))


@pytest.mark.parametrize(
    ("other", "words"),
    [({"size": 16}, "pixels of 1 × 16 × 16"), ({"timesteps": 50}, "of 50 times"), (None, "holds no files")],
)
def test_another_model_is_refused_in_one_line(models, tmp_path, other, words):
    if other is None:
        (tmp_path / "other").mkdir()
    else:
        save(tmp_path / "other", 2, **other)
    with pytest.raises(UserError) as caught:
        require_base(Artifacts.open(config((models[0], str(tmp_path / "other")))))
    assert str(caught.value).startswith("dpm.base: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_its_files_identify_its_samples_and_nothing_else(models, tmp_path):
    models = (models[0], str(shutil.copytree(models[1], tmp_path / "base")))
    one, plain = Artifacts.open(config(models)), Artifacts.open(without(models))
    for name in ("prepare", "dpm", "synthetic", "surrogate", "cut"):
        assert getattr(one, name).fingerprint == getattr(plain, name).fingerprint
    assert one.samples(RANDOM).fingerprint == plain.samples(RANDOM).fingerprint
    assert plain.base is None
    before = one.samples(BASE).fingerprint
    assert Artifacts.open(config(models, base_lambdas=[1, 9])).samples(BASE).fingerprint == before
    assert Artifacts.open(config(models, guidance_interval=[0.1, 1])).samples(BASE).fingerprint == before
    assert Artifacts.open(config(models, base_interval=[0.1, 1])).samples(BASE).fingerprint != before
    save(Path(models[1]), 5)
    assert Artifacts.open(config(models)).samples(BASE).fingerprint != before


def test_its_evaluations_are_planned(models):
    def cost(**extract) -> int:
        return estimate(Artifacts.open(config(models, **extract))).unet_evaluations

    alone = estimate(Artifacts.open(without(models))).unet_evaluations
    sampled = 3 * 100 * 10
    assert cost(base_interval=[0, 1]) == alone + 2 * sampled
    assert cost(base_interval=[0.5, 1]) == alone + sampled + sampled // 2
    noisy = sum(float(new_schedule().alphas_cumprod[t]) <= 0.5 for t in range(0, 1000, 100))
    assert noisy == 7
    assert cost() == alone + sampled + 3 * 100 * noisy
    artifacts = Artifacts.open(config(models))
    assert f"import {models[1]}" in "\n".join(plan_lines(artifacts))
    flops = unit_flops(artifacts)
    assert flops["extract"][0] > flops["synthetic"][0]
    assert flops["extract"][1] == 0
    (stage,) = (each for each in planned(artifacts) if each.stage == "train_dpm")
    assert stage.keys == [artifacts.dpm.key, artifacts.base.key]


def test_it_is_opened_as_the_model_is_but_for_what_is_the_models_own(models):
    with opened_base(config(models, {"pixel_range": [0, 1], "null_class": None})) as (directory, model):
        assert (directory / "pixels.json").exists()
        assert model.codec is not None
    with pytest.raises(UserError, match=r"dpm\.base"):
        check_places(config((models[0], "/nowhere/run/dpm")))


def test_an_interval_without_a_step_is_refused(models, tmp_path):
    faint = str(save(tmp_path / "one", 0, timesteps=50)), str(save(tmp_path / "two", 1, timesteps=50))
    for pair, interval in (
        (models, [0.95, 1]),
        (faint, None),
    ):  # the noise of the second is never as strong as the signal
        audit = config(pair, base_interval=interval).model_copy(
            update={"run": RunSection(uri=str(tmp_path / "run"), seed=0)}
        )
        with pytest.raises(UserError, match=r"extract\.base_interval: holds none of the 10 timesteps that ddim visits"):
            preflight(Artifacts.open(audit))


def test_a_sweep_goes_without_it(models):
    setting = Setting(0.0, 10)
    assert config_of(config(models, base_lambdas=[1]), setting).dpm.base is None
