"""Audit how much of its training set a diffusion model gives away (SIDE: surrogate conditional data extraction).

In Python:

>>> import side_ray
>>> run = side_ray.open_run(uri)                     # a finished run, wherever its directory can be read
>>> run.headline                                                                                   # doctest: +ELLIPSIS
'Found: ...'
>>> copies = run.matches("td", 2)                    # a pandas DataFrame, the closest match first
>>> pair = run.pair(copies.index[0])                 # PIL images; a notebook shows them side by side
>>> pair.sample.size == pair.train.size
True
>>> run.remake("td", 2, int(copies.sample_id.iloc[0])).identical       # the same sample from its seed, bit for bit
True

`audit` makes a run from a config, `score_images` one from images that are there already. Importing the package creates its
registries, whose names a config is checked against; it loads no large library.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import side_ray.diffusion.denoisers
import side_ray.diffusion.samplers
import side_ray.report.sections
import side_ray.similarity
import side_ray.sources  # noqa: F401

if TYPE_CHECKING:
    from side_ray.config import Config
    from side_ray.results.opened import AuditResult

__all__ = ["audit", "open_run", "score_images"]
__version__ = "0.1.0"


def audit(config: "str | PathLike[str] | Mapping[str, Any] | Config", overrides: Sequence[str] = ()) -> "AuditResult":
    """Run a whole audit; what exists is not made again. Progress is printed on stderr.

    Args:
        config: a YAML file, its values, or a `side_ray.config.Config`.
        overrides: `section.key=value`, for example `extract.samples=2000`.

    Returns:
        The run, as of `open_run`.

    Raises:
        side_ray.errors.UserError: the config is wrong. Nothing has started.
        side_ray.errors.RunError: the run stopped. Finished work is kept; call it again to resume.
    """
    from side_ray.studies.python import run_audit

    return run_audit(config, overrides)


def score_images(
    samples: Any, train: Any, unseen: Any = None, *, run: str = "runs/score", overrides: Sequence[str] = ()
) -> "AuditResult":
    """Score generated images against the training set that they may copy, without a model.

    >>> import numpy as np
    >>> train = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    >>> result = side_ray.score_images(train[:5], train, run=new_run)
    >>> int(result.metrics["conditions"][0]["cumulative"]["high"]["ams_count"])
    5

    Args:
        samples: the generated images: a path (a folder, a zip archive or Parquet; local or s3://), an array uint8 [N, H, W] or
            [N, H, W, C] with 1 or 3 channels, a torch tensor uint8 [N, C, H, W], or a data set: a `datasets.Dataset` with a
            column `image`, a torch `Dataset`, or any other iterable of PIL images or arrays, alone, first in a tuple, or as
            `image` in a dict.
        train: the training set, in one of the same forms.
        unseen: similar images that the model never saw, which set the cut and check it; None = no cut.
        run: run directory. Images that are not given by path are written there.
        overrides: `section.key=value`, for example `data.image_size=64` or `score.similarity=sscd`.

    Returns:
        The run, as of `open_run`; its only condition is `given`.

    Raises:
        side_ray.errors.UserError: images that cannot be used, or an override is wrong.
    """
    from side_ray.studies.python import run_score

    return run_score(samples, train, unseen, run, overrides)


def open_run(uri: "str | PathLike[str]", *, endpoint: str | None = None) -> "AuditResult":
    """Open a finished run: `metrics`, `table`, `extracted`, `matches`, `pair`, `figures`, `remake`.

    Args:
        uri: run directory: a local path or s3://bucket/prefix.
        endpoint: URL of an S3-compatible server.

    Raises:
        side_ray.errors.UserError: it holds no report.
    """
    from side_ray.results.opened import AuditResult
    from side_ray.storage import open_store

    return AuditResult(open_store(str(uri), endpoint=endpoint))
