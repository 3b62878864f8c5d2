"""Extrapolation from a base model to its fine-tune: exact at λ = 0, taken in ẑ₀, and what is no base is refused."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import EDMEulerScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel

from side_ray.diffusion.condition.drawn import Conditioning
from side_ray.diffusion.draw import DrawSettings, draw
from side_ray.diffusion.extrapolation import Extrapolation, check_base
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.optimal import OptimalDpm
from side_ray.diffusion.processes import of_library
from side_ray.diffusion.samplers import SAMPLERS
from side_ray.diffusion.spaces.given import codec_of
from side_ray.diffusion.spaces.latents import LatentCodec
from side_ray.diffusion.spaces.pixels import PixelCodec
from side_ray.diffusion.unet_dpm import UnetDpm
from side_ray.errors import UserError
from tests.latents import latent_unet, vae_of

DDIM = DrawSettings(SAMPLERS["ddim"](8), (0.0, 1.0), 16, "fp32")


def library(kind, **settings):
    return of_library({**kind(num_train_timesteps=1000, **settings).config, "_class_name": kind.__name__})


SCHEDULES = {
    "epsilon": lambda: new_schedule("linear", 1000),
    "v_prediction": lambda: new_schedule("linear", 1000, "v_prediction"),
    "sample": lambda: new_schedule("linear", 1000, "sample"),
    "flow": lambda: library(FlowMatchEulerDiscreteScheduler),
    "edm": lambda: library(EDMEulerScheduler),
}


def net(seed: int, **config) -> UNet2DModel:
    torch.manual_seed(seed)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "layers_per_block": 1}
    shape = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16), "norm_num_groups": 4}
    return UNet2DModel(**(blocks | shape | config)).eval()


def dpm(seed: int, schedule="epsilon", **config) -> UnetDpm:
    return UnetDpm(net(seed, **config), SCHEDULES[schedule]())


def refusal(tuned, base) -> str:
    with pytest.raises(UserError) as caught:
        check_base(tuned, base)
    assert str(caught.value).startswith("dpm.base: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++", "unipc"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_lambda_0_is_the_fine_tuned_model_bit_for_bit(schedule, sampler):
    tuned, base = dpm(0, schedule), dpm(1, schedule)
    settings = replace(DDIM, sampler=SAMPLERS[sampler](5), batch_size=4)
    plain, zero, one = (
        draw(tuned, range(4), settings, each) for each in (None, Extrapolation(base, 0.0), Extrapolation(base, 1.0))
    )
    assert np.array_equal(plain.images, zero.images)
    assert not np.array_equal(plain.images, one.images)
    assert one.targets is None


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_difference_is_that_of_z0(schedule):
    """Here ẑ₀ is computed from what each network outputs, by the parametrization's own equation."""
    tuned, base = dpm(0, schedule), dpm(1, schedule)
    z_t, time = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(2)), 600
    signal, sigma = tuned.process.level(time)

    def z0(model: UnetDpm) -> torch.Tensor:
        entered, told = (z_t, time) if schedule != "edm" else model.process.enter(z_t, time, sigma)
        told = 1000 * sigma if schedule == "flow" else told
        with torch.no_grad():
            output = model.unet(entered, torch.full((3,), told)).sample
        skip = 0.25 / (sigma**2 + 0.25)
        return {
            "epsilon": (z_t - sigma * output) / signal,
            "v_prediction": signal * z_t - sigma * output,
            "sample": output,
            "flow": z_t - sigma * output,
            "edm": skip * z_t + sigma * 0.5 / (sigma**2 + 0.25) ** 0.5 * output,
        }[schedule]

    own = tuned.denoise(z_t, time)[0]
    shift = Extrapolation(base, 3.0).guidance(None).shift(z_t, time, None, own)
    torch.testing.assert_close(own + shift, z0(base) + 4.0 * (z0(tuned) - z0(base)), rtol=1e-3, atol=1e-3)


def test_it_is_defined_at_pure_noise_where_alpha_is_0():
    tuned, base = dpm(0, "flow"), dpm(1, "flow")
    assert tuned.process.level(tuned.process.timesteps - 1)[0] < 0.02
    z = torch.randn(2, 1, 8, 8)
    assert bool(Extrapolation(base, 8.0).guidance(None).shift(z, 999, None, tuned.denoise(z, 999)[0]).isfinite().all())


def copies(tuned, base, scale, interval=None) -> torch.Tensor:
    """The image of `tuned` that each of 64 samples is a copy of; −1 for none."""
    drawn = draw(tuned, range(64), replace(DDIM, batch_size=64), Extrapolation(base, scale, interval=interval)).images
    found = torch.from_numpy(drawn[..., 0]).float().flatten(1) / 127.5 - 1
    distances, ids = torch.cdist(found, tuned.images.flatten(1)).min(1)
    return torch.where(distances < 1, ids, -1)


@pytest.mark.parametrize("schedule", ["epsilon", "flow", "edm"])
def test_what_fine_tuning_added_is_copied_more_often(schedule, digits):
    images, process = digits[0], SCHEDULES[schedule]()
    tuned, base = OptimalDpm(images[:40], process), OptimalDpm(images[:30], process)
    found = {scale: copies(tuned, base, scale) for scale in (0.0, 1.0, 4.0)}
    new = [float((each >= 30).float().mean()) for each in found.values()]
    assert new[0] == pytest.approx(0.25, abs=0.15)
    assert new[0] + 0.1 < new[1] < new[2]
    assert float((found[4.0] >= 0).float().mean()) > 0.95
    # Extrapolated down to the image, nothing that fine-tuning added is left.
    assert not (copies(tuned, base, 1.0, (0.0, 1.0)) >= 30).any()


