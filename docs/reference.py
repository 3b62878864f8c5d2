"""Writes two pages from the package itself: the reference of all config keys, and that of the Python API.

    python -m docs.reference

The first comes from the config's models and from the keys that registered items add to them, the second from docstrings. A test
fails while a committed page differs from what this writes.
"""

import ast
import functools
import inspect
import re
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel, Discriminator
from pydantic.fields import FieldInfo

import side_ray
from side_ray.config import Config
from side_ray.config.base import LARGEST, default_of
from side_ray.config.dpm import DENOISER, KINDS
from side_ray.registry import REGISTRIES
from side_ray.results.opened import AuditResult, Drawing, Pair
from side_ray.results.remake import Remade

DOCS = Path(__file__).parent
WRITTEN = "<!-- Written by `python -m docs.reference`; change the docstrings of `side_ray/`, not this page. -->"
PLAIN = {int: "whole number", float: "number", str: "text", bool: "true or false"}
MANY = {int: "whole numbers", float: "numbers", str: "texts"}
BOUNDS = (Ge, Gt, Le, Lt)
NO_BOUND = 2**63 - 1

# --- the config


@functools.cache
def config_page() -> str:
    """The reference of all config keys, in Markdown."""
    lines = [
        "# Config reference",
        "",
        WRITTEN,
        "",
        "An audit is one YAML file. Keys that are **required** must be given; everything else has a default. Any key can be",
        "overridden on the command line as `section.key=value`. Keys that are unknown, out of bounds or at odds with each other",
        "are reported in one line before anything starts. Start from a file that `side-ray init` writes, see",
        "[the quickstart](quickstart.md).",
        "",
    ]
    for name, field in Config.model_fields.items():
        model = _model_of(field.annotation)
        assert model is not None
        lines += [f"## {name}", "", _flat(_docstring(model)), ""]
        if default_of(field) is None:
            lines += ["The section is absent by default.", ""]
        lines += [HEAD, *_rows(model, name), *_added_rows(model, name), ""]
    return "\n".join(lines)


HEAD = "| key | value | default | meaning |\n|---|---|---|---|"


def keys() -> list[str]:
    """Every config key of the page, `section.key`, sections of sections included."""
    return re.findall(r"^\| `([\w.]+)`", config_page(), re.MULTILINE)


