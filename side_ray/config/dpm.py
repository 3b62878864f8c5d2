"""Section `dpm`: the diffusion model under audit, and how it is trained."""

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from side_ray.config.base import (
    MOST_GUIDANCE,
    Batch,
    Classes,
    Count,
    OpenSection,
    Positive,
    Real,
    Section,
    Side,
    Whole,
    omitted_by_default,
)
from side_ray.registry import REGISTRIES

DENOISER = "dpm.denoiser"
"""The registry of the kinds of model."""
TRAINED = "unet"
"""The kind of model that is trained here."""
KINDS: dict[str, str | None] = {"train": TRAINED, "import": None}
"""Values of `dpm.kind` that are not a kind of model themselves, and the kind that each makes."""

FUNCTION = re.compile(r"(.+\.py):([A-Za-z_]\w*)")
"""A path that names a function in a Python file."""

CAPTIONS, MEMBER_CAPTIONS, UNSEEN_CAPTIONS, EMPTY = "captions", "member_captions", "unseen_captions", "empty"
"""Values of `dpm.prompts` that are no path."""
CONDITIONING = ("guidance_scale", "classes", "prompts")
"""Keys that say how the model is conditioned in sampling; its weights do not depend on them."""
FOR_IMPORTED = (
    "pixel_range",
    "pixel_mean",
    "pixel_std",
    "image_size",
    "variant",
    "weights",
    "null_class",
    "guidance_scale",
    "prompts",
    "lora",
    "base",
    "copy_below_gb",
)

MOST_BLOCKS, MOST_LAYERS = 16, 32
"""The largest U-Net, in a config or imported: blocks down or up, and layers per block."""
MOST_TIMESTEPS = 100_000
"""The longest noise schedule, in a config or imported."""


