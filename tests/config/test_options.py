"""Settings of `data` that do not go together are refused while the config is read, each in one line."""

import pytest

from side_ray.config.file import load_config, parse_config
from side_ray.errors import UserError
from tests.audits import DIGITS, tiny_values

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
        "data.image_column: is for data.source parquet, not",
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


def test_digits_do_not_depend_on_settings_that_came_later():
    assert load_config(DIGITS).data.settings() == {"source": "digits", "members": 300, "holdout": 300}
