"""Models of pixels in other ranges: they are sampled, guided and distilled as those in [−1, 1] are."""

import json

import pytest
import torch

from side_ray.config import DpmSection
from side_ray.diffusion.dpm import load_dpm, with_codec
from side_ray.diffusion.noise_process import new_schedule, noisy
from side_ray.diffusion.optimal import ExactPosterior, OptimalDpm
from side_ray.diffusion.sampler import Noise, sample
from side_ray.diffusion.samplers.ddim import Ddim
from side_ray.diffusion.spaces.pixels import PixelCodec
from side_ray.diffusion.spaces.view import View
from side_ray.errors import UserError

RANGES = (
    PixelCodec((0.0,), (1.0,)),
    PixelCodec((1.0,), (-1.0,)),
    PixelCodec.standardized([0.3], [0.35]),
    PixelCodec((-0.5, 0.0, 0.0), (0.5, 2.0, 255.0)),
)


@pytest.mark.parametrize("codec", RANGES)
def test_black_and_white_have_their_values_and_come_back(codec):
    x = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    torch.testing.assert_close(codec.decode(codec.encode(x)), x)
    edges = [codec.encode(torch.full((1, 3, 1, 1), value))[0, :, 0, 0].tolist() for value in (-1.0, 1.0)]
    for edge, given in zip(edges, (codec.black, codec.white), strict=True):
        assert edge == pytest.approx(list(given) * (3 // len(given)))
    outside = torch.tensor([-1e3, 1e3]).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    assert codec.decode(codec.clamp(outside)).abs().max() == pytest.approx(1, rel=1e-5)
    step = torch.full_like(x, 1e-3)
    torch.testing.assert_close(codec.decode(x + step) - codec.decode(x), (codec.slope(x) * step).expand_as(x))


def test_what_a_config_says():
    assert PixelCodec.of(DpmSection(path="x")) is None
    assert PixelCodec.of(DpmSection(path="x", pixel_range=[-1, 1])) is None
    assert PixelCodec.of(DpmSection(path="x", pixel_range=[0, 1])) == RANGES[0]
    assert PixelCodec.of(DpmSection(path="x", pixel_mean=[0.3], pixel_std=[0.35])) == RANGES[2]


@pytest.mark.parametrize("codec", RANGES[:3])
def test_a_closed_form_model_in_any_range_makes_training_images_only(digits, codec):
    images, labels = digits
    dpm = with_codec(OptimalDpm(codec.encode(images), new_schedule()), codec)
    made = sample(dpm, Noise(list(range(20)), dpm.image_shape), Ddim(20))
    distances = torch.cdist(made.flatten(1), images.flatten(1))
    assert distances.min(dim=1).values.max() < 0.05

    # The exact posterior of pixels in [−1, 1] with the noise that this model's have, as a classifier learns it.
    posterior = ExactPosterior(dpm, labels)
    targets = torch.arange(20) % 10

    def seen(x, t):
        return torch.autograd.functional.vjp(
            lambda each: posterior(codec.encode(each), t).gather(1, targets[:, None]).sum(), x
        )[1]

    for scale, right in ((0.0, None), (1.0, 1.0)):
        guidance = View.of(dpm).guidance(lambda x, t, scale=scale: scale * seen(x, t))
        guided = sample(dpm, Noise(list(range(20)), dpm.image_shape), Ddim(20), guidance=guidance)
        found = labels[torch.cdist(guided.flatten(1), images.flatten(1)).argmin(dim=1)]
        if right is None:
            torch.testing.assert_close(guided, made, rtol=0, atol=1e-4)
        else:
            assert (found == targets).float().mean() == right


def test_a_classifier_sees_pixels_with_the_models_noise(digits):
    codec, schedule = RANGES[0], new_schedule()
    dpm = with_codec(OptimalDpm(codec.encode(digits[0]), schedule), codec)
    view = View.of(dpm)
    x0, t = digits[0][:4], torch.tensor([0, 100, 500, 999])
    eps = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = codec.decode(noisy(codec.encode(x0), t, eps, dpm.alphas_cumprod))
    torch.testing.assert_close(view.noised(x0, t, eps), expected)
    plain = View(dpm.process, None)
    assert torch.equal(plain.noised(x0, t, eps), noisy(x0, t, eps, dpm.alphas_cumprod))


def test_the_range_is_kept_beside_the_model(digits, tmp_path):
    OptimalDpm(digits[0], new_schedule()).save(tmp_path)
    assert load_dpm(tmp_path).codec is None
    RANGES[2].save(tmp_path)
    assert load_dpm(tmp_path).codec == RANGES[2]
    RANGES[3].save(tmp_path)
    with pytest.raises(UserError, match="3 numbers, the model 1 channels"):
        load_dpm(tmp_path)


@pytest.mark.parametrize("content", [{}, {"black": [0], "white": [0]}, {"black": [0], "white": [1, 2]}, {"black": 0}])
def test_a_damaged_range_is_refused(tmp_path, content):
    (tmp_path / "pixels.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="pixels"):
        PixelCodec.load(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pixel_range": [0, 1]}, "dpm.pixel_range: is for an imported model"),
        ({"path": "x", "pixel_range": [1, 1]}, "dpm.pixel_range: black and white"),
        ({"path": "x", "pixel_mean": [0.5]}, "dpm.pixel_mean: goes with"),
        ({"path": "x", "pixel_mean": [0.5], "pixel_std": [1, 2]}, "dpm.pixel_std: must have as many"),
        ({"path": "x", "pixel_mean": [0.5], "pixel_std": [1], "pixel_range": [0, 1]}, "dpm.pixel_range: is given by"),
        ({"path": "x", "pixel_mean": [0.5], "pixel_std": [0]}, "greater than 0"),
    ],
)
def test_contradictions_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        DpmSection(**values)
