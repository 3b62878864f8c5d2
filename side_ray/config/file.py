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
from side_ray.errors import UserError, check_credentials, first_line, masked

LARGEST_BYTES = 1 << 20
MOST_VALUES = 100_000
DEEPEST = 30


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's, which is ten times as fast, where PyYAML was built with it."""


class _UniqueKeyLoader(_LOADER):
    """Refuses duplicate keys. PyYAML keeps the last one without a warning, so that a λ grid could get lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is not plain text", key_node.start_mark)
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
        given = values.get(name)
        merged = {**(given if isinstance(given, dict) else {}), **changes}
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
            [f"{where if fault in own else _culprit(fault, overrides, where)}: {fault}" for fault in faults]
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
        if path.stat().st_size > LARGEST_BYTES:
            raise UserError(f"{path}: {path.stat().st_size:,} bytes are too many for a config; check the path")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file; check the path") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as text ({error}); check the file") from None
    values = read_yaml(text, str(path))
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no sections; a config starts with `run:` and the other sections")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not 2 <= len(keys) <= DEEPEST or not all(keys):
        raise UserError(f"override {override!r}: write section.key=value, for example extract.samples=2000")
    check_text(name, "override")
    try:
        value = read_yaml(text, "override")
    except UserError as error:
        fault = error.message.removeprefix("override: ")
        raise UserError(
            f"override {masked(override)[:120]!r}: {fault}; quote the value for the shell, as in 'extract.lambdas=[0, 5]'"
        ) from None
    target = values
    for key in keys[:-1]:
        inner = target.setdefault(key, {})
        if not isinstance(inner, dict):
            raise UserError(f"override {override!r}: {key} is not a section; check the name")
        target = inner
    target[keys[-1]] = value


def read_yaml(text: str, where: str) -> Any:
    """The value of a YAML text, as plain values.

    Args:
        where: named in errors.

    Raises:
        UserError: it is too large, not YAML, or holds something that no config does: dates, keys that are not text, text with
            control characters or credentials, or more values than `MOST_VALUES` once its aliases are expanded.
    """
    if len(text) > LARGEST_BYTES:
        raise UserError(f"{where}: {len(text):,} characters are too many for a config; check the file")
    try:
        _check_depth(text)
        node = yaml.compose(text, Loader=_LOADER)
        if node is not None:
            _check_size(node, {})
        value = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = masked(" ".join(str(getattr(error, "problem", None) or first_line(error)).split()))
        raise UserError(f"{where}: {place}not valid YAML ({problem[:160]}); correct it") from None
    except RecursionError:
        raise UserError(f"{where}: is nested too deeply; correct it") from None
    # The library's constructors of tagged values (`!!int x`) raise anything.
    except Exception as error:
        raise UserError(f"{where}: not valid YAML ({masked(first_line(error))[:160]}); correct it") from None
    _check_plain(value, where, "")
    return value


def _check_depth(text: str) -> None:
    """Raise RecursionError at the first bracket that is too deep; the library would read on, ever slower."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise RecursionError


def _check_size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """The number of values of a node once its aliases are expanded, each node counted once."""
    if id(node) not in sizes:
        inner = node.value if isinstance(node.value, list) else []
        pairs = [each for pair in inner for each in (pair if isinstance(pair, tuple) else (pair,))]
        sizes[id(node)] = 0
        sizes[id(node)] = 1 + sum(_check_size(each, sizes) for each in pairs)
        if sizes[id(node)] > MOST_VALUES:
            raise yaml.MarkedYAMLError(problem=f"it has more than {MOST_VALUES:,} values", problem_mark=node.start_mark)
    elif not sizes[id(node)]:
        raise yaml.MarkedYAMLError(problem="an alias is inside what it stands for", problem_mark=node.start_mark)
    return sizes[id(node)]


def _check_plain(value: Any, where: str, key: str) -> None:
    place = f"{where}: {key}" if key else where
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise UserError(f"{place}: the key {name!r} is not text; quote it or correct it")
            check_text(name, place)
            _check_plain(inner, where, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for inner in value:
            _check_plain(inner, where, key)
    elif isinstance(value, str):
        check_text(value, place)
    elif value is not None and not isinstance(value, (bool, int, float)):
        raise UserError(f"{place}: a {type(value).__name__} is no value of a config; quote it if it is text")


def check_text(text: str, where: str) -> None:
    """Raise UserError for text that no path, name or URL of a config is."""
    if any(ord(character) < 32 and character not in "\n\t" for character in text):
        raise UserError(f"{where}: holds control characters; remove them")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{where}: is not UTF-8; rename the file or folder")
    check_credentials(text, where)
