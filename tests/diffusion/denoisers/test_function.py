"""A function of the user's returns a model of any library."""

import json
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler

from side_ray.diffusion.denoisers.adapted import AdaptedDpm, Model
from side_ray.diffusion.denoisers.function import Function
from side_ray.diffusion.dpm import load_dpm
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.sampler import Noise, sample
from side_ray.diffusion.samplers.ddim import Ddim
from side_ray.diffusion.unet_dpm import UnetDpm
from side_ray.errors import UserError

SHAPE, SEEDS = (1, 8, 8), [1, 2, 3]


def adapted(**values) -> AdaptedDpm:
    return AdaptedDpm(Model.of({"shape": SHAPE, **values}), None)


def samples(dpm, labels=None):
    return sample(dpm, Noise(SEEDS, SHAPE), Ddim(10), class_labels=labels)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_network_with_alphas_cumprod_is_sampled_like_a_pipeline(small_unet, prediction):
    schedule = new_schedule("cosine", 1000, prediction)
    ours = adapted(network=small_unet(), predicts=prediction, alphas_cumprod=schedule.alphas_cumprod.numpy())
    torch.testing.assert_close(samples(ours), samples(UnetDpm(small_unet(), schedule)), rtol=0, atol=1e-4)
    unclipped = adapted(network=small_unet(), predicts=prediction, alphas_cumprod=schedule.alphas_cumprod, clip=False)
    assert float(samples(unclipped).abs().max()) > 1


@pytest.mark.parametrize(
    "scheduler", [DDIMScheduler(prediction_type="v_prediction"), EDMEulerScheduler(), FlowMatchEulerDiscreteScheduler()]
)
def test_a_network_with_a_scheduler_is_sampled_like_a_pipeline(small_unet, tmp_path, scheduler):
    unet = small_unet(block_out_channels=(8, 16))
    unet.save_pretrained(tmp_path / "unet")
    scheduler.save_pretrained(tmp_path / "scheduler")
    assert torch.equal(samples(adapted(network=unet, scheduler=scheduler)), samples(load_dpm(tmp_path)))


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction", "sample", "flow", "score"])
@pytest.mark.parametrize("kind", ["vp", "ve", "flow"])
def test_a_closed_form_network_in_a_table_makes_training_images(digits, kind, predicts):
    images = digits[0]
    if kind == "vp":
        levels = new_schedule().alphas_cumprod.double()
        alphas, sigmas = levels.sqrt(), (1 - levels).sqrt()
    elif kind == "ve":
        sigmas = torch.logspace(-2, 2, 200, dtype=torch.float64)
        alphas = torch.ones_like(sigmas)
    else:
        sigmas = torch.linspace(0.002, 0.999, 300, dtype=torch.float64)
        alphas = 1 - sigmas

    def network(x, t):
        index = t.long()[0]
        signal, sigma = alphas[index], sigmas[index]
        distances = ((x.double().flatten(1)[:, None] - signal * images.double().flatten(1)) ** 2).sum(2)
        z0 = (torch.softmax(-distances / (2 * sigma**2), dim=1) @ images.double().flatten(1)).view(x.shape)
        eps = (x - signal * z0) / sigma
        made = {"epsilon": eps, "sample": z0, "v_prediction": signal * eps - sigma * z0, "flow": eps - z0}
        return made.get(predicts, -eps / sigma)

    dpm = adapted(network=network, predicts=predicts, alphas=alphas, sigmas=sigmas)
    made = samples(dpm)
    assert torch.cdist(made.flatten(1), images.flatten(1)).min(dim=1).values.max() < 0.1


def test_a_class_conditional_network_is_given_labels(small_unet):
    unet = small_unet(num_class_embeds=3)
    values = {"predicts": "epsilon", "alphas_cumprod": new_schedule().alphas_cumprod, "classes": 3}
    labels = torch.tensor([0, 2, 1])
    ours = samples(adapted(network=lambda x, t, y: unet(x, t, y), **values), labels)
    torch.testing.assert_close(ours, samples(UnetDpm(unet, new_schedule()), labels), rtol=0, atol=1e-4)


