"""Section `extract`: how images are sampled; section `given`: samples that are there already."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from side_ray.config.base import Batch, Count, LambdaGrid, OpenSection, Section, Share, omitted_by_default
from side_ray.registry import REGISTRIES

Method = Literal["random", "ti", "td"]
SIDE = ("td", "lora")
"""The methods of conditions that are SIDE: by a classifier, or by a LoRA surrogate (`surrogate.kind`)."""
GUIDED = (*SIDE, "base")
"""The methods of conditions that only the model and its own samples, or the model that it was fine-tuned from, guide."""
BY_MODEL = ("lora", "base")
"""The methods that guide by a second diffusion model."""


class ExtractSection(OpenSection):
    """How the synthetic set and the conditions are sampled. The samplers add their own keys (`eta`)."""

    registries: ClassVar = ("extract.sampler",)

    methods: Annotated[list[Method], Field(min_length=1)] = Field(default=["random", "ti", "td"])
    """`random`: plain sampling; `td`: SIDE; `ti`: OL-TI, which needs the members' labels."""
    lambdas: LambdaGrid
    """Guidance scales λ of SIDE (td); 0 is the Random baseline and must be among them."""
    ti_lambdas: LambdaGrid | None = None
    """Guidance scales of OL-TI; those of `lambdas` where absent."""
    base_lambdas: LambdaGrid | None = omitted_by_default(None)
    """With `dpm.base`, the λ of extrapolation from the base to the fine-tuned model, ẑ_base + (1 + λ)·(ẑ_tuned − ẑ_base): 0 is
    the fine-tuned model itself. Where absent they are 1, 2 and 4."""
    base_interval: tuple[Share, Share] | None = omitted_by_default(None)
    """Extrapolate only while from ≤ t/T < to. By default while the noise is as strong as the signal, σ_t ≥ α_t: later a sample
    has chosen its image, and extrapolation would carry it beyond."""
    samples: Count
    """N_G: samples per condition."""
    shard_size: Batch = 1000
    """Samples of one unit of work, written as one file. N_G is a multiple of it."""
    batch_size: Batch = 100
    """Images sampled at once; lower it if a device runs out of memory. It is part of the samples' fingerprint."""
    sampler: str = "ddim"
    """How images are drawn from the noise."""
    steps: Count = 50
    """Timesteps that the sampler visits."""
    samples_per_target: Count | None = omitted_by_default(None)
    """Images for each class instead of `samples`: N_G is then this × surrogate.classes, rounded up to whole shards, and grows
    with the number of classes (the paper's Table 2 has 1,200)."""
    guidance_interval: tuple[Share, Share] = omitted_by_default((0.0, 1.0))
    """The classifier, or the LoRA surrogate, guides only while from ≤ t/T < to: 0 is the image, 1 the noise."""

    @model_validator(mode="after")
    def _grids(self) -> Self:
        if self.guidance_interval[0] >= self.guidance_interval[1]:
            raise ValueError(
                f"extract.guidance_interval: {list(self.guidance_interval)} holds nothing; write [from, to] with from < to"
            )
        if self.base_interval is not None and self.base_interval[0] >= self.base_interval[1]:
            raise ValueError(
                f"extract.base_interval: {list(self.base_interval)} holds nothing; write [from, to] with from < to"
            )
        if 0 not in self.lambdas:
            raise ValueError("extract.lambdas: λ = 0, the Random baseline, is missing; add 0 to the list")
        if "td" in self.methods and not any(self.lambdas):
            raise ValueError("extract.lambdas: method td needs a λ > 0; add one or drop td from extract.methods")
        if "ti" in self.methods and not any(self.scales_of("ti")):
            raise ValueError("extract.ti_lambdas: method ti needs a λ > 0; add one or drop ti from extract.methods")
        if self.base_lambdas is not None and not any(self.base_lambdas):
            raise ValueError("extract.base_lambdas: holds no λ > 0; add one, or drop this key and dpm.base")
        if len(set(self.methods)) != len(self.methods):
            raise ValueError("extract.methods: holds a method twice; list each once")
        return self

    def sampling_settings(self) -> dict[str, Any]:
        """The keys that every sample depends on: those of the chosen sampler, and of no other that is registered."""
        options = REGISTRIES["extract.sampler"].options().get(self.sampler)
        own = set(options.model_fields) if options else set()
        # `eta` is there for every sampler, because it is part of the fingerprints of existing runs.
        return self.model_dump(mode="json", include={"sampler", "steps", "eta", "shard_size", "batch_size", *own})

    def scales_of(self, method: Method | Literal["base"]) -> list[float]:
        """Guidance scales at which `method` is sampled, in ascending order."""
        if method == "random":
            return [0.0]
        if method == "base":
            return [1.0, 2.0, 4.0] if self.base_lambdas is None else [value for value in self.base_lambdas if value > 0]
        grid = self.ti_lambdas if method == "ti" and self.ti_lambdas is not None else self.lambdas
        return [value for value in grid if value > 0]


class GivenSection(Section):
    """Generated images that are there already, scored in place of samples from a DPM."""

    samples: Annotated[str, Field(min_length=1)]
    """Where they are: a folder of images, a zip archive, or Parquet with a column `image`; local or s3://bucket/prefix."""
    image_column: str | None = omitted_by_default(None)
    """In Parquet and Arrow, the column of images where there are several and none is called `image`."""
