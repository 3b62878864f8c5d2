"""The noise process x_t = α_t·x₀ + σ_t·ε with α_t = √ᾱ_t and σ_t = √(1−ᾱ_t), its ᾱ_t held by diffusers' `DDPMScheduler`."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from side_ray.config.dpm import MOST_TIMESTEPS
from side_ray.diffusion.files import read_json
from side_ray.errors import UserError, first_line

if TYPE_CHECKING:  # diffusers takes seconds to import, in every worker: only where a model is made or opened
    from diffusers import DDPMScheduler

BETA_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
PREDICTIONS = ("epsilon", "v_prediction", "sample")


def new_schedule(kind: str = "linear", timesteps: int = 1000, prediction: str = "epsilon") -> "DDPMScheduler":
    """The noise schedule of a DPM that is about to be trained.

    Args:
        kind: `linear` (β from 1e-4 to 0.02, Ho et al. 2020), `scaled_linear` (the same ends, linear in sqrt(β)) or
            `cosine` (Nichol & Dhariwal 2021; diffusers calls it `squaredcos_cap_v2`).
        timesteps: T, the number of noise levels that training draws t from, 0 … T−1.
        prediction: what the U-Net is trained to output: `epsilon`, `v_prediction` or `sample`.

    Raises:
        UserError: a kind or prediction other than these, or fewer than 2 timesteps.
    """
    from diffusers import DDPMScheduler

    if kind not in BETA_SCHEDULES:
        raise UserError(f"unknown noise schedule {kind!r}: choose one of {', '.join(BETA_SCHEDULES)}")
    if prediction not in PREDICTIONS:
        raise UserError(f"unknown prediction {prediction!r}: choose one of {', '.join(PREDICTIONS)}")
    if timesteps < 2:
        raise UserError(f"a noise schedule needs at least 2 timesteps, got {timesteps}")
    return DDPMScheduler(num_train_timesteps=timesteps, beta_schedule=BETA_SCHEDULES[kind], prediction_type=prediction)


def load_schedule(directory: Path) -> "DDPMScheduler":
    """Read the `scheduler_config.json` of a variance-preserving diffusers scheduler (DDPM, DDIM, DPM-Solver, …).

    Which scheduler class wrote it does not matter: the noise levels, the prediction type and how x̂₀ is clipped are taken from
    it. Early diffusers wrote `predict_epsilon` instead of the prediction type: false means x₀, which it calls `sample`.

    Args:
        directory: the directory that holds `scheduler_config.json`.

    Raises:
        UserError: it is absent or unreadable, or it describes no schedule that this project samples from.
    """
    from diffusers import DDPMScheduler

    path = directory / "scheduler_config.json"
    config = read_json(path)
    if "num_train_timesteps" not in config or not ("beta_schedule" in config or config.get("trained_betas")):
        raise UserError(f"{path} has no variance-preserving noise schedule (num_train_timesteps and beta_schedule)")
    if "predict_epsilon" in config:
        old = "epsilon" if config.pop("predict_epsilon") else "sample"
        if config.setdefault("prediction_type", old) != old:
            raise UserError(
                f"{path}: prediction_type {config['prediction_type']!r} contradicts predict_epsilon; drop one"
            )
    timesteps = config["num_train_timesteps"]
    if not isinstance(timesteps, int) or not 2 <= timesteps <= MOST_TIMESTEPS:
        raise UserError(f"{path}: num_train_timesteps must be a number from 2 to {MOST_TIMESTEPS:,}, not {timesteps!r}")
    if config.get("prediction_type", "epsilon") not in PREDICTIONS:
        raise UserError(f"{path}: prediction_type {config['prediction_type']!r} is not one of {', '.join(PREDICTIONS)}")
    zero_snr = bool(config.get("rescale_betas_zero_snr"))
    if zero_snr and config.get("prediction_type", "epsilon") == "epsilon":
        raise UserError(
            f"{path}: rescale_betas_zero_snr with prediction_type epsilon: x₀ cannot be told from ε at zero SNR"
        )
    try:
        schedule = DDPMScheduler.from_config(config)
    except (NotImplementedError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is no valid scheduler config: {first_line(error)}") from error
    levels = alphas_cumprod(schedule)
    positive = levels[:-1] if zero_snr else levels
    if len(levels) != config["num_train_timesteps"] or not bool((positive > 0).all() and (levels < 1).all()):
        raise UserError(f"{path}: the betas must be num_train_timesteps values that keep every ᾱ_t strictly in (0, 1)")
    return schedule


def alphas_cumprod(schedule: "DDPMScheduler") -> torch.Tensor:
    """ᾱ_t as float64 [T] on the CPU. The values are diffusers' own float32 ones, so that both sample alike."""
    return schedule.alphas_cumprod.double().cpu()


def log_sigma(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """log σ_t with σ_t = sqrt((1−ᾱ_t)/ᾱ_t), the noise of x_t/sqrt(ᾱ_t) around x₀; float64 [T], increasing in t."""
    return 0.5 * (torch.log1p(-alphas_cumprod) - torch.log(alphas_cumprod))


def alpha_bar_at(alphas_cumprod: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """ᾱ_t float64 [B] on the device of `t`: int64 [B], or float64 [B] in 0 … T−1, between whose whole numbers log σ is linear."""
    if not t.is_floating_point():
        return alphas_cumprod.to(t.device)[t]
    levels = log_sigma(alphas_cumprod).to(t.device)
    below = t.floor().long().clamp(0, len(levels) - 2)
    return torch.sigmoid(-2 * torch.lerp(levels[below], levels[below + 1], t.double() - below))


def timestep_at(alphas_cumprod: torch.Tensor, level: float) -> float:
    """The fractional timestep t in 0 … T−1 at which log σ_t is `level`: the inverse of `alpha_bar_at`."""
    levels = log_sigma(alphas_cumprod)
    below = int(torch.searchsorted(levels, level, right=True).clamp(1, len(levels) - 1)) - 1
    return below + float((level - levels[below]) / (levels[below + 1] - levels[below]))


def noisy(x0: Tensor, t: Tensor, eps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """x_t of the DPM's own forward process at the timesteps t.

    x0, eps: float [B, C, H, W]; t: int64 [B]; alphas_cumprod: [T], of the *target DPM's* schedule. Returns x0's dtype
    and shape.
    """
    alpha_bar = alphas_cumprod.to(x0.device)[t].view(-1, *[1] * (x0.ndim - 1))
    return add_noise(x0, eps, alpha_bar.sqrt(), (1 - alpha_bar).sqrt()).to(x0.dtype)


def add_noise(x0: Tensor, eps: Tensor, signal: Tensor | float, sigma: Tensor | float) -> Tensor:
    """α·x₀ + σ·ε, where signal = α and sigma = σ are numbers or broadcast to x0 [B, C, H, W]."""
    return signal * x0 + sigma * eps
