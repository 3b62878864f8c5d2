"""Opens the source that a config names, and looks at it."""

from dataclasses import dataclass
from itertools import islice
from typing import Literal, cast

from side_ray.config import DataSection, StorageSection
from side_ray.errors import RunError, UserError
from side_ray.sources.base import Role, Source
from side_ray.sources.cifar10 import CifarSource
from side_ray.sources.digits import load_digits
from side_ray.sources.faces import ATTRIBUTES, LISTS, FacesSource
from side_ray.sources.folder import FolderSource
from side_ray.sources.parquet import ParquetSource
from side_ray.sources.reading.files import Files, open_files
from side_ray.sources.reading.pixels import Transform, Unusable
from side_ray.sources.webdataset import WebDatasetSource

LOOKED_AT = 64
"""Images that are tried for one that can be read, before a source counts as unreadable."""


@dataclass(frozen=True)
class Description:
    """What is known of a data set without reading it.

    Attributes:
        counts: images in each pool; None where only reading tells.
        shape: (H, W, C) of the first readable image, as the run will hold it.
        labelled: whether the members have labels.
    """

    counts: tuple[int | None, ...]
    shape: tuple[int, int, int]
    labelled: bool


def open_pools(data: DataSection, storage: StorageSection) -> tuple[Source, ...]:
    """Where the members are drawn from and, with `data.holdout_path`, where the unseen images are; empty for digits.

    Raises:
        UserError: a path leads nowhere, or what is there is not of the format.
        RunError: the storage cannot be reached.
    """
    if data.source == "digits":
        return ()
    assert data.path is not None
    apart = data.holdout_path is not None
    pools = [_open(data, storage, data.path, "data.path", "members" if apart and data.source == "cifar10" else "all")]
    if data.holdout_path is not None:
        within = data.source == "cifar10" or data.holdout_path == data.path
        pools.append(_open(data, storage, data.holdout_path, "data.holdout_path", "unseen" if within else "all"))
    return tuple(pools)


def open_samples(path: str, storage: StorageSection) -> Source:
    """Generated images to be scored, in a folder, a zip archive or Parquet.

    Raises:
        UserError: the path leads nowhere, or holds no images in one of these formats.
        RunError: the storage cannot be reached.
    """
    files = open_files(path, "given.samples", storage.endpoint, storage.region)
    try:
        source = ParquetSource(files, labels=False) if _kind(files) == "parquet" else FolderSource(files, labels=False)
        source.count()
        return source
    except UserError as error:
        raise type(error)(str(error).replace("data.path", "given.samples")) from None


def kind_of(path: str, key: str, storage: StorageSection) -> Literal["parquet", "webdataset", "folder"]:
    """The `data.source` that can read what lies at a path.

    Raises:
        UserError: the path leads nowhere.
        RunError: the storage cannot be reached.
    """
    return _kind(open_files(path, key, storage.endpoint, storage.region))


def _kind(files: Files) -> Literal["parquet", "webdataset", "folder"]:
    listing = files.listing()
    if len(listing.matching(r"\.parquet$").names):
        return "parquet"
    return "webdataset" if len(listing.matching(r"\.(tar|tar\.gz|tgz)$").names) else "folder"


def _open(data: DataSection, storage: StorageSection, path: str, key: str, role: Role) -> Source:
    files = open_files(path, key, storage.endpoint, storage.region)
    # The unseen images need no labels: nothing is trained on them.
    labels = data.labels and key == "data.path"
    if data.source == "cifar10":
        return CifarSource(files, role, labels)
    if data.source == "parquet":
        return ParquetSource(files, data.image_column, data.label_column, labels)
    if data.source == "webdataset":
        return WebDatasetSource(files, data.label_column or "label", labels)
    if data.source == "folder":
        return FolderSource(files, labels)
    members_or_rest = key == "data.path" or role == "unseen"
    return FacesSource(
        files,
        cast(Literal["celeba", "celeba_hq"], data.source),
        _label_list(data, storage, path) if members_or_rest else None,
        tuple(data.attributes),
        labels,
        data.min_per_class if members_or_rest else 1,
        role,
    )


def _label_list(data: DataSection, storage: StorageSection, path: str) -> Files | None:
    """The given list, or the published one in the data path or beside it."""
    if data.labels_file:
        return open_files(data.labels_file, "data.labels_file", storage.endpoint, storage.region)
    name = ATTRIBUTES if data.attributes else LISTS[data.source]
    inside = path.rstrip("/")
    for directory in (inside, f"{inside}/Anno", inside.rpartition("/")[0] or "."):
        try:
            files = open_files(f"{directory}/{name}", "data.labels_file", storage.endpoint, storage.region)
        except RunError:
            raise
        except UserError:
            continue
        if files.only:
            return files
    return None


def transform_of(data: DataSection) -> Transform:
    """What the config makes of each image."""
    return Transform(data.crop, data.image_size, data.grayscale)


def describe(data: DataSection, pools: tuple[Source, ...]) -> Description:
    """Look at a data set: its listing, and the first image that can be read.

    Raises:
        UserError: what is there is not of the format, or none of the first images can be read.
    """
    if not pools:
        digits = load_digits()
        return Description((len(digits),), digits.images.shape[1:], True)
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
        f"data.path: none of the first {len(reasons)} images of {pools[0].uri} can be used"
        f"{f' ({reasons[0]})' if reasons else ''}; check data.source and the files"
    )
