"""Section `data`: the training images."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from side_ray.config.base import Count, OpenSection, Real, Side, Whole, omitted_by_default
from side_ray.registry import REGISTRIES

IMAGE_KEYS = frozenset(
    {
        "image_size",
        "crop",
        "exif_orientation",
        "value_range",
        "grayscale",
        "per_class",
        "dedup",
        "dedup_bound",
        "skip_corrupt",
        "labels",
    }
)
"""Keys that select or convert images. A source whose images are used unchanged refuses them (`Source.converts`)."""


class DataSection(OpenSection):
    """Which images the members and the two unseen sets are drawn from, and how. Sources add keys of their own."""

    registries: ClassVar[tuple[str, ...]] = ("data.source",)

    source: str = "digits"
    """The format of the images."""
    path: str | None = None
    """Where the images are: a local path or s3://bucket/prefix; a directory or an archive, depending on the source, or a
    pattern with `*` and `?` (`**/` stands for any folders)."""
    holdout_path: str | None = None
    """Images that the DPM never saw, for the two unseen sets; absent, these are drawn from `path` like the members. For
    cifar10 its test batch is taken from there; for celeba_hq the same path means the images that are not in the identity
    list."""
    members: Count
    """Images that the DPM is trained on."""
    holdout: Whole
    """Size of each of the two sets that nothing is trained on: `calibration` sets the cut, `holdout` checks it. 0, neither
    cut nor control, is only for given samples."""
    skip: Whole = omitted_by_default(0)
    """Images of the drawn order that are skipped before the members: those of the audit's sets, for the control."""
    crop: Side | None = None
    """Side of the square cut out of the middle; the shorter side where absent and `image_size` is given."""
    image_size: Side | None = None
    """Side that the square is resized to; absent, all images must have one size."""
    exif_orientation: bool = omitted_by_default(True)
    """Turn images upright as their EXIF data says; false for a model whose training did not (torchvision's ImageFolder does
    not)."""
    value_range: tuple[Real, Real] | None = omitted_by_default(None)
    """The values that become black and white in images of 16 or 32 bits or of floating point, such as [0, 4095]. Images of 8
    bits stay as they are."""
    grayscale: bool = False
    """One channel, of up to 16 bits; otherwise all images are converted to RGB of 8 bits."""
    labels: bool = True
    """Whether the source's labels are used, where it has any."""
    per_class: Count | None = None
    """Most images of one class that take part; they are drawn at random."""
    dedup: Literal["none", "exact", "near"] = "none"
    """Leave duplicates out of the training; scores count them as one image in any case (`similarity.duplicates`). `exact`:
    all but the first of equal images, `near`: also of those whose normalized L2 distance is below `dedup_bound`
    (which compares all pairs: four times as many images take sixteen times as long)."""
    dedup_bound: Annotated[Real, Field(gt=0, le=2)] = 0.5
    """Of `dedup` near."""
    skip_corrupt: bool = False
    """Leave out images that cannot be used instead of refusing the data set."""

    @model_validator(mode="after")
    def _together(self) -> Self:
        source, given = self.item("data.source"), self.changed()
        if source.needs_path and not self.path:
            raise ValueError(
                f"data.path: source {self.source} needs the path of the images: a local one or s3://bucket/prefix"
            )
        if self.path is not None and self.holdout_path == self.path and not source.splits_one_path:
            raise ValueError(
                "data.holdout_path: is data.path itself, whose images are members; give images that the model never saw, "
                "or drop it"
            )
        if not self.labels:
            useless = sorted(given & {"per_class", *source.label_keys})
            if useless:
                raise ValueError(f"data.{useless[0]}: needs labels; drop it or data.labels=false")
        if self.value_range and self.value_range[0] >= self.value_range[1]:
            raise ValueError("data.value_range: its second value must be larger than its first; correct it")
        if "dedup_bound" in given and self.dedup != "near":
            raise ValueError(
                f"data.dedup_bound: is for data.dedup near, not {self.dedup}; drop it or set data.dedup=near"
            )
        return self

    def settings(self) -> dict[str, Any]:
        """What the prepared images depend on besides the content of the paths: it goes into their fingerprint."""
        source = self.item("data.source")
        if not source.converts:
            own = self.item_keys("data.source") - source.path_keys
            return self.model_dump(mode="json", include={"source", "members", "holdout", "skip", *own})
        registry = REGISTRIES["data.source"]
        paths = {name for each in registry.names for name in registry[each].path_keys}
        return self.model_dump(mode="json", exclude={"path", "holdout_path", "skip_corrupt", *paths})
