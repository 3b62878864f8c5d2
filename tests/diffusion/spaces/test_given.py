"""A codec of the user's in place of a VAE."""

from types import SimpleNamespace

import pytest
import torch

from side_ray.diffusion.dpm import is_latent
from side_ray.diffusion.spaces.given import GivenVae, codec_of
from side_ray.diffusion.spaces.latents import LatentCodec
from side_ray.diffusion.spaces.pixels import PixelCodec
from side_ray.errors import UserError
from tests.latents import FACTOR, SHAPE, SIDE, vae_of

SCALE, SHIFT = 0.7, 0.2


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, SIDE * FACTOR, SIDE * FACTOR, generator=torch.Generator().manual_seed(0)) * 2 - 1


def functions(vae) -> dict:
    """What `vae_of` does, with its scaling inside."""
    return {
        "encode": lambda x: (vae.encode(x).latent_dist.mode() - SHIFT) * SCALE,
        "decode": lambda z: vae.decode(z / SCALE + SHIFT).sample,
    }


@pytest.mark.parametrize("form", [dict, lambda given: SimpleNamespace(**given)])
def test_functions_do_what_the_vae_does(form):
    vae, x = vae_of(), images(3)
    own, given = LatentCodec.of(vae), codec_of(form(functions(vae)), SHAPE)
    assert (given.factor, given.channels, given.latent) == (own.factor, own.channels, True)
    z = own.encode(x)
    torch.testing.assert_close(given.encode(x), z)
    torch.testing.assert_close(given.decode(z), own.decode(z))
    torch.testing.assert_close(given.pulled_back(z, x), own.pulled_back(z, x))
    halves = PixelCodec((0.0,), (1.0,))
    torch.testing.assert_close(given.with_range(halves).decode(z), own.with_range(halves).decode(z))


def test_a_vae_of_diffusers_has_its_own_scaling():
    vae, x = vae_of(), images(2)
    codec = codec_of(vae, SHAPE)
    torch.testing.assert_close(codec.encode(x), LatentCodec.of(vae).encode(x), rtol=0, atol=0)
    assert not any(each.requires_grad for each in vae.parameters())


def test_a_module_is_put_into_eval_mode_and_moved():
    class Pair(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(2.0))

        def encode(self, x):
            return x * self.scale

        def decode(self, z):
            return z / self.scale

    pair = Pair()
    codec = codec_of(pair, (1, 8, 8))
    assert (codec.factor, codec.channels, codec.image_shape((1, 8, 8))) == (1, (1, 1), (1, 8, 8))
    assert not pair.training
    assert not pair.scale.requires_grad
    codec.vae.to(torch.device("meta"))
    assert pair.scale.device.type == codec.vae.device.type == "meta"
    assert is_latent(SimpleNamespace(codec=codec))


def test_a_decoder_without_a_gradient_decodes_and_cannot_be_pulled_back():
    codec = codec_of({"encode": lambda x: 2 * x, "decode": torch.no_grad()(lambda z: z / 2)}, (1, 8, 8))
    z = torch.ones(2, 1, 8, 8)
    assert codec.decode(z).tolist() == (z / 2).tolist()
    with pytest.raises(UserError, match="drop ti"):
        codec.pulled_back(z, z)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"encode": lambda x: x}, "without encode and decode"),
        (3, "without encode and decode"),
        ({"encode": abs, "decode": abs, "scale": 1}, "the key 'scale'"),
        ({"encode": abs, "decode": lambda z: z.sample}, r"fails \(AttributeError"),
        ({"encode": abs, "decode": lambda z: [z]}, "decode returns a list"),
        ({"encode": lambda x: (x,), "decode": abs}, "encode returns a tuple"),
        ({"encode": lambda x: x[:, :, ::2], "decode": abs}, r"and \(1, 1, 4, 8\) of that"),
        ({"encode": abs, "decode": lambda z: z[:, :, :, ::2]}, r"makes \(1, 1, 8, 4\) of latents"),
        ({"encode": abs, "decode": lambda z: z.flatten(1)}, r"makes \(1, 64\) of latents"),
    ],
)
def test_what_is_no_codec_is_refused_in_one_line(given, words):
    with pytest.raises(UserError, match=words) as caught:
        codec_of(given, (1, 8, 8))
    assert "\n" not in str(caught.value)


def test_it_computes_in_float32_without_autocast():
    seen = []

    def keep(x):
        seen.append((x.dtype, torch.is_autocast_enabled("cpu")))
        return x.double()

    codec = codec_of({"encode": keep, "decode": keep}, (1, 8, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert codec.decode(torch.ones(1, 1, 8, 8).bfloat16()).dtype == torch.float32
    assert set(seen) == {(torch.float32, False)}
    assert isinstance(codec.vae, GivenVae)
