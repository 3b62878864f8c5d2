"""A model that is imported fits the data, or the message names what makes it fit."""

import pytest
import torch

from side_ray.config import DpmSection
from side_ray.diffusion.dpm import load_dpm
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.optimal import OptimalDpm
from side_ray.errors import UserError
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.imported.opening import imported as opening
from tests.audits import tiny_config


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            (3, 16, 16),
            r"16 × 16 pixels and 3 channels, the data has 8 × 8 pixels and 3 channels.*set data\.image_size=16$",
        ),
        ((1, 8, 8), r"set data\.grayscale=true$"),
        ((1, 16, 16), r"set data\.image_size=16 and data\.grayscale=true$"),
        ((3, 16, 8), r"give a folder of images of 8 × 16 pixels as data\.path$"),
        ((4, 8, 8), r"side-ray score --samples"),
    ],
)
def test_a_model_of_another_shape_names_the_settings_that_mend_it(tmp_path, made, message):
    OptimalDpm(torch.zeros(1, *made), new_schedule()).save(tmp_path / "model")
    with pytest.raises(UserError, match=rf"^dpm\.path: .*{message}"):
        opened(folder_config(tmp_path).model_copy(update={"dpm": imported(tmp_path)}), (3, 8, 8))
    OptimalDpm(torch.zeros(1, 3, 8, 8), new_schedule()).save(tmp_path / "digits")
    with pytest.raises(UserError, match=r"give a data\.source other than digits"):
        opened(tiny_config(tmp_path / "run", dpm__path=str(tmp_path / "digits")), (1, 8, 8))


def folder_config(tmp_path):
    return tiny_config(tmp_path / "run", data={"source": "folder", "path": str(tmp_path), "members": 10, "holdout": 5})


def opened(config, shape):
    with opening(config, shape):
        pass


def imported(tmp_path, **values):
    return DpmSection(path=str(tmp_path / "model"), **values)


def test_a_range_must_fit_the_models_channels(tmp_path):
    OptimalDpm(torch.zeros(1, 3, 8, 8), new_schedule()).save(tmp_path / "model")
    audit = folder_config(tmp_path)
    wrong = audit.model_copy(update={"dpm": imported(tmp_path, pixel_mean=[0.1, 0.2], pixel_std=[1, 1])})
    with pytest.raises(UserError, match=r"^dpm\.pixel_mean: .*2 numbers, the model 3 channels"):
        opened(wrong, (3, 8, 8))


@pytest.mark.long
def test_a_text_conditioned_model_makes_images_of_another_size(tmp_path):
    pytest.importorskip("transformers", reason="needs the extra text")
    from tests.texts import save_text

    save_text(tmp_path / "model")

    def audit(**dpm):
        return folder_config(tmp_path).model_copy(update={"dpm": imported(tmp_path, prompts="empty", **dpm)})

    with pytest.raises(
        UserError, match=r"set data\.image_size=16, or dpm\.image_size=24 for images of the data's size$"
    ):
        opened(audit(), (3, 24, 24))
    with opening(audit(image_size=24), (3, 24, 24)) as (directory, model):
        assert model.image_shape == load_dpm(directory).image_shape == (3, 24, 24)
    with pytest.raises(UserError, match=r"^dpm\.image_size: this model makes .* multiples of 4, not 18"):
        opened(audit(image_size=18), (3, 18, 18))
    keys = {Artifacts.open(audit(**dpm)).dpm.key for dpm in ({}, {"image_size": 16}, {"image_size": 24})}
    assert len(keys) == 3


def test_other_models_have_a_size_of_their_own(tmp_path):
    OptimalDpm(torch.zeros(1, 3, 8, 8), new_schedule()).save(tmp_path / "model")
    audit = folder_config(tmp_path).model_copy(update={"dpm": imported(tmp_path, image_size=16)})
    with pytest.raises(UserError, match=r"^dpm\.image_size: is for text-conditioned models"):
        opened(audit, (3, 16, 16))
