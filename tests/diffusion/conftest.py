from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DModel
from sklearn.datasets import load_digits

from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.unet_dpm import UnetDpm, new_unet


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """60 of scikit-learn's digits, float32 [60, 1, 8, 8] in [-1, 1], and their labels; 0 … 9 are all there."""
    data = load_digits()
    return torch.tensor(data.images[:60]).float()[:, None] / 8 - 1, torch.tensor(data.target[:60]).long()


@pytest.fixture
def small_unet() -> Callable[..., UNet2DModel]:
    """Makes a U-Net of random weights in eval mode, always the same for the same arguments. One level, because a second one
    takes longer and is nothing to what takes the U-Net as a function of x and t."""

    def make(image_shape: tuple[int, int, int] = (1, 8, 8), **config: object) -> UNet2DModel:
        torch.manual_seed(0)
        return new_unet({"block_out_channels": (8,), "norm_num_groups": 4, **config}, image_shape).eval()

    return make


@pytest.fixture
def small_dpm(small_unet: Callable[..., UNet2DModel]) -> Callable[..., UnetDpm]:
    """Makes a DPM around a U-Net of random weights."""

    def make(
        kind: str = "linear",
        prediction: str = "epsilon",
        timesteps: int = 1000,
        image_shape: tuple[int, int, int] = (1, 8, 8),
        **config: object,
    ) -> UnetDpm:
        return UnetDpm(small_unet(image_shape, **config), new_schedule(kind, timesteps, prediction))

    return make
