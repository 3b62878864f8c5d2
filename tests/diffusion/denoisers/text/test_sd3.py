"""Stable Diffusion 3 makes what the library's own pipeline makes from the same noise and prompts."""

import shutil

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from side_ray.config import DpmSection
from side_ray.diffusion.denoisers import KINDS
from side_ray.diffusion.dpm import load_dpm
from side_ray.diffusion.sampler import Noise
from side_ray.errors import UserError
from tests.latents import FACTOR, SHAPE, SIDE

pytest.importorskip("transformers", reason="needs the extra text")
from tests.texts import LENGTH, POOLED, PROMPTS, WIDTH, save_sd3

pytestmark = pytest.mark.long
PIXELS = SIDE * FACTOR
DYNAMIC = {"use_dynamic_shifting": True, "base_image_seq_len": 2, "max_image_seq_len": 64, "max_shift": 2.0}
SCHEDULERS = {
    "shift": {"shift": 3.0},
    "dynamic": DYNAMIC,
    "dynamic-linear": DYNAMIC | {"time_shift_type": "linear", "shift_terminal": 0.1},
}


@pytest.fixture(scope="module", params=[True, False], ids=["t5", "no-t5"])
def saved(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("sd3") / "model"
    return directory, save_sd3(directory, t5=request.param)


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved[0], tmp_path / "model")


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_samples_equal_the_pipelines(saved, copy, ours, name, scale):
    scheduler = FlowMatchEulerDiscreteScheduler(**SCHEDULERS[name])
    scheduler.save_pretrained(copy / "scheduler")
    saved[1].scheduler = scheduler
    noise, size = Noise([1, 2, 3], SHAPE).normal(), {"height": PIXELS, "width": PIXELS}
    theirs = saved[1](
        PROMPTS, latents=noise, guidance_scale=scale, num_inference_steps=4, output_type="pt", **size
    ).images
    torch.testing.assert_close(ours(copy, PROMPTS, scale), theirs, atol=1e-5, rtol=0)


def test_the_condition_holds_every_encoder(saved):
    dpm = load_dpm(saved[0])
    width = WIDTH + 24 + 8
    found = dpm.encoder(PROMPTS)
    assert found.shape == (3, LENGTH + 256 + -(-2 * POOLED // width), width)
    assert bool((found[:, LENGTH : LENGTH + 256] == 0).all()) == (len(dpm.encoder.parts) == 2)
    names = sorted(path.relative_to(saved[0]).as_posix() for path in saved[0].rglob("*") if path.is_file())
    assert sorted(KINDS["sd3"].files([*names, "sd3_medium.safetensors"], DpmSection(path="x"))) == names


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda d, edit: DDIMScheduler().save_pretrained(d / "scheduler"),
            "is of a DDIMScheduler; this model needs a FlowMatchEuler",
        ),
        (
            lambda d, edit: edit(d / "scheduler" / "scheduler_config.json", **DYNAMIC | {"max_image_seq_len": 2}),
            "no valid scheduler config",
        ),
        (lambda d, edit: edit(d / "transformer" / "config.json", pos_embed_max_size=10**5), "do not make a Stable"),
        (lambda d, edit: (d / "size.json").write_text('{"image_size": 12}'), "multiples of 8, not 12"),
        (lambda d, edit: (d / "size.json").write_text('{"image_size": 96}'), "at most 8 patches along a side"),
        (lambda d, edit: shutil.rmtree(d / "text_encoder_2"), "config.json does not exist"),
        (
            lambda d, edit: (
                edit(
                    d / "model_index.json",
                    text_encoder_3=["transformers", "T5EncoderModel"],
                    tokenizer_3=["transformers", "T5Tokenizer"],
                )
                or shutil.rmtree(d / "text_encoder_3", ignore_errors=True)
            ),
            "names text_encoder_3, which is missing",
        ),
    ],
)
def test_what_is_damaged_is_refused_in_one_line(copy, edit, damage, message):
    damage(copy, edit)
    with pytest.raises(UserError, match=message) as caught:
        load_dpm(copy)
    assert "\n" not in str(caught.value)


def test_parts_of_other_widths_are_refused(tmp_path):
    save_sd3(tmp_path / "narrow", t5=False, joint_attention_dim=32)
    with pytest.raises(UserError, match="embeddings of 40 numbers, the network takes 32"):
        load_dpm(tmp_path / "narrow")
    save_sd3(tmp_path / "wide", joint_attention_dim=56)
    with pytest.raises(UserError, match="T5 makes embeddings of 48 numbers, the network takes 56"):
        load_dpm(tmp_path / "wide")
    save_sd3(tmp_path / "pooled", t5=False, pooled_projection_dim=24)
    with pytest.raises(UserError, match="an embedding of 20 numbers, the network takes 24"):
        load_dpm(tmp_path / "pooled")
