"""An audit without Ray of a model that a Python function describes: a flow of pixels in [0, 1] that memorised all members."""

import shutil
from pathlib import Path

import pytest
import torch

import side_ray
from side_ray.errors import UserError
from side_ray.images import to_float
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.cost.sampling import estimate
from side_ray.runs.dataset import read_split
from side_ray.runs.preflight import preflight
from side_ray.stages.prepare import prepare
from tests.audits import tiny_config
from tests.bruteforce import check
from tests.local import audit_here, stages_here

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("undrawn")]

ADAPTER = """
import torch

def load(directory):
    images = torch.load(directory / "images.pt", weights_only=True).double()

    def network(x, t):
        sigma = 0.001 + 0.998 * float(t[0]) / 499
        distances = ((x.double()[:, None] - (1 - sigma) * images[None]) ** 2).flatten(2).sum(2)
        weights = torch.softmax(-distances / (2 * sigma**2), dim=1)
        z0 = (weights @ images.flatten(1)).view(x.shape)
        return ((x - z0) / sigma).float()  # the velocity: x = (1 - sigma) z0 + sigma e

    sigmas = 0.001 + 0.998 * torch.linspace(0, 1, 500, dtype=torch.float64)
    return {
        "network": network, "predicts": "flow", "alphas": 1 - sigmas, "sigmas": sigmas, "shape": (1, 8, 8),
        "pixel_range": RANGE,
    }
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("function")
    artifacts = stages_here(tiny_config(directory / "members", dpm__kind="optimal"), [prepare])
    members = to_float(read_split(artifacts.run.store, artifacts.prepare.key, "member").images)
    torch.save((members + 1) / 2, directory / "images.pt")
    (directory / "model.py").write_text(ADAPTER.replace("RANGE", "(0, 1)"))
    (directory / "wrong.py").write_text(ADAPTER.replace("RANGE", "(-1, 1)"))
    return directory


@pytest.fixture(scope="module")
def audited(directory) -> Artifacts:
    return audit_here(directory / "run", **_flat(directory))


def _flat(directory: Path, file: str = "model.py") -> dict:
    """Changes for `audit_here`, whose own say which kind of model it makes."""
    return {
        "dpm__kind": "import",
        "dpm__path": f"{directory / file}:load",
        "dpm__files": [str(directory / "images.pt")],
        "extract__sampler": "ddim",
        "extract__steps": 20,
    }


def test_what_it_memorised_is_found_and_every_number_agrees(audited):
    verdict = audited.report.read_json("metrics.json")["verdict"]
    assert verdict["outcome"] == "found"
    assert verdict["distinct"] >= 40
    assert check(audited.run.store.uri) == []
    assert audited.check.done


def test_its_code_and_its_files_are_in_the_evidence_and_its_samples_are_made_again(audited, directory):
    hashes = audited.report.read_json("metrics.json")["provenance"]["sha256"]
    names = {key.rpartition("/")[2] for key in hashes if key.startswith(audited.dpm.key)}
    assert names == {"model.py", "images.pt", "function.json"}
    run = side_ray.open_run(audited.run.store.uri)
    assert run.remake("random", 0, 3).identical
    assert run.remake("td", 2, 5).identical
    kept = (directory / "model.py").read_text()
    try:
        (directory / "model.py").write_text(kept + "# changed\n")
        with pytest.raises(UserError, match="Python code, which is executed only where"):
            side_ray.open_run(audited.run.store.uri).remake("random", 0, 3)
    finally:
        (directory / "model.py").write_text(kept)


def test_other_code_other_files_or_another_function_is_another_model(audited, directory, tmp_path):
    for name in ("model.py", "images.pt"):
        shutil.copy(directory / name, tmp_path)
    config = tiny_config(directory / "run", **_flat(tmp_path))
    assert Artifacts.open(config).dpm.key == audited.dpm.key
    keys = {audited.dpm.key}
    torch.save(torch.zeros(2, 1, 8, 8), tmp_path / "images.pt")
    keys.add(Artifacts.open(config).dpm.key)
    (tmp_path / "model.py").write_text((tmp_path / "model.py").read_text() + "again = load\n")
    keys.add(Artifacts.open(config).dpm.key)
    other = tiny_config(directory / "run", **_flat(tmp_path) | {"dpm__path": f"{tmp_path / 'model.py'}:again"})
    keys.add(Artifacts.open(other).dpm.key)
    assert len(keys) == 4


def test_a_plan_counts_its_evaluations_and_flops(audited):
    cost = estimate(audited)
    assert cost.unet_evaluations == 20 * cost.samples
    assert cost.unet_flops > 60 * 64
    # α of the first visited times is below 0.01, where nothing guides.
    assert cost.classifier_evaluations == 100 * 19


def test_another_range_stops_it(directory):
    with pytest.raises(UserError, match=r"dpm\.pixel_range: \[0, 1\]"):
        audit_here(directory / "wrong", **_flat(directory, "wrong.py"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dpm__path": "/nowhere/model.py:load"}, r"^dpm\.path: there is no file /nowhere/model\.py"),
        ({"dpm__files": ["/nowhere/w.pt"]}, r"^dpm\.files: there is no file /nowhere/w\.pt"),
        ({"dpm__files": []}, r"^dpm\.path: model\.py:load failed \(FileNotFoundError"),
        ({"data__members": 61}, ""),
    ],
)
def test_what_is_not_there_is_refused_before_anything_starts(directory, tmp_path, changes, message):
    artifacts = Artifacts.open(tiny_config(tmp_path / "run", **_flat(directory) | changes))
    if message:
        with pytest.raises(UserError, match=message):
            preflight(artifacts)
    else:
        preflight(artifacts)
