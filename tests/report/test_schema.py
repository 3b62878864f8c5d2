"""The JSON Schema that the package carries holds for the metrics of audits, and describes all their keys."""

import copy
import json
from importlib import resources
from typing import Any

import jsonschema
import numpy as np
import pytest

import side_ray
from tests.local import without_ray

SCHEMA = json.loads((resources.files("side_ray.report") / "metrics.schema.json").read_text(encoding="utf-8"))
OWN = ("similarity", "surrogate", "verdict", "control", "provenance")
"""Objects with keys of their own: of a similarity, of a study, of the config."""


@pytest.fixture
def found(local_audit) -> dict[str, Any]:
    return local_audit.report.read_json("metrics.json")


def check(metrics: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA).validate(metrics)


def undescribed(value: Any, schema: dict[str, Any], path: str = "") -> list[str]:
    """Keys of a value that the schema does not name."""
    while "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    if isinstance(value, list):
        return [line for each in value for line in undescribed(each, schema.get("items", {}), f"{path}[]")]
    if not isinstance(value, dict) or path.strip(".").split(".")[0] in OWN:
        return []
    choices = [schema, *schema.get("oneOf", [])]
    for each in list(choices):
        if "$ref" in each:
            choices.append(SCHEMA["$defs"][each["$ref"].rsplit("/", 1)[1]])
    named = next((each for each in choices if "properties" in each or "additionalProperties" in each), None)
    if named is None:
        return []
    lines = []
    for key, inner in value.items():
        known = named.get("properties", {}).get(key, named.get("additionalProperties"))
        lines += [f"{path}.{key}"] if known is None else undescribed(inner, known, f"{path}.{key}")
    return sorted(set(lines))


def test_an_audit_is_valid_and_described(found):
    check(found)
    assert undescribed(found, SCHEMA) == []


@pytest.mark.long
def test_an_audit_without_a_cut_is_valid(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (55, 8, 8), dtype=np.uint8)
    with without_ray():
        metrics = side_ray.score_images(images[:4], images, run=str(tmp_path / "run")).metrics
    assert metrics["cut"] is None
    check(dict(metrics))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("train_size",), "60"),
        (("conditions", 0, "calibrated", "ams"), 1.5),
        (("conditions", 0, "bands", "low", "ams_ci"), [0.1]),
        (("conditions", 1, "lambda"), -1),
        (("cut_known",), 1),
        (("similarity", "closer"), "smaller"),
    ],
)
def test_a_wrong_value_is_refused(found, path, value):
    changed = copy.deepcopy(found)
    target = changed
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        check(changed)


def test_a_missing_key_and_an_undescribed_one_are_noticed(found):
    changed = copy.deepcopy(found)
    del changed["conditions"]
    with pytest.raises(jsonschema.ValidationError):
        check(changed)
    extra = {**found, "conditions": [{**found["conditions"][0], "novel": 1}]}
    assert undescribed(extra, SCHEMA) == [".conditions[].novel"]
