"""How a DPM is trained: the keys of the section `dpm` that an imported one has no use for."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from side_ray.config.base import Count, Positive, Real, Section, Share, Whole, omitted_by_default


class Training(Section):
    steps: Count = 10_000
    batch_size: Count = 64
    """Images per optimizer step, over all workers together."""
    grad_accumulation: Count = omitted_by_default(1)
    """Parts that a worker's share of the batch is run in, one after the other: for batches that the device cannot hold."""
    lr: Positive = 1e-4
    lr_schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: Whole = 0
    weight_decay: Annotated[Real, Field(ge=0)] = 0.0
    grad_clip: Positive = 1.0
    ema_decay: Annotated[Real, Field(ge=0, lt=1)] = 0.9999
    """Decay of the averaged weights, or the most it comes to; the first steps have less, (1 + step) / (10 + step). 0 = no
    averaging."""
    ema_power: Positive | None = omitted_by_default(None)
    """Power-function decay 1 − (1 + step / `ema_inv_gamma`)^−power, at most `ema_decay`: 2/3 for a million steps, 3/4 for
    fewer."""
    ema_inv_gamma: Positive = omitted_by_default(1.0)
    flips: bool = False
    """Mirror images left to right at random: right for faces, wrong for digits."""
    checkpoint_every: Count = 1000
    """Most steps that a kill may cost. A checkpoint is begun twice as often, to be written while the training goes on."""
    samples_every: Count | None = omitted_by_default(None)
    """Steps between grids of samples of the averaged weights, which TensorBoard shows; by default there are none."""
    probe: Count | None = omitted_by_default(None)
    """Images sampled beside each grid and compared with the members: AMS while the DPM is being trained."""

    @model_validator(mode="after")
    def _options_together(self) -> Self:
        if self.probe is not None and self.samples_every is None:
            raise ValueError("dpm.probe: is made with the grids; give dpm.samples_every too")
        if self.ema_power is not None and not self.ema_decay:
            raise ValueError("dpm.ema_power: there is no averaging with dpm.ema_decay 0; drop one of them")
        if self.ema_power is None and self.ema_inv_gamma != 1:
            raise ValueError("dpm.ema_inv_gamma: goes with dpm.ema_power; give that too, or drop this key")
        return self

    def training_settings(self) -> dict[str, Any]:
        """What the trained weights depend on, of these and the other keys of the section."""
        return self.model_dump(mode="json", exclude={"checkpoint_every", "samples_every", "probe", "path"})


class UnetSection(Section):
    """Arguments of diffusers' `UNet2DModel` by their own names."""

    block_out_channels: list[Count] = Field(default=[128, 128, 256, 256, 512, 512])
    down_block_types: list[str] = ["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"]
    up_block_types: list[str] = ["UpBlock2D", "AttnUpBlock2D"] + ["UpBlock2D"] * 4
    layers_per_block: Count = 2
    norm_num_groups: Count = 32
    attention_head_dim: Count = 8
    dropout: Share = 0.0

    @model_validator(mode="after")
    def _same_depth(self) -> Self:
        depths = {len(self.block_out_channels), len(self.down_block_types), len(self.up_block_types)}
        if len(depths) > 1:
            raise ValueError("block_out_channels, down_block_types and up_block_types must be equally long")
        if any(channels % self.norm_num_groups for channels in self.block_out_channels):
            raise ValueError(
                f"every entry of block_out_channels must be a multiple of norm_num_groups ({self.norm_num_groups})"
            )
        return self


class DpmSection(Training):
    kind: Literal["train", "import", "optimal"] = "train"
    """Train a U-Net, import a diffusers pipeline from `path`, or use the closed-form optimum of the members."""
    path: str | None = None
    """Local directory or s3:// URI of a diffusers pipeline; giving it makes `kind` import."""
    unet: UnetSection = UnetSection()
    schedule: Literal["linear", "scaled_linear", "cosine"] = "linear"
    timesteps: Annotated[int, Field(strict=True, ge=2)] = 1000
    prediction: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    condition: Literal["none", "labels", "random", "unique"] = omitted_by_default("none")
    """Train with a class condition: the members' own labels, random labels, or a label of its own for each image."""
    condition_classes: Annotated[int, Field(strict=True, ge=2)] = omitted_by_default(10)
    """Classes of condition random."""

    @model_validator(mode="before")
    @classmethod
    def _path_means_import(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("path") is not None and "kind" not in values:
            return {**values, "kind": "import"}
        return values

    @model_validator(mode="after")
    def _path_with_import(self) -> Self:
        if self.kind == "import" and not self.path:
            raise ValueError("kind import needs dpm.path, the directory of a diffusers pipeline")
        if self.kind != "import" and self.path:
            raise ValueError(f"dpm.path is given, so dpm.kind must be import, not {self.kind}")
        if self.kind != "train" and self.condition != "none":
            raise ValueError(
                f"dpm.condition: {self.condition} is for training; an imported model brings its own, kind optimal has none"
            )
        return self
