"""Stable Diffusion XL makes what the library's own pipeline makes from the same noise and prompts."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from side_ray.config import DpmSection
from side_ray.diffusion.condition.drawn import Conditioning, Conditions
from side_ray.diffusion.denoisers import KINDS
from side_ray.diffusion.dpm import load_dpm
from side_ray.diffusion.sampler import Noise
from side_ray.errors import UserError
from tests.latents import FACTOR, SHAPE, SIDE

pytest.importorskip("transformers", reason="needs the extra text")
from tests.texts import LENGTH, POOLED, PROMPTS, WIDTH, save_sdxl

pytestmark = pytest.mark.long
PIXELS = SIDE * FACTOR


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sdxl") / "model"
    return directory, save_sdxl(directory)


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved[0], tmp_path / "model")


def theirs(pipeline, prompts, scale, pixels=PIXELS):
    pipeline.scheduler = DDIMScheduler(clip_sample=False, beta_schedule="scaled_linear")
    side = pixels // FACTOR
    given = {"latents": Noise([1, 2, 3], (SHAPE[0], side, side)).normal(), "height": pixels, "width": pixels}
    return pipeline(list(prompts), guidance_scale=scale, num_inference_steps=4, output_type="pt", **given).images


@pytest.mark.parametrize("prompts", [PROMPTS, ["", PROMPTS[0], ""]], ids=["captions", "with-empty"])
@pytest.mark.parametrize("scale", [1.0, 6.0])
@pytest.mark.parametrize("zeros", [True, False])
def test_samples_equal_the_pipelines(saved, copy, edit, ours, prompts, scale, zeros):
    edit(copy / "model_index.json", force_zeros_for_empty_prompt=zeros)
    saved[1].register_to_config(force_zeros_for_empty_prompt=zeros)
    torch.testing.assert_close(ours(copy, prompts, scale), theirs(saved[1], prompts, scale), atol=1e-5, rtol=0)


def test_another_size_is_what_the_pipeline_makes_of_it_and_is_told_to_the_network(saved, copy, ours):
    (copy / "size.json").write_text(json.dumps({"image_size": 32}))
    images = ours(copy, PROMPTS, 6.0)
    assert images.shape == (3, 3, 32, 32)
    saved[1].register_to_config(force_zeros_for_empty_prompt=True)
    torch.testing.assert_close(images, theirs(saved[1], PROMPTS, 6.0, 32), atol=1e-5, rtol=0)


def test_the_empty_prompt_alone_is_not_guided(saved):
    dpm = load_dpm(saved[0])
    given, free = Conditioning.of(DpmSection(path="x", prompts="empty", guidance_scale=6.0)).batch(
        dpm, Conditions(prompts=[""]), np.arange(1)
    )
    assert free is None
    assert torch.equal(given, dpm.encoder([""]))
    assert not torch.equal(given, dpm.encoder.null())
    rows = -(-POOLED // (WIDTH + 24))
    assert given.shape == (1, LENGTH + rows, WIDTH + 24)


def test_only_what_is_loaded_is_read(saved, edit, ours, copy):
    names = sorted(path.relative_to(saved[0]).as_posix() for path in saved[0].rglob("*") if path.is_file())
    others = ["sd_xl_base_1.0.safetensors", "vae_1_0/diffusion_pytorch_model.safetensors", "unet/model.onnx"]
    assert sorted(KINDS["sdxl"].files([*names, *others], DpmSection(path="x"))) == names
    half = [name.replace(".safetensors", ".fp16.safetensors") for name in names]
    both = [*names, *half]
    assert set(KINDS["sdxl"].files(both, DpmSection(path="x", variant="fp16"))) == set(half)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d, edit: shutil.rmtree(d / "text_encoder"), "like a refiner of Stable Diffusion XL"),
        (lambda d, edit: shutil.rmtree(d / "vae"), "the VAE is missing"),
        (lambda d, edit: (d / "tokenizer_2" / "tokenizer.json").unlink(), "neither tokenizer.json nor merges.txt"),
        (lambda d, edit: (d / "text_encoder_2" / "config.json").unlink(), "config.json does not exist"),
        (
            lambda d, edit: edit(d / "model_index.json", image_encoder=["transformers", "CLIPVision"]),
            "image_encoder",
        ),
        (lambda d, edit: edit(d / "tokenizer_2" / "tokenizer_config.json", model_max_length=9), "12 and 9 tokens"),
        (
            lambda d, edit: edit(d / "text_encoder_2" / "config.json", architectures=["CLIPTextModel"]),
            "is of a CLIPTextModel, not a CLIPTextModelWithProjection",
        ),
        (lambda d, edit: (d / "size.json").write_text('{"image_size": 18}'), "multiples of 4, not 18"),
    ],
)
def test_what_is_damaged_or_of_another_kind_is_refused_in_one_line(copy, edit, damage, message):
    damage(copy, edit)
    with pytest.raises(UserError, match=message) as caught:
        load_dpm(copy)
    assert "\n" not in str(caught.value)


def test_networks_of_other_inputs_are_refused(tmp_path):
    save_sdxl(tmp_path / "wider", cross_attention_dim=16)
    with pytest.raises(UserError, match="make embeddings of 40 numbers, the network takes 16"):
        load_dpm(tmp_path / "wider")
    save_sdxl(tmp_path / "sizes", projection_class_embeddings_input_dim=5 * 4 + POOLED)
    with pytest.raises(UserError, match="an embedding of 34 numbers, the network takes 30"):
        load_dpm(tmp_path / "sizes")
    save_sdxl(tmp_path / "inpainting", in_channels=9)
    with pytest.raises(UserError, match="a U-Net from 9 to 4 channels takes more than noise"):
        load_dpm(tmp_path / "inpainting")
    save_sdxl(tmp_path / "distilled", time_cond_proj_dim=8)
    with pytest.raises(UserError, match=r"takes more than a prompt .time_cond_proj_dim"):
        load_dpm(tmp_path / "distilled")
