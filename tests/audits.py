"""Small audits for the tests: real digits and every stage, in some seconds."""

from pathlib import Path
from typing import Any

import yaml

from side_ray.config import Config
from side_ray.config.file import parse_config

CONFIGS = Path(__file__).parents[1] / "jobs" / "configs"
DIGITS, TINY = CONFIGS / "digits.yaml", CONFIGS / "digits_tiny.yaml"


def tiny_values(uri: str, **changes: Any) -> dict[str, Any]:
    """Values of digits_tiny.yaml, an audit of some seconds, with `changes` given as section__key=value or section={…}."""
    values: dict[str, Any] = yaml.safe_load(TINY.read_text())
    values["run"] = {"uri": uri, "seed": 3}
    values.setdefault("report", {})["pdf"] = False
    # Does not divide the shard size, so that batches are padded.
    values["extract"]["batch_size"] = 30
    for name, value in changes.items():
        section, _, key = name.partition("__")
        values[section] = {**values.get(section, {}), key: value} if key else value
    return values


def tiny_config(uri: str | Path, **changes: Any) -> Config:
    """`tiny_values` as a validated config."""
    return parse_config(tiny_values(str(uri), **changes), "tiny")
