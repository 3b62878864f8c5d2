"""What a kind of diffusion model is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from side_ray.config.base import Section

if TYPE_CHECKING:
    import torch

    from side_ray.config import DpmSection
    from side_ray.diffusion.dpm import Dpm


class ModelKind(ABC):
    """A kind of diffusion model; it is used as a class."""

    Options: ClassVar[type[Section]] = Section
    """The keys that it adds to the config's section `dpm`."""
    shared_options: ClassVar[bool] = False
    """Whether its keys may stand in the config of a model of another kind, which then ignores them."""
    made_from_members: ClassVar[bool] = False
    """Whether it is a `MadeFromMembers`."""
    takes_lora: ClassVar[bool] = False
    """Whether LoRA weights can be added to it (`dpm.lora`)."""
    takes_size: ClassVar[bool] = False
    """Whether it makes images of other sizes than its network's own (`dpm.image_size`)."""
    runs_code: ClassVar[bool] = False
    """Whether opening it executes code that lies beside it."""

    @classmethod
    @abstractmethod
    def recognizes(cls, directory: Path) -> bool:
        """Whether a directory holds a model of this kind, sound or damaged."""

    @classmethod
    def files(cls, names: Sequence[str], dpm: "DpmSection") -> list[str]:
        """Of the files in a directory that this kind recognizes, relative paths, those that `load` reads. They are copied into
        the run, and their content identifies the model.

        Raises:
            UserError: what the section `dpm` asks for is not there.
        """
        return [name for name in names if not any(part.startswith(".") for part in name.split("/"))]

    @classmethod
    @abstractmethod
    def load(cls, directory: Path, device: "torch.device | str") -> "Dpm":
        """Open a directory that this kind recognizes.

        Raises:
            UserError: the directory holds no model that can be opened.
        """


class MadeFromMembers(ModelKind):
    """A kind that is made from the members without training. Its name in the registry is a value of `dpm.kind`."""

    made_from_members = True
    title: ClassVar[str]
    """Its name in messages, before `DPM`."""

    @classmethod
    @abstractmethod
    def make(cls, images: "torch.Tensor", dpm: "DpmSection") -> "Dpm":
        """The model of the members, float32 [N, C, H, W] in [−1, 1], as the section `dpm` asks for."""

    @classmethod
    @abstractmethod
    def save(cls, model: Any, directory: Path) -> None:
        """Write what `load` opens."""

    @classmethod
    def settings(cls, dpm: "DpmSection") -> list[Any]:
        """What the model depends on besides the members, JSON-able: part of its fingerprint."""
        own = dpm.options(cls.Options).model_dump(mode="json")
        return [dpm.schedule, dpm.timesteps, *([own] if own else [])]

    @classmethod
    def flops(cls, members: int, shape: tuple[int, int, int]) -> int:
        """Floating-point operations of one evaluation for one image of `shape` (C, H, W); 0 where it is not known."""
        return 0
