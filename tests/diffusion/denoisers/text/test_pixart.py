"""PixArt makes what the library's own pipelines make from the same noise and prompts."""

import shutil

import pytest
import sentencepiece
import torch
from diffusers import PixArtAlphaPipeline, PixArtSigmaPipeline

from side_ray.config import DpmSection
from side_ray.diffusion.denoisers import KINDS
from side_ray.diffusion.dpm import load_dpm
from side_ray.diffusion.sampler import Noise
from side_ray.errors import UserError
from tests.latents import FACTOR, SHAPE, SIDE

pytest.importorskip("transformers", reason="needs the extra text")
from tests.texts import PROMPTS, save_pixart

pytestmark = pytest.mark.long
TOKENS = {PixArtAlphaPipeline: 120, PixArtSigmaPipeline: 300}


@pytest.fixture(scope="module", params=TOKENS, ids=["alpha", "sigma"])
def saved(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("pixart") / "model"
    return directory, save_pixart(directory, request.param)


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved[0], tmp_path / "model")


def theirs(pipeline, prompts, scale, side=SIDE, **asked):
    given = {"latents": Noise([1, 2, 3], (SHAPE[0], side, side)).normal(), "clean_caption": False}
    given |= {"height": side * FACTOR, "width": side * FACTOR, "use_resolution_binning": False}
    settings = {"guidance_scale": scale, "num_inference_steps": 4, "output_type": "pt"} | asked
    return pipeline(prompts, **settings, **given).images


@pytest.mark.parametrize("prompts", [PROMPTS, ["", f" {PROMPTS[0].upper()} ", ""]], ids=["captions", "with-empty"])
@pytest.mark.parametrize("scale", [1.0, 4.5])
def test_samples_equal_the_pipelines(saved, ours, prompts, scale):
    torch.testing.assert_close(ours(saved[0], prompts, scale), theirs(saved[1], prompts, scale), atol=1e-5, rtol=0)


def test_a_model_that_is_told_the_size_of_the_image(tmp_path, ours):
    # The pipeline tells it to networks of 128 × 128 latents.
    pipeline = save_pixart(
        tmp_path / "model", sample_size=128, patch_size=16, num_attention_heads=3, cross_attention_dim=24
    )
    assert pipeline.transformer.use_additional_conditions
    latents = ours(tmp_path / "model", PROMPTS, 4.5, steps=2, latents=True)
    expected = theirs(pipeline, PROMPTS, 4.5, 128, num_inference_steps=2, output_type="latent")
    torch.testing.assert_close(latents, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def test_files_of_earlier_versions_and_a_model_without_learned_variances(copy, edit, ours, tmp_path):
    expected = ours(copy, PROMPTS)
    edit(copy / "transformer" / "config.json", _class_name="Transformer2DModel")
    edit(copy / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    assert torch.equal(ours(copy, PROMPTS), expected)
    pipeline = save_pixart(tmp_path / "plain", out_channels=SHAPE[0])
    torch.testing.assert_close(ours(tmp_path / "plain", PROMPTS), theirs(pipeline, PROMPTS, 1.0), atol=1e-5, rtol=0)


def test_padding_is_masked_and_only_what_is_loaded_is_read(saved):
    dpm = load_dpm(saved[0])
    length = TOKENS[type(saved[1])]
    condition = dpm.encoder([PROMPTS[0]])
    assert condition.shape == (1, length + -(-length // 24), 24)
    names = sorted(path.relative_to(saved[0]).as_posix() for path in saved[0].rglob("*") if path.is_file())
    assert sorted(KINDS["pixart"].files([*names, "transformer/x.bin"], DpmSection(path="x"))) == names
    z = Noise([1], SHAPE).normal()
    changed = condition.clone()
    changed[:, length - 5 : length] += 1.0  # states of padding
    assert torch.equal(dpm.denoise(z, 500, condition)[0], dpm.denoise(z, 500, changed)[0])


def test_sharded_weights_of_a_variant_are_opened(saved, ours, tmp_path):
    saved[1].save_pretrained(tmp_path / "model", variant="fp16", max_shard_size="20KB")
    names = sorted(path.relative_to(tmp_path / "model").as_posix() for path in (tmp_path / "model").glob("*/*"))
    for part in ("transformer", "text_encoder", "vae"):
        assert sum(name.startswith(part) and "-of-" in name for name in names) > 1
    for variant in (None, "fp16"):
        found = KINDS["pixart"].files([*names, "model_index.json"], DpmSection(path="x", variant=variant))
        assert sorted(found) == sorted([*names, "model_index.json"])
    assert torch.equal(ours(tmp_path / "model", PROMPTS), ours(saved[0], PROMPTS))


def test_a_tokenizer_of_sentencepiece_alone_is_opened(copy, ours, tmp_path):
    (tmp_path / "text").write_text("\n".join(["the flower and the sky", "a temple in blue", "red over china"] * 9))
    special = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    size = {"vocab_size": 40, "hard_vocab_limit": False, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / "spiece"), **special, **size
    )
    shutil.rmtree(copy / "tokenizer")
    (copy / "tokenizer").mkdir()
    shutil.copy(tmp_path / "spiece.model", copy / "tokenizer" / "spiece.model")
    (copy / "tokenizer" / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer", "extra_ids": 0}')
    tokenizer = load_dpm(copy).encoder.parts[0].tokenizer
    own = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    for prompt in PROMPTS:
        assert tokenizer(prompt).input_ids == [*own.encode(prompt), 1]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d, edit: (d / "model_index.json").unlink(), "must say PixArtAlphaPipeline or PixArtSigmaPipeline"),
        (lambda d, edit: edit(d / "model_index.json", text_encoder=["transformers", "CLIPTextModel"]), "PixArt.*of"),
        (lambda d, edit: edit(d / "text_encoder" / "config.json", num_layers=10**6), "num_layers must be"),
        (lambda d, edit: (d / "tokenizer" / "tokenizer.json").unlink(), "neither tokenizer.json nor spiece.model"),
        (lambda d, edit: edit(d / "transformer" / "config.json", sample_size=10**6), "do not make a PixArt"),
    ],
)
def test_what_is_damaged_is_refused_in_one_line(copy, edit, damage, message):
    damage(copy, edit)
    with pytest.raises(UserError, match=message) as caught:
        load_dpm(copy)
    assert "\n" not in str(caught.value)
