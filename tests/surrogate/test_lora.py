"""The LoRA surrogate: the DPM's own U-Net with labels, its loss and its guidance."""

import json

import numpy as np
import pytest
import torch
from diffusers import (
    DDPMScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    ScoreSdeVeScheduler,
    UNet2DModel,
)

from side_ray.config import SurrogateSection
from side_ray.diffusion.draw import DrawSettings, draw
from side_ray.diffusion.noise_process import add_noise, new_schedule
from side_ray.diffusion.optimal import OptimalDpm
from side_ray.diffusion.processes import of_library
from side_ray.diffusion.samplers import SAMPLERS
from side_ray.diffusion.unet_dpm import UnetDpm
from side_ray.errors import RunError, UserError
from side_ray.surrogate.guide import open_surrogate
from side_ray.training.lora import Labelled, LoraRecipe, require_labels_told

pytest.importorskip("peft", reason="needs the extra text")
from side_ray.surrogate.lora import CONFIG, WEIGHTS, LoraNetwork, LoraSurrogate

SECTION = SurrogateSection(kind="lora", batch_size=16, lr=1e-2)


def dpm_of(schedule, classes=None) -> UnetDpm:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        num_class_embeds=classes,
    )
    return UnetDpm(unet.eval(), schedule)


def schedules():
    yield "epsilon", new_schedule("linear", 100)
    yield "v_prediction", new_schedule("linear", 100, "v_prediction")
    yield "sample", new_schedule("linear", 100, "sample")
    for kind in (EDMEulerScheduler, FlowMatchEulerDiscreteScheduler, ScoreSdeVeScheduler):
        scheduler = kind(num_train_timesteps=100)
        yield kind.__name__, of_library({**scheduler.config, "_class_name": kind.__name__})


@pytest.fixture
def dpm() -> UnetDpm:
    return dpm_of(new_schedule("linear", 1000))


