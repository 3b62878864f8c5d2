"""Latent space: its codec, what a classifier sees there, and where a guided latent is held."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from side_ray.config import ExtractSection
from side_ray.diffusion.dpm import load_dpm, with_codec
from side_ray.diffusion.draw import DrawSettings, draw
from side_ray.diffusion.guidance import ClassifierSurrogate
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.optimal import ExactPosterior, OptimalDpm
from side_ray.diffusion.processes import of_library, process_of
from side_ray.diffusion.sampler import Noise, sample, sample_latents
from side_ray.diffusion.samplers.ddim import Ddim
from side_ray.diffusion.spaces import latents as module
from side_ray.diffusion.spaces.bounds import Bounds
from side_ray.diffusion.spaces.latents import LatentCodec, LatentStatistics
from side_ray.diffusion.spaces.pixels import PixelCodec
from side_ray.diffusion.spaces.view import LatentView, View
from side_ray.errors import UserError
from side_ray.images import to_uint8
from tests.latents import CHANNELS, FACTOR, SHAPE, SIDE, save_ldm, vae_of

PROCESSES = {
    "vp": DDPMScheduler(clip_sample=False),
    "edm": of_library({"_class_name": "EDMEulerScheduler", "sigma_data": 1.0}),
    "flow": of_library({"_class_name": "FlowMatchEulerDiscreteScheduler"}),
}
MEMBERS, GROUPS = 40, 4


def images(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, SIDE * FACTOR, SIDE * FACTOR, generator=generator) * 2 - 1


@pytest.fixture(scope="module")
def codec() -> LatentCodec:
    return LatentCodec.of(vae_of("kl"))


@pytest.fixture(scope="module")
def members(codec) -> torch.Tensor:
    """Latents with a spread as of a trained VAE: one of random weights maps all images to nearly the same."""
    z = codec.encode(images(MEMBERS))
    return (z - z.mean(dim=(0, 2, 3), keepdim=True)) / z.std(dim=(0, 2, 3), keepdim=True) * 0.8 + 0.3


@pytest.mark.parametrize("kind", ["kl", "vq", "tiny"])
def test_a_codec_does_what_the_vae_does(kind):
    vae, x = vae_of(kind), images(3)
    codec = LatentCodec.of(vae)
    assert (codec.factor, codec.channels, codec.image_shape(SHAPE)) == (FACTOR, (3, CHANNELS), (3, 16, 16))
    with torch.no_grad():
        found = vae.encode(x)
        raw = found.latent_dist.mode() if kind == "kl" else found.latents
        scale, shift = vae.config.scaling_factor, vae.config.get("shift_factor") or 0
        torch.testing.assert_close(codec.encode(x), (raw - shift) * scale)
        torch.testing.assert_close(codec.decode(codec.encode(x)), vae.decode(raw).sample, rtol=1e-4, atol=1e-5)


def test_the_mean_and_deviation_of_each_channel_may_be_given():
    vae, x = vae_of("kl"), images(2)
    mean, std = [0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]
    vae.register_to_config(latents_mean=mean, latents_std=std)
    with torch.no_grad():
        raw = vae.encode(x).latent_dist.mode()
    expected = (raw - torch.tensor(mean).view(1, -1, 1, 1)) * 0.7 / torch.tensor(std).view(1, -1, 1, 1)
    torch.testing.assert_close(LatentCodec.of(vae).encode(x), expected)


def test_chunks_and_autocast_change_nothing(codec, monkeypatch):
    x, gradient = images(5), images(5, seed=1)
    z = codec.encode(x)
    whole = z, codec.decode(z), codec.pulled_back(z, gradient)
    monkeypatch.setattr(module, "CHUNK_PIXELS", 2 * (SIDE * FACTOR) ** 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = codec.encode(x), codec.decode(z), codec.pulled_back(z, gradient)
    for one, other in zip(whole, parts, strict=True):
        assert other.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_gradient_goes_through_the_decoder(codec):
    z, gradient = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0)), images(2, seed=1)
    found = codec.pulled_back(z, gradient)
    step = 1e-2 * torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        change = (codec.decode(z + step / 2) - codec.decode(z - step / 2)).mul(gradient).flatten(1).sum(1)
    torch.testing.assert_close((found * step).flatten(1).sum(1), change, rtol=2e-2, atol=1e-4)


def test_a_vae_may_have_another_range_of_pixels(codec):
    ranged = codec.with_range(PixelCodec((0.0,), (1.0,)))
    x = images(2)
    torch.testing.assert_close(ranged.encode(x), codec.encode((x + 1) / 2))
    torch.testing.assert_close(ranged.decode(codec.encode(x)), codec.decode(codec.encode(x)) * 2 - 1)
    assert ranged.with_range(PixelCodec((-1.0,), (1.0,))) == codec


def test_what_is_no_vae_is_refused():
    vae = vae_of("kl")
    vae.decoder.conv_out = torch.nn.Conv2d(8, 5, 3, padding=1)
    with pytest.raises(UserError, match=r"no autoencoder|cannot be used"):
        LatentCodec.of(vae)


# -- statistics, view and bounds ---------------------------------------------------------------------------------------


def test_statistics_are_kept_beside_a_classifier(members, tmp_path, monkeypatch):
    found = LatentStatistics.of(members.numpy())
    assert found.mean == pytest.approx([0.3] * CHANNELS, abs=1e-4)
    assert found.std == pytest.approx([0.8] * CHANNELS, rel=1e-2)
    outside = (members < torch.tensor(found.low).view(1, -1, 1, 1)).float().mean()
    assert 0 < outside < 0.003
    assert LatentStatistics.load(tmp_path) is None
    found.save(tmp_path)
    assert LatentStatistics.load(tmp_path) == found
    (tmp_path / "latents.json").write_text('{"mean": [0]}')
    with pytest.raises(UserError, match="statistics"):
        LatentStatistics.load(tmp_path)
    monkeypatch.setattr(module, "MEASURED", 5 * members[0].numel())
    assert LatentStatistics.of(members.numpy()) == LatentStatistics.of(members[[0, 7, 15, 23, 31, 39]].numpy())
    with pytest.raises(UserError, match="no variance"):
        LatentStatistics.of(np.zeros((3, *SHAPE), np.float32))


@pytest.mark.parametrize("name", PROCESSES)
def test_a_classifier_sees_unit_variance_and_a_gradient_of_z_t(name, members):
    view = LatentView(process_of(PROCESSES[name]), LatentStatistics.of(members.numpy()))
    generator = torch.Generator().manual_seed(0)
    many = members.repeat(20, 1, 1, 1)
    for t in (0, view.timesteps // 2, view.timesteps - 1):
        times = torch.full((len(many),), t)
        seen = view.noised(many, times, torch.randn(many.shape, generator=generator))
        assert seen.mean() == pytest.approx(0, abs=0.05)
        assert seen.std() == pytest.approx(1, abs=0.05)

    weights = torch.randn(SHAPE, generator=generator)
    z, t = members[:2].clone(), torch.tensor([3, view.timesteps // 2])

    def classifier(x):
        return (torch.sin(x) * weights).flatten(1).sum(1)

    def gradient(x, t):
        return torch.autograd.functional.vjp(lambda each: classifier(each).sum(), x)[1]

    found = view.guidance(gradient)(z, t)
    expected = torch.autograd.functional.vjp(lambda each: classifier(view._input(each, t)).sum(), z)[1]
    torch.testing.assert_close(found, expected)


def test_a_guided_latent_leaves_the_models_own_range_no_farther_than_the_unguided_one():
    held = LatentStatistics((0.0, 0.0), (1.0, 1.0), (-2.0, -1.0), (2.0, 3.0))
    bounds = Bounds(LatentCodec(None, 1, (2, 2)), clip=None, latents=held)
    plain = torch.tensor([[-2.5, 2.5, 0.5, 0.5, 0.5], [-2.5, 3.5, 0.5, 0.5, 0.5]]).view(1, 2, 1, 5)
    guided = torch.tensor([[-4.0, 4.0, 4.0, -4.0, 0.6], [-4.0, 4.0, 4.0, -4.0, 0.6]]).view(1, 2, 1, 5)
    expected = torch.tensor([[-2.5, 2.5, 2.0, -2.0, 0.6], [-2.5, 3.5, 3.0, -1.0, 0.6]]).view(1, 2, 1, 5)
    torch.testing.assert_close(bounds(guided, plain), expected)
    assert bounds(plain, plain) is plain
    assert Bounds(bounds.codec, clip=None)(guided, plain) is guided


# -- the closed form ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROCESSES)
def test_the_closed_form_in_a_latent_space_is_guided_to_the_class_asked_for(name, codec, members):
    dpm = with_codec(OptimalDpm(members, PROCESSES[name]), codec)
    assert (dpm.latent_shape, dpm.image_shape) == (SHAPE, (3, 16, 16))
    labels = torch.arange(MEMBERS) % GROUPS
    posterior, seeds, steps = ExactPosterior(dpm, labels), list(range(24)), Ddim(20)
    targets, held = torch.arange(24) % GROUPS, LatentStatistics.of(members.numpy())

    def drawn(scale, latents=held):
        guidance = None if scale is None else posterior.guidance(targets, torch.full((24,), scale))
        return sample_latents(dpm, Noise(seeds, SHAPE), steps, guidance=guidance, latents=latents)

    plain = drawn(None)
    distances = torch.cdist(plain.flatten(1), members.flatten(1))
    assert distances.min(dim=1).values.max() < 0.05 * torch.cdist(members.flatten(1), members.flatten(1)).max()
    torch.testing.assert_close(sample(dpm, Noise(seeds, SHAPE), steps), codec.decode(plain))
    guided = drawn(1.0)
    assert torch.equal(labels[torch.cdist(guided.flatten(1), members.flatten(1)).argmin(dim=1)], targets)
    strong = drawn(5.0)
    assert torch.equal(labels[torch.cdist(strong.flatten(1), members.flatten(1)).argmin(dim=1)], targets)
    spans = [float((drawn(scale) - plain).abs().max()) for scale in (0.0, 1e-4, 1e-3)]
    assert spans[0] == pytest.approx(0, abs=1e-4)
    assert spans[1] < spans[2] < 0.5 * float(plain.abs().max())


def test_the_closed_form_is_opened_with_the_vae_beside_it(tmp_path, members):
    OptimalDpm(members, new_schedule()).save(tmp_path)
    assert load_dpm(tmp_path).image_shape == SHAPE
    vae_of("kl").save_pretrained(tmp_path / "vae")
    assert load_dpm(tmp_path).image_shape == (3, 16, 16)


# -- drawing -----------------------------------------------------------------------------------------------------------


class Linear(torch.nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(inputs, 3)

    def forward(self, x, t):
        return self.layer(x.flatten(1))


def settings(batch_size: int = 2) -> DrawSettings:
    section = ExtractSection(lambdas=[0, 5], samples=20, steps=4, batch_size=batch_size, sampler="ddim")
    return DrawSettings.of(section, "fp32")


def test_a_draw_gives_latents_and_their_images(tmp_path):
    save_ldm(tmp_path)
    dpm, seeds = load_dpm(tmp_path), [1, 2, 3]
    drawn = draw(dpm, seeds, settings())
    assert (drawn.latents.shape, drawn.latents.dtype, drawn.images.shape) == ((3, *SHAPE), np.float32, (3, 16, 16, 3))
    # One grey level: the padded batch and the single images are decoded apart.
    again = to_uint8(dpm.codec.decode(torch.from_numpy(drawn.latents)))
    assert np.abs(again.astype(int) - drawn.images.astype(int)).max() <= 1
    assert np.array_equal(draw(dpm, [2], settings()).latents[0], drawn.latents[1])


@pytest.mark.parametrize("sees_images", [False, True])
def test_a_draw_is_guided_by_a_classifier_of_latents_or_of_images(tmp_path, sees_images):
    save_ldm(tmp_path)
    dpm, seeds = load_dpm(tmp_path), list(range(6))
    held = LatentStatistics.of(draw(dpm, list(range(6)), settings(6)).latents)
    classifier = Linear(3 * 256 if sees_images else 64).eval()

    def drawn(scale):
        return draw(dpm, seeds, settings(6), ClassifierSurrogate(classifier, 3, scale, held, sees_images))

    plain, none, little, much = draw(dpm, seeds, settings(6)), drawn(0.0), drawn(1e-3), drawn(50.0)
    np.testing.assert_array_equal(none.latents, plain.latents)
    spans = [np.abs(each.latents - plain.latents).max() for each in (little, much)]
    assert 0 < spans[0] < spans[1]
    t = torch.zeros(6, dtype=torch.long)

    def likely(each):
        z = torch.from_numpy(each.latents)
        view = View.of(dpm) if sees_images else LatentView(dpm.process, held)
        found = classifier(view._input(z, t), t).log_softmax(1)
        return found.gather(1, torch.from_numpy(each.targets)[:, None]).mean()

    assert likely(much) > likely(little)


def test_a_latent_model_is_not_guided_without_statistics(tmp_path):
    save_ldm(tmp_path)
    with pytest.raises(ValueError, match="statistics"):
        draw(load_dpm(tmp_path), [1], settings(), ClassifierSurrogate(Linear(64).eval(), 3, 1.0))
