"""LoRA weights are added to a text-conditioned model as the library's pipeline does it."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from side_ray.diffusion.dpm import load_dpm
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.unet_dpm import new_unet, save_pipeline
from side_ray.errors import UserError
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.imported.opening import imported
from tests.audits import tiny_config
from tests.latents import FACTOR, SHAPE, SIDE

pytest.importorskip("transformers", reason="needs the extra text")
pytest.importorskip("peft", reason="needs the extra text")
from tests.texts import PROMPTS, save_lora, save_text

pytestmark = pytest.mark.long
PIXELS = (3, SIDE * FACTOR, SIDE * FACTOR)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("lora")
    save_text(directory / "model")
    return directory


@pytest.fixture(scope="module")
def files(place):
    return [save_lora(place, "diffusers", 2), save_lora(place, "diffusers", 3), save_lora(place, "kohya", 2)]


def config(place, **dpm):
    return tiny_config("/nowhere/run", dpm={"path": str(place / "model"), "prompts": "empty", **dpm}, extract__steps=4)


def output(unet, encoder_states):
    noise = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return unet(noise, 300, encoder_hidden_states=encoder_states).sample


@pytest.mark.parametrize("chosen", [{0: 1.0}, {0: 0.6, 1: -0.3}, {2: 1.0}], ids=["one", "two", "kohya"])
def test_the_model_is_that_of_the_pipeline_with_the_same_weights(place, files, chosen):
    pipeline = StableDiffusionPipeline.from_pretrained(place / "model")
    for number in chosen:
        pipeline.load_lora_weights(str(place), weight_name=files[number].name, adapter_name=f"own{number}")
    pipeline.set_adapters([f"own{number}" for number in chosen], list(chosen.values()))
    with torch.no_grad():
        states = pipeline.encode_prompt(PROMPTS, "cpu", 1, False)[0]
    asked = {"lora": [str(files[number]) for number in chosen], "lora_weights": list(chosen.values())}
    with imported(config(place, **asked), PIXELS) as (directory, model):
        again = load_dpm(directory)
    plain = load_dpm(place / "model")
    torch.testing.assert_close(model.encoder(PROMPTS), states, atol=1e-5, rtol=0)
    torch.testing.assert_close(output(model.network, states), output(pipeline.unet, states), atol=1e-5, rtol=0)
    assert torch.equal(output(again.network, states), output(model.network, states))
    assert (output(plain.network, states) - output(model.network, states)).abs().max() > 1e-2


def test_they_identify_the_model_by_content_and_weight(place, files, tmp_path):
    def key(**dpm) -> str:
        return Artifacts.open(config(place, **dpm)).dpm.key

    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(files[0].read_bytes())
    one = str(files[0])
    assert key(lora=one) == key(lora=[str(copy)]) == key(lora=one, lora_weights=[1.0])
    assert len({key(), key(lora=one), key(lora=one, lora_weights=[0.5]), key(lora=str(files[1]))}) == 4


def changed(path, tmp_path, change):
    tensors = load_file(path)
    save_file(change(tensors), tmp_path / "changed.safetensors", {"format": "pt"})
    return tmp_path / "changed.safetensors"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {n.replace("to_q", "to_z"): v for n, v in t.items()}, "belong to no layer|cannot be added"),
        (lambda t: {f"other.{n}": v for n, v in t.items()}, "belong to no layer|cannot be added"),
        (
            lambda t: {n: torch.cat([v, v]) if "up" in n or "lora_B" in n else v for n, v in t.items()},
            "cannot be added",
        ),
        (lambda t: {n: v * float("nan") for n, v in t.items()}, "NaN"),
        (lambda t: {"weight": torch.zeros(2)}, "belong to no layer|cannot be added"),
    ],
)
def test_weights_for_another_model_are_refused_in_one_line(place, files, tmp_path, change, words):
    path = changed(files[0], tmp_path, change)
    with pytest.raises(UserError, match=words) as caught, imported(config(place, lora=str(path)), PIXELS):
        pass
    assert "\n" not in str(caught.value)


def test_what_is_no_file_and_what_takes_none(place, files, tmp_path):
    with pytest.raises(UserError, match=r"dpm\.lora: there is no file"), imported(config(place, lora="x"), PIXELS):
        pass
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"dpm\.lora: only safetensors"):
        Artifacts.open(config(place, lora=str(tmp_path / "x.bin"))).dpm  # noqa: B018
    unet = new_unet({"block_out_channels": (8, 16), "norm_num_groups": 4}, (1, 8, 8))
    save_pipeline(unet, new_schedule("linear", 50).config, tmp_path / "model")
    plain = config(tmp_path, prompts=None, lora=str(files[0]))
    with (
        pytest.raises(UserError, match=r"dpm\.lora: the model is of none of the kinds text"),
        imported(plain, (1, 8, 8)),
    ):
        pass
    with pytest.raises(UserError, match=r"dpm\.lora_weights: has 2 numbers for 1 files"):
        config(place, lora=str(files[0]), lora_weights=[1.0, 2.0])
