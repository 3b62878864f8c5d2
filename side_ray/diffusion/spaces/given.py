"""A codec that a function of the user's gives in place of a VAE."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch

from side_ray.diffusion.spaces.codec import Shape
from side_ray.diffusion.spaces.latents import LatentCodec
from side_ray.errors import UserError, first_line

NAMES = ("encode", "decode")


class GivenVae:
    """Two functions in the place of a VAE, with the scaling in them.

    Args:
        encode: images float32 [B, C, H, W] → latents [B, c, h, w].
        decode: latents float32 [B, c, h, w] → images [B, C, H, W].
        owner: what they belong to. It is moved to the device of what they are given, if it can be.
    """

    def __init__(
        self, encode: Callable[[torch.Tensor], Any], decode: Callable[[torch.Tensor], Any], owner: Any = None
    ) -> None:
        self.config: dict[str, Any] = {}
        self.device = torch.device("cpu")
        self._encode, self._decode = encode, decode
        self._parts = [each for each in (owner, encode, decode) if hasattr(each, "to")]
        for part in self._parts:
            if isinstance(part, torch.nn.Module):
                part.eval().requires_grad_(False)

    def to(self, device: torch.device) -> None:
        for part in self._parts:
            part.to(device)
        self.device = device

    def encode(self, x: torch.Tensor) -> SimpleNamespace:
        """`latents`, as of an `AutoencoderTiny`."""
        return SimpleNamespace(latents=_tensor("encode", self._encode(x)))

    def decode(self, z: torch.Tensor) -> SimpleNamespace:
        """`sample`, as of an `AutoencoderTiny`.

        Raises:
            UserError: a gradient is wanted, and there is none.
        """
        image = _tensor("decode", self._decode(z))
        if torch.is_grad_enabled() and z.requires_grad and not image.requires_grad:
            raise UserError(
                "the codec's decode gives no gradient, which OL-TI needs; let it compute without torch.no_grad(), or drop ti "
                "from extract.methods",
                "dpm.path",
            )
        return SimpleNamespace(sample=image)


def _tensor(name: str, found: Any) -> torch.Tensor:
    if not isinstance(found, torch.Tensor):
        raise UserError(f"the codec's {name} returns a {type(found).__name__}; it must return a tensor", "dpm.path")
    return found.float()


def codec_of(given: Any, shape: Shape) -> LatentCodec:
    """The codec of latents of `shape` (c, h, w).

    Args:
        given: a diffusers `AutoencoderKL`, `AutoencoderTiny` or `VQModel`, used with its own scaling; or an object or a dict with
            the functions `encode` and `decode` between images float32 [B, C, H, W] in [−1, 1] and z_0 float32 [B, c, h, w].

    Raises:
        UserError: it is something else, or does not decode what it encodes.
    """
    from diffusers import AutoencoderKL, AutoencoderTiny, VQModel

    if isinstance(given, (AutoencoderKL, AutoencoderTiny, VQModel)):
        return LatentCodec.of(given)
    is_dict = isinstance(given, Mapping)
    if is_dict and (unknown := sorted(set(given) - set(NAMES))):
        raise UserError(f"returns a codec with the key {unknown[0]!r}, which is unknown; known are {', '.join(NAMES)}")
    encode, decode = (given.get(name) if is_dict else getattr(given, name, None) for name in NAMES)
    if not callable(encode) or not callable(decode):
        raise UserError("returns a codec without encode and decode; give both functions, or a VAE of diffusers")
    vae = GivenVae(encode, decode, None if is_dict else given)
    trial = LatentCodec(vae, 1, (1, shape[0]))
    try:
        image = trial.decode(torch.zeros(1, *shape))
        made = tuple(image.shape)
        back = tuple(trial.encode(image).shape)
    except UserError:
        raise
    except Exception as error:  # of the user's code
        raise UserError(f"returns a codec that fails ({type(error).__name__}: {first_line(error)})") from error
    factor = made[2] // shape[1] if len(made) == 4 else 0
    if made[:1] + made[2:] != (1, shape[1] * factor, shape[2] * factor) or back != (1, *shape) or factor < 1:
        raise UserError(f"returns a codec that makes {made} of latents {(1, *shape)}, and {back} of that")
    return LatentCodec(vae, factor, (made[1], shape[0]))
