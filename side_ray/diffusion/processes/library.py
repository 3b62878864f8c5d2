"""Processes around a diffusers scheduler that is no variance-preserving one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from side_ray.diffusion.processes.base import NoiseProcess


class LibraryProcess(NoiseProcess):
    """A process with the settings of a diffusers scheduler, whose Euler steps and times it takes.

    The library clips no ẑ₀ here. So an unguided one is left as it is, and a guided one is held, see `spaces.bounds`.

    Args:
        config: its `scheduler_config.json`.
    """

    scheduler: ClassVar[str]
    """Class of the diffusers scheduler."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        import diffusers  # takes seconds

        own = {name: value for name, value in config.items() if not name.startswith("_")}
        self.library = getattr(diffusers, self.scheduler).from_config(own)
        self.config = {**self.library.config, "clip_sample": False}

    def save(self, directory: Path) -> None:
        self.library.save_pretrained(directory)
