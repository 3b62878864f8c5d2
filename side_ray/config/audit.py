"""The configuration of an audit: one YAML file, checked as a whole before anything starts."""

import math
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Discriminator, Field, Tag, model_validator

from side_ray.config.base import Count, LambdaGrid, Positive, Real, Section, Share, Whole, later
from side_ray.config.options import check_options
from side_ray.config.studies import ControlSection, TheorySection
from side_ray.config.sweep import SweepSection
from side_ray.config.training import Training

Method = Literal["random", "ti", "td"]
Sampler = Literal["ddim", "ddpm", "dpmsolver++"]
Preset = Literal["cumulative", "paper", "sscd"]
Edge = float | None
OwnBands = dict[str, tuple[Edge, Edge]]
# Chosen by the value's type, so that a fault is told of the one form that was meant. A tag that is no identifier stays
# out of the key in the message.
BandSpec = Annotated[
    Annotated[Preset, Tag("a preset")] | Annotated[OwnBands, Tag("own bands")],
    Discriminator(lambda value: "own bands" if isinstance(value, dict) else "a preset"),
]


Workers = Annotated[
    Annotated[Count, Tag("a number")] | Annotated[tuple[Count, Count], Tag("least and most")],
    Discriminator(lambda value: "least and most" if isinstance(value, (list, tuple)) else "a number"),
]


class RunSection(Section):
    uri: Annotated[str, Field(min_length=1)]
    """Run directory: a local path (a relative one starts at the working directory) or s3://bucket/prefix."""
    seed: Whole = 0


class DataSection(Section):
    source: Literal["digits", "cifar10", "celeba", "celeba_hq", "folder", "parquet", "webdataset"] = "digits"
    path: str | None = None
    """Where the images are: a local path or s3://bucket/prefix; a directory or an archive, as the source has it."""
    holdout_path: str | None = None
    """Images that the DPM never saw, for the two unseen sets; absent, these are drawn from `path` like the members. For
    cifar10 its test batch is taken from there; for celeba_hq the same path means the images that the identity list leaves
    out."""
    members: Count
    """Images that the DPM is trained on."""
    holdout: Whole
    """Size of each of the two sets that nothing is trained on: `calibration` sets the cut, `holdout` checks it. 0, neither
    cut nor control, only for samples that are given."""
    skip: Whole = later(0)
    """Images of the drawn order that are passed over before the members: the control's begin behind the audit's sets."""
    crop: Count | None = None
    """Side of the square cut out of the middle; the shorter side where absent and `image_size` is given."""
    image_size: Count | None = None
    """Side that the square is resized to; absent, all images must have one size."""
    grayscale: bool = False
    """One channel; otherwise all images are made RGB."""
    labels: bool = True
    """Whether the source's labels are taken, where it has any."""
    labels_file: str | None = None
    """celeba, celeba_hq: the identity or attribute list; by default looked for in `path` and beside it."""
    attributes: list[str] = Field(default=[])
    """celeba: classes by these attributes of list_attr_celeba.txt instead of by person."""
    min_per_class: Count = 1
    """celeba, celeba_hq: persons with fewer images in `path` are left out."""
    image_column: str = "image"
    """parquet: the column of images."""
    label_column: str | None = None
    """parquet: the column of labels; webdataset: the field of .json. By default `label`, if there is one."""
    per_class: Count | None = None
    """Most images of one class that take part; which ones is drawn."""
    dedup: Literal["none", "exact", "near"] = "none"
    """Leave out all but the first of equal images, or also of those whose normalized L2 distance is below `dedup_bound`
    (which compares all with all: four times as many images take sixteen times as long)."""
    dedup_bound: Annotated[Real, Field(gt=0, le=2)] = 0.5
    skip_corrupt: bool = False
    """Leave out images that cannot be used instead of refusing the data set."""

    @model_validator(mode="after")
    def _together(self) -> Self:
        # A resolved config gives every key, so one counts as given where it departs from its default.
        fields = type(self).model_fields
        check_options(self, {name for name, field in fields.items() if getattr(self, name) != field.default})
        return self

    def settings(self) -> dict[str, Any]:
        """What the prepared images depend on besides the content of the paths."""
        if self.source == "digits":
            return self.model_dump(mode="json", include={"source", "members", "holdout", "skip"})
        return self.model_dump(mode="json", exclude={"path", "holdout_path", "labels_file", "skip_corrupt"})


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
    condition: Literal["none", "labels", "random", "unique"] = later("none")
    """Train with a class condition: the members' own labels, random labels, or a label of its own for each image."""
    condition_classes: Annotated[int, Field(strict=True, ge=2)] = later(10)
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