def noise(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def drawn(dpm, surrogate=None, sampler="ddim"):
    settings = DrawSettings(SAMPLERS[sampler](5), (0.0, 1.0), 4, "fp32")
    return draw(dpm, [1, 2, 3, 4], settings, surrogate).images.astype(int)


@pytest.mark.parametrize(("name", "schedule"), schedules())
def test_the_loss_is_that_of_what_the_network_outputs(name, schedule):
    dpm = dpm_of(schedule)
    z0, eps, t = noise(3).clamp(-1, 1), noise(3, 1), torch.tensor([5, 50, 98])
    found = dpm.losses(z0, t, eps)
    signal, sigma = (each.float().view(-1, 1, 1, 1) for each in dpm.process.levels(t))
    z_t = add_noise(z0, eps, signal, sigma)
    targets = {
        "epsilon": lambda i: eps[i],
        "v_prediction": lambda i: signal[i] * eps[i] - sigma[i] * z0[i],
        "sample": lambda i: z0[i],
        "FlowMatchEulerDiscreteScheduler": lambda i: eps[i] - z0[i],
        "ScoreSdeVeScheduler": lambda i: -eps[i] / sigma[i],
        "EDMEulerScheduler": lambda i: (
            (z0[i] - 0.25 / (sigma[i] ** 2 + 0.25) * z_t[i]) * (sigma[i] ** 2 + 0.25).sqrt() / (sigma[i] * 0.5)
        ),
    }
    for i in range(3):
        with torch.no_grad():
            if name in ("epsilon", "v_prediction", "sample"):
                output = dpm.output(z_t[i : i + 1], t[i : i + 1], None)
            else:
                entered, told = dpm.process.enter(z_t[i : i + 1], float(t[i]), float(sigma[i]))
                output = dpm.output(entered, torch.tensor([told]), None)
        expected = ((output[0] - targets[name](i)) ** 2).mean()
        assert float(found[i].detach()) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++"])
def test_untrained_it_is_the_model_itself(dpm, sampler):
    surrogate = LoraSurrogate(LoraNetwork(dpm, 3, 2), 5.0)
    assert np.abs(drawn(dpm, surrogate, sampler) - drawn(dpm, None, sampler)).max() <= 1
    assert not any("lora" in name for name, _ in dpm.unet.named_parameters())


def data_of(dpm, given=None) -> Labelled:
    labels = torch.arange(80) % 2
    return Labelled((0.8 * (2 * labels - 1)).float().view(-1, 1, 1, 1) + 0.1 * noise(80), labels, 2, given)


def trained(recipe, steps):
    optimizer = torch.optim.AdamW([each for each in recipe.module.parameters() if each.requires_grad], lr=1e-2)
    for step in range(steps):
        loss = recipe.loss(recipe.module, *recipe.draw(step, slice(0, 16)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return recipe


@pytest.mark.slow
def test_it_learns_labels_and_guides_to_them(dpm, tmp_path):
    data, optimizer = data_of(dpm), torch.optim.AdamW(dpm.unet.parameters(), lr=3e-3)
    for step in range(200):
        rows = torch.randint(64, (32,), generator=torch.Generator().manual_seed(step))
        loss = dpm.losses(
            data.z0[rows], torch.randint(1000, (32,), generator=torch.Generator().manual_seed(step)), noise(32, step)
        ).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    recipe = trained(LoraRecipe(dpm, data, 16, SECTION, 0), 150)
    before = {name: each.clone() for name, each in dpm.unet.state_dict().items()}
    info = recipe.export(tmp_path)
    require_labels_told(info)
    assert [row["first"] for row in info["losses"]] == list(range(0, 1000, 100))
    settings = DrawSettings(SAMPLERS["ddim"](10), (0.0, 1.0), 16, "fp32")
    plain, guided = (draw(dpm, range(16), settings, each) for each in (None, open_surrogate(tmp_path, 4.0, model=dpm)))
    moved = guided.images.mean((1, 2, 3)) - plain.images.mean((1, 2, 3))
    towards = np.where(guided.targets == 1, moved, -moved)
    assert towards.mean() > 10
    assert all(torch.equal(before[name], each) for name, each in dpm.unet.state_dict().items())


@pytest.mark.long
def test_what_is_stored_guides_as_what_was_trained(dpm, tmp_path):
    recipe = trained(LoraRecipe(dpm, data_of(dpm), 16, SECTION, 0), 3)
    recipe.export(tmp_path)
    targets, z_t = torch.tensor([0, 1, 1]), noise(3)
    stored = LoraNetwork.load(tmp_path, dpm)
    one, other = (each.label(targets).denoise(z_t, 500)[0] for each in (recipe.network, stored))
    assert torch.allclose(one, other, atol=1e-4)
    assert not torch.allclose(one, dpm.denoise(z_t, 500)[0], atol=1e-3)


@pytest.mark.long
def test_class_conditional_models_keep_their_classes(tmp_path):
    dpm = dpm_of(new_schedule("linear", 100), classes=4)
    recipe = LoraRecipe(dpm, data_of(dpm, torch.arange(80) % 4), 16, SECTION, 0)
    assert recipe.draw(0, slice(0, 4))[4].max() <= 3
    trained(recipe, 1).export(tmp_path)
    assert drawn(dpm, open_surrogate(tmp_path, 1.0, model=dpm)).shape == (4, 8, 8, 1)


def test_labels_that_make_no_difference_stop_the_audit(dpm, tmp_path):
    recipe = LoraRecipe(dpm, data_of(dpm), 16, SECTION, 0)
    with pytest.raises(RunError, match=r"surrogate\.steps"):
        require_labels_told(recipe.export(tmp_path))


def test_other_models_and_damaged_files_are_refused_in_one_line(dpm, tmp_path):
    other = OptimalDpm(noise(3), DDPMScheduler(clip_sample=False))
    with pytest.raises(UserError, match=r"surrogate\.kind: lora fine-tunes U-Nets"):
        LoraNetwork(other, 2, 2)
    LoraNetwork(dpm, 2, 2).save(tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps({"classes": 3, "rank": 2}))
    with pytest.raises(UserError, match="train it again"):
        LoraNetwork.load(tmp_path, dpm)
    (tmp_path / WEIGHTS).write_bytes(b"x" * 20)
    with pytest.raises(UserError, match="train it again"):
        LoraNetwork.load(tmp_path, dpm)