def test_latents_are_clamped_only_where_the_function_says_so():
    codec = {"encode": lambda x: 3 * x, "decode": lambda z: z / 3}
    levels = new_schedule().alphas_cumprod
    for process in (
        {"scheduler": DDIMScheduler(prediction_type="sample")},
        {"alphas_cumprod": levels, "predicts": "sample"},
        {"alphas": levels.sqrt(), "sigmas": (1 - levels).sqrt(), "predicts": "sample"},
    ):
        found = [
            float(samples(adapted(network=lambda x, t: torch.full_like(x, 2.5), codec=codec, **process, **clip)).max())
            for clip in ({}, {"clip": True})
        ]
        assert found == pytest.approx([2.5 / 3, 1 / 3], rel=1e-3)


PLAIN = {"network": lambda x, t: x, "predicts": "epsilon", "alphas_cumprod": [0.9, 0.5]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predict": "epsilon"}, "key 'predict', which is unknown"),
        ({"network": None}, "cannot be called"),
        ({"codec": 3}, "a codec without encode and decode"),
        ({"shape": (8, 8)}, "the shape"),
        ({"predicts": "noise"}, "predicts 'noise'"),
        ({"predicts": None}, "what the network predicts"),
        ({"alphas_cumprod": None}, "one noise process"),
        ({"scheduler": DDIMScheduler()}, "one noise process"),
        ({"alphas_cumprod": [0.5, 0.9]}, "must decrease"),
        ({"alphas_cumprod": None, "alphas": [1, 1], "sigmas": [2, 1]}, "sigmas must be positive and increase"),
        ({"alphas_cumprod": None, "alphas": [1, 0], "sigmas": [1, 2]}, "where alpha is 0"),
        ({"alphas_cumprod": None, "scheduler": EDMEulerScheduler()}, "leave out predicts"),
    ],
)
def test_what_describes_no_model_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        adapted(**{**PLAIN, **changes})


# -- the file ----------------------------------------------------------------------------------------------------------

FILE = """
import helper
from diffusers import DDPMScheduler

def load(directory):
    assert (directory / "helper.py").exists()
    return {"network": helper.network, "predicts": "sample", "scheduler": DDPMScheduler(), "shape": (1, 8, 8)}

def wrong(directory):
    return 3

def broken(directory):
    raise ValueError("no weights\\nhere")
"""


@pytest.fixture
def directory(tmp_path) -> Path:
    (tmp_path / "model.py").write_text(FILE)
    (tmp_path / "helper.py").write_text("def network(x, t):\n    return 0 * x\n")
    Function.describe(tmp_path, Path("model.py"), "load")
    return tmp_path


def test_the_file_is_executed_only_where_that_is_allowed(directory):
    with pytest.raises(UserError, match="Python code, which is executed only where"):
        load_dpm(directory)
    assert float(samples(load_dpm(directory, code=True)).abs().max()) < 1e-3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrong", "model.py:wrong returns a int"),
        ("broken", r"model.py:broken failed \(ValueError: no weights\)"),
        ("none", "model.py:none is not there"),
    ],
)
def test_a_function_that_fails_gets_one_line(directory, name, message):
    (directory / "function.json").write_text(json.dumps({"file": "model.py", "function": name}))
    with pytest.raises(UserError, match=message) as caught:
        load_dpm(directory, code=True)
    assert "\n" not in str(caught.value)


def test_nothing_is_written_beside_the_function(directory, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (directory / "model.py").write_text("import beside\n" + FILE)
    (directory / "beside.py").write_text("")
    before = sorted(directory.rglob("*"))
    load_dpm(directory, code=True)
    assert sorted(directory.rglob("*")) == before
    assert not sys.dont_write_bytecode


def test_two_models_have_files_of_one_name(tmp_path):
    values = []
    for value in (1, 2):
        directory = tmp_path / str(value)
        directory.mkdir()
        (directory / "model.py").write_text(f"# {value}\n{FILE}")
        (directory / "helper.py").write_text(f"def network(x, t):\n    return 0 * x + {value}\n")
        Function.describe(directory, Path("model.py"), "load")
        model = load_dpm(directory, code=True)
        values.append(float(model.network(torch.zeros(1), 0)))
    assert values == [1, 2]


def test_files_of_another_kind_of_model_may_lie_beside_the_function(directory, small_unet):
    small_unet().save_pretrained(directory)
    assert isinstance(load_dpm(directory, code=True), AdaptedDpm)


def test_a_network_of_another_shape_gets_one_line():
    dpm = adapted(**{**PLAIN, "network": lambda x, t: x[:, :, :4]})
    with pytest.raises(UserError, match=r"makes \(3, 1, 4, 8\) of \(3, 1, 8, 8\)"):
        dpm.denoise(torch.zeros(3, 1, 8, 8), 1)
