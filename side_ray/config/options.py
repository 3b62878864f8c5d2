"""Which settings of `data` go together, checked while the config is read."""

from collections.abc import Collection
from typing import Any

IMAGE_KEYS = {"image_size", "crop", "grayscale", "per_class", "dedup", "dedup_bound", "skip_corrupt", "labels"}
SOURCE_KEYS = {
    "labels_file": ("celeba", "celeba_hq"),
    "attributes": ("celeba",),
    "min_per_class": ("celeba", "celeba_hq"),
    "image_column": ("parquet",),
    "label_column": ("parquet", "webdataset"),
}
SPLIT_WITHIN = ("cifar10", "celeba_hq")
"""Sources that know by themselves which images of one path are kept from the model."""


def check_options(data: Any, given: Collection[str]) -> None:
    """Refuse settings that do not go together.

    Args:
        data: a `DataSection`.
        given: names of the settings that the config gives, others having their defaults.

    Raises:
        ValueError: one line beginning with the key.
    """
    source = data.source
    if source == "digits":
        extra = sorted(set(given) & (IMAGE_KEYS | set(SOURCE_KEYS) | {"path", "holdout_path"}))
        if extra:
            raise ValueError(
                f"data.{extra[0]}: source digits comes with scikit-learn as it is; drop this key or choose another data.source"
            )
        return
    if not data.path:
        raise ValueError(f"data.path: source {source} needs the path of the images: a local one or s3://bucket/prefix")
    for key, sources in SOURCE_KEYS.items():
        if key in given and source not in sources:
            raise ValueError(f"data.{key}: is for data.source {' and '.join(sources)}, not {source}; drop it")
    if data.holdout_path == data.path and source not in SPLIT_WITHIN:
        raise ValueError(
            "data.holdout_path: is data.path itself, whose images are members; give images that the model never saw, or drop it"
        )
    if data.holdout_path == data.path and source == "celeba_hq" and not data.labels and not data.labels_file:
        raise ValueError("data.labels_file: is needed to tell the members from other images of the same path; give it")
    if not data.labels:
        useless = sorted(set(given) & {"per_class", "attributes", "label_column"})
        if useless:
            raise ValueError(f"data.{useless[0]}: needs labels; drop it or data.labels=false")
    if "dedup_bound" in given and data.dedup != "near":
        raise ValueError(f"data.dedup_bound: is for data.dedup near, not {data.dedup}; drop it or set data.dedup=near")
