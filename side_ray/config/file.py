"""Reads a config: the YAML file and the overrides of the command line. Every error is one line that names the key."""

import os
import re
from collections.abc import Hashable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from side_ray.config import Config
from side_ray.config.base import explained
from side_ray.errors import UserError


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses duplicate keys. PyYAML keeps the last one without a warning, so that a λ grid could get lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key_node.value!r} is given twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Read a config, apply overrides and validate it.

    Args:
        path: a YAML file.
        overrides: `section.key=value`, the value read as YAML.

    Raises:
        UserError: one line per fault, each naming the key and the remedy.
    """
    return parse_config(read_values(path), str(path), overrides)


def read_values(path: str | os.PathLike[str], **sections: dict[str, Any]) -> dict[str, Any]:
    """The values of a config that is not validated yet. `sections` replace keys of the file; None removes a key."""
    values = _read_yaml(Path(path))
    for name, changes in sections.items():
        merged = {**values.get(name, {}), **changes}
        values[name] = {key: value for key, value in merged.items() if value is not None}
    return values


def override(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set `section.key=value` in the values of a config, in place.

    Raises:
        UserError: an override does not have this form.
    """
    for each in overrides:
        _apply(values, each)


def parse_config(values: dict[str, Any], where: str, overrides: Sequence[str] = ()) -> Config:
    """Validate the values of a config, with overrides applied to a copy of them.

    Args:
        where: what the values come from, named in errors that they have without the overrides too.

    Raises:
        UserError: one line per fault, each naming the override or `where`, the key and the remedy.
    """
    overridden = deepcopy(values)
    override(overridden, overrides)
    config, faults = _validated(overridden)
    if config is None:
        own = _validated(values)[1] if overrides else faults
        raise UserError(
            "\n".join(f"{where if fault in own else _culprit(fault, overrides, where)}: {fault}" for fault in faults)
        )
    uri = config.run.uri
    if "://" not in uri and not Path(uri).is_absolute() and "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        fault = (
            f"run.uri: {uri!r} is relative, and the working directory of a submitted job is deleted after it; give an "
            "absolute path on shared storage or s3://bucket/prefix"
        )
        raise UserError(f"{_culprit(fault, overrides, where)}: {fault}")
    return config


def _validated(values: dict[str, Any]) -> tuple[Config | None, list[str]]:
    """The config, or None and a line per fault."""
    try:
        return Config.model_validate(values), []
    except ValidationError as error:
        return None, explained(error, Config)


def _culprit(fault: str, overrides: Sequence[str], where: str) -> str:
    """The last override that sets the key of a fault, else the last one whose key the fault mentions, else `where`."""
    key = fault.partition(":")[0]
    named = [(each.partition("=")[0].strip(), each) for each in overrides]
    own = [each for name, each in named if f"{key}.".startswith(f"{name}.") or name.startswith(f"{key}.")]
    beside = [each for name, each in named if re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", fault)]
    return f"override {(own or beside)[-1]!r}" if own or beside else where


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error}); check the file") from None
    try:
        values = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UserError(
            f"{path}: {place}not valid YAML ({getattr(error, 'problem', error)}); correct the file"
        ) from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no sections; a config starts with `run:` and the other sections")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or len(keys) < 2 or not all(keys):
        raise UserError(f"override {override!r}: write section.key=value, for example extract.samples=2000")
    try:
        value = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError:
        raise UserError(
            f"override {override!r}: the value is not valid YAML; quote it for the shell, as in 'extract.lambdas=[0, 5]'"
        ) from None
    target = values
    for key in keys[:-1]:
        inner = target.setdefault(key, {})
        if not isinstance(inner, dict):
            raise UserError(f"override {override!r}: {key} is not a section; check the name")
        target = inner
    target[keys[-1]] = value