def _rows(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """The rows of all fields of a section."""
    about = field_docs(model)
    for name, field in model.model_fields.items():
        yield from _row(f"{prefix}.{name}", field, _flat(about.get(name, "")))


def _row(key: str, field: FieldInfo, meaning: str) -> Iterator[str]:
    """The table row of one key, then those of the keys within it."""
    inner = _model_of(field.annotation)
    kind = "section" if inner else _allowed(key) or value_type(field)
    default = "see below" if inner and default_of(field) is not None else _default(field)
    cells = (f"`{key}`", kind, default, meaning)
    yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    if inner:
        yield from _rows(inner, key)


def _added_rows(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """The rows of keys that registered items add to a section, each once, with the items that it is for."""
    fields: dict[str, FieldInfo] = {}
    about: dict[str, dict[str, list[str]]] = {}
    for key in getattr(model, "registries", ()):
        for item, options in REGISTRIES[key].options().items():
            label = f"section `{item}`" if key == "report.sections" else f"`{item}`"
            for name, field in options.model_fields.items():
                fields.setdefault(name, field)
                text = _flat(field_docs(options).get(name, ""))
                about.setdefault(name, {}).setdefault(text, []).append(label)
    for name, field in fields.items():
        meaning = " ".join(f"For {', '.join(items)}: {text}" for text, items in about[name].items())
        yield from _row(f"{prefix}.{name}", field, meaning)


def _allowed(key: str) -> str:
    """The names that a key may have, if a registry has them."""
    if key == "dpm.kind":
        models = REGISTRIES[DENOISER]
        names = [*KINDS, *(name for name in models.names if models[name].made_from_members)]
    elif key in REGISTRIES:
        names = REGISTRIES[key].names
    else:
        return ""
    return _either(names)


def _either(values: Sequence[Any]) -> str:
    """`a`, `b` or `c`."""
    *first, last = (f"`{value}`" for value in values)
    return f"{', '.join(first)} or {last}" if first else last


def value_type(field: FieldInfo) -> str:
    """The values that a field takes, in words: `whole number ≥ 1`."""
    return _words(field.annotation, list(field.metadata))


def _words(kind: Any, metadata: list[Any]) -> str:
    origin = get_origin(kind)
    if origin is typing.Annotated:
        kind, *more = get_args(kind)
        return _words(kind, [*more, *metadata])
    bounds = _bounds(metadata)
    if origin is Literal:
        return _either(get_args(kind))
    if origin in (typing.Union, types.UnionType):
        parts = [each for each in get_args(kind) if each is not type(None)]
        return " or ".join(_words(each, [m for m in metadata if not isinstance(m, Discriminator)]) for each in parts)
    if origin is tuple:
        return f"[{', '.join(_words(each, []) for each in get_args(kind))}]"
    if origin is dict:
        return "names with `[from, to]`, `null` for an open end"
    if origin is list:
        (inner,) = get_args(kind)
        plain, bound = _plain(inner)
        least = next((m.min_length for m in metadata if isinstance(m, MinLen)), 0)
        most = next((m.max_length for m in metadata if isinstance(m, MaxLen)), None)
        count = f", {least} or more" if least else f", at most {most}" if most else ""
        text = f"{MANY[plain]}{bound}" if plain in MANY else _words(inner, [])
        return f"list of {text}{count}"
    return f"{PLAIN[kind]}{bounds}"


def _plain(kind: Any) -> tuple[Any, str]:
    """A type without its bounds, and the bounds in words."""
    metadata: list[Any] = []
    while get_origin(kind) is typing.Annotated:
        kind, *more = get_args(kind)
        metadata = [*more, *metadata]
    return kind, _bounds(metadata)


def _bounds(metadata: list[Any]) -> str:
    """` ≥ 1`, ` > 0 and ≤ 2`: the narrowest of the bounds."""
    flat: list[Any] = []
    for each in metadata:
        flat += getattr(each, "metadata", [each])
    low = [(m.ge, "≥") if isinstance(m, Ge) else (m.gt, ">") for m in flat if isinstance(m, (Ge, Gt))]
    high = [(m.le, "≤") if isinstance(m, Le) else (m.lt, "<") for m in flat if isinstance(m, (Le, Lt))]
    found = [max(low)] if low else []
    found += [bound for bound in [min(high)] if bound[0] not in (LARGEST, NO_BOUND)] if high else []
    return " and".join(f" {sign} {_number(value)}" for value, sign in found)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if value >= 1e4 else f"{value:g}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = default_of(field)
    if value is None:
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (list, tuple)):
        return f"`[{', '.join(str(each) for each in value)}]`"
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{value}`"


def _model_of(annotation: Any) -> type[BaseModel] | None:
    candidates = (annotation, *get_args(annotation))
    return next((each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)), None)


def field_docs(model: type[BaseModel]) -> dict[str, str]:
    """The string below each field of a model, also of those that it inherits."""
    found: dict[str, str] = {}
    for each in reversed(model.__mro__):
        if each.__module__.startswith("side_ray."):
            found |= _strings_below(each.__module__).get(each.__name__, {})
    return found


@functools.cache
def _strings_below(module: str) -> dict[str, dict[str, str]]:
    """By class and attribute, the string below an annotated assignment."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(sys.modules[module])).body:
        if isinstance(node, ast.ClassDef):
            for line, below in zip(node.body, node.body[1:], strict=False):
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                    text = below.value if isinstance(below, ast.Expr) else None
                    if isinstance(text, ast.Constant) and isinstance(text.value, str):
                        found.setdefault(node.name, {})[line.target.id] = text.value
    return found


def _docstring(item: Any) -> str:
    text = inspect.getdoc(item) if item.__doc__ else ""
    assert text, f"{item.__name__} has no docstring"
    return text


def _flat(text: str) -> str:
    return " ".join(text.split())


# --- the Python API

SECTIONS = {"Args": "Arguments", "Returns": "Returns", "Raises": "Raises", "Attributes": "Attributes"}


def api_page() -> str:
    """The reference of the Python API, in Markdown."""
    lines = [
        "# Python API",
        "",
        WRITTEN,
        "",
        "`import side_ray` takes a fraction of a second: it loads neither torch nor Ray. The package is typed. What is",
        "documented here stays; other modules may change. [Reading a report](report.md#in-python) has an example. Errors are",
        "`side_ray.errors.UserError` (wrong input; one line that names it) and `side_ray.errors.RunError` (the run stopped;",
        "finished work is kept).",
        "",
    ]
    for name in side_ray.__all__:
        lines += _described(getattr(side_ray, name), f"side_ray.{name}", 2)
    lines += _described(AuditResult, "The run", 2, title="A finished run")
    for name, item in vars(AuditResult).items():
        if not name.startswith("_"):
            function = getattr(item, "fget", None) or getattr(item, "func", None)
            lines += _described(function or item, f"run.{name}", 3, called=function is None)
    for cls in (Pair, Remade, Drawing):
        lines += _described(cls, cls.__name__, 3, called=False)
        for name, item in vars(cls).items():
            if isinstance(item, property) and not name.startswith("_"):
                lines += [f"- `{name}`: {_flat(_docstring(item.fget))}"]
            elif inspect.isfunction(item) and not name.startswith("_") and name not in vars(BaseModel) and item.__doc__:
                lines += [f"- `{name}{_signature(item)}`: {_flat(_docstring(item))}"]
        lines += [""]
    return "\n".join(lines).rstrip() + "\n"


def _described(item: Callable[..., Any], name: str, level: int, *, called: bool = True, title: str = "") -> list[str]:
    """Heading, signature and docstring of a function or class."""
    lines = [f"{'#' * level} {title or f'`{name}`'}", ""]
    if called and not inspect.isclass(item):
        lines += ["```py", f"{name}{_signature(item)}", "```", ""]
    return [*lines, *_markdown(_docstring(item)), ""]


def _signature(item: Callable[..., Any]) -> str:
    function = ast.parse(textwrap.dedent(inspect.getsource(item))).body[0]
    assert isinstance(function, ast.FunctionDef)
    taken = function.args
    defaults = [None] * (len(taken.args) - len(taken.defaults)) + taken.defaults
    parts = [_parameter(*each) for each in zip(taken.args, defaults, strict=True) if each[0].arg != "self"]
    if taken.kwonlyargs:
        parts += ["*", *(_parameter(*each) for each in zip(taken.kwonlyargs, taken.kw_defaults, strict=True))]
    returns = f" -> {_annotation(function.returns)}" if function.returns else ""
    line = f"({', '.join(parts)}){returns}"
    return line if len(line) <= 80 else "".join(["(\n", *(f"    {part},\n" for part in parts), f"){returns}"])


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    return f"{argument.arg}: {_annotation(argument.annotation)}" + (f" = {ast.unparse(default)}" if default else "")


def _annotation(annotation: ast.expr | None) -> str:
    """An annotation as code, also where it is written as text."""
    assert annotation is not None
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return annotation.value
    return ast.unparse(annotation)


def _markdown(text: str) -> list[str]:
    """A docstring in Markdown: sections as lists, examples as code."""
    lines: list[str] = []
    example = False
    section = ""
    for line in text.splitlines():
        heading = SECTIONS.get(line.rstrip(":")) if line.endswith(":") else None
        if line.startswith(">>>") != example and (example or line.startswith(">>>")) and (not line or not example):
            lines += ["```"] if example else ["```pycon"]
            example = not example
        if heading:
            section = heading
            lines += [f"**{heading}**", ""]
        elif section and line.startswith("    ") and not line.startswith("     "):
            lines += [_entry(line.strip(), section)]
        elif section and line.strip():
            lines += [f"  {line.strip()}"]
        else:
            lines += [line]
    return [*lines, "```"] if example else lines


def _entry(line: str, section: str) -> str:
    """One entry of a section as a list item, its names as code."""
    found = re.match(r"([\w., ]+?): (.*)", line)
    if found and section != "Returns":
        return f"- `{found[1]}`: {found[2]}"
    return f"- {line}" if section == "Raises" else line


PAGES = {"config.md": config_page, "api.md": api_page}
"""By file name, what writes each page."""

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")