class SurrogateSection(Section):
    labels: Literal["cluster", "classifier", "random"] = "cluster"
    classes: Annotated[int, Field(strict=True, ge=2)] = 100
    """Clusters or random labels; a classifier has as many as the members' labels, whatever stands here."""
    synthetic: Count = 50_000
    """Images sampled from the DPM at λ = 0: they teach the student, make the clusters and set the calibrated cut."""
    features: Literal["pixels", "teacher", "sscd", "clip"] = later("pixels")
    """What clusters are made of: pixel values, a classifier's penultimate layer, SSCD descriptors, or a CLIP image encoder's."""
    encoder: str | None = later(None)
    """Local path of the encoder of features sscd (by default `score.checkpoint`) or clip: TorchScript or ONNX."""
    teacher: str | None = later(None)
    """Local path of a classifier's weights in torchvision's layout (resnet18 or resnet34; safetensors, or a state dict as
    torch saves it), used instead of training one on the members' labels."""
    teacher_size: Count | None = later(None)
    """Side that images are resized to for that classifier; by default they stay as they are."""
    teacher_input: Literal["imagenet", "symmetric"] = later("imagenet")
    """How it wants its pixels: with ImageNet's mean and deviation, or from -1 to 1."""
    cohesion: Annotated[Real, Field(ge=-1, lt=1)] = 0.5
    """Least mean cosine similarity of a cluster to its centroid (centred features); looser clusters are dropped."""
    arch: Literal["small", "resnet18", "resnet34"] = "resnet34"
    stem: Literal["cifar", "imagenet"] = "imagenet"
    width: Count = 64
    """Channels of the first stage."""
    loss: Literal["kl", "cross_entropy"] = "kl"
    temperature: Positive = 1.0
    steps: Count = 20_000
    ti_steps: Count = 5_000
    """Steps of the OL-TI baseline and of the teacher, which both see clean images only."""
    batch_size: Count = 128
    lr: Positive = 1e-4
    lr_schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: Annotated[Real, Field(ge=0)] = 0.01
    checkpoint_every: Count = 1000

    @model_validator(mode="after")
    def _labels_together(self) -> Self:
        clusters = self.labels == "cluster"
        if self.features != "pixels" and not clusters:
            raise ValueError(f"surrogate.features: is for surrogate.labels cluster, not {self.labels}; drop it")
        if self.encoder is not None and self.features not in ("sscd", "clip"):
            raise ValueError("surrogate.encoder: goes with surrogate.features sscd or clip; give one, or drop it")
        if self.features == "clip" and self.encoder is None:
            raise ValueError(
                "surrogate.encoder: features clip need the path of a CLIP image encoder (TorchScript or ONNX)"
            )
        if self.teacher is not None and self.labels != "classifier" and self.features != "teacher":
            raise ValueError("surrogate.teacher: goes with surrogate.labels classifier or surrogate.features teacher")
        if self.teacher is None and (self.teacher_size is not None or self.teacher_input != "imagenet"):
            raise ValueError(
                "surrogate.teacher_size and teacher_input: go with surrogate.teacher; give its path or drop them"
            )
        return self

    @property
    def wants_labels(self) -> bool:
        """Whether the members' labels are needed to make the surrogate's."""
        return self.teacher is None and (self.labels == "classifier" or self.features == "teacher")


class ExtractSection(Section):
    methods: Annotated[list[Method], Field(min_length=1)] = Field(default=["random", "ti", "td"])
    lambdas: LambdaGrid
    """Guidance scales λ of SIDE (td); 0 is the Random baseline and must be among them."""
    ti_lambdas: LambdaGrid | None = None
    """Guidance scales of OL-TI; those of `lambdas` where absent."""
    samples: Count
    """N_G: samples per condition."""
    shard_size: Count = 1000
    batch_size: Count = 100
    sampler: Sampler = "ddim"
    steps: Count = 50
    eta: Share = 0.0
    """Share of DDPM's noise that DDIM adds at each step."""
    samples_per_target: Count | None = later(None)
    """Images for each class instead of `samples`: N_G is then this × surrogate.classes, rounded up to whole shards, and grows
    with the number of classes (the paper's Table 2 has 1,200)."""
    guidance_interval: tuple[Share, Share] = later((0.0, 1.0))
    """The classifier guides only while from ≤ t/T < to: 0 is the image, 1 the noise."""

    @model_validator(mode="after")
    def _grids(self) -> Self:
        if self.guidance_interval[0] >= self.guidance_interval[1]:
            raise ValueError(
                f"extract.guidance_interval: {list(self.guidance_interval)} holds nothing; write [from, to] with from < to"
            )
        if 0 not in self.lambdas:
            raise ValueError("extract.lambdas: λ = 0, the Random baseline, is missing; add 0 to the list")
        if "td" in self.methods and not any(self.lambdas):
            raise ValueError("extract.lambdas: method td needs a λ > 0; add one or drop td from extract.methods")
        if "ti" in self.methods and not any(self.scales_of("ti")):
            raise ValueError("extract.ti_lambdas: method ti needs a λ > 0; add one or drop ti from extract.methods")
        if len(set(self.methods)) != len(self.methods):
            raise ValueError("extract.methods: holds a method twice; list each once")
        return self

    def scales_of(self, method: Method) -> list[float]:
        """Guidance scales at which `method` is sampled, in ascending order."""
        if method == "random":
            return [0.0]
        grid = self.ti_lambdas if method == "ti" and self.ti_lambdas is not None else self.lambdas
        return [value for value in grid if value > 0]


