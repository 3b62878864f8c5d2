"""An audit without Ray of a model that a Python function describes: a flow of pixels in [0, 1] that memorised all members."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import side_ray
from side_ray.diffusion.dpm import load_dpm
from side_ray.errors import UserError
from side_ray.images import decode_column, to_float, to_uint8
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.cost.sampling import estimate
from side_ray.runs.dataset import read_latents, read_split
from side_ray.runs.preflight import preflight
from side_ray.stages.prepare import prepare
from tests.audits import tiny_config
from tests.bruteforce import check
from tests.latents import trained_vae
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


LATENT = """
import torch
from diffusers import AutoencoderTiny
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.optimal import OptimalDpm

def load(directory):
    vae = AutoencoderTiny.from_pretrained(directory)
    scale, latents = torch.load(directory / "latents.pt", weights_only=True)
    network = OptimalDpm(latents, new_schedule())

    class Codec(torch.nn.Module):
        def encode(self, x):
            return vae.encode(x).latents * scale

        def decode(self, z):
            return vae.decode(z / scale).sample

    return {
        "network": network.eps, "predicts": "epsilon", "alphas_cumprod": network.schedule.alphas_cumprod,
        "shape": tuple(latents.shape[1:]), "codec": Codec(),
    }
"""


@pytest.fixture(scope="module")
def latent(directory) -> dict:
    """Changes for `audit_here`: a function that returns the closed form of the members' latents, with a lossy codec."""
    images = torch.load(directory / "images.pt", weights_only=True) * 2 - 1
    vae = trained_vae(torch.tensor(load_digits().images).float()[:, None] / 8 - 1, 100)
    vae.save_pretrained(directory / "vae")
    with torch.no_grad():
        latents = vae.encode(images).latents
    scale = 1 / latents.std()
    torch.save([scale, latents * scale], directory / "latents.pt")
    (directory / "latent.py").write_text(LATENT)
    names = ["latents.pt", "vae/config.json", "vae/diffusion_pytorch_model.safetensors"]
    files = [str(directory / name) for name in names]
    return _flat(directory, "latent.py") | {"dpm__files": files, "dpm__latent": True}


def test_a_function_with_a_codec_is_audited_as_a_latent_model(directory, latent):
    artifacts = audit_here(directory / "latent", **latent)
    metrics = artifacts.report.read_json("metrics.json")
    assert metrics["verdict"]["outcome"] == "found"
    assert metrics["verdict"]["distinct"] >= 40
    assert metrics["reconstructions"]["n"] == 60
    assert artifacts.latent
    assert check(artifacts.run.store.uri) == []
    latents = read_latents(artifacts.synthetic, artifacts.synthetic_shards)
    assert latents.shape == (100, 2, 4, 4)
    assert float(np.abs(latents).max()) > 1.5  # not clamped
    codec = load_dpm(artifacts.dpm.fetch(), code=True).codec
    images = decode_column(artifacts.synthetic.read_first(artifacts.synthetic_shards, ["image"]).column("image"))
    again = to_uint8(codec.decode(torch.from_numpy(latents)))
    assert np.abs(again.astype(int) - images.astype(int)).max() <= 1
    run = side_ray.open_run(artifacts.run.store.uri)
    assert run.remake("td", 2, 5).identical
    through = Artifacts.open(tiny_config(directory / "latent", **latent, extract__methods=["random", "ti"]))
    cost = estimate(through)
    assert cost.decoder_evaluations == cost.samples + 4 * cost.classifier_evaluations


def test_a_config_says_whether_a_function_returns_a_codec(directory, latent):
    """Samples of a lossy codec are compared with reconstructions, which are planned before any code is executed."""
    for changes, words in (
        (latent | {"dpm__latent": False}, r"^dpm\.latent: .* returns a codec, .* set it to true"),
        (_flat(directory) | {"dpm__latent": True}, r"^dpm\.latent: .* returns no codec; drop it"),
    ):
        with pytest.raises(UserError, match=words):
            preflight(Artifacts.open(tiny_config(directory / "said", **changes)))
    with pytest.raises(UserError, match=r"dpm\.latent: is for a function"):
        tiny_config(directory / "said", dpm__path="somewhere", dpm__kind="import", dpm__latent=True)


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
