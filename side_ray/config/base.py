"""Building blocks of the config: types for bounded numbers, the section, and the section that registered items extend."""

import difflib
import re
import reprlib
from typing import Annotated, Any, ClassVar, NamedTuple, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo

from side_ray.registry import REGISTRIES, Carrier

Options = TypeVar("Options", bound=BaseModel)


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true/false")
    return value


def _distinct(values: list[float]) -> list[float]:
    if len(set(values)) != len(values):
        raise ValueError("holds a value twice; list each guidance scale once")
    return sorted(values)


LARGEST = 10**12
"""No count in a config is larger: bigger numbers are slips, and some would be allocated."""
Count = Annotated[int, Field(strict=True, ge=1, le=LARGEST)]
Batch = Annotated[Count, Field(le=2**20)]
"""Images that are held together."""
Side = Annotated[Count, Field(le=8192)]
"""Of an image, in pixels."""
Classes = Annotated[int, Field(strict=True, ge=2, le=10**6)]
Actors = Annotated[Count, Field(le=10_000)]
"""Processes of one kind."""
Whole = Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)]
Real = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
Positive = Annotated[Real, Field(gt=0)]
Share = Annotated[Real, Field(ge=0, le=1)]
MOST_GUIDANCE = 1e6
Lambda = Annotated[Real, Field(ge=0, le=MOST_GUIDANCE)]
LambdaGrid = Annotated[list[Lambda], AfterValidator(_distinct)]


class Section(BaseModel):
    """A frozen section of the config that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def omitted_by_default(default: Any) -> Any:
    """A field that is dumped only where its value is not `default`.

    Fingerprints hash the dump of a section. With this, a key can be added without changing the fingerprints of configs that
    do not use it: every key added to a section or to an item's `Options` needs it.
    """
    return Field(default, exclude_if=lambda value: value == default)


class OpenSection(Carrier, Section):
    """A section to which registered items add keys of their own, each validated by the item's `Options`.

    The section holds the keys of all items, those not given with their defaults, so that its dump has the same keys whichever
    item is chosen. A key of an item that is not chosen is refused unless it has its default or one of its items sets
    `shared_options`. `section.options(Item.Options)` is the typed view of an item's keys.
    """

    model_config = ConfigDict(extra="allow", frozen=True, hide_input_in_errors=True)

    registries: ClassVar[tuple[str, ...]]
    """Keys `section.name` of the registries whose items add to this section."""

    @property
    def _extra(self) -> dict[str, Any]:
        return self.__pydantic_extra__ if self.__pydantic_extra__ is not None else {}

    def options(self, kind: type[Options]) -> Options:
        """The keys of one item, typed."""
        return kind.model_construct(**{name: self._extra[name] for name in kind.model_fields if name in self._extra})

    def option(self, name: str) -> Any:
        """The value of one key, whichever item it belongs to; None if no registered item has it."""
        return self._extra.get(name)

    def item(self, key: str) -> Any:
        """The registered item that the key `section.name` chooses."""
        return REGISTRIES[key][getattr(self, key.partition(".")[2])]

    def items(self, key: str) -> set[str]:
        """Names of the items of a registry whose keys may be given."""
        chosen = getattr(self, key.partition(".")[2], None)
        return set() if chosen is None else {chosen}

    def item_keys(self, key: str) -> set[str]:
        """Names of the keys that the chosen item adds."""
        options = getattr(self.item(key), "Options", None)
        return set(options.model_fields) if options else set()

    def changed(self) -> set[str]:
        """Names of the keys whose value is not the default. A resolved config holds every key, so these count as given."""
        fields = {**type(self).model_fields, **{name: each.field for name, each in self._item_fields().items()}}
        return {name for name, field in fields.items() if getattr(self, name) != default_of(field)}

    @classmethod
    def _item_fields(cls) -> dict[str, "_ItemField"]:
        """The fields that items add, by name."""
        found: dict[str, _ItemField] = {}
        for key in cls.registries:
            for item, options in REGISTRIES[key].options().items():
                for name, field in options.model_fields.items():
                    first = found.setdefault(name, _ItemField(field, []))
                    if default_of(first.field) != default_of(field):
                        raise ValueError(
                            f"{key}: {item} has another default for its key {name} than {first.owners[0][1]}"
                        )
                    first.owners.append((key, item))
        return found

    @model_validator(mode="after")
    def _registered(self) -> Self:
        given = dict(self._extra)
        self._extra.clear()
        for key in self.registries:
            section, _, name = key.partition(".")
            registry, chosen = REGISTRIES[key], getattr(self, name, None)
            if chosen is not None and chosen not in registry:
                raise ValueError(f"{key}: {chosen!r} is unknown; use one of {', '.join(registry.names)}")
            for options in registry.options().values():
                own = {field: given[field] for field in options.model_fields if field in given}
                values = _validated(section, options, own)
                self._extra.update({field: getattr(values, field) for field in options.model_fields})
        fields = self._item_fields()
        known = [*type(self).model_fields, *fields]
        for name in sorted(set(given) - set(fields)):
            raise ValueError(f"{self.registries[0].partition('.')[0]}.{name}: unknown key; {similar(name, known)}")
        self._check_items(fields)
        return self

    def _check_items(self, fields: dict[str, "_ItemField"]) -> None:
        """Refuse keys of items that are not chosen; let the chosen items check the section."""
        for key in self.registries:
            section, _, name = key.partition(".")
            registry, chosen = REGISTRIES[key], getattr(self, name, None)
            if chosen is None:
                continue
            used = self.items(key)
            for field, each in fields.items():
                items = [item for owner, item in each.owners if owner == key]
                shared = any(getattr(registry[item], "shared_options", False) for item in items)
                if items and not used & set(items) and not shared and self._extra[field] != default_of(each.field):
                    raise ValueError(f"{section}.{field}: is for {key} {' and '.join(items)}, not {chosen}; drop it")
            check = getattr(registry[chosen], "check_section", None)
            if check is not None:
                check(self)

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out item keys that are `omitted_by_default`, as pydantic does for the section's own fields."""
        dumped: dict[str, Any] = handler(self)
        for name, each in self._item_fields().items():
            exclude_if = each.field.exclude_if
            if name in dumped and exclude_if is not None and exclude_if(self._extra[name]):
                del dumped[name]
        return dumped


