"""Section `data`: the training images."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from side_ray.config.base import Count, Real, Section, Whole, later
from side_ray.config.options import check_options


class DataSection(Section):
    source: Literal["digits", "cifar10", "celeba", "celeba_hq", "folder", "parquet", "webdataset"] = "digits"
    path: str | None = None
    """Where the images are: a local path or s3://bucket/prefix; a directory or an archive, as the source has it."""
    holdout_path: str | None = None
    """Images that the DPM never saw, for the two unseen sets; absent, these are drawn from `path` like the members. For
    cifar10 its test batch is taken from there; for celeba_hq the same path means the images that the identity list leaves
    out."""
    members: Count
    """Images that the DPM is trained on."""
    holdout: Whole
    """Size of each of the two sets that nothing is trained on: `calibration` sets the cut, `holdout` checks it. 0, neither
    cut nor control, only for samples that are given."""
    skip: Whole = later(0)
    """Images of the drawn order that are passed over before the members: the control's begin behind the audit's sets."""
    crop: Count | None = None
    """Side of the square cut out of the middle; the shorter side where absent and `image_size` is given."""
    image_size: Count | None = None
    """Side that the square is resized to; absent, all images must have one size."""
    grayscale: bool = False
    """One channel; otherwise all images are made RGB."""
    labels: bool = True
    """Whether the source's labels are taken, where it has any."""
    labels_file: str | None = None
    """celeba, celeba_hq: the identity or attribute list; by default looked for in `path` and beside it."""
    attributes: list[str] = Field(default=[])
    """celeba: classes by these attributes of list_attr_celeba.txt instead of by person."""
    min_per_class: Count = 1
    """celeba, celeba_hq: persons with fewer images in `path` are left out."""
    image_column: str = "image"
    """parquet: the column of images."""
    label_column: str | None = None
    """parquet: the column of labels; webdataset: the field of .json. By default `label`, if there is one."""
    per_class: Count | None = None
    """Most images of one class that take part; which ones is drawn."""
    dedup: Literal["none", "exact", "near"] = "none"
    """Leave out all but the first of equal images, or also of those whose normalized L2 distance is below `dedup_bound`
    (which compares all with all: four times as many images take sixteen times as long)."""
    dedup_bound: Annotated[Real, Field(gt=0, le=2)] = 0.5
    skip_corrupt: bool = False
    """Leave out images that cannot be used instead of refusing the data set."""

    @model_validator(mode="after")
    def _together(self) -> Self:
        # A resolved config gives every key, so one counts as given where it departs from its default.
        fields = type(self).model_fields
        check_options(self, {name for name, field in fields.items() if getattr(self, name) != field.default})
        return self

    def settings(self) -> dict[str, Any]:
        """What the prepared images depend on besides the content of the paths."""
        if self.source == "digits":
            return self.model_dump(mode="json", include={"source", "members", "holdout", "skip"})
        return self.model_dump(mode="json", exclude={"path", "holdout_path", "labels_file", "skip_corrupt"})
