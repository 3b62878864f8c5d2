"""What the sections of a config are made of: numbers with their bounds, and the section itself."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


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
