"""Sections that registered items extend: which keys they have, which are refused, and what is dumped."""

import pickle
from typing import ClassVar

import pytest
from pydantic import ValidationError

from side_ray.config.base import Count, OpenSection, Section, omitted_by_default
from side_ray.registry import REGISTRIES, Registry


class Edge(Section):
    width: Count = 1


class Round:
    class Options(Section):
        edge: Edge = Edge()
        radius: Count = 1
        unit: str = "cm"


class Square:
    class Options(Section):
        side: Count = omitted_by_default(1)
        unit: str = "cm"

    @classmethod
    def check_section(cls, section):
        if section.options(cls.Options).side > section.most:
            raise ValueError("toy.side: too large")


class Toy(OpenSection):
    registries: ClassVar[tuple[str, ...]] = ("toy.shape",)

    shape: str = "round"
    most: int = 5


class Dot:
    """An item without keys."""


@pytest.fixture(autouse=True)
def shapes():
    registry = Registry("toy.shape", {})
    for name, item in {"round": Round, "square": Square, "dot": Dot}.items():
        registry.register(name, item)
    yield registry
    del REGISTRIES["toy.shape"]


def test_keys_of_all_items_are_there_and_typed():
    section = Toy(shape="square", side=3)
    assert section.options(Square.Options) == Square.Options(side=3)
    assert section.options(Round.Options).radius == section.option("radius") == 1
    assert section.changed() == {"shape", "side"}
    assert section.item("toy.shape") is Square
    assert section.item_keys("toy.shape") == {"side", "unit"}
    assert pickle.loads(pickle.dumps(section)) == section == Toy.model_validate(section.model_dump())
    assert section.model_copy(update={"most": 4}).option("side") == 3


def test_dumps_have_the_same_keys_and_leave_out_what_is_omitted_by_default():
    assert Toy().model_dump(mode="json") == {
        "shape": "round",
        "most": 5,
        "edge": {"width": 1},
        "radius": 1,
        "unit": "cm",
    }
    assert Toy(shape="square", side=2).model_dump(mode="json").keys() == {
        *("shape", "most", "edge", "radius", "unit", "side")
    }
    assert Toy(shape="square").model_dump(include={"shape", "side", "unit"}) == {"shape": "square", "unit": "cm"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"shape": "oval"}, "toy.shape: 'oval' is unknown; use one of round, square, dot"),
        ({"side": 2}, "toy.side: is for toy.shape square, not round; drop it"),
        ({"shape": "dot", "unit": "mm"}, "toy.unit: is for toy.shape round and square, not dot; drop it"),
        ({"shape": "square", "side": 0}, "toy.side: input should be greater than or equal to 1, not 0"),
        ({"shape": "square", "side": 6}, "toy.side: too large"),
        ({"edge": {"widht": 2}}, "toy.edge.widht: unknown key; did you mean width?"),
        ({"radus": 2}, "toy.radus: unknown key; did you mean radius?"),
    ],
)
def test_bad_keys_are_refused(given, message):
    with pytest.raises(ValidationError) as caught:
        Toy.model_validate(given)
    assert message in str(caught.value)


def test_a_key_of_another_item_may_be_given_with_its_default_or_if_it_is_shared(monkeypatch):
    assert Toy(side=1) == Toy()
    monkeypatch.setattr(Square, "shared_options", True, raising=False)
    assert Toy(side=2).option("side") == 2


def test_items_must_agree_about_the_default_of_a_shared_key(shapes):
    shapes.register(
        "long",
        type("Long", (), {"Options": type("Options", (Section,), {"__annotations__": {"unit": str}, "unit": "m"})}),
    )
    with pytest.raises(ValidationError, match="long has another default for its key unit than round"):
        Toy()


def test_a_later_item_changes_no_dump_of_configs_without_it(shapes):
    before = Toy().model_dump(mode="json")
    shapes.unregister("square")
    assert Toy().model_dump(mode="json") == before
