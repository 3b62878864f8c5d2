"""Text-conditioned models make what the library's own pipeline makes from the same noise and prompts."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file

from side_ray.config import DpmSection, ExtractSection
from side_ray.diffusion.condition.drawn import Conditioning, Conditions
from side_ray.diffusion.denoisers import KINDS
from side_ray.diffusion.dpm import is_latent, load_dpm
from side_ray.diffusion.draw import DrawSettings, draw
from side_ray.diffusion.sampler import Noise, sample, sample_seed
from side_ray.diffusion.samplers.ddim import Ddim
from side_ray.errors import UserError
from tests.latents import FACTOR, SHAPE, SIDE

pytest.importorskip("transformers", reason="needs the extra text")
from tests.texts import LENGTH, PROMPTS, WIDTH, save_text

pytestmark = pytest.mark.long
SEEDS, STEPS, PIXELS = [1, 2, 3], 10, SIDE * FACTOR
MODEL = "model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("text") / "model"
    return directory, save_text(directory)


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved[0], tmp_path / "model")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("prompts", [PROMPTS, ["", "", ""], ["", PROMPTS[0], ""]], ids=["captions", "empty", "both"])
@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_samples_equal_the_pipelines(saved, copy, prediction, prompts, scale):
    edit(copy / "scheduler" / "scheduler_config.json", prediction_type=prediction)
    dpm, pipeline = load_dpm(copy), saved[1]
    # The pipeline shifts the timesteps of its scheduler by one, see docs/models.md.
    settings = {"clip_sample": False, "beta_schedule": "scaled_linear", "prediction_type": prediction}
    pipeline.scheduler = DDIMScheduler(**settings)
    pipeline.set_progress_bar_config(disable=True)
    noise, size = Noise(SEEDS, SHAPE).normal(), {"height": PIXELS, "width": PIXELS}
    theirs = pipeline(
        prompts, latents=noise, guidance_scale=scale, num_inference_steps=STEPS, output_type="pt", **size
    ).images
    conditioning = Conditioning(scale=scale, prompts="captions", texts=tuple(prompts))
    given, free = conditioning.batch(dpm, Conditions(prompts=prompts), np.arange(3))
    ours = sample(dpm, Noise(SEEDS, SHAPE), Ddim(STEPS), class_labels=given, free=free)
    torch.testing.assert_close((ours / 2 + 0.5).clamp(0, 1), theirs, atol=1e-5, rtol=0)
    assert (is_latent(dpm), dpm.image_shape, dpm.latent_shape) == (True, (3, PIXELS, PIXELS), SHAPE)


def test_prompts_are_encoded_once_each_and_depend_on_no_other(saved, monkeypatch):
    encoder, calls = load_dpm(saved[0]).encoder, []
    network = encoder.parts[0].network
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda *given, **more: calls.append(1) or forward(*given, **more))
    alone = encoder([PROMPTS[1]])
    together = encoder([*PROMPTS, *PROMPTS])
    assert len(calls) == 3
    assert together.shape == (6, LENGTH, WIDTH)
    assert torch.equal(together[1], alone[0])
    assert torch.equal(together[:3], together[3:])


def test_each_sample_draws_its_prompt_from_its_seed(saved):
    dpm, seeds = load_dpm(saved[0]), [sample_seed(0, "extract", i) for i in range(9)]
    extract = ExtractSection(lambdas=[0, 1], samples=8, steps=3, batch_size=4)
    conditioning = Conditioning(scale=2.0, prompts="captions", texts=tuple(PROMPTS))

    def drawn(chosen, **changes):
        settings = DrawSettings.of(extract, "fp32", conditioning)
        return draw(dpm, chosen, settings)

    shard = drawn(seeds)
    assert set(shard.prompts) == set(PROMPTS)
    assert shard.classes is None
    for row in (0, 5, 8):
        alone = drawn([seeds[row]])
        assert alone.prompts == [shard.prompts[row]]
        assert np.array_equal(alone.images[0], shard.images[row])
    prompts = conditioning.drawn(dpm, range(3000)).prompts
    assert [prompts.count(each) / 3000 for each in PROMPTS] == pytest.approx([1 / 3] * 3, abs=0.03)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "dpm.prompts: the model takes prompts: give captions"),
        ({"prompts": "empty", "classes": "uniform"}, "dpm.classes: the model takes prompts; drop it"),
    ],
)
def test_what_cannot_be_asked_of_a_text_model(saved, asked, words):
    with pytest.raises(UserError) as caught:
        Conditioning.of(DpmSection(path="model", **asked)).check(load_dpm(saved[0]))
    assert str(caught.value).startswith(words)


def test_only_what_is_loaded_is_read(saved):
    names = sorted(path.relative_to(saved[0]).as_posix() for path in saved[0].rglob("*") if path.is_file())
    names += ["unet/optimizer.bin", "text_encoder/pytorch_model.bin", "safety_checker/model.safetensors"]
    assert sorted(KINDS["text"].files(names, DpmSection(path="x"))) == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]


def test_a_model_of_pixels_a_variant_and_names_of_earlier_versions_are_opened(copy):
    expected = load_dpm(copy).encoder(PROMPTS)
    shutil.rmtree(copy / "vae")
    (copy / "model_index.json").unlink()
    tensors = {f"text_model.{name}": value for name, value in load_file(copy / "text_encoder" / MODEL).items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(LENGTH)[None]
    save_file(tensors, copy / "text_encoder" / "model.fp16.safetensors", {"format": "pt"})
    (copy / "text_encoder" / MODEL).unlink()
    dpm = load_dpm(copy)
    assert (is_latent(dpm), dpm.image_shape) == (False, SHAPE)
    assert torch.equal(dpm.encoder(PROMPTS), expected)


def test_without_transformers_the_extra_is_named(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"need the extra text: pip install 'side-ray\[text\]'"):
        load_dpm(saved[0])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "text_encoder" / MODEL).unlink(), "text encoder in .* cannot be loaded"),
        (lambda d: (d / "text_encoder" / MODEL).rename(d / "text_encoder" / "pytorch_model.bin"), "cannot be loaded"),
        (lambda d: (d / "text_encoder" / "config.json").unlink(), "config.json does not exist"),
        (lambda d: edit(d / "text_encoder" / "config.json", num_hidden_layers=10**9), "more than any text encoder"),
        (lambda d: edit(d / "text_encoder" / "config.json", num_hidden_layers=3), "do not fit config.json"),
        (
            lambda d: edit(d / "text_encoder" / "config.json", architectures=["T5EncoderModel"]),
            "is of a T5EncoderModel",
        ),
        (lambda d: spoil(d / "text_encoder" / MODEL), "NaN"),
        (lambda d: shutil.rmtree(d / "tokenizer"), "cannot be loaded"),
        (lambda d: edit(d / "tokenizer" / "tokenizer_config.json", model_max_length=99), "99, more than the text"),
        (
            lambda d: edit(d / "unet" / "config.json", addition_embed_type="text"),
            "takes more than a prompt .addition_embed_type: text",
        ),
        (lambda d: edit(d / "model_index.json", text_encoder_2=["transformers", "CLIPTextModel"]), "text_encoder_2"),
        (lambda d: edit(d / "model_index.json", image_encoder=["transformers", "CLIPVision"]), "image_encoder"),
    ],
)
def test_what_is_damaged_or_of_another_kind_is_refused_in_one_line(copy, damage, message):
    damage(copy)
    with pytest.raises(UserError, match=message) as caught:
        load_dpm(copy)
    assert "\n" not in str(caught.value)


def spoil(path):
    tensors = load_file(path)
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name] * float("nan")}, path, {"format": "pt"})


def test_a_unet_for_inpainting_or_another_text_encoder_is_refused(tmp_path):
    save_text(tmp_path / "inpainting", in_channels=9)
    with pytest.raises(UserError, match="a U-Net from 9 to 4 channels takes more than noise"):
        load_dpm(tmp_path / "inpainting")
    save_text(tmp_path / "wider", cross_attention_dim=24)
    with pytest.raises(UserError, match="makes embeddings of 16 numbers, the network takes 24"):
        load_dpm(tmp_path / "wider")
