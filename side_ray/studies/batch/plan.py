"""Reads the audits of a batch: every model of a list on every data set of a list."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError

from side_ray.config import Config
from side_ray.config.base import Positive, Section, explained
from side_ray.config.file import parse_config, read_values
from side_ray.errors import UserError

Changes = dict[Annotated[str, Field(pattern=r"^[\w.+-]+$")], list[str]]


class BatchFile(Section):
    """The content of AUDITS.yaml."""

    base: str
    """Config of all audits: a path, relative to this file. Its `run.uri` is the run directory of all."""
    models: Annotated[Changes, Field(min_length=1)]
    """By name, the settings `section.key=value` of each model; an empty list is the base's own."""
    data: Annotated[Changes, Field(min_length=1)] = Field(default_factory=lambda: dict[str, list[str]](data=[]))
    """By name, the settings of each data set."""
    priorities: dict[str, int] = Field(default_factory=dict)
    """Priorities of audits, by name (`model/data`) or pattern (`model/*`); 0 where absent. The highest runs first."""
    hours: Positive | None = None
    """Budget of one run of the batch: when so many hours have passed, no further audit starts."""


@dataclass(frozen=True)
class Planned:
    """One audit of a batch."""

    model: str
    data: str
    config: Config

    @property
    def name(self) -> str:
        return f"{self.model}/{self.data}"


def read_batch(path: str, overrides: Sequence[str] = ()) -> tuple[BatchFile, list[Planned]]:
    """The audits of a batch in the order in which they run: by priority, then in the order of the file.

    Args:
        path: AUDITS.yaml.
        overrides: settings of all audits; they take precedence over the file.

    Raises:
        UserError: the file or a config is wrong, with the audit's name; or an audit has another run directory.
    """
    try:
        batch = BatchFile.model_validate(read_values(path))
    except ValidationError as error:
        raise UserError([f"{path}: {line}" for line in explained(error, BatchFile)]) from None
    base = Path(path).parent / batch.base
    values, planned = read_values(base), list[Planned]()
    for model, of_model in batch.models.items():
        for data, of_data in batch.data.items():
            try:
                config = parse_config(values, str(base), [*of_model, *of_data, *overrides])
            except UserError as error:
                raise UserError([f"{model}/{data}: {line}" for line in str(error).splitlines()]) from None
            planned.append(Planned(model, data, config))
    names = {each.name for each in planned}
    for pattern in batch.priorities:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"{path}: priorities: {pattern!r} is no audit of this file; write model/data")
    if len({each.config.run.uri for each in planned}) > 1:
        raise UserError(f"{path}: run.uri: the audits of a batch share one run directory; set it in {batch.base}")

    def priority(each: Planned) -> int:
        return max((value for key, value in batch.priorities.items() if fnmatchcase(each.name, key)), default=0)

    return batch, sorted(planned, key=priority, reverse=True)


def texts_of(path: str, batch: BatchFile) -> dict[str, str]:
    """The file of a batch, first, and its base, as two files that name each other wherever both are put.

    Args:
        path: where `batch` was read from.
    """
    base = read_values(Path(path).parent / batch.base)
    values = {**batch.model_dump(mode="json"), "base": "base.yaml"}
    return {
        name: yaml.safe_dump(each, sort_keys=False, allow_unicode=True)
        for name, each in (("audits.yaml", values), ("base.yaml", base))
    }
