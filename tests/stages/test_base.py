"""Extrapolation from a base model in an audit: sampled, scored, in the verdict and the report, and made again."""

import shutil
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits

import side_ray
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.optimal import OptimalDpm
from side_ray.errors import UserError
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.dataset import read_split
from side_ray.runs.plan import Condition
from side_ray.stages.extract import extract
from side_ray.stages.prepare import prepare
from side_ray.stages.report import report
from side_ray.stages.score import score
from side_ray.stages.synthesize import synthesize
from side_ray.stages.train_dpm import train_dpm
from side_ray.storage import open_store
from tests.audits import tiny_config
from tests.bruteforce import check
from tests.formats import pictures, write_folder
from tests.latents import FACTOR, SIDE, latent_unet, save_ldm
from tests.local import stages_here
from tests.runs.imported.test_base import save

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("undrawn")]

BASE = Condition("base", 2.0)


def closed_form(directory: Path, images: torch.Tensor) -> str:
    directory.mkdir()
    OptimalDpm(images, new_schedule("linear", 1000)).save(directory)
    return str(directory)


def closed_forms(directory: Path) -> tuple[str, str]:
    """The closed forms of some digits and the members, and of these digits alone: a fine-tuned model and its base."""
    prepared = stages_here(config_of(directory / "before", {"kind": "optimal"}), [prepare]).prepare
    own = torch.from_numpy(read_split(prepared.store, prepared.key, "member").images).permute(0, 3, 1, 2) / 127.5 - 1
    old = torch.tensor(load_digits().images[-300:]).float()[:, None] / 8 - 1
    return closed_form(directory / "tuned", torch.cat([old, own])), closed_form(directory / "base", old)


def test_an_audit_with_a_base(tmp_path):
    path, other = closed_forms(tmp_path)
    config = config_of(tmp_path / "run", {"path": path, "base": other, "check": False}, base_lambdas=[2])
    reveals_more(stages_here(config, ALL))


def reveals_more(artifacts: Artifacts) -> None:
    """Check a finished run of `config_of` with a base at λ = 2."""
    metrics, root = artifacts.report.read_json("metrics.json"), Path(artifacts.run.store.uri)
    random, base = metrics["conditions"]
    assert [random["method"], base["method"], base["lambda"]] == ["random", "base", 2.0]
    assert base["calibrated"]["ams"] > random["calibrated"]["ams"] + 0.1
    assert base["calibrated"]["holdout_ams"] <= random["calibrated"]["ams"]
    assert check(root) == []
    assert metrics["provenance"]["artifacts"]["base"] == artifacts.base.key
    assert any(key.startswith(artifacts.base.key) for key in metrics["provenance"]["sha256"])
    assert "Base extrapolation" in (root / "report.html").read_text()
    made = side_ray.open_run(str(root)).remake("base", 2, 7)
    assert made.identical
    assert made.target is None
    assert any(key.startswith(artifacts.base.key) for key in made.weights)


FUNCTION = """
from diffusers import DDPMScheduler, UNet2DModel

def load(directory):
    network = UNet2DModel.from_pretrained(directory)
    levels = DDPMScheduler().alphas_cumprod
    return {"network": network, "predicts": "epsilon", "alphas_cumprod": levels, "shape": (1, 8, 8)}
"""


UP_TO_SAMPLES = (prepare, train_dpm, extract)
ALL = (prepare, train_dpm, synthesize, extract, score, report)


def sampled(root: Path, base: str, stages=UP_TO_SAMPLES, **dpm) -> Artifacts:
    """Some stages with method base at λ = 2, of the U-Net in `root`/tuned."""
    section = {"path": str(root / "tuned"), "base": base, "check": False, **dpm}
    config = config_of(root / "run", section, base_lambdas=[2], samples=50, steps=4)
    return stages_here(config, stages)


def images_of(artifacts: Artifacts) -> list[bytes]:
    return artifacts.samples(BASE).read(0, ["image"]).column("image").to_pylist()


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Artifacts:
    """That of a base in a local directory."""
    root = tmp_path_factory.mktemp("local")
    save(root / "tuned", 0)
    artifacts = sampled(root, str(save(root / "base", 1)))
    plain = artifacts.samples(Condition("random", 0.0)).read(0, ["image"]).column("image").to_pylist()
    assert images_of(artifacts) != plain
    return artifacts


