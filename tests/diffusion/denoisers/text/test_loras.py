"""LoRA weights of every kind that takes them are added as the library's pipeline does it."""

import json
import shutil

import pytest
import torch

from side_ray.diffusion.denoisers import KINDS
from side_ray.diffusion.dpm import load_dpm
from side_ray.diffusion.sampler import Noise
from side_ray.errors import UserError
from tests.latents import FACTOR, SIDE

pytest.importorskip("transformers", reason="needs the extra text")
pytest.importorskip("peft", reason="needs the extra text")
from tests.texts import PROMPTS, save_flux, save_lora_of, save_pixart, save_sd3, save_sdxl

pytestmark = pytest.mark.long
SAVE = {"sdxl": save_sdxl, "sd3": save_sd3, "flux": save_flux}


def with_lora(directory, path, weight):
    (directory / "size.json").write_text(json.dumps({"image_size": SIDE * FACTOR}))
    (directory / "lora").mkdir()
    shutil.copy(path, directory / "lora" / "0.safetensors")
    (directory / "lora.json").write_text(json.dumps({"weights": [weight]}))
    return directory


def output(model):
    condition = model.encoder(PROMPTS[:1])
    return model.denoise(Noise([1], model.latent_shape).normal(), 500, condition)[0]


@pytest.mark.parametrize("kind", SAVE)
def test_the_network_is_that_of_the_pipeline_with_the_same_weights(kind, tmp_path):
    pipeline = SAVE[kind](tmp_path / "model")
    model = load_dpm(shutil.copytree(tmp_path / "model", tmp_path / "plain"))
    path = save_lora_of(pipeline, tmp_path)
    network = pipeline.unet if kind == "sdxl" else pipeline.transformer
    network.set_adapters(["default"], [0.6])
    tuned = load_dpm(with_lora(tmp_path / "model", path, 0.6))
    assert KINDS[kind].takes_lora
    model.latent_shape = tuned.latent_shape
    plain = output(model)
    model.network = network
    torch.testing.assert_close(output(tuned), output(model), atol=1e-5 * float(plain.abs().max()), rtol=0)
    assert (output(tuned) - plain).abs().max() > 1e-3


def test_pixart_takes_none(tmp_path):
    path = save_lora_of(save_sdxl(tmp_path / "sdxl"), tmp_path)
    save_pixart(tmp_path / "model")
    assert not KINDS["pixart"].takes_lora
    with pytest.raises(UserError, match="adds no LoRA weights to PixArt"):
        load_dpm(with_lora(tmp_path / "model", path, 1.0))
