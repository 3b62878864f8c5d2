"""Small audits for the tests: real digits and every stage, in some seconds."""

import copy
import typing
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from side_ray.config import Config
from side_ray.config.base import OpenSection
from side_ray.config.file import parse_config
from side_ray.registry import REGISTRIES

PAGE_ONLY = ["report.pdf=false", "report.figures=false"]
"""Overrides of audits whose report is only the page: printing and drawing files take seconds."""
ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "jobs" / "configs"
DIGITS, TINY = CONFIGS / "digits.yaml", CONFIGS / "digits_tiny.yaml"


@cache
def _tiny() -> dict[str, Any]:
    return yaml.safe_load(TINY.read_text())


def tiny_values(uri: str, **changes: Any) -> dict[str, Any]:
    """Values of digits_tiny.yaml, an audit of some seconds, with `changes` given as section__key=value or section={…}."""
    values = copy.deepcopy(_tiny())
    values["run"] = {"uri": uri, "seed": 3}
    values["report"] = {"pdf": False, "figures": False, **values.get("report", {})}
    # Every worker process takes seconds to import torch. What several actors make is tested where it matters.
    values["cluster"] = {**values["cluster"], "actors": [1, 1]}
    # Does not divide the shard size, so that batches are padded.
    values["extract"]["batch_size"] = 30
    for name, value in changes.items():
        section, _, key = name.partition("__")
        values[section] = {**values.get(section, {}), key: value} if key else value
    return values


def tiny_config(uri: str | Path, **changes: Any) -> Config:
    """`tiny_values` as a validated config."""
    return parse_config(tiny_values(str(uri), **changes), "tiny")


def keys(model: type[BaseModel]) -> list[tuple[str, ...]]:
    """Every key of a model and of the models in it, and the keys that registered items add."""
    found = []
    for name, field in model.model_fields.items():
        inner = [field.annotation, *typing.get_args(field.annotation)]
        sections = [each for each in inner if isinstance(each, type) and issubclass(each, BaseModel)]
        for section in sections:
            found += [(name, *key) for key in keys(section)]
        if not sections:
            found.append((name,))
    if issubclass(model, OpenSection):
        options = [each for key in model.registries for each in REGISTRIES[key].options().values()]
        found += [key for each in options for key in keys(each)]
    return list(dict.fromkeys(found))