def test_outputs_of_two_kinds_can_be_compared():
    """A base that outputs ε and a fine-tune that outputs v meet in ẑ₀: closed forms have both, so that the same images come."""
    images = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    made = [
        draw(OptimalDpm(images, SCHEDULES["v_prediction"]()), range(4), DDIM, Extrapolation(base, 2.0)).images
        for base in (OptimalDpm(images[:6], SCHEDULES[name]()) for name in ("epsilon", "v_prediction"))
    ]
    assert np.abs(made[0].astype(int) - made[1]).max() <= 1


def test_classes_and_classifier_free_guidance_are_the_fine_tuned_models():
    tuned, base = dpm(0, num_class_embeds=4), dpm(1, num_class_embeds=4)
    check_base(tuned, base)
    free = replace(DDIM, conditioning=Conditioning(null_class=3, scale=3.0), batch_size=4)
    plain, zero, one = (
        draw(tuned, range(4), free, each) for each in (None, Extrapolation(base, 0.0), Extrapolation(base, 1.0))
    )
    assert np.array_equal(plain.images, zero.images)
    assert not np.array_equal(plain.images, one.images)
    assert plain.classes is not None
    assert np.array_equal(plain.classes, one.classes)


def test_a_base_encodes_prompts_itself(tmp_path):
    pytest.importorskip("transformers", reason="needs the extra text")
    from side_ray.diffusion.dpm import load_dpm
    from tests.texts import save_text

    save_text(tmp_path / "model")
    tuned, same = (load_dpm(tmp_path / "model") for _ in range(2))
    base = load_dpm(tmp_path / "model")
    with torch.no_grad():
        for weights in base.encoder.parts[0].network.parameters():
            weights.mul_(1.5)
    assert "bit by bit" in refusal(tuned, same)
    check_base(tuned, base)
    settings = replace(DDIM, conditioning=Conditioning(prompts="captions", texts=("a flower", "sky")), batch_size=4)
    plain, one = (draw(tuned, range(4), settings, each) for each in (None, Extrapolation(base, 2.0)))
    assert not np.array_equal(plain.images, one.images)  # the U-Nets are the same
    assert plain.prompts == one.prompts


def test_what_differs_is_named():
    tuned = dpm(0)
    check_base(tuned, dpm(1))
    check_base(tuned, UnetDpm(net(1), SCHEDULES["v_prediction"]()))
    assert "diffuses pixels of 1 × 16 × 16, and dpm.path pixels of 1 × 8 × 8" in refusal(tuned, dpm(1, sample_size=16))
    assert "takes 3 classes, and dpm.path no condition" in refusal(tuned, dpm(1, num_class_embeds=3))
    assert "Flow of 1000 times, and dpm.path the noise process Var" in refusal(tuned, dpm(1, "flow"))
    assert "of 50 times" in refusal(tuned, UnetDpm(net(1), new_schedule("linear", 50)))
    assert "noise schedule up to σ/α" in refusal(tuned, UnetDpm(net(1), new_schedule("cosine", 1000)))
    assert "bit by bit" in refusal(tuned, dpm(0))
    ranged = dpm(1)
    ranged.codec = PixelCodec((0.0,), (1.0,))
    assert "another range" in refusal(tuned, ranged)


def latent(seed: int, vae) -> UnetDpm:
    torch.manual_seed(seed)
    model = UnetDpm(latent_unet(), SCHEDULES["epsilon"]())
    with torch.no_grad():
        for weights in model.unet.parameters():
            weights.add_(0.01 * seed)
    model.codec = LatentCodec.of(vae)
    return model


def test_latents_must_be_of_the_same_images():
    vae = vae_of("kl")
    tuned = latent(0, vae)
    check_base(tuned, latent(1, vae_of("kl")))
    with torch.no_grad():
        decoding, rounded, encoding = (copy.deepcopy(vae) for _ in range(3))
        decoding.decoder.conv_in.weight.mul_(2)
        for weights in rounded.parameters():
            weights.copy_(weights.half().float())
        encoding.encoder.conv_in.weight.mul_(1.1)
    check_base(tuned, latent(1, decoding))
    check_base(tuned, latent(1, rounded))
    assert "other weights than that of dpm.path (encoder.conv_in.weight)" in refusal(tuned, latent(1, encoding))
    scaled = copy.deepcopy(vae)
    scaled.register_to_config(scaling_factor=0.5)
    assert "scaling_factor 0.5, and that of dpm.path 0.7" in refusal(tuned, latent(1, scaled))
    other = vae_of("vq")
    other.register_to_config(scaling_factor=0.7, shift_factor=0.2)
    assert "another architecture" in refusal(tuned, latent(1, other))


def test_codecs_of_functions_are_compared_by_what_they_encode():
    tuned, base = dpm(0), dpm(1)
    tuned.codec = codec_of({"encode": lambda x: 2 * x, "decode": lambda z: z / 2}, (1, 8, 8))
    base.codec = codec_of({"encode": lambda x: x * 2, "decode": lambda z: z / 3}, (1, 8, 8))
    check_base(tuned, base)
    base.codec = codec_of({"encode": lambda x: x * 2.1, "decode": lambda z: z / 2}, (1, 8, 8))
    with pytest.raises(UserError, match=r"dpm\.base: its codec encodes images otherwise"):
        check_base(tuned, base)
    base.codec = codec_of({"encode": lambda x: x[:, :1], "decode": lambda z: z.expand(-1, 3, -1, -1)}, (1, 8, 8))
    with pytest.raises(UserError, match="its codec encodes images otherwise"):
        check_base(tuned, base)
