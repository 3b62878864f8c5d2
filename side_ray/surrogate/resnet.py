"""ResNet of basic blocks (He et al., 2016), optionally with the time module of the paper's Appendix C (Fig. 6).

The names and shapes of the parameters are torchvision's, so that the state dict of a torchvision `resnet18` or
`resnet34` loads with `strict=True` into the network without time module. The time module only adds names
(`time_embedding.*`, `layerI.J.time.*`).
"""

import json
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from side_ray.config import SurrogateSection
from side_ray.diffusion.files import check_finite
from side_ray.errors import UserError

WEIGHTS = "model.safetensors"
CONFIG = "config.json"

Stem = Literal["cifar", "imagenet"]


@dataclass(frozen=True)
class ResNetConfig:
    """What it takes to build a `ResNet`; stored beside its weights as `config.json`.

    blocks: basic blocks per stage; the first stage has `width` channels, each later one twice the channels at half the
    resolution.
    stem: `imagenet` is a 7×7 convolution of stride 2 and a max-pool (input / 4), `cifar` a 3×3 convolution of stride 1
    (input / 1).
    time: whether the network has a time module; without it `t` is ignored.
    time_dim: width of the hidden layer and of the output of the timestep's MLP.
    folded: whether it guides as `ResNet.fold` makes it. One that an earlier version trained does not, so that the samples of its
    run keep their last bits.
    """

    num_classes: int
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    in_channels: int = 3
    stem: Stem = "imagenet"
    time: bool = False
    time_dim: int = 256
    folded: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))
        if not self.blocks or min(self.blocks) < 1:
            raise UserError(f"resnet blocks {list(self.blocks)}: give at least one block for every stage")
        if min(self.num_classes, self.width, self.in_channels) < 1:
            raise UserError("resnet: num_classes, width and in_channels must be at least 1")
        if self.time_dim < 4 or self.time_dim % 4:
            raise UserError(f"resnet time_dim {self.time_dim}: give a positive multiple of 4")
        if self.stem not in ("cifar", "imagenet"):
            raise UserError(f"resnet stem '{self.stem}': use cifar (small images) or imagenet")


PRESETS: dict[str, dict[str, Any]] = {
    "resnet18": {"blocks": (2, 2, 2, 2), "width": 64, "stem": "imagenet"},
    "resnet34": {"blocks": (3, 4, 6, 3), "width": 64, "stem": "imagenet"},
    "small": {"blocks": (1, 1, 1), "width": 32, "stem": "cifar"},
}


