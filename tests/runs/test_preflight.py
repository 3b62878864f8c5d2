"""A run neither writes into what it reads, nor takes one set of images for another, nor a model that does not fit them."""

import pytest
import torch

from side_ray.config import DpmSection
from side_ray.config.extract import GivenSection
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.optimal import OptimalDpm
from side_ray.errors import UserError
from side_ray.runs.imported.opening import imported as opening
from side_ray.runs.preflight import check_places
from side_ray.storage import within
from tests.audits import tiny_config


def config(tmp_path, run, path, **data):
    values = {"source": "folder", "path": str(path), "members": 4, "holdout": 1} | data
    return tiny_config(run, data=values)


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "images")
    return tmp_path / "images"


@pytest.mark.parametrize("run", ["images", "images/run", "images/inner/..", "link", "link/run", "other/../images/run"])
def test_a_run_in_its_data_is_refused(tmp_path, images, run):
    with pytest.raises(UserError, match=r"^run\.uri: .* is data\.path or in it"):
        check_places(config(tmp_path, f"{tmp_path}/{run}", images))
    with pytest.raises(UserError, match=r"^run\.uri: "):
        check_places(config(tmp_path, f"{tmp_path}/images/run", tmp_path / "link"))


def test_data_where_the_run_writes_is_refused_and_data_beside_it_is_not(tmp_path, images):
    with pytest.raises(UserError, match=r"^data\.path: .* is where this run writes"):
        check_places(config(tmp_path, tmp_path / "run", tmp_path / "run" / "prepare"))
    check_places(config(tmp_path, tmp_path / "images-run", images))
    check_places(config(tmp_path, tmp_path / "run", tmp_path / "run" / "my-images"))
    check_places(config(tmp_path, "s3://bucket/run", "s3://bucket/images"))
    with pytest.raises(UserError, match=r"^run\.uri: "):
        check_places(config(tmp_path, "s3://bucket/images/run", "s3://bucket//images/"))


@pytest.mark.parametrize("unseen", ["link", "images/", "images/inner", "."])
def test_unseen_images_among_the_members_are_refused(tmp_path, images, unseen):
    with pytest.raises(UserError, match=r"^data\.holdout_path: "):
        check_places(config(tmp_path, "/elsewhere/run", images, holdout_path=f"{tmp_path}/{unseen}"))


@pytest.mark.parametrize("samples", ["link", "images/inner", "."])
def test_generated_images_among_the_training_images_are_refused(tmp_path, images, samples):
    given = GivenSection(samples=f"{tmp_path}/{samples}")
    audit = config(tmp_path, "/elsewhere/run", images).model_copy(update={"given": given})
    with pytest.raises(UserError, match=r"^given\.samples: "):
        check_places(audit)


def test_places_are_compared_after_links_and_spelling(tmp_path, images):
    assert within(f"{tmp_path}/link/inner", str(images))
    assert within(f"file://{tmp_path}/link", f"{images}/")
    assert not within(f"{images}2", str(images))
    assert within("s3://bucket/a//b/", "s3://bucket/a/b")
    assert not within("s3://bucket/ab", "s3://bucket/a")


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
        opened(config(tmp_path, "run", tmp_path).model_copy(update={"dpm": imported(tmp_path)}), (3, 8, 8))
    OptimalDpm(torch.zeros(1, 3, 8, 8), new_schedule()).save(tmp_path / "digits")
    with pytest.raises(UserError, match=r"give a data\.source other than digits"):
        opened(tiny_config(tmp_path / "run", dpm__path=str(tmp_path / "digits")), (1, 8, 8))


def opened(config, shape):
    with opening(config, shape):
        pass


def imported(tmp_path, **values):
    return DpmSection(path=str(tmp_path / "model"), **values)


def test_a_range_must_fit_the_models_channels(tmp_path):
    OptimalDpm(torch.zeros(1, 3, 8, 8), new_schedule()).save(tmp_path / "model")
    audit = config(tmp_path, "run", tmp_path)
    wrong = audit.model_copy(update={"dpm": imported(tmp_path, pixel_mean=[0.1, 0.2], pixel_std=[1, 1])})
    with pytest.raises(UserError, match=r"^dpm\.pixel_mean: .*2 numbers, the model 3 channels"):
        opened(wrong, (3, 8, 8))
