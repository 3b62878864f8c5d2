"""A kind of model is one class and one registered name: a toy one from outside the package is made, imported and sampled."""

import json

import pytest
import torch
from pydantic import ValidationError

from side_ray.config import DpmSection, ExtractSection
from side_ray.config.base import Count, Section
from side_ray.diffusion.condition import Condition
from side_ray.diffusion.denoisers import KINDS, made_from_members
from side_ray.diffusion.denoisers.base import MadeFromMembers
from side_ray.diffusion.dpm import load_dpm
from side_ray.diffusion.draw import DrawSettings, draw
from side_ray.diffusion.noise_process import alphas_cumprod, new_schedule
from side_ray.errors import UserError
from side_ray.images import to_uint8
from side_ray.runs.artifacts import Artifacts
from tests.audits import tiny_config

UNET = {
    "block_out_channels": [128, 128, 256, 256, 512, 512],
    "down_block_types": ["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D"] + ["UpBlock2D"] * 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "attention_head_dim": 8,
    "dropout": 0.0,
}
BEFORE = {
    "steps": 10000,
    "batch_size": 64,
    "lr": 0.0001,
    "lr_schedule": "constant",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "grad_clip": 1.0,
    "ema_decay": 0.9999,
    "flips": False,
    "kind": "train",
    "unet": UNET,
    "schedule": "linear",
    "timesteps": 1000,
    "prediction": "epsilon",
}
"""What a trained model depended on before the registry."""


class OneImage:
    """Believes that every image is the same one."""

    num_classes: int | None = None
    condition: Condition | None = None

    def __init__(self, image: torch.Tensor) -> None:
        self.image, self.schedule, self.device = image, new_schedule(), image.device
        self.alphas_cumprod = alphas_cumprod(self.schedule)
        self.num_train_timesteps = len(self.alphas_cumprod)
        self.image_shape = tuple(image.shape)

    def eps(self, x_t, t, class_labels=None):
        alpha_bar = self.alphas_cumprod[t].float()[:, None, None, None]
        return (x_t - alpha_bar.sqrt() * self.image) / (1 - alpha_bar).sqrt()

    differentiable_eps = eps

    def to(self, device):
        return self


class OneImageOptions(Section):
    which: Count = 1


class OneImageKind(MadeFromMembers):
    """The `dpm.which`-th member."""

    Options = OneImageOptions
    title = "one-image"

    @classmethod
    def recognizes(cls, directory):
        return (directory / "image.json").exists()

    @classmethod
    def load(cls, directory, device):
        return OneImage(torch.tensor(json.loads((directory / "image.json").read_text())))

    @classmethod
    def make(cls, images, dpm):
        return OneImage(images[dpm.options(OneImageOptions).which - 1])

    @classmethod
    def save(cls, model, directory):
        (directory / "image.json").write_text(json.dumps(model.image.tolist()))


@pytest.fixture
def one_image():
    KINDS.register("one_image", OneImageKind)
    yield
    KINDS.unregister("one_image")


def test_a_toy_kind_is_made_saved_opened_and_sampled(one_image, digits, tmp_path):
    section = DpmSection(kind="one_image", which=3)
    kind = made_from_members(section)
    kind.save(kind.make(digits[0], section), tmp_path)
    settings = DrawSettings.of(ExtractSection(lambdas=[0, 1], samples=1000, steps=5, batch_size=2), "fp32")
    drawn = draw(load_dpm(tmp_path), [1, 2, 3], settings).images
    assert (drawn == to_uint8(digits[0][2:3])).all()


def test_a_toy_kinds_keys_are_in_its_fingerprint_and_in_no_others(one_image, tmp_path):
    made = [
        Artifacts.open(tiny_config(tmp_path / "run", dpm={"kind": "one_image", "which": which})).dpm.key
        for which in (1, 1, 2)
    ]
    assert made[0] == made[1] != made[2]
    assert DpmSection().training_settings() == BEFORE
    optimal = made_from_members(DpmSection(kind="optimal"))
    assert optimal.settings(DpmSection(kind="optimal")) == ["linear", 1000]


def test_the_section_dumps_as_before_the_registry():
    assert DpmSection().model_dump(mode="json") == {**BEFORE, "checkpoint_every": 1000, "path": None}
    changed = DpmSection(unet={"dropout": 0.1}, condition="random", ema_power=0.75)
    assert DpmSection(**changed.model_dump()) == changed
    settings = changed.training_settings()
    assert settings == {**BEFORE, "unet": {**UNET, "dropout": 0.1}, "condition": "random", "ema_power": 0.75}


def test_unknown_kinds_are_refused_with_the_known_ones(one_image):
    with pytest.raises(ValidationError, match="'unet' is unknown; use one of train, import, optimal, one_image"):
        DpmSection(kind="unet")


def test_keys_of_a_kind_that_is_not_chosen_are_refused_but_those_of_the_unet(one_image):
    with pytest.raises(ValidationError, match=r"dpm\.which: is for dpm\.denoiser one_image, not unet; drop it"):
        DpmSection(which=2)
    # So that an override `dpm.kind=optimal` fits a config that describes its U-Net.
    assert DpmSection(kind="optimal", unet={"dropout": 0.1}).kind == "optimal"


def test_a_directory_of_no_kind_names_the_kinds(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}.*optimal, .*unet"):
        load_dpm(tmp_path)
    (tmp_path / "config.json").write_text('{"kind": "one_image"}')
    with pytest.raises(UserError, match="none of the kinds"):
        load_dpm(tmp_path)
