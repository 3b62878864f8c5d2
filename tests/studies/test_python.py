"""Images from Python: every form of them becomes the same Parquet file, and what is none of them is refused."""

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

import side_ray
from side_ray.config.file import parse_config
from side_ray.errors import UserError
from side_ray.images import decode_column
from side_ray.storage import open_store
from side_ray.studies.python import image_path
from tests.audits import tiny_values
from tests.local import without_ray


class TorchLike:
    """A map-style data set of (image, label), without `__iter__`."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, place):
        return Image.fromarray(self.images[place]), 3


TRAIN = np.random.default_rng(1).integers(0, 256, (55, 8, 8), dtype=np.uint8)


def test_images_can_be_given_in_many_forms(tmp_path):
    train, store = TRAIN, open_store(str(tmp_path))
    forms = {
        "array": train[:3],
        "with a channel": train[:3, :, :, None],
        "colour": train[:3, :, :, None].repeat(3, 3),
        "tensor": torch.from_numpy(train[:3, None]),
        "pictures": [Image.fromarray(each) for each in train[:3]],
        "rows": [{"image": Image.fromarray(each), "label": 1} for each in train[:3]],
        "torch data set": TorchLike(train[:3]),
    }
    for images in forms.values():
        path = Path(image_path(images, "samples", store))
        stored = decode_column(pq.read_table(path).column("image"))
        assert np.array_equal(stored, (train[:3, :, :, None].repeat(stored.shape[3], 3)))
    # The same pixels are the same file.
    assert len(list((tmp_path / "inputs").iterdir())) == 2


@pytest.mark.long
def test_a_folder_of_images_is_scored_against_arrays(tmp_path):
    train = TRAIN
    with without_ray():
        folder = tmp_path / "folder"
        folder.mkdir()
        Image.fromarray(train[7]).save(folder / "seventh.png")
        held = np.random.default_rng(2).integers(0, 256, (60, 8, 8), dtype=np.uint8)
        result = side_ray.score_images(folder, train, held, run=str(tmp_path / "mixed"), overrides=["run.seed=5"])
    assert result.config["run"]["seed"] == 5
    assert result.metrics["holdout_size"] == 30
    assert list(result.matches("given", within_cut=False)["train_id"]) == [7]
    with pytest.raises(UserError, match="its samples were given, so no model can make them again"):
        result.remake("given", None, 0)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 8, 8)), r"samples: image 0 has values of type float64; give uint8 in 0 … 255"),
        (np.zeros((2, 8, 8, 4), np.uint8), r"samples: image 0 has shape \(8, 8, 4\)"),
        (np.zeros((0, 8, 8), np.uint8), "samples: holds no images"),
    ],
)
def test_images_that_cannot_be_used_are_refused(tmp_path, images, message):
    with pytest.raises(UserError, match=message):
        side_ray.score_images(images, np.zeros((60, 8, 8), np.uint8), run=str(tmp_path / "run"))


@pytest.mark.long
def test_an_audit_takes_values_a_config_or_a_file(tmp_path):
    values = tiny_values(
        str(tmp_path / "run"),
        dpm__kind="optimal",
        extract__methods=["random"],
        extract__samples=50,
        surrogate__synthetic=50,
        score__shards=1,
    )
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(values))
    forms = [values, parse_config(values, "values"), tmp_path / "audit.yaml"]
    with without_ray(), patch("side_ray.stages.report.build_figures", return_value=[]):
        results = [side_ray.audit(each, ["run.seed=4"]) for each in forms]
        with pytest.raises(UserError, match=r"override 'extract\.samples=51': extract\.samples: 51 is not"):
            side_ray.audit(values, ["extract.samples=51"])
    assert [result.metrics for result in results] == [results[0].metrics] * 3
    assert results[0].config["run"]["seed"] == 4
    assert results[0].headline.startswith("Found: ")
