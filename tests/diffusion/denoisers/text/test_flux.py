"""Flux makes what the library's own pipeline makes from the same noise and prompts."""

import shutil

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

from side_ray.config import DpmSection
from side_ray.diffusion.condition.drawn import Conditioning, Conditions, evaluations
from side_ray.diffusion.denoisers import KINDS
from side_ray.diffusion.dpm import load_dpm
from side_ray.diffusion.sampler import Noise
from side_ray.errors import UserError
from tests.latents import CHANNELS, FACTOR, SIDE

pytest.importorskip("transformers", reason="needs the extra text")
from tests.texts import PROMPTS, WIDTH, save_flux

pytestmark = pytest.mark.long
PIXELS = SIDE * FACTOR


def saved_flux(directory, guidance):
    pipeline = save_flux(directory, guidance)
    (directory / "size.json").write_text(f'{{"image_size": {PIXELS}}}')
    return directory, pipeline


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """With an embedded guidance scale, as Flux.1 dev."""
    return saved_flux(tmp_path_factory.mktemp("flux") / "model", guidance=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Without, as Flux.1 schnell."""
    return saved_flux(tmp_path_factory.mktemp("flux-plain") / "model", guidance=False)


@pytest.fixture
def copy(told, tmp_path):
    return shutil.copytree(told[0], tmp_path / "model")


def theirs(pipeline, scale, **asked):
    noise = Noise([1, 2, 3], (CHANNELS, SIDE, SIDE)).normal()
    given = {"latents": FluxPipeline._pack_latents(noise, 3, CHANNELS, SIDE, SIDE), "height": PIXELS, "width": PIXELS}
    return pipeline(PROMPTS, guidance_scale=scale, num_inference_steps=4, output_type="pt", **given, **asked).images


@pytest.mark.parametrize("scale", [1.0, 3.5])
def test_the_network_is_told_the_guidance_scale(told, ours, scale):
    torch.testing.assert_close(ours(told[0], PROMPTS, scale), theirs(told[1], scale), atol=1e-5, rtol=0)
    dpm, section = load_dpm(told[0]), DpmSection(path="x", prompts="captions", guidance_scale=scale)
    assert evaluations(section, dpm) == 1
    given, free = Conditioning.of(section).batch(dpm, Conditions(prompts=PROMPTS), np.arange(3))
    assert free is None
    assert torch.equal(given, dpm.guided(dpm.encoder(PROMPTS), scale))
    assert torch.equal(given, dpm.encoder(PROMPTS)) == (scale == 1.0)


def test_without_an_embedded_scale_the_empty_prompt_is_guided_from(plain, copy, ours):
    fixed = FlowMatchEulerDiscreteScheduler(shift=1.5)
    fixed.save_pretrained(plain[0] / "scheduler")
    plain[1].scheduler = fixed
    torch.testing.assert_close(ours(plain[0], PROMPTS), theirs(plain[1], 1.0), atol=1e-5, rtol=0)
    guided = theirs(plain[1], 1.0, true_cfg_scale=3.0, negative_prompt=[""] * 3)
    torch.testing.assert_close(ours(plain[0], PROMPTS, 3.0), guided, atol=1e-5, rtol=0)
    dpm = load_dpm(plain[0])
    assert evaluations(DpmSection(path="x", prompts="captions", guidance_scale=3.0), dpm) == 2


def test_shape_and_files(copy):
    dpm = load_dpm(copy)
    assert (dpm.latent_shape, dpm.image_shape) == ((CHANNELS, SIDE, SIDE), (3, PIXELS, PIXELS))
    assert dpm.encoder(PROMPTS).shape == (3, 512 + 1, 24)
    assert WIDTH + 1 <= 24
    names = sorted(path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file())
    assert (
        sorted(KINDS["flux"].files([*names, "flux1-dev.safetensors", "ae.safetensors"], DpmSection(path="x"))) == names
    )
    (copy / "size.json").unlink()
    assert load_dpm(copy).latent_shape == (CHANNELS, 128, 128)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d, edit: (d / "size.json").write_text('{"image_size": 12}'), "multiples of 8, not 12"),
        (lambda d, edit: shutil.rmtree(d / "text_encoder_2"), "config.json does not exist"),
        (lambda d, edit: shutil.rmtree(d / "vae"), "the VAE is missing"),
        (lambda d, edit: edit(d / "transformer" / "config.json", num_single_layers=10**4), "num_single_layers must be"),
        (lambda d, edit: edit(d / "model_index.json", _class_name="X", controlnet=["diffusers", "Y"]), "controlnet"),
    ],
)
def test_what_is_damaged_or_of_another_kind_is_refused_in_one_line(copy, edit, damage, message):
    damage(copy, edit)
    with pytest.raises(UserError, match=message) as caught:
        load_dpm(copy)
    assert "\n" not in str(caught.value)


def test_a_transformer_that_takes_an_image_too_is_refused(tmp_path):
    save_flux(tmp_path / "fill", in_channels=6 * CHANNELS, out_channels=4 * CHANNELS)
    with pytest.raises(UserError, match="from 24 to 16 channels takes more than noise"):
        load_dpm(tmp_path / "fill")
    save_flux(tmp_path / "wide", joint_attention_dim=40)
    with pytest.raises(UserError, match="T5 makes embeddings of 24 numbers, the network takes 40"):
        load_dpm(tmp_path / "wide")
