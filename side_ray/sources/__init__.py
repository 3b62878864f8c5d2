"""Sources of training images: a module per format, each one class below `base.Source`.

A new source is one file and one line here. The class says how it is opened and read, and which config keys it adds to section
`data`; everything else (splits, deduplication, resuming, labels) works on any source. `pools` opens the source that a config
names, `select` draws the splits, `reading/` has what formats share: files, archives, pixels.
"""

from typing import TYPE_CHECKING

from side_ray.registry import Registry

if TYPE_CHECKING:
    from side_ray.sources.base import Source

SOURCES: "Registry[type[Source]]" = Registry(
    "data.source",
    {
        "digits": "side_ray.sources.published.digits:DigitsSource",
        "cifar10": "side_ray.sources.published.cifar10:CifarSource",
        "celeba": "side_ray.sources.published.celeba:CelebaSource",
        "celeba_hq": "side_ray.sources.published.celeba_hq:CelebaHqSource",
        "folder": "side_ray.sources.folder:FolderSource",
        "parquet": "side_ray.sources.parquet:ParquetSource",
        "webdataset": "side_ray.sources.webdataset:WebDatasetSource",
        "arrow": "side_ray.sources.arrow:ArrowSource",
        "arrays": "side_ray.sources.arrays:ArraySource",
    },
)