class TimeModule(nn.Module):
    """Feature-wise affine modulation by the timestep: `h · (1 + scale(e)) + shift(e)`, one scale and shift per channel.

    The projection starts at zero, so an untrained module is the identity and the network starts as its twin without
    time.
    """

    def __init__(self, channels: int, time_dim: int) -> None:
        super().__init__()
        self.projection = nn.Linear(time_dim, 2 * channels)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """h [B, channels, H, W], embedding [B, time_dim] -> [B, channels, H, W]."""
        scale, shift = self.projection(embedding)[:, :, None, None].chunk(2, dim=1)
        return h * (1 + scale) + shift


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut; the time module sits straight after the first BatchNorm, before its ReLU
    (Fig. 6).
    """

    def __init__(self, in_channels: int, channels: int, stride: int, time_dim: int | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.time = TimeModule(channels, time_dim) if time_dim is not None else None
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """x [B, in_channels, H, W], embedding [B, time_dim] or None -> [B, channels, H / stride, W / stride]."""
        h = self.bn1(self.conv1(x))
        if self.time is not None:
            h = self.time(h, embedding)
        h = self.bn2(self.conv2(self.relu(h)))
        return self.relu(h + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Classifier of (noised) images: `forward(x, t)` gives the logits of p_t(y|x_t), or of p(y|x) without time module.

    Both kinds take the same arguments, so both guide a sampler in the same way. BatchNorm ties the rows of a batch
    together in training mode: put the network into `eval()` before its gradients guide anything.
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        width, time_dim = config.width, config.time_dim if config.time else None
        if config.stem == "imagenet":
            self.conv1 = nn.Conv2d(config.in_channels, width, 7, 2, padding=3, bias=False)
            self.maxpool: nn.Module = nn.MaxPool2d(3, 2, padding=1)
        else:
            self.conv1 = nn.Conv2d(config.in_channels, width, 3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.stages: list[str] = []
        channels = width
        for i, depth in enumerate(config.blocks):
            out, stage = width * 2**i, []
            for j in range(depth):
                stage.append(BasicBlock(channels, out, 2 if i > 0 and j == 0 else 1, time_dim))
                channels = out
            self.stages.append(f"layer{i + 1}")
            self.add_module(self.stages[-1], nn.ModuleList(stage))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, config.num_classes)
        if config.time:
            # diffusers takes seconds to import: only where a network is made
            from diffusers.models.embeddings import TimestepEmbedding, Timesteps

            half = config.time_dim // 2
            self.sinusoid = Timesteps(half, flip_sin_to_cos=True, downscale_freq_shift=0)
            self.time_embedding = TimestepEmbedding(half, config.time_dim, act_fn="silu")
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @classmethod
    def preset(cls, name: str, num_classes: int, **changes: Any) -> Self:
        """Build `resnet18`, `resnet34` (the paper's) or `small` (three blocks, for images of 8×8 to 32×32); `changes`
        override the preset.
        """
        if name not in PRESETS:
            raise UserError(f"unknown network '{name}': use one of {', '.join(PRESETS)}")
        return cls(ResNetConfig(num_classes=num_classes, **(PRESETS[name] | changes)))

    @classmethod
    def from_section(cls, section: SurrogateSection, *, num_classes: int, in_channels: int, time: bool) -> Self:
        """The untrained classifier that the config's section `surrogate` asks for, with or without time module."""
        changes = {
            "width": section.width,
            "stem": section.stem,
            "in_channels": in_channels,
            "time": time,
            "folded": True,
        }
        return cls.preset(section.arch, num_classes, **changes)

    def features(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """The penultimate layer.

        x: float [B, in_channels, H, W], images in [-1, 1] plus whatever noise timestep t puts on them.
        t: int64 [B], the DPM's original timestep indices; ignored without time module.
        Returns float [B, width · 2^(stages − 1)]. Raises ValueError if the network has a time module and t is None.
        """
        embedding = None
        if self.config.time:
            if t is None:
                raise ValueError("a time-dependent ResNet needs the timestep t of every image")
            embedding = self.time_embedding(self.sinusoid(t).to(x.dtype))
        h = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in self.stages:
            for block in self.get_submodule(stage).children():
                h = block(h, embedding)
        return self.avgpool(h).flatten(1)

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """Logits, float [B, num_classes]; arguments and errors as in `features`."""
        return self.fc(self.features(x, t))

    def fold(self) -> Self:
        """A copy in `eval()` for gradients with respect to x alone, which costs a third less on CPUs: each BatchNorm is folded
        into the convolution before it, no weight has a gradient, and on CPUs the weights are in channels_last. Its logits differ
        from the network's in the last bits. It cannot be saved.
        """
        copy = deepcopy(self).eval().requires_grad_(False)
        copy.conv1, copy.bn1 = fuse_conv_bn_eval(copy.conv1, copy.bn1), nn.Identity()
        for block in copy.modules():
            if isinstance(block, BasicBlock):
                block.conv1, block.bn1 = fuse_conv_bn_eval(block.conv1, block.bn1), nn.Identity()
                block.conv2, block.bn2 = fuse_conv_bn_eval(block.conv2, block.bn2), nn.Identity()
                if block.downsample is not None:
                    block.downsample = nn.Sequential(fuse_conv_bn_eval(*block.downsample))
        copy.eval()  # the new modules too
        return copy.to(memory_format=torch.channels_last) if copy.fc.weight.device.type == "cpu" else copy

    def save(self, directory: Path) -> None:
        """Write `model.safetensors` and `config.json` into `directory` (created if absent)."""
        directory.mkdir(parents=True, exist_ok=True)
        save_file({k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}, directory / WEIGHTS)
        (directory / CONFIG).write_text(json.dumps(asdict(self.config), indent=1) + "\n")

    @classmethod
    def load(cls, directory: Path, device: torch.device | str = "cpu") -> Self:
        """The network that `save` wrote, in `eval()`. Raises UserError where a file is absent, unreadable or does not
        fit.
        """
        try:
            model = cls(ResNetConfig(**json.loads((directory / CONFIG).read_text())))
            model.load_state_dict(load_file(directory / WEIGHTS, device=str(device)))
        except FileNotFoundError as error:
            raise UserError(
                f"no classifier in {directory}: {Path(error.filename or WEIGHTS).name} is missing"
            ) from error
        except (TypeError, ValueError, RuntimeError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"the classifier in {directory} cannot be read ({reason}): train it again") from error
        check_finite(model.state_dict(), directory)
        return model.to(device).eval()


def load_torchvision(state: dict[str, Tensor], config: ResNetConfig) -> ResNet:
    """A network without time module from the state dict of a torchvision ResNet of basic blocks, in `eval()`.

    Raises UserError if names or shapes differ from what `config` asks for.
    """
    model = ResNet(config)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"the state dict is not that of a {list(config.blocks)} ResNet: {str(error).splitlines()[1].strip()}"
        ) from error
    return model.eval()
