"""Opens the sources that a config names, and finds out what they hold."""

from dataclasses import dataclass, replace
from itertools import islice

from side_ray.config import DataSection, StorageSection
from side_ray.config.base import Section
from side_ray.errors import UserError, renamed
from side_ray.sources import SOURCES
from side_ray.sources.base import Place, Source
from side_ray.sources.reading.files import Files, open_files
from side_ray.sources.reading.pixels import Transform, Unusable
from side_ray.storage import within

LOOKED_AT = 64
"""If none of the first so many images can be read, the source counts as unreadable."""


@dataclass(frozen=True)
class Description:
    """What is known of a data set without reading all of it.

    Attributes:
        counts: images in each pool; None where only reading all images can tell.
        shape: (H, W, C) of the first readable image, as the run will hold it.
        labelled: whether the members have labels.
    """

    counts: tuple[int | None, ...]
    shape: tuple[int, int, int]
    labelled: bool


def open_pools(data: DataSection, storage: StorageSection) -> tuple[Source, ...]:
    """The source that the members are drawn from and, with `data.holdout_path`, that of the unseen images.

    Raises:
        UserError: a path leads nowhere, or what is there is not of the format.
        RunError: the storage cannot be reached.
    """
    item = SOURCES[data.source]
    options, path, apart = data.options(item.Options), data.path or "", data.holdout_path
    if apart is None:
        return (item.open(Place(path, labels=data.labels, storage=storage), options),)
    same = within(apart, path) and within(path, apart)
    members = Place(path, "data.path", "members", data.labels, same, storage)
    unseen = Place(apart, "data.holdout_path", "unseen", data.labels, same, storage)
    return item.open(members, options), _unseen(item, unseen, options)


def _unseen(item: type[Source], place: Place, options: Section) -> Source:
    """The source of the unseen images, with their labels where it holds any: nothing is trained on them, so none are needed."""
    if place.labels:
        try:
            source = item.open(place, options)
            if source.labelled:
                return source
        except UserError:  # said again below, if it is not about labels
            pass
    return item.open(replace(place, labels=False), options)


def open_samples(path: str, storage: StorageSection, column: str | None = None) -> Source:
    """Generated images to be scored, in any registered format that knows its size.

    Args:
        column: the column of images in a table; by default `image`, or the only one.

    Raises:
        UserError: the path leads nowhere, or holds no images in one of these formats.
        RunError: the storage cannot be reached.
    """
    place = Place(path, "given.samples", labels=False, storage=storage)
    item = SOURCES[_kind(place.files())]
    options = {"image_column": column} if column and "image_column" in item.Options.model_fields else {}
    with renamed("data.path", "given.samples"), renamed("data.image_column", "given.image_column"):
        source = item.open(place, item.Options(**options))
        if source.count() is None:
            raise UserError(f"{path} is a {_kind(place.files())} archive; unpack it, and give the folder", "data.path")
    return source


def kind_of(path: str, key: str, storage: StorageSection) -> str:
    """The `data.source` that can read what is at a path.

    Raises:
        UserError: the path leads nowhere.
        RunError: the storage cannot be reached.
    """
    return _kind(open_files(path, key, storage.endpoint, storage.region))


def _kind(files: Files) -> str:
    """The first source that recognizes a file there, else a folder of images."""
    return next((name for name in SOURCES.names if SOURCES[name].recognizes(files)), "folder")


def transform_of(data: DataSection) -> Transform:
    """The conversion of each image that the config asks for."""
    return Transform(
        data.crop,
        data.image_size,
        data.grayscale or SOURCES[data.source].grayscale,
        data.value_range,
        data.exif_orientation,
    )


def shape_by_config(data: DataSection) -> tuple[int, int, int] | None:
    """(H, W, C) of the images where the config alone determines it, else None."""
    transform = transform_of(data)
    side = transform.size or transform.crop or SOURCES[data.source].side
    return (side, side, transform.channels) if side else None


def describe(data: DataSection, pools: tuple[Source, ...]) -> Description:
    """Look at a data set: its listing, and the first image that can be read.

    Raises:
        UserError: what is there is not of the format, or none of the first images can be read.
    """
    transform, reasons = transform_of(data), []
    every = (record for unit in pools[0].units() for record in pools[0].read(unit))
    for record in islice(every, LOOKED_AT):
        try:
            if record.error:
                raise Unusable(record.error)
            height, width, channels = transform(record.content).shape
            return Description(tuple(pool.count() for pool in pools), (height, width, channels), pools[0].labelled)
        except Unusable as error:
            reasons.append(f"{record.name}: {error}")
    raise UserError(
        f"none of the first {len(reasons)} images of {pools[0].uri} can be used"
        f"{f' ({reasons[0]})' if reasons else ''}; check data.source and the files",
        "data.path",
    )
