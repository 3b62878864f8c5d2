"""Second opinions of whole audits: agreed by brute force, with a reference, and absent with a reason."""

from pathlib import Path

import numpy as np
import pytest

import side_ray
from side_ray.execution.audit import Audit
from side_ray.execution.progress import Reporter
from side_ray.execution.repair import mending
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.plan import conditions
from side_ray.stages.report import report
from side_ray.stages.score import score
from tests.bruteforce import check
from tests.local import audit_here, stages_here, without_ray
from tests.similarity.networks import onnx_model

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("encoder")
    (place / "encoder.onnx").write_bytes(onnx_model())
    (place / "dark.yaml").write_text("weights: encoder.onnx\nname: dark\nsize: 8\nmean: [0.1, 0.5, 0.9]\n")
    return str(place / "dark.yaml")


@pytest.fixture(scope="module")
def audited(described: str, undrawn: None, tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    score = {"similarity": "nl2", "also": [described], "shards": 1}
    return audit_here(tmp_path_factory.mktemp("several") / "run", score=score)


@pytest.fixture(scope="module")
def metrics(audited: Artifacts) -> dict:
    return audited.report.read_json("metrics.json")


def test_brute_force_agrees_by_every_similarity(audited, metrics, described):
    assert list(metrics["second_opinions"]) == ["nl2", described]
    assert check(audited.run.store.uri) == []


@pytest.mark.parametrize(
    "path",
    [
        ("conditions", 1, "ratio", "count"),
        ("conditions", 0, "ratio", "against_unseen", "count"),
        ("conditions", 0, "authenticity", "count"),
        ("conditions", 1, "copying", "z"),
        ("conditions", 1, "frechet", "value"),
        ("unseen", "authenticity", "count"),
        ("unseen", "frechet", "informed"),
    ],
)
def test_brute_force_notices_a_wrong_number(audited, metrics, described, path, monkeypatch):
    target = metrics["second_opinions"][described]
    for key in path[:-1]:
        target = target[key]
    monkeypatch.setitem(target, path[-1], target[path[-1]] + 1)
    import tests.bruteforce as brute

    root, latest = Path(audited.run.store.uri), audited.run.latest()
    sets = {name: brute.split_of(root / latest["prepare"], name) for name in ("member", "calibration", "holdout")}
    faults = brute.check_opinions(root, latest, metrics, sets, sets, False)
    assert len(faults) == 1
    assert described in faults[0] or "unseen" in faults[0]


def test_a_model_that_copies_stands_out_from_the_reference(metrics):
    found = metrics["second_opinions"]["nl2"]
    for row in found["conditions"]:
        assert row["ratio"]["share"] > 0.5 > 0.1 > row["ratio"]["against_unseen"]["share"]
        assert row["authenticity"]["share"] < 0.1 < 0.3 < found["unseen"]["authenticity"]["share"]
        assert row["copying"]["z"] < -3 < found["unseen"]["copying"]["z"] < 3
        own = next(each for each in metrics["conditions"] if each["lambda"] == row["lambda"])
        assert {name: row["ratio"][name] for name in own["diffmemorize"]} == own["diffmemorize"]
    assert found["unseen"]["ratio"]["share"] < 0.1


def test_pixels_have_no_frechet_distance_and_the_reason_is_given(audited, metrics, described):
    found = metrics["second_opinions"]["nl2"]
    assert set(found["absent"]) == {"frechet"}
    assert all(row["frechet"] is None for row in (*found["conditions"], found["unseen"]))
    assert metrics["second_opinions"][described]["absent"] == {}
    page = audited.run.store.read("report.html").decode()
    assert "Not measured by nL2: Fréchet distance" in page
    assert "Second opinions, descriptor cosine (dark): Euclidean distance of unit vectors" in page


def given(tmp_path: Path, samples: np.ndarray, train: np.ndarray, **more) -> tuple[Path, dict]:
    with without_ray():
        run = side_ray.score_images(samples, train, run=str(tmp_path / "run"), **more)
    return tmp_path / "run", run.metrics["second_opinions"]["nl2"]


def images(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 8), dtype=np.uint8)


@pytest.mark.usefixtures("undrawn")
def test_given_samples_with_unseen_images(tmp_path):
    train = images(60, 0)
    run, found = given(tmp_path, np.concatenate([train[:20], images(20, 1)]), train, unseen=images(120, 2))
    assert check(run) == []
    (row,) = found["conditions"]
    assert row["method"] == "given"
    assert row["ratio"]["count"] == 20
    assert row["ratio"]["against_unseen"]["count"] == 0
    assert row["authenticity"]["count"] <= 20
    assert row["copying"]["z"] < 0


@pytest.mark.usefixtures("undrawn")
def test_without_unseen_images_there_is_no_reference(tmp_path):
    train = images(60, 0)
    run, found = given(tmp_path, train[:5], train)
    assert check(run) == []
    assert found["unseen"] is None
    assert set(found["absent"]) == {"authenticity", "copying", "frechet"}
    assert "no unseen images" in found["absent"]["copying"]
    assert found["conditions"][0]["ratio"] == found["conditions"][0]["ratio"] | {"count": 5, "against_unseen": None}


@pytest.mark.usefixtures("undrawn")
def test_one_training_image_has_no_second_nearest(tmp_path):
    run, found = given(tmp_path, images(25, 1), images(1, 0), unseen=images(50, 2))
    assert "one training image" in found["absent"]["ratio"]
    assert found["conditions"][0]["ratio"] is None
    assert found["conditions"][0]["authenticity"] is None
    assert check(run) == []


@pytest.mark.usefixtures("undrawn")
def test_one_training_image_has_no_covariance(tmp_path, described):
    also = [f"score.also=[{described}]"]
    run, _ = given(tmp_path, images(25, 1), images(1, 0), unseen=images(50, 2), overrides=also)
    found = side_ray.open_run(run).metrics["second_opinions"][described]
    assert set(found["absent"]) == {"ratio", "authenticity", "frechet"}
    assert "one training image" in found["absent"]["frechet"]
    assert found["unseen"]["frechet"] is None
    assert check(run) == []


@pytest.mark.usefixtures("undrawn")
def test_a_few_samples_have_no_c_t(tmp_path):
    _, found = given(tmp_path, images(10, 1), images(60, 0), unseen=images(50, 2))
    assert "20 samples" in found["absent"]["copying"]
    assert found["conditions"][0]["copying"] is None


def test_missing_distances_and_the_features_of_them_are_made_again(audited, metrics):
    other = next(iter(audited.others.values()))
    plain = conditions(audited.config)[0]
    root, samples = Path(audited.run.store.uri), other.sample_features(other.samples(plain))
    made = [other.frechet(plain), other.frechet(None)]
    for key in (*(mark for each in made for mark in each.marks), other.features.images.key(0), audited.report.marks[0]):
        (root / key).unlink()
    good = (root / samples.key(0)).read_bytes()
    (root / samples.key(0)).write_bytes(good[: len(good) // 2])
    audit = Audit(audited, Reporter(quiet=True))
    with without_ray():
        mending(audit, lambda: score(audit))
    assert (root / samples.key(0)).exists()
    assert all(map(audit.has, made))
    again = stages_here(audited.config, [report])
    assert again.report.read_json("metrics.json")["second_opinions"] == metrics["second_opinions"]