class ScoreSection(Section):
    similarity: Literal["nl2", "sscd"] = "nl2"
    bands: BandSpec | None = None
    """A preset's name or {low: [from, to], mid: …, high: …}; null is an open end. By default the similarity's own preset."""
    engine: Literal["auto", "faiss", "torch"] = "auto"
    shards: Count | None = None
    """Parts that the training features are split into, an actor each; chosen by their size where absent."""
    neighbors: Annotated[int, Field(strict=True, ge=50)] = 50
    false_match_rate: Annotated[Real, Field(gt=0, lt=0.5)] = 0.001
    """Share of the synthetic set that the calibrated cut lets match images that the DPM never saw."""
    checkpoint: str | None = None
    """SSCD weights: TorchScript or ONNX."""
    preprocessing: Literal["resize288", "resize320", "center224"] = "resize288"

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.similarity == "sscd" and not self.checkpoint:
            raise ValueError("score.checkpoint: similarity sscd needs the path of SSCD weights (TorchScript or ONNX)")
        if isinstance(self.bands, dict):
            if not self.bands:
                raise ValueError("score.bands: is empty; give at least one band or a preset's name")
            for name, (low, high) in self.bands.items():
                edges = [edge for edge in (low, high) if edge is not None]
                if not edges or any(math.isnan(edge) for edge in edges) or (len(edges) == 2 and edges[0] >= edges[1]):
                    raise ValueError(
                        f"score.bands: {name} is [{low}, {high}]; write [from, to] with from < to, null for an open end"
                    )
        return self


class GivenSection(Section):
    """Generated images that are there already, scored in place of samples from a DPM."""

    samples: Annotated[str, Field(min_length=1)]
    """Where they are: a folder of images, a zip archive, or Parquet with a column `image`; local or s3://bucket/prefix."""


class ReportSection(Section):
    title: str = "Memorization audit"
    gallery: Annotated[int, Field(strict=True, ge=0, le=200)] = 12
    """Best distinct matches shown per method."""


class StorageSection(Section):
    endpoint: str | None = None
    """URL of an S3-compatible server; credentials come from the environment and the AWS chain, never from here."""
    region: str | None = None


