"""Makes the config of an audit of given samples from paths."""

from collections.abc import Sequence
from typing import Any

from side_ray.config import Config, StorageSection
from side_ray.config.base import Section
from side_ray.config.file import override, parse_config
from side_ray.errors import UserError
from side_ray.registry import REGISTRIES
from side_ray.runs.artifacts import CUT_EVERY
from side_ray.sources.pools import kind_of, open_pools, open_samples

SHARD_SIZE = 1000
WHERE = "side-ray score"
COLUMN = "image_column"


def given_config(samples: str, train: str, unseen: str | None, run: str, overrides: Sequence[str] = ()) -> Config:
    """The config of an audit of given samples, from paths. All training images are members.

    Args:
        samples: generated images; see `GivenSection`.
        train: the training set, in any format of `data.source`.
        unseen: similar images that the model never saw; half of them set the cut, the other half check it.
        run: run directory.
        overrides: `section.key=value`, for example `data.image_size=64` or `score.similarity=sscd`. `data.image_column` is that
            of the samples where the training set is no table.

    Raises:
        UserError: a path does not exist or holds no images of a known format, or an override is wrong.
    """
    chosen: dict[str, Any] = {}
    override(chosen, overrides)
    known = {name: value for name, value in chosen.get("storage", {}).items() if name in StorageSection.model_fields}
    storage = StorageSection.model_construct(**known)
    source = kind_of(train, "data.path", storage)
    if COLUMN not in (REGISTRIES["data.source"].options().get(source) or Section).model_fields:
        # Only the samples are a table, so their column is meant.
        overrides = [
            f"given.{each[len('data.') :]}" if each.startswith(f"data.{COLUMN}=") else each for each in overrides
        ]
    data: dict[str, Any] = {"path": train, "labels": False, "members": 1, "holdout": 0}
    data |= {"holdout_path": unseen} if unseen else {}
    values: dict[str, Any] = {
        "run": {"uri": run},
        "data": {"source": source, **data},
        "given": {"samples": samples},
        "extract": {"methods": ["random"], "lambdas": [0], "samples": 1, "shard_size": SHARD_SIZE},
        "report": {"title": "Audit of given samples"},
    }
    for section, sizes in _counts(parse_config(values, WHERE, overrides)).items():
        values[section] = {**values.get(section, {}), **sizes}
    return parse_config(values, WHERE, overrides)


def _counts(config: Config) -> dict[str, dict[str, int]]:
    """The numbers of images at the given paths, as config values by section."""
    assert config.given is not None
    samples = open_samples(config.given.samples, config.storage, config.given.image_column).count() or 0
    pools = [pool.count() for pool in open_pools(config.data, config.storage)]
    if None in pools:
        if config.data.members == 1:
            raise UserError(
                f"data.members: the number of images in {config.data.path} is unknown until all are read; give data.members=… "
                "(and data.holdout=…, half of the unseen images)"
            )
        pools = [config.data.members, 2 * config.data.holdout]
    members, unseen = [*pools, 0][:2]
    if config.data.holdout_path and (unseen or 0) < 2:
        raise UserError(
            f"data.holdout_path: {config.data.holdout_path} holds fewer than two images; give more, or leave it out"
        )
    return {
        "data": {"members": members or 0, "holdout": (unseen or 0) // 2},
        "extract": {"samples": samples},
        "surrogate": {"synthetic": -(-samples // CUT_EVERY)},
    }