class Training(Section):
    """How a DPM is trained; an imported one needs none of these keys."""

    steps: Count = 10_000
    """Optimizer steps."""
    batch_size: Batch = 64
    """Images per optimizer step, over all workers together."""
    grad_accumulation: Count = omitted_by_default(1)
    """Parts that a worker's share of the batch is run in, one after the other: for batches that the device cannot hold."""
    lr: Positive = 1e-4
    """Learning rate of AdamW."""
    lr_schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: constant, or down to 0 at the last step along half a cosine."""
    warmup_steps: Whole = 0
    """First steps, in which the learning rate rises linearly from 0."""
    weight_decay: Annotated[Real, Field(ge=0)] = 0.0
    """Of AdamW."""
    grad_clip: Positive = 1.0
    """Largest norm of the gradient of all weights."""
    ema_decay: Annotated[Real, Field(ge=0, lt=1)] = 0.9999
    """Decay of the averaged weights, or the most it comes to; the first steps have less, (1 + step) / (10 + step). 0 = no
    averaging."""
    ema_power: Positive | None = omitted_by_default(None)
    """Power-function decay 1 − (1 + step / `ema_inv_gamma`)^−power, at most `ema_decay`: 2/3 for a million steps, 3/4 for
    fewer."""
    ema_inv_gamma: Positive = omitted_by_default(1.0)
    """See `ema_power`."""
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


def _known_kind(kind: str) -> str:
    models = REGISTRIES[DENOISER]
    known = [*KINDS, *(name for name in models.names if models[name].made_from_members)]
    if kind not in known:
        raise ValueError(f"{kind!r} is unknown; use one of {', '.join(known)}")
    return kind


class DpmSection(Training, OpenSection):
    """The diffusion model under audit. The kinds of model add their own keys (`unet`)."""

    registries: ClassVar = (DENOISER,)

    kind: Annotated[str, AfterValidator(_known_kind)] = "train"
    """Train a U-Net, import a model from `path`, or the name of a kind in `diffusion.denoisers` that is made from the members,
    such as `optimal`, their closed-form optimum."""
    path: str | None = None
    """Local directory or s3:// URI of a model, for example a diffusers pipeline; hf://owner/name@revision, one on the HuggingFace
    hub; or `my_model.py:load`, a function that returns one. Giving it makes `kind` import."""
    schedule: Literal["linear", "scaled_linear", "cosine"] = "linear"
    """Noise schedule: how β grows over the timesteps."""
    timesteps: Annotated[int, Field(strict=True, ge=2, le=MOST_TIMESTEPS)] = 1000
    """Timesteps T of the noise schedule."""
    prediction: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    """What the network predicts: the noise ε, v, or the image x₀."""
    condition: Literal["none", "labels", "random", "unique"] = omitted_by_default("none")
    """Train with a class condition: the members' own labels, random labels, or a label of its own for each image."""
    condition_classes: Classes = omitted_by_default(10)
    """Classes of condition random."""
    pixel_range: tuple[Real, Real] | None = omitted_by_default(None)
    """The values that black and white have in an imported model: [-1, 1], the default, [0, 1], [0, 255], …"""
    pixel_mean: Annotated[list[Real], Field(min_length=1)] | None = omitted_by_default(None)
    """In place of `pixel_range`: what the model's training subtracted from pixels in [0, 1], for each channel or for all."""
    pixel_std: Annotated[list[Positive], Field(min_length=1)] | None = omitted_by_default(None)
    """With `pixel_mean`: what it then divided them by."""
    image_size: Side | None = omitted_by_default(None)
    """Side of the images that an imported text-conditioned model makes, in pixels, where that is not the network's own size
    (1024 for Flux)."""
    variant: str | None = omitted_by_default(None)
    """Which weights of an imported pipeline, where it has several: `fp16`, for example."""
    weights: Literal["model", "ema"] = omitted_by_default("model")
    """Of an imported pipeline: those in `unet/`, or the averaged ones in `unet_ema/`, as a training's checkpoints have them."""
    lora: Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)] = (
        omitted_by_default([])
    )
    """LoRA weights that are added to an imported text-conditioned model: safetensors files, one or several, local or
    hf://owner/name@revision/file.safetensors."""
    lora_weights: list[Real] = omitted_by_default([])
    """The weight of each file in `lora`; 1 where absent."""
    base: str | None = omitted_by_default(None)
    """The model that the imported one was fine-tuned from, given as `path` is; with `lora` it may be `path` itself, without LoRA.
    Images are then also sampled by extrapolation from it to the fine-tuned model: method base, `extract.base_lambdas`."""
    null_class: Whole | None = omitted_by_default(None)
    """The class of an imported model that stands for no class, in classifier-free guidance; no sample is drawn with it, but for
    `classes` null_class."""
    guidance_scale: Annotated[Real, Field(ge=0, le=MOST_GUIDANCE)] = omitted_by_default(1.0)
    """Scale of classifier-free guidance in an imported model with a null class, or with prompts; 1 = none, as in diffusers. It
    evaluates the model twice. SIDE's λ comes on top."""
    prompts: (
        Annotated[str, BeforeValidator(lambda value: value or EMPTY if isinstance(value, str) else value)] | None
    ) = omitted_by_default(None)
    """What the prompts of a text-conditioned model are drawn from: `captions` of members and unseen images alike, which is fair;
    `member_captions`, `unseen_captions` (of the holdout images), `empty` for the empty prompt, or a text file with a prompt in
    each line."""
    classes: Literal["model", "labels", "uniform", "null_class"] = omitted_by_default("model")
    """Classes that samples of a class-conditional model are drawn with. `model`: as often as its training saw each class, equally
    often where that is not known; `labels`: as often as the members have each label, which must be the model's classes;
    `uniform`: each equally often; `null_class`: that alone."""
    files: list[str] = omitted_by_default([])
    """With a function as `path`: local files that it reads, such as weights. They are copied into the run with its own, but for
    large weights (`copy_below_gb`)."""
    copy_below_gb: Annotated[Real, Field(ge=0)] = omitted_by_default(2.0)
    """Weights of an imported model that have this size (GiB, all files together) or more are not copied into the run. It then
    refers to them where they are, by their SHA-256. 0 = weights are never copied. Configs, tokenizers and code always are."""
    latent: bool = omitted_by_default(False)
    """With a function as `path` or `base`: whether it returns a codec, so that the model diffuses latents."""
    check: bool = omitted_by_default(True)
    """Look at a few samples of an imported model before the audit, and stop if its pixels have another range."""

    @property
    def denoiser(self) -> str | None:
        """The kind of model in `diffusion.denoisers`; None for an imported one, which is told by its directory."""
        return KINDS.get(self.kind, self.kind)

    @property
    def function(self) -> tuple[str, str] | None:
        """The Python file and the function in it, if `path` names one."""
        found = FUNCTION.fullmatch(self.path or "")
        return (found[1], found[2]) if found else None

    @property
    def of_base(self) -> "DpmSection | None":
        """The section `dpm` of the model at `base`: as it stands, without what concerns the fine-tuned model alone."""
        if self.base is None:
            return None
        own: dict[str, Any] = {
            "base": None,
            "lora": [],
            "lora_weights": [],
            "null_class": None,
            "weights": "model",
            "variant": None,
        }
        files = self.files if FUNCTION.fullmatch(self.base) else []
        return self.model_copy(update={**own, "path": self.base, "files": files})

    def training_settings(self) -> dict[str, Any]:
        """What the trained weights depend on, of the keys of this section."""
        trained = REGISTRIES[DENOISER][TRAINED].Options.model_fields
        others = {
            name
            for options in REGISTRIES[DENOISER].options().values()
            for name in options.model_fields
            if name not in trained
        }
        unused = {"checkpoint_every", "samples_every", "probe", "path", "check", *CONDITIONING, *others}
        return self.model_dump(mode="json", exclude=unused)

    @property
    def loras(self) -> dict[str, float]:
        """The weight of each file of LoRA weights, by its path."""
        return dict(zip(self.lora, self.lora_weights or [1.0] * len(self.lora), strict=True))

    @property
    def conditioning(self) -> dict[str, Any]:
        """The keys that say how the model is conditioned in sampling; those with their default are left out."""
        return self.model_dump(mode="json", include=set(CONDITIONING))

    @property
    def evaluations(self) -> int:
        """Evaluations of the model for one of a sampler: 2 with classifier-free guidance."""
        return 1 if self.guidance_scale == 1 or self.classes == "null_class" or self.prompts == EMPTY else 2

    @model_validator(mode="before")
    @classmethod
    def _path_means_import(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("path") is not None and "kind" not in values:
            return {**values, "kind": "import"}
        return values

    @model_validator(mode="after")
    def _path_with_import(self) -> Self:
        if self.files and not self.function and not FUNCTION.fullmatch(self.base or ""):
            raise ValueError("dpm.files: is for a function as dpm.path (my_model.py:load); drop it")
        if self.latent and not self.function and not FUNCTION.fullmatch(self.base or ""):
            raise ValueError("dpm.latent: is for a function as dpm.path (my_model.py:load); drop it")
        if len(set(self.lora)) != len(self.lora):
            raise ValueError("dpm.lora: holds a file twice; list each once, with its weight in dpm.lora_weights")
        if len({file.rpartition("/")[2] for file in self.files}) != len(self.files):
            raise ValueError("dpm.files: two files have the same name; rename one, they are copied into one directory")
        if self.kind == "import" and not self.path:
            raise ValueError("kind import needs dpm.path, the directory of a diffusers pipeline")
        if self.kind != "import" and self.path:
            raise ValueError(f"dpm.path is given, so dpm.kind must be import, not {self.kind}")
        for name in FOR_IMPORTED:
            if self.kind != "import" and name in self.changed():
                raise ValueError(f"dpm.{name}: is for an imported model (dpm.path); drop it")
        if self.base is not None and self.base == self.path and not self.lora:
            raise ValueError("dpm.base: is dpm.path itself; give the model that it was fine-tuned from")
        if self.lora_weights and len(self.lora_weights) != len(self.lora):
            raise ValueError(
                f"dpm.lora_weights: has {len(self.lora_weights)} numbers for {len(self.lora)} files of dpm.lora; give one each"
            )
        if self.pixel_range is not None and self.pixel_range[0] == self.pixel_range[1]:
            raise ValueError(
                "dpm.pixel_range: black and white have the same value; give the model's own [black, white]"
            )
        if (self.pixel_mean is None) != (self.pixel_std is None):
            raise ValueError("dpm.pixel_mean: goes with dpm.pixel_std; give both")
        if self.pixel_mean is not None and self.pixel_std is not None:
            if self.pixel_range is not None:
                raise ValueError("dpm.pixel_range: is given by dpm.pixel_mean and dpm.pixel_std too; drop one of them")
            if len(self.pixel_mean) != len(self.pixel_std):
                raise ValueError("dpm.pixel_std: must have as many numbers as dpm.pixel_mean")
        if self.classes == "null_class" and self.kind != "import":
            raise ValueError(
                "dpm.classes: null_class is for an imported model (dpm.path); use model, labels or uniform"
            )
        if self.classes != "model" and self.kind != "import" and self.condition == "none":
            raise ValueError(f"dpm.classes: {self.classes} is for a class-conditional model (dpm.condition); drop it")
        if self.kind != "train" and self.condition != "none":
            raise ValueError(
                f"dpm.condition: {self.condition} is for training; an imported model has its own condition; drop it"
            )
        return self