class ClusterSection(Section):
    address: str | None = None
    """A running Ray cluster; absent, a submitted job uses its own cluster and anything else starts Ray on this machine."""
    train_workers: Workers = 1
    """Workers that train the DPM together, or [least, most] for a number that follows what the cluster has. The classifiers
    have BatchNorm and are trained by one."""
    train_cpus: Count = 2
    train_cache_gb: Positive = 8.0
    """Images (GiB of 8-bit pixels) that a training worker keeps in memory; a larger set is read over and over from storage."""
    train_failures: Annotated[int, Field(strict=True, ge=-1)] = 3
    """How often a training may lose workers before it gives up; -1 = as often as it takes."""
    actors: tuple[Count, Count] = (1, 2)
    """Least and most actors of the pools that sample and score."""
    actor_cpus: Count = 1
    gpus: Annotated[Real, Field(ge=0)] = 0
    """GPUs of a training worker and of a sampling actor; a share below 1 lets several use one."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"

    @property
    def most_train_workers(self) -> int:
        return self.train_workers if isinstance(self.train_workers, int) else self.train_workers[1]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not isinstance(self.train_workers, int) and self.train_workers[0] > self.train_workers[1]:
            raise ValueError(f"cluster.train_workers: [least, most] with least ≤ most, not {list(self.train_workers)}")
        if self.actors[0] > self.actors[1]:
            raise ValueError(f"cluster.actors: [least, most] with least ≤ most, not {list(self.actors)}")
        if self.gpus > 1 and self.gpus % 1:
            raise ValueError(
                f"cluster.gpus: {self.gpus} is neither a share of one GPU nor a whole number of them; round it"
            )
        return self


def _with_samples(values: Any) -> Any:
    """The values with `extract.samples` set from `extract.samples_per_target`, where that is given."""
    extract, surrogate = values.get("extract"), values.get("surrogate") or {}
    if not isinstance(extract, dict) or not isinstance(surrogate, dict) or not extract.get("samples_per_target"):
        return values
    if surrogate.get("labels") == "classifier":
        raise ValueError(
            "extract.samples_per_target: the classes of a classifier are those of the data; give extract.samples instead"
        )
    size = extract.get("shard_size", ExtractSection.model_fields["shard_size"].default)
    classes = surrogate.get("classes", SurrogateSection.model_fields["classes"].default)
    each = extract["samples_per_target"]
    if not all(isinstance(count, int) and count > 0 for count in (size, classes, each)):
        return values  # told of by the keys' own checks
    samples = -(-each * classes // size) * size
    if extract.get("samples") not in (None, samples):
        raise ValueError(
            f"extract.samples: {extract['samples']}, but extract.samples_per_target makes it {samples}; give one of them"
        )
    return {**values, "extract": {**extract, "samples": samples}}


class Config(Section):
    """A whole audit. Frozen: a stage's fingerprint is taken from it."""

    run: RunSection
    data: DataSection
    given: GivenSection | None = later(None)
    dpm: DpmSection = DpmSection()
    surrogate: SurrogateSection = SurrogateSection()
    extract: ExtractSection
    score: ScoreSection = ScoreSection()
    report: ReportSection = ReportSection()
    storage: StorageSection = StorageSection()
    cluster: ClusterSection = ClusterSection()
    theory: TheorySection = TheorySection()
    control: ControlSection | None = later(None)
    sweep: SweepSection = SweepSection()

    @model_validator(mode="before")
    @classmethod
    def _samples_of_targets(cls, values: Any) -> Any:
        return _with_samples(values)

    @model_validator(mode="after")
    def _between_sections(self) -> Self:
        if self.given is None:
            self._check_sampling()
        elif self.control:
            raise ValueError("control: guides a second DPM, and here samples are given; drop it")
        if self.score.similarity == "nl2" and self.score.bands == "sscd":
            raise ValueError(
                "score.bands: preset sscd is for score.similarity sscd; use cumulative, paper or bands of your own"
            )
        if self.score.similarity == "sscd" and self.score.bands in ("cumulative", "paper"):
            raise ValueError(
                f"score.bands: preset {self.score.bands} is for score.similarity nl2; use sscd or bands of your own"
            )
        return self

    def _check_sampling(self) -> None:
        surrogate, size = self.surrogate, self.extract.shard_size
        if not self.data.holdout:
            raise ValueError(
                "data.holdout: the calibrated cut and the false-match rate need unseen images; give 1 or more"
            )
        if self.extract.samples % size:
            fix = max(1, round(self.extract.samples / size)) * size
            raise ValueError(
                f"extract.samples: {self.extract.samples} is not a multiple of extract.shard_size ({size}); "
                f"use for example {fix}"
            )
        if surrogate.synthetic % size:
            fix = max(1, round(surrogate.synthetic / size)) * size
            raise ValueError(
                f"surrogate.synthetic: {surrogate.synthetic} is not a multiple of extract.shard_size ({size}); "
                f"use for example {fix}"
            )
        if surrogate.classes > surrogate.synthetic:
            raise ValueError(
                f"surrogate.classes: {surrogate.classes} classes cannot come from {surrogate.synthetic} images; "
                "lower it or raise surrogate.synthetic"
            )
        if self.dpm.condition == "random" and self.dpm.condition_classes > self.data.members:
            raise ValueError(
                f"dpm.condition_classes: {self.dpm.condition_classes} classes for {self.data.members} members; lower it"
            )
        if self.control and self.dpm.kind == "import":
            raise ValueError(
                "control: trains a second DPM like the audited one, whose training an imported model does not tell; drop it"
            )
        if self.control and set(self.control.lambdas or []) - set(
            self.extract.lambdas + (self.extract.ti_lambdas or [])
        ):
            raise ValueError(
                "control.lambdas: holds a λ that the audit does not sample; take them from extract.lambdas"
            )
        if surrogate.features == "sscd" and not (surrogate.encoder or self.score.checkpoint):
            raise ValueError(
                "surrogate.encoder: features sscd need the path of SSCD weights, here or as score.checkpoint"
            )

    @property
    def label_weights(self) -> dict[str, str]:
        """Paths of the weights that the surrogate's labels are made with, by the keys that name them."""
        surrogate = self.surrogate
        found = {"surrogate.teacher": surrogate.teacher}
        if surrogate.features in ("sscd", "clip"):
            key = "surrogate.encoder" if surrogate.encoder else "score.checkpoint"
            found[key] = surrogate.encoder or self.score.checkpoint
        return {key: path for key, path in found.items() if path is not None}

    def to_yaml(self) -> str:
        """The resolved config as YAML that `load_config` reads back to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
