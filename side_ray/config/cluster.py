"""Sections `run`, `storage`, `cluster` and `report`: where an audit runs and what it writes."""

import os
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from side_ray.config.base import Actors, Count, OpenSection, Positive, Real, Section, Whole, omitted_by_default
from side_ray.errors import UserError

Workers = Annotated[
    Annotated[Actors, Tag("a number")] | Annotated[tuple[Actors, Actors], Tag("least and most")],
    Discriminator(lambda value: "least and most" if isinstance(value, (list, tuple)) else "a number"),
]


Cpus = Annotated[Count, Field(le=4096)]
"""Of one process, so no more than a machine has."""

_HOST_ONLY = "holds credentials; give host:port, and a token as RAY_AUTH_TOKEN"


class RunSection(Section):
    """Where the run is kept, and its seed."""

    uri: Annotated[str, Field(min_length=1)]
    """Run directory: a local path (relative to the working directory) or s3://bucket/prefix."""
    seed: Whole = 0
    """Everything random follows from it: the draw of the members, training, and the seed of every sample."""


class ReportSection(OpenSection):
    """Further keys come from the sections of the page, `side_ray.report.sections`."""

    registries: ClassVar[tuple[str, ...]] = ("report.sections",)

    title: str = "Memorization audit"
    """The page's title."""
    redact: Literal["none", "blur", "omit"] = "none"
    """What is done to the images of the page, training images and samples alike: `blur`, or `omit` to leave them out."""
    pdf: bool = True
    """Whether the page is also printed to `report.pdf`, where Chromium or Chrome is installed."""
    figures: bool = True
    """Whether figures are also written as PNG and PDF, and their data as CSV."""
    tracker: Literal["wandb", "mlflow", "trackio"] | None = omitted_by_default(None)
    """Log the finished audit to Weights & Biases, MLflow or Trackio: its numbers, its config, and the page with its images
    (which `redact` hides). Their package is installed separately and finds account and project in its own environment."""


class StorageSection(Section):
    """How S3 is reached, and how much of it is cached."""

    endpoint: str | None = None
    """URL of an S3-compatible server; credentials come from the environment and the AWS chain, never from the config."""
    region: str | None = None
    """The bucket's region; that of the environment or of the AWS configuration where absent."""
    cache_gb: Positive = 50.0
    """Size (GiB) of the cache of weights downloaded from object storage ($SIDE_RAY_CACHE); what was not used for longest is
    removed first."""


class ClusterSection(Section):
    """What an audit may use of the cluster or of the machine."""

    address: str | None = None
    """A running Ray cluster; absent, a submitted job uses its own cluster and anything else starts Ray on this machine."""
    train_workers: Workers = 1
    """Workers that train the DPM together, or [least, most] for a number that follows the size of the cluster. The
    classifiers have BatchNorm and are trained by one worker."""
    train_cpus: Cpus = 2
    """CPUs of a training worker, and of the task that labels the synthetic set."""
    train_cache_gb: Positive = 8.0
    """Images (GiB of 8-bit pixels) that a training worker keeps in memory; a larger set is read from storage in every epoch."""
    train_failures: Annotated[int, Field(strict=True, ge=-1)] = 3
    """How often a training may lose workers before it fails; -1 = no limit."""
    actors: tuple[Actors, Actors] = (1, 2)
    """Minimum and maximum number of actors in the pools that sample and score."""
    actor_cpus: Cpus = 1
    """CPUs of a sampling or scoring actor."""
    gpus: Annotated[Real, Field(ge=0, le=64)] = 0
    """GPUs of a training worker and of a sampling actor; a share below 1 lets several use one."""
    overlap: Literal["auto"] | bool = omitted_by_default("auto")
    """Score finished samples while sampling goes on, on CPUs that the sampling actors leave free. `auto`: on a Ray cluster, not
    on a machine alone; `true`: there too. Not where scoring reserves GPUs or splits the training features over actors."""
    memory_gb: Positive | None = omitted_by_default(None)
    """Memory (GiB) of a node. Training features are split into parts that fit, and a node gets no more actors with parts than
    it holds. A part has at most 2 GiB of features of a set in any case."""
    price_per_hour: Positive | None = None
    """Price of one hour of one device, in any currency: `plan --probe` then says what the audit costs."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """In which training and sampling compute; the guiding classifier, the similarity and the scores always use float32."""

    @property
    def ray_address(self) -> str | None:
        """The Ray cluster to use: `address`, else RAY_ADDRESS; None = Ray is started on this machine. Raises UserError if
        RAY_ADDRESS holds credentials."""
        address = self.address or os.environ.get("RAY_ADDRESS")
        if "@" in (address or ""):
            raise UserError(_HOST_ONLY, "RAY_ADDRESS")
        return address

    @property
    def most_train_workers(self) -> int:
        return self.train_workers if isinstance(self.train_workers, int) else self.train_workers[1]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not isinstance(self.train_workers, int) and self.train_workers[0] > self.train_workers[1]:
            raise ValueError(f"cluster.train_workers: [least, most] with least ≤ most, not {list(self.train_workers)}")
        if "@" in (self.address or ""):
            raise ValueError(f"cluster.address: {_HOST_ONLY}")
        if self.actors[0] > self.actors[1]:
            raise ValueError(f"cluster.actors: [least, most] with least ≤ most, not {list(self.actors)}")
        if self.gpus > 1 and self.gpus % 1:
            raise ValueError(
                f"cluster.gpus: {self.gpus} is neither a share of one GPU nor a whole number of them; round it"
            )
        return self
