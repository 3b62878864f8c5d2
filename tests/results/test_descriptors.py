"""Several similarities in one audit: each with its own cut, control and verdict."""

import json
from pathlib import Path

import jsonschema
import pytest

import side_ray.report
from side_ray.config.file import parse_config
from side_ray.errors import UserError
from side_ray.execution.audit import Audit
from side_ray.execution.progress import Reporter
from side_ray.execution.repair import check_finished
from side_ray.report import findings
from side_ray.runs.artifacts import Artifacts
from side_ray.stages.report import report
from side_ray.stages.score import score
from tests.audits import tiny_values
from tests.local import audit_here, stages_here
from tests.similarity.networks import onnx_model

pytestmark = pytest.mark.long

METHODS = {"extract__methods": ["random"], "extract__lambdas": [0]}
DESCRIBED = "weights: encoder.onnx\nname: {name}\nsize: 8\nmean: {mean}\n"


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two descriptors of one encoder."""
    place = tmp_path_factory.mktemp("encoders")
    (place / "encoder.onnx").write_bytes(onnx_model())
    for name, mean in (("dark", [0.1, 0.5, 0.9]), ("bright", [0.9, 0.5, 0.1])):
        (place / f"{name}.yaml").write_text(DESCRIBED.format(name=name, mean=mean))
    return [str(place / "dark.yaml"), str(place / "bright.yaml")]


@pytest.fixture(scope="module")
def audited(paths: list[str], undrawn: None, tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    score = {"similarity": "nl2", "also": paths, "shards": 1}
    return audit_here(tmp_path_factory.mktemp("several") / "run", score=score, **METHODS)


@pytest.fixture(scope="module")
def metrics(audited: Artifacts) -> dict:
    return audited.report.read_json("metrics.json")


def test_each_similarity_has_its_own_cut_and_verdict(audited, metrics, paths):
    found = metrics["descriptors"]
    assert list(found) == ["nl2", *paths]
    assert found["nl2"]["cut"] == metrics["cut"]
    assert found["nl2"]["verdict"] == metrics["verdict"]
    assert found["nl2"]["also_by_first"] == metrics["verdict"]["distinct"] == metrics["ledger"]["revealed"]
    assert [each["similarity"].get("encoder") for each in found.values()] == [None, "dark", "bright"]
    assert found["nl2"]["cut"] < 1 <= found[paths[0]]["cut"] + 1e-6
    for own, condition in zip(found["nl2"]["conditions"], metrics["conditions"], strict=True):
        assert own["excess"] == condition["excess"]
    schema = Path(side_ray.report.__file__).parent / "metrics.schema.json"
    jsonschema.validate(metrics, json.loads(schema.read_text()))


def test_each_finds_what_it_finds_alone(metrics, paths, audited, tmp_path):
    score_alone = {"similarity": "descriptor", "descriptor": paths[0], "shards": 1}
    alone = audit_here(tmp_path / "run", score=score_alone, **METHODS).report.read_json("metrics.json")
    found = metrics["descriptors"][paths[0]]
    assert found["cut"] == alone["cut"]
    assert found["verdict"] == alone["verdict"]
    assert found["conditions"][0]["discoveries"] == alone["conditions"][0]["discoveries"]


def test_the_page_shows_them(audited):
    page = audited.run.store.read("report.html").decode()
    for text in ("What each similarity finds", "descriptor cosine (dark)", "descriptor cosine (bright)"):
        assert text in page


def test_what_another_similarity_finds_is_said_where_the_first_finds_nothing(metrics, paths):
    verdict = metrics["verdict"] | {"outcome": "none_found", "distinct": 0, "copied": 0, "detectable": 0.1}
    found = metrics["verdict"] | {"outcome": "found", "reason": "counted", "distinct": 7, "copied": 3}
    descriptors = {name: each | {"verdict": verdict} for name, each in metrics["descriptors"].items()}
    hidden = {
        **metrics,
        "verdict": verdict,
        "descriptors": descriptors | {paths[1]: descriptors[paths[1]] | {"verdict": found}},
    }
    first = findings.notes(hidden)[0]
    assert first.title == "Found by another similarity, descriptor cosine (bright)"
    assert "7 of 60 training images are revealed" in first.text
    assert not any("another similarity" in note.title for note in findings.notes(metrics))


def test_damaged_scores_of_any_of_them_are_found_and_made_again(audited, metrics):
    other = next(iter(audited.others.values()))
    place = Path(audited.run.store.uri, other.cut.key(0))
    good = place.read_bytes()
    place.write_bytes(good[: len(good) // 2])
    check_finished(Audit(audited, Reporter(quiet=True)))
    assert not place.exists()
    again = stages_here(audited.config, [score, report])
    assert place.exists()
    assert again.report.read_json("metrics.json")["descriptors"] == metrics["descriptors"]


def test_a_further_similarity_moves_no_score_of_the_first(audited):
    values = tiny_values(audited.run.store.uri)
    plain, more = (
        Artifacts.open(parse_config(values | {"score": {"similarity": "nl2"} | extra}, "t"))
        for extra in ({}, {"also": list(audited.config.score.also)})
    )
    assert plain.cut.directory == more.cut.directory
    assert plain.report.key != more.report.key


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (
            {"also": ["dino"]},
            "score.also: 'dino' is unknown; use one of nl2, sscd, descriptor, or a descriptor's YAML file",
        ),
        ({"also": ["nl2"]}, "score.also: nl2 is named twice; drop one"),
        ({"also": ["a.yaml", "a.yaml"]}, "score.also: a.yaml is named twice; drop one"),
        ({"also": ["sscd"]}, "score.checkpoint: similarity sscd needs the path of SSCD weights (ONNX or TorchScript)"),
        ({"also": ["descriptor"]}, "score.descriptor: similarity descriptor needs the path of a YAML file"),
    ],
)
def test_what_does_not_go_together_is_refused(score, message):
    with pytest.raises(UserError) as caught:
        parse_config(tiny_values("run", score=score), "audit.yaml")
    assert message in str(caught.value)


def test_the_keys_of_a_further_similarity_may_be_given():
    score = {"similarity": "nl2", "also": ["sscd"], "checkpoint": "w.onnx", "preprocessing": "center224"}
    config = parse_config(tiny_values("run", score=score), "audit.yaml")
    assert config.score.others["sscd"].settings() == {
        "similarity": "sscd",
        "neighbors": 50,
        "checkpoint": "w.onnx",
        "preprocessing": "center224",
    }
    assert config.score.settings() == {"similarity": "nl2", "neighbors": 50}
    assert config.score.others["sscd"].bands is None


def test_a_descriptor_to_which_all_images_are_the_same_says_nothing(tmp_path):
    # Of gray images, the mean of each channel has one direction.
    (tmp_path / "encoder.onnx").write_bytes(onnx_model())
    flat = tmp_path / "flat.yaml"
    flat.write_text("weights: encoder.onnx\nsize: 8\n")
    score = {"similarity": "descriptor", "descriptor": str(flat), "shards": 1}
    found = audit_here(tmp_path / "run", score=score, **METHODS).report.read_json("metrics.json")["verdict"]
    assert (found["outcome"], found["reason"], found["detectable"]) == ("cannot_say", "same", None)
    assert "score.similarity" in found["remedy"]