class _ItemField(NamedTuple):
    """A key that items add to a section, and the items that add it as (registry's key, item's name)."""

    field: FieldInfo
    owners: list[tuple[str, str]]


def default_of(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True)


def _validated(section: str, options: type[BaseModel], given: dict[str, Any]) -> Any:
    try:
        return options.model_validate(given)
    except ValidationError as error:
        raise ValueError(explained(error, options, section)[0]) from None


def explained(error: ValidationError, model: type[BaseModel], section: str = "") -> list[str]:
    """One line per fault in the values of a model: the key, what is wrong, and what to do.

    Args:
        section: the section that the model's keys belong to; "" for the whole config.
    """
    lines: dict[str, list[str]] = {}
    for fault in error.errors(include_url=False):
        # Positions inside a union include the name of the type that was tried, which is not a key of the file.
        location = [part for part in fault["loc"] if isinstance(part, int) or part.isidentifier()]
        key = ".".join(str(part) for part in ([section] if section else []) + location)
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = f"unknown key; {_suggestion(model, location)}"
        elif fault["type"] == "missing":
            message = "is missing; add it"
        elif fault["type"] != "value_error":
            message = f"{message[0].lower()}{message[1:]}, not {reprlib.repr(fault['input'])}; correct the value"
        complete = fault["type"] == "value_error" and message.startswith(f"{key}.")
        line = message if complete or not key else f"{key}: {message}"
        # Entries of one list with the same fault are counted.
        lines.setdefault(re.sub(r"\.\d+(?=[.:])|, not .*;", "", line), []).append(line)
    return [
        each[0] if len(each) == 1 else f"{each[0]} (and {len(each) - 1:,} more entries like it)"
        for each in lines.values()
    ]


def _suggestion(model: Any, location: list[Any]) -> str:
    for part in location[:-1]:
        annotation = model.model_fields[part].annotation if part in getattr(model, "model_fields", {}) else None
        candidates = [annotation, *get_args(annotation)]
        model = next((each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)), None)
    return similar(str(location[-1]), list(getattr(model, "model_fields", {})))


def similar(name: str, known: list[str]) -> str:
    """What an unknown key may have been meant to be."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
