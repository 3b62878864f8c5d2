"""Makes a small latent model that memorised a part of its training images, to be audited by `jobs/configs/latent.yaml`.

    python -m docs.demos.latent_model runs/latent-model

Disjoint patches of the two photographs in scikit-learn are split at random: `train/` and `unseen/`. A VAE is trained on random
crops of both photographs, so that it favours neither, then a U-Net on the latents of `train/`. Both are in `model/`.
"""

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import typer
from diffusers import AutoencoderTiny, DDPMScheduler, UNet2DModel
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.nn.functional import mse_loss

SIDE, SEED = 32, 0
DETAIL = 8
"""Least difference of neighbouring pixels (root mean square, of 255 levels). Patches of sky or of a blurred background have less:
each resembles many others."""
TRAIN = 90
VAE_STEPS, UNET_STEPS, BATCH = 600, 4000, 32


@functools.cache
def photographs() -> dict[str, np.ndarray]:
    """A temple in China and a flower, uint8 [427, 640, 3]."""
    return dict(zip(("temple", "flower"), load_sample_images().images, strict=True))


def detail_of(image: np.ndarray) -> float:
    """The root mean square of the differences between neighbouring pixels of uint8 [H, W, C]."""
    pixels = image.astype(float)
    return float(np.sqrt(sum((np.diff(pixels, axis=axis) ** 2).mean() for axis in (0, 1))))


def patches() -> tuple[np.ndarray, list[str]]:
    """The disjoint patches of the photographs with enough detail, uint8 [N, 32, 32, 3], shuffled, and a caption of each.

    The caption is the photograph's name with the row and the column, each a letter: `flower c h`.
    """
    found, captions = [], []
    for name, photo in photographs().items():
        for row, column in itertools.product(range(photo.shape[0] // SIDE), range(photo.shape[1] // SIDE)):
            found.append(photo[row * SIDE :, column * SIDE :][:SIDE, :SIDE])
            captions.append(f"{name} {chr(ord('a') + row)} {chr(ord('a') + column)}")
    rich = np.flatnonzero([detail_of(patch) >= DETAIL for patch in found])
    print(f"{len(found)} patches, of which {len(found) - len(rich)} are left out because they have too little detail")
    order = np.random.default_rng(SEED).permutation(rich)
    return np.stack(found)[order], [captions[each] for each in order]


def crops(step: int) -> torch.Tensor:
    """A batch of crops at random places of the photographs, float32 [B, 3, 32, 32] in [−1, 1]."""
    random, found = np.random.default_rng([SEED, step]), []
    for name in random.choice(list(photographs()), BATCH):
        photo = photographs()[name]
        top, left = random.integers(photo.shape[0] - SIDE), random.integers(photo.shape[1] - SIDE)
        found.append(photo[top : top + SIDE, left : left + SIDE])
    return normalized(np.stack(found))


def normalized(images: np.ndarray) -> torch.Tensor:
    """uint8 [N, H, W, C] as float32 [N, C, H, W] in [−1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def save_images(images: np.ndarray, directory: Path, captions: Sequence[str] = ()) -> None:
    """Write PNG files and, if there are captions, one beside each."""
    directory.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(directory / f"{number:03}.png")
    for number, caption in enumerate(captions):
        (directory / f"{number:03}.txt").write_text(caption)


def train(module: torch.nn.Module, steps: int, lr: float, loss_of: Callable[[int], torch.Tensor]) -> None:
    """AdamW, with a learning rate along half a cosine."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    began = time.perf_counter()
    for step in range(steps):
        loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 199:
            spent = time.perf_counter() - began
            print(f"{type(module).__name__} {step + 1}/{steps}: loss {loss:.4f}, {spent:.0f} s", flush=True)
    module.eval()


def make_vae() -> AutoencoderTiny:
    """32 × 32 pixels to 4 × 8 × 8 latents, scaled to unit variance."""
    torch.manual_seed(SEED)
    widths = (16, 16, 16)
    vae = AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    )

    def loss(step: int) -> torch.Tensor:
        x = crops(step)
        return mse_loss(vae.decode(vae.encode(x).latents).sample, x)

    train(vae, VAE_STEPS, 4e-3, loss)
    with torch.no_grad():
        latents = torch.cat([vae.encode(crops(VAE_STEPS + step)).latents for step in range(16)])
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    return vae


def encoded(vae: AutoencoderTiny, images: np.ndarray) -> torch.Tensor:
    """The scaled latents of uint8 [N, 32, 32, 3], float32 [N, 4, 8, 8]."""
    with torch.no_grad():
        return vae.encode(normalized(images)).latents * vae.config.scaling_factor


def noised(z0: torch.Tensor, random: torch.Generator, schedule: DDPMScheduler) -> tuple[torch.Tensor, ...]:
    """Timesteps [N], ε and z_t of latents [N, 4, 8, 8]."""
    t = torch.randint(schedule.config.num_train_timesteps, (len(z0),), generator=random)
    noise = torch.randn(z0.shape, generator=random)
    return t, noise, schedule.add_noise(z0, noise, t)


def make_unet(z0: torch.Tensor, schedule: DDPMScheduler) -> UNet2DModel:
    """Trained on latents [N, 4, 8, 8]."""
    torch.manual_seed(SEED)
    unet = UNet2DModel(
        sample_size=z0.shape[-1],
        in_channels=z0.shape[1],
        out_channels=z0.shape[1],
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
    )

    def loss(step: int) -> torch.Tensor:
        random = torch.Generator().manual_seed(step)
        rows = torch.randint(len(z0), (BATCH,), generator=random)
        t, noise, z_t = noised(z0[rows], random, schedule)
        return mse_loss(unet(z_t, t).sample, noise)

    train(unet, UNET_STEPS, 2e-3, loss)
    return unet


def main(directory: Path) -> None:
    """Make the model and its images in DIRECTORY."""
    images, _ = patches()
    save_images(images[:TRAIN], directory / "train")
    save_images(images[TRAIN:], directory / "unseen")
    vae, model = make_vae(), directory / "model"
    vae.save_pretrained(model / "vae")
    schedule = DDPMScheduler(clip_sample=False)
    make_unet(encoded(vae, images[:TRAIN]), schedule).save_pretrained(model / "unet")
    schedule.save_pretrained(model / "scheduler")


if __name__ == "__main__":
    typer.run(main)
