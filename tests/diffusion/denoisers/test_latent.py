"""Latent models of each kind: unguided, they make what the library's own loop makes from the same noise."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file

from side_ray.config import DpmSection
from side_ray.diffusion.condition.drawn import Conditioning, Conditions
from side_ray.diffusion.denoisers import KINDS
from side_ray.diffusion.dpm import is_latent, load_dpm
from side_ray.diffusion.networks.dit import DitDpm
from side_ray.diffusion.sampler import Noise, sample
from side_ray.diffusion.samplers.ddim import Ddim
from side_ray.diffusion.unet_dpm import UnetDpm
from side_ray.errors import UserError
from tests.latents import CLASSES, FACTOR, SHAPE, SIDE, latent_unet, save_dit, save_ldm, vae_of

SEEDS, STEPS = [1, 2, 3], 10
IMAGE = (3, SIDE * FACTOR, SIDE * FACTOR)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal to 1e-4 of the largest value."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * max(1.0, float(theirs.abs().max())))


@torch.no_grad()
def own_loop(pipeline, z: torch.Tensor) -> torch.Tensor:
    """The library's loop, with its scheduler and `vae.decode`."""
    scheduler, vae = pipeline.scheduler, pipeline.vqvae
    scheduler.set_timesteps(STEPS)
    clipped = {"use_clipped_model_output": True} if scheduler.config.get("clip_sample") else {}
    for t in scheduler.timesteps:
        z = scheduler.step(pipeline.unet(z, t).sample, t, z, **clipped).prev_sample
    return vae.decode(z / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0)).sample


@pytest.mark.parametrize(
    ("vae", "scheduler"),
    [
        ("kl", DDIMScheduler(clip_sample=False)),
        ("kl", DDIMScheduler(clip_sample=False, prediction_type="v_prediction", rescale_betas_zero_snr=True)),
        ("kl", DDIMScheduler(clip_sample=True, clip_sample_range=0.8)),
        ("vq", DDIMScheduler(clip_sample=False, beta_schedule="scaled_linear")),
        ("tiny", FlowMatchEulerDiscreteScheduler(shift=2.0)),
    ],
)
def test_unguided_samples_of_an_ldm_equal_the_librarys_own_loop(tmp_path, vae, scheduler):
    pipeline = save_ldm(tmp_path, vae, scheduler)
    dpm = load_dpm(tmp_path)
    assert (type(dpm), is_latent(dpm), dpm.latent_shape, dpm.image_shape) == (UnetDpm, True, SHAPE, IMAGE)
    ours = sample(dpm, Noise(SEEDS, SHAPE), Ddim(STEPS))
    assert ours.shape == (3, *IMAGE)
    close(ours, own_loop(pipeline, Noise(SEEDS, SHAPE).normal()))


@pytest.mark.parametrize(("learned", "scale"), [(True, 1.0), (False, 1.0), (True, 4.0)])
def test_samples_of_a_dit_equal_its_pipeline(tmp_path, monkeypatch, learned, scale):
    pipeline = save_dit(tmp_path, learned)
    dpm = load_dpm(tmp_path)
    assert (type(dpm), is_latent(dpm), dpm.latent_shape, dpm.image_shape) == (DitDpm, True, SHAPE, IMAGE)
    labels = [0, 3, 4]
    noise = Noise(SEEDS, SHAPE).normal()
    monkeypatch.setattr("diffusers.pipelines.dit.pipeline_dit.randn_tensor", lambda **_: noise)
    # The pipeline does not know the shift of its VAE.
    pipeline.vae.register_to_config(shift_factor=None)
    dpm.codec.vae.register_to_config(shift_factor=None)
    pipeline.set_progress_bar_config(disable=True)

    def renumbered(_, arguments, given):
        return arguments, given | {"class_labels": given["class_labels"].clamp(max=CLASSES)}

    # To the pipeline, the null class of every DiT is 1000.
    pipeline.transformer.register_forward_pre_hook(renumbered, with_kwargs=True)
    theirs = pipeline(labels, guidance_scale=scale, num_inference_steps=STEPS, output_type="pt").images
    given, free = Conditioning(scale=scale).batch(dpm, Conditions(np.array(labels)), np.arange(3))
    ours = sample(dpm, Noise(SEEDS, SHAPE), Ddim(STEPS), class_labels=given, free=free)
    close((ours / 2 + 0.5).clamp(0, 1), theirs)
    others = sample(dpm, Noise(SEEDS, SHAPE), Ddim(STEPS), class_labels=torch.tensor([1, 1, 1]))
    assert not torch.allclose(ours, others, atol=1e-3)


def test_no_sample_of_a_dit_is_drawn_with_the_null_class(tmp_path):
    save_dit(tmp_path)
    dpm = load_dpm(tmp_path)
    assert (dpm.num_classes, dpm.null_class) == (CLASSES + 1, CLASSES)
    assert set(dpm.condition.classes_of(list(range(200))).tolist()) == set(range(CLASSES))


@pytest.mark.parametrize("part", ["vae", "vqvae", "movq"])
def test_a_directory_without_an_index_is_a_latent_model_too(tmp_path, part):
    save_ldm(tmp_path)
    (tmp_path / "model_index.json").unlink()
    (tmp_path / "vqvae").rename(tmp_path / part)
    assert load_dpm(tmp_path).image_shape == IMAGE


