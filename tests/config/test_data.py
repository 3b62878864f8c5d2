"""Settings of `data` that do not go together are refused while the config is read, each in one line."""

import pytest

from side_ray.config import DataSection
from side_ray.config.file import parse_config
from side_ray.errors import UserError
from tests.audits import tiny_values

FOLDER = {"data__source": "folder", "data__path": "images"}
BAD = {
    "digits with a path": (
        {"data__path": "x"},
        "data.path: source digits comes with scikit-learn as it is; drop this key",
    ),
    "digits resized": ({"data__image_size": 16}, "data.image_size: source digits"),
    "no path": ({"data__source": "folder"}, "data.path: source folder needs the path of the images"),
    "list for a folder": (
        {**FOLDER, "data__labels_file": "x"},
        "data.labels_file: is for data.source celeba and celeba_hq",
    ),
    "attributes without CelebA": (
        {**FOLDER, "data__attributes": ["Male"]},
        "data.attributes: is for data.source celeba, not",
    ),
    "column of a folder": (
        {**FOLDER, "data__image_column": "img"},
        "data.image_column: is for data.source parquet and arrow, not",
    ),
    "unseen = members": ({**FOLDER, "data__holdout_path": "images"}, "data.holdout_path: is data.path itself"),
    "cap without labels": ({**FOLDER, "data__labels": False, "data__per_class": 3}, "data.per_class: needs labels"),
    "bound without near": (
        {**FOLDER, "data__dedup": "exact", "data__dedup_bound": 0.3},
        "data.dedup_bound: is for data.dedup near",
    ),
    "bound above 2": (
        {**FOLDER, "data__dedup": "near", "data__dedup_bound": 2.5},
        "data.dedup_bound: input should be less",
    ),
    "unknown dedup": ({**FOLDER, "data__dedup": "fuzzy"}, "data.dedup: "),
    "no size": ({**FOLDER, "data__image_size": 0}, "data.image_size: "),
    "a misspelt key": ({**FOLDER, "data__imagesize": 3}, "data.imagesize: unknown key; did you mean image_size?"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD.keys())
def test_bad_combination_is_one_line_with_key_and_remedy(changes, message):
    with pytest.raises(UserError) as caught:
        parse_config(tiny_values("run", **changes), "audit.yaml")
    text = str(caught.value)
    assert text.startswith(f"audit.yaml: {message}"), text
    assert "\n" not in text


def test_paths_and_leniency_are_not_what_the_images_depend_on():
    one = parse_config(tiny_values("run", **FOLDER), "one").data
    same = parse_config(tiny_values("run", **{**FOLDER, "data__path": "y"}, data__skip_corrupt=True), "same").data
    other = parse_config(tiny_values("run", **FOLDER, data__image_size=8), "other").data
    assert one.settings() == same.settings()
    assert one.settings() != other.settings()


UNSET = {
    "members": 3,
    "holdout": 2,
    "crop": None,
    "image_size": None,
    "grayscale": False,
    "labels": True,
    "labels_file": None,
    "attributes": [],
    "min_per_class": 1,
    "image_column": "image",
    "label_column": None,
    "per_class": None,
    "dedup": "none",
    "dedup_bound": 0.5,
}
"""What fingerprints of prepared images have hashed since the first release. `labels_file` is not hashed, its content is."""


@pytest.mark.parametrize(
    ("given", "hashed"),
    [
        ({"source": "digits"}, {"source": "digits", "members": 3, "holdout": 2}),
        ({"source": "digits", "skip": 7}, {"source": "digits", "members": 3, "holdout": 2, "skip": 7}),
        ({"source": "folder", "path": "x"}, {}),
        (
            {"source": "cifar10", "path": "x", "holdout_path": "x", "image_size": 16, "skip": 7},
            {"image_size": 16, "skip": 7},
        ),
        ({"source": "parquet", "path": "x", "image_column": "img"}, {"image_column": "img"}),
        ({"source": "webdataset", "path": "x", "label_column": "fine"}, {"label_column": "fine"}),
        ({"source": "celeba", "path": "x", "attributes": ["Male"], "labels_file": "l"}, {"attributes": ["Male"]}),
        ({"source": "celeba_hq", "path": "x", "min_per_class": 4, "skip_corrupt": True}, {"min_per_class": 4}),
    ],
    ids=lambda each: each.get("source", ""),
)
def test_settings_are_what_fingerprints_have_always_hashed(given, hashed):
    whole = {key: value for key, value in UNSET.items() if key != "labels_file"}
    wanted = hashed if given["source"] == "digits" else {**whole, "source": given["source"], **hashed}
    section = DataSection.model_validate({"members": 3, "holdout": 2, **given})
    assert section.settings() == wanted
    assert section.model_dump(mode="json").keys() - {"skip"} == UNSET.keys() | {
        "source",
        "path",
        "holdout_path",
        "skip_corrupt",
    }
