"""Noise processes z_t = α_t·z_0 + σ_t·ε: one file per process, each a subclass of `base.NoiseProcess`.

`vp` is that of diffusers' variance-preserving schedulers, `edm`, `ve` and `flow` are others. A process gives (α_t, σ_t) at a
time t in 0 (image) … T−1 (noise), and makes (ẑ₀, ε̂) of what a network outputs; the sampler and the classifiers know nothing
else. A new process is one file and a line in `OTHERS`.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from side_ray.diffusion.files import read_json
from side_ray.diffusion.noise_process import load_schedule
from side_ray.diffusion.processes.base import NoiseProcess
from side_ray.diffusion.processes.vp import VariancePreserving
from side_ray.errors import UserError, first_line

if TYPE_CHECKING:
    from diffusers import DDPMScheduler

OTHERS = {
    "EDMEulerScheduler": "side_ray.diffusion.processes.edm:Edm",
    "EDMDPMSolverMultistepScheduler": "side_ray.diffusion.processes.edm:Edm",
    "FlowMatchEulerDiscreteScheduler": "side_ray.diffusion.processes.flow:Flow",
    "ScoreSdeVeScheduler": "side_ray.diffusion.processes.ve:VarianceExploding",
}
"""By the class of a diffusers scheduler; every other one is variance-preserving or refused."""

Schedule: TypeAlias = "DDPMScheduler | NoiseProcess"


def load_process(directory: Path) -> Schedule:
    """The noise process of a `scheduler_config.json`: a `DDPMScheduler` where it is variance-preserving.

    Raises:
        UserError: the file is absent or unreadable, or describes no process that can be sampled.
    """
    path = directory / "scheduler_config.json"
    config = read_json(path)
    if str(config.get("_class_name")) not in OTHERS:
        return load_schedule(directory)
    try:
        return of_library(config)
    except (NotImplementedError, TypeError, ValueError, RuntimeError, ImportError) as error:
        raise UserError(f"{path} is no valid scheduler config: {first_line(error)}") from error


def of_library(config: Mapping[str, Any]) -> NoiseProcess:
    """The process of a scheduler in `OTHERS`. Raises what diffusers raises for wrong values."""
    module, _, name = OTHERS[config["_class_name"]].partition(":")
    process: NoiseProcess = getattr(import_module(module), name)(config)
    return process


def process_of(schedule: Any) -> NoiseProcess:
    """The noise process of a model's `schedule`."""
    return schedule if isinstance(schedule, NoiseProcess) else VariancePreserving(schedule)