def test_images_may_be_gray(tmp_path):
    save_ldm(tmp_path)
    shutil.rmtree(tmp_path / "vqvae")
    vae_of("tiny", 1).save_pretrained(tmp_path / "vqvae")
    assert load_dpm(tmp_path).image_shape == (1, *IMAGE[1:])


def test_only_what_is_loaded_is_read(tmp_path):
    save_ldm(tmp_path)
    (tmp_path / "vqvae" / "optimizer.bin").write_bytes(b"x")
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert sorted(KINDS["latent"].files(names, DpmSection(path="x"))) == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vqvae/config.json",
        "vqvae/diffusion_pytorch_model.safetensors",
    ]


def test_a_variant_of_the_unet_goes_with_the_only_weights_of_the_vae(tmp_path):
    save_ldm(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".fp16.safetensors"))
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    files = KINDS["latent"].files(names, DpmSection(path="x", variant="fp16"))
    assert "vqvae/diffusion_pytorch_model.safetensors" in files
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in files
    assert load_dpm(tmp_path).image_shape == IMAGE


def test_a_scheduler_that_does_not_say_so_does_not_clip_latents(tmp_path):
    save_ldm(tmp_path)
    path = tmp_path / "scheduler" / "scheduler_config.json"
    content = json.loads(path.read_text())
    del content["clip_sample"]
    path.write_text(json.dumps(content | {"_class_name": "PNDMScheduler"}))
    assert not load_dpm(tmp_path).schedule.config["clip_sample"]
    path.write_text(json.dumps(content | {"clip_sample": True}))
    assert load_dpm(tmp_path).schedule.config["clip_sample"]


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def spoil(path):
    tensors = load_file(path)
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    save_file(tensors | {name: tensors[name] * float("nan")}, path)


WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: spoil(d / "vqvae" / WEIGHTS), "NaN"),
        (lambda d: (d / "vqvae" / WEIGHTS).unlink(), "no weights"),
        (lambda d: (d / "vqvae" / WEIGHTS).rename(d / "vqvae" / "weights.bin"), "pickled weights"),
        (lambda d: (d / "vqvae" / "config.json").unlink(), "VAE is missing"),
        (lambda d: shutil.rmtree(d / "vqvae"), "VAE is missing"),
        (lambda d: edit(d / "vqvae" / "config.json", block_out_channels=[8] * 1000), "more than any VAE"),
        (lambda d: edit(d / "vqvae" / "config.json", latent_channels=10**9), "more than any VAE"),
        (lambda d: edit(d / "vqvae" / "config.json", latent_channels=3), "do not fit|cannot be loaded"),
        (lambda d: edit(d / "vqvae" / "config.json", _class_name="AutoencoderDC"), "AutoencoderDC"),
        (lambda d: latent_unet(in_channels=3, out_channels=3).save_pretrained(d / "unet"), "VAE has latents of 4"),
        (lambda d: (d / "scheduler" / "scheduler_config.json").unlink(), "no scheduler_config.json"),
        (lambda d: edit(d / "unet" / "config.json", _class_name="UNet2DConditionModel"), "UNet2DConditionModel"),
        (lambda d: edit(d / "model_index.json", text_encoder=["transformers", "CLIPTextModel"]), "text_encoder"),
    ],
)
def test_a_damaged_ldm_is_refused_in_one_line(tmp_path, damage, message):
    save_ldm(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load_dpm(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: spoil(d / "transformer" / WEIGHTS), "NaN"),
        (lambda d: shutil.rmtree(d / "vae"), "can be audited"),
        (lambda d: edit(d / "transformer" / "config.json", num_layers=10**6), "num_layers"),
        (lambda d: edit(d / "transformer" / "config.json", sample_size=10**6), "do not make a DiT"),
        (lambda d: edit(d / "transformer" / "config.json", sample_size="x"), "positive whole numbers"),
        (lambda d: edit(d / "transformer" / "config.json", norm_type="ada_norm_single"), "can be audited"),
        (lambda d: edit(d / "model_index.json", text_encoder=["transformers", "T5EncoderModel"]), "text_encoder"),
    ],
)
def test_a_damaged_dit_is_refused_in_one_line(tmp_path, damage, message):
    save_dit(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load_dpm(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_dit_has_no_averaged_weights_of_a_unet(tmp_path):
    save_dit(tmp_path)
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert "transformer/config.json" in KINDS["dit"].files(names, DpmSection(path="x"))
    with pytest.raises(UserError, match="no unet_ema"):
        KINDS["dit"].files(names, DpmSection(path="x", weights="ema"))


def test_a_dit_may_be_saved_under_its_earlier_class(tmp_path):
    save_dit(tmp_path)
    edit(tmp_path / "transformer" / "config.json", _class_name="Transformer2DModel")
    edit(tmp_path / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    assert isinstance(load_dpm(tmp_path), DitDpm)


def test_a_pixel_model_is_not_a_latent_one(tmp_path, small_unet):
    DDPMPipeline(small_unet(), DDPMScheduler()).save_pretrained(tmp_path)
    dpm = load_dpm(tmp_path)
    assert not is_latent(dpm)
    assert dpm.latent_shape == dpm.image_shape == (1, 8, 8)
