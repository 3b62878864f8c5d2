"""A text-conditioned model in an audit: its prompts, from the captions of the data to the samples."""

import json

import pyarrow.parquet as pq
import pytest

import side_ray
from side_ray.algorithm import run_until
from side_ray.execution.audit import Audit
from side_ray.execution.progress import Reporter
from side_ray.runs.cost.sampling import estimate, probe
from side_ray.runs.plan import Condition
from side_ray.stages.prepare import prepare
from side_ray.stages.train_dpm import train_dpm
from tests.audits import tiny_config
from tests.bruteforce import check
from tests.formats import pictures, write_folder
from tests.latents import FACTOR, SIDE
from tests.local import without_ray

pytest.importorskip("transformers", reason="needs the extra text")
from tests.texts import save_flux, save_text

PIXELS = SIDE * FACTOR


def audit_config(tmp_path, model, run="run", **dpm):
    images = tmp_path / "images"
    if not images.exists():
        write_folder(images, pictures(40, (PIXELS, PIXELS)), classes=1)
        for number, path in enumerate(sorted(images.rglob("*.png"))):
            path.with_suffix(".txt").write_text(f"picture {number}")
    data = {"source": "folder", "path": str(images), "members": 20, "holdout": 10}
    section = {"path": str(model), "check": False, **dpm}
    sizes = {"surrogate__synthetic": 50, "extract__samples": 50, "extract__steps": 4, "surrogate__classes": 2}
    sizes |= {"extract__methods": ["random"], "extract__batch_size": 25}
    return tiny_config(tmp_path / run, data=data, dpm=section, **sizes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("save", "section"), [(save_text, {}), (save_flux, {"image_size": PIXELS})], ids=["sd", "flux"]
)
def test_a_text_model_is_audited_with_the_captions_of_its_training_images(ray_session, tmp_path, save, section):
    save(tmp_path / "model")
    config = audit_config(tmp_path, tmp_path / "model", prompts="member_captions", guidance_scale=2.0, **section)
    artifacts = run_until("report", config, Reporter()).artifacts
    captions = {
        row["caption"]
        for path in sorted((tmp_path / "run" / artifacts.prepare.key).glob("part-*"))
        for row in pq.read_table(path, columns=["split", "caption"]).to_pylist()
        if row["split"] == "member"
    }
    assert len(captions) == 20
    drawn = artifacts.samples(Condition("random", 0.0)).read(0, ["prompt"]).column("prompt").to_pylist()
    assert set(drawn) <= captions
    assert len(set(drawn)) > 10
    assert artifacts.synthetic.read(0, ["prompt"]).num_rows == 50
    assert check(tmp_path / "run") == []
    latest = json.loads((tmp_path / "run" / "latest.json").read_text())
    assert latest["condition"] == artifacts.condition.key
    assert side_ray.open_run(str(tmp_path / "run")).remake("random", 0.0, 3).identical


@pytest.mark.long
def test_a_text_model_is_planned_before_it_is_audited(tmp_path):
    from side_ray.runs.artifacts import Artifacts

    save_text(tmp_path / "model")
    cost = {
        prompts: estimate(
            Artifacts.open(audit_config(tmp_path, tmp_path / "model", prompts=prompts, guidance_scale=7.5))
        )
        for prompts in ("captions", "empty")
    }
    assert cost["captions"].unet_evaluations == 2 * cost["empty"].unet_evaluations
    assert cost["captions"].unet_flops == cost["empty"].unet_flops > 0
    assert probe(Artifacts.open(audit_config(tmp_path, tmp_path / "model", prompts="captions"))) > 0


def test_a_model_that_is_told_the_guidance_scale_is_evaluated_once(tmp_path):
    from side_ray.runs.artifacts import Artifacts

    save_flux(tmp_path / "model")
    asked = {"prompts": "member_captions", "image_size": PIXELS}
    one, other = (
        estimate(Artifacts.open(audit_config(tmp_path, tmp_path / "model", **asked, guidance_scale=scale)))
        for scale in (1.0, 3.5)
    )
    assert one.unet_evaluations == other.unet_evaluations == 4 * one.samples
    assert one.unet_flops == other.unet_flops > 0


@pytest.mark.long
@pytest.mark.parametrize(("scale", "warned"), [(1.0, True), (3.5, False)])
def test_a_model_that_is_told_no_guidance_scale_is_warned_of(tmp_path, capsys, scale, warned):
    save_flux(tmp_path / "model")
    config = audit_config(
        tmp_path, tmp_path / "model", prompts="member_captions", image_size=PIXELS, guidance_scale=scale
    )
    audit = Audit.open(config, Reporter())
    with without_ray():
        prepare(audit)
        train_dpm(audit)
    captured = capsys.readouterr()
    assert ("dpm.guidance_scale" in " ".join((captured.out + captured.err).split())) == warned
