"""What the sections of a config are made of: numbers with their bounds, and the section itself."""

import difflib
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from side_ray.registry import REGISTRIES

Options = TypeVar("Options", bound=BaseModel)


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number is wanted here, not true/false")
    return value


def _distinct(values: list[float]) -> list[float]:
    if len(set(values)) != len(values):
        raise ValueError("holds a value twice; list each guidance scale once")
    return sorted(values)


Count = Annotated[int, Field(strict=True, ge=1)]
Whole = Annotated[int, Field(strict=True, ge=0)]
Real = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
Positive = Annotated[Real, Field(gt=0)]
Share = Annotated[Real, Field(ge=0, le=1)]
Lambda = Annotated[Real, Field(ge=0)]
LambdaGrid = Annotated[list[Lambda], AfterValidator(_distinct)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def later(default: Any) -> Any:
    """A key that came after the first runs: it is dumped only where it departs from `default`, so that a config without it
    has the fingerprints that it always had."""
    return Field(default, exclude_if=lambda value: value == default)


class OpenSection(Section):
    """A section to which registered items add keys of their own, each validated by the item's `Options`.

    All keys of all items are there, those not given with their defaults, so that a config dumps the same whichever item is
    chosen. A key that belongs to another item than the chosen one is refused unless it has its default.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    registries: ClassVar[tuple[str, ...]]
    """Keys `section.name` of the registries whose items add to this section."""

    def options(self, kind: type[Options]) -> Options:
        """The keys of one item, typed."""
        extra = self.__pydantic_extra__ or {}
        return kind.model_construct(**{name: extra[name] for name in kind.model_fields})

    @model_validator(mode="after")
    def _registered(self) -> Self:
        extra = self.__pydantic_extra__ if self.__pydantic_extra__ is not None else {}
        left, known = set(extra), list(type(self).model_fields)
        for key in self.registries:
            section, _, name = key.partition(".")
            registry, chosen = REGISTRIES[key], getattr(self, name, None)
            if chosen is not None and chosen not in registry:
                raise ValueError(f"{key}: {chosen!r} is unknown; use one of {', '.join(registry.names)}")
            owners: dict[str, list[str]] = {}
            for item, options in registry.options().items():
                given = {field: extra[field] for field in options.model_fields if field in extra}
                values = _validated(section, options, given)
                for field in options.model_fields:
                    owners.setdefault(field, []).append(item)
                    extra[field] = getattr(values, field)
                left -= set(options.model_fields)
            known += list(owners)
            for field, items in owners.items():
                default = registry.options()[items[0]].model_fields[field].get_default(call_default_factory=True)
                if chosen is not None and chosen not in items and extra[field] != default:
                    raise ValueError(f"{section}.{field}: is for {key} {' and '.join(items)}, not {chosen}; drop it")
        for field in sorted(left):
            close = difflib.get_close_matches(field, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
            raise ValueError(f"{self.registries[0].partition('.')[0]}.{field}: unknown key; {hint}")
        return self


def _validated(section: str, options: type[Any], given: dict[str, Any]) -> Any:
    try:
        return options.model_validate(given)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join([section, *(str(part) for part in fault["loc"])])
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = "unknown key; check the name"
        elif fault["type"] != "value_error":
            message = f"{message[0].lower()}{message[1:]}, not {fault['input']!r}; correct the value"
        raise ValueError(message if message.startswith(f"{section}.") else f"{where}: {message}") from None