def test_a_base_in_object_storage_is_the_same_as_a_local_one(local, s3, tmp_path):
    root = Path(local.run.store.uri).parent
    open_store(uri := f"s3://{s3.bucket}/{tmp_path.name}").put_dir(root / "base", "")
    shutil.copytree(root / "tuned", tmp_path / "tuned")
    found = sampled(tmp_path, uri)
    assert found.samples(BASE).fingerprint == local.samples(BASE).fingerprint
    assert found.base.info()["path"] == uri
    assert images_of(found) == images_of(local)
    open_store(uri).put_dir(save(tmp_path / "other", 2), "")
    assert Artifacts.open(found.config).samples(BASE).fingerprint != found.samples(BASE).fingerprint


def test_a_base_given_by_a_function_makes_the_same_images(local, tmp_path):
    root = Path(local.run.store.uri).parent
    shutil.copytree(root / "tuned", tmp_path / "tuned")
    (tmp_path / "my_base.py").write_text(FUNCTION)
    files = [str(root / "base" / "unet" / name) for name in ("config.json", "diffusion_pytorch_model.safetensors")]
    found = sampled(tmp_path, f"{tmp_path / 'my_base.py'}:load", ALL, files=files)
    assert images_of(found) == images_of(local)
    assert (found.base.fetch() / "my_base.py").read_text() == FUNCTION
    assert found.dpm.fingerprint == local.dpm.fingerprint
    before = found.samples(BASE).fingerprint
    assert before != local.samples(BASE).fingerprint
    assert side_ray.open_run(str(tmp_path / "run")).remake("base", 2, 7).identical
    (tmp_path / "my_base.py").write_text(FUNCTION + "# changed\n")
    assert Artifacts.open(found.config).samples(BASE).fingerprint != before
    with pytest.raises(UserError, match="Python code, which is executed only where"):
        side_ray.open_run(str(tmp_path / "run")).remake("base", 2, 7)


def config_of(uri, dpm, **extract):
    settings = {"methods": ["random"], "samples": 100, "steps": 10, **extract}
    changes = {f"extract__{key}": value for key, value in settings.items()}
    return tiny_config(uri, dpm=dpm, score__shards=1, surrogate__synthetic=100, **changes)


def test_latents_are_held_in_the_range_of_the_models_own(tmp_path):
    save_ldm(tmp_path / "tuned")
    with torch.no_grad():
        unet = latent_unet()
        for weights in unet.parameters():
            weights.mul_(0.5)
    save_ldm(tmp_path / "base")
    unet.save_pretrained(tmp_path / "base" / "unet")
    pixels = SIDE * FACTOR
    write_folder(tmp_path / "images", pictures(40, (pixels, pixels)), classes=1)
    data = {"source": "folder", "path": str(tmp_path / "images"), "members": 20, "holdout": 10}
    dpm = {"path": str(tmp_path / "tuned"), "base": str(tmp_path / "base"), "check": False}
    sizes = {"surrogate__synthetic": 50, "extract__samples": 50, "extract__steps": 4, "surrogate__classes": 2}
    sizes |= {
        "extract__methods": ["random"],
        "extract__batch_size": 25,
        "extract__base_lambdas": [2],
        "score__shards": 1,
    }
    config = tiny_config(tmp_path / "run", data=data, dpm=dpm, **sizes)
    artifacts = stages_here(config, ALL)
    assert artifacts.latents is not None
    assert artifacts.latents.done
    assert artifacts.run.latest()["latents"] == artifacts.latents.key
    plain, guided = (
        artifacts.samples(each).read(0, ["image"]).column("image").to_pylist()
        for each in (Condition("random", 0.0), BASE)
    )
    assert plain != guided
    assert side_ray.open_run(str(tmp_path / "run")).remake("base", 2, 3).identical
    other = Artifacts.open(tiny_config(tmp_path / "run", data=data, dpm=dpm, **sizes | {"surrogate__synthetic": 100}))
    assert other.samples(BASE).fingerprint != artifacts.samples(BASE).fingerprint
