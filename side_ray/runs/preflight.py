"""Checks of a config that read data, weights and storage, made before a stage starts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch

from side_ray.config import Config, ExtractSection
from side_ray.config.extract import BY_MODEL
from side_ray.diffusion.denoisers.unet import unet_section
from side_ray.diffusion.dpm import Dpm, load_dpm
from side_ray.diffusion.draw import sampler_of
from side_ray.diffusion.extrapolation import check_base, interval_of
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.processes import Schedule, process_of
from side_ray.diffusion.unet_dpm import new_unet
from side_ray.errors import NotThere, RunError, UserError, naming, renamed
from side_ray.runs.artifacts import VERSIONS, Artifacts, check_label_weights, image_shape
from side_ray.runs.control import control_artifacts
from side_ray.runs.imported.conditions import source_of
from side_ray.runs.imported.keeping import check_kept
from side_ray.runs.imported.opening import imported, opened_base
from side_ray.similarity import similarity_of
from side_ray.sources.canaries import read_plan
from side_ray.sources.inventory import check_enough, inventory, reasons, samples_inventory
from side_ray.sources.pools import Description, describe
from side_ray.statistics.bands import Bands
from side_ray.storage import open_store, within
from side_ray.surrogate.encoders import open_teacher
from side_ray.surrogate.lora import LoraNetwork, require_peft


def preflight(artifacts: Artifacts, missing: list[str] | None = None) -> None:
    """Check a config for faults that would otherwise stop the audit in a later stage, in the order of the stages.

    Args:
        missing: takes a line on each thing that is not there yet, or cannot be reached, and the checks go on; without it,
            the first one is raised. `side-ray plan` tells them beside the cost.

    Raises:
        UserError: one line that names the config key and the remedy.
        RunError: the run directory cannot be read or written.
    """
    for check in _Checks(artifacts).in_order():
        try:
            check()
        except (NotThere, RunError) as error:
            if missing is None:
                raise
            if str(error) not in missing:
                missing.append(str(error))


class _Checks:
    """The checks of one audit, and what earlier ones found for later ones."""

    def __init__(self, artifacts: Artifacts) -> None:
        self.artifacts, self.config = artifacts, artifacts.config
        self.source: Description | None = None
        self.schedule: Schedule | None = None

    def in_order(self) -> Iterator[Callable[[], object]]:
        """Those of `prepare` first."""
        yield lambda: self.config.cluster.ray_address
        yield lambda: check_places(self.config)
        yield self.artifacts.run.store.check
        yield self.data
        if self.config.given:
            yield lambda: check_given(self.artifacts)
        else:
            yield lambda: check_kept(self.config, self.artifacts.run)
            yield from (self.dpm, self.surrogate, self.steps)
        if self.config.privacy.canaries is not None:
            yield self.canaries
        yield self.score
        yield lambda: _check_tracker(self.config.report.tracker)
        if self.config.control:
            yield lambda: _check_control(self.artifacts)

    def data(self) -> None:
        data, pools = self.config.data, self.artifacts.pools
        if self.artifacts.prepare.done:
            return
        self.source = describe(data, pools)
        for pool in pools[1:]:
            with renamed("data.path", "data.holdout_path"):
                next(iter(pool.units()), None)
        counts = [count for count in self.source.counts if count is not None]
        if len(counts) == len(self.source.counts):
            check_enough(data, counts, inventory(pools, counts, [[]] * len(pools)))

    def dpm(self) -> None:
        config = self.config
        if config.dpm.kind == "train":
            _check_batch(config)
        if self.source is not None:
            self._fits(self.source)
        self.schedule = schedule_of(self.artifacts)
        if config.surrogate.kind == "lora" and "td" in config.extract.methods:
            require_lora(self.artifacts)
        if config.dpm.base is not None:
            require_base(self.artifacts)
        source_of(config, "")  # a file of prompts

    def _fits(self, source: Description) -> None:
        """Check what is trained against the images."""
        config, (height, width, channels) = self.config, source.shape
        if config.dpm.kind == "train":
            with naming("dpm.unet"), torch.device("meta"):
                new_unet(unet_section(config.dpm).model_dump(), (channels, height, width))
        if not source.labelled and config.dpm.condition == "labels":
            raise UserError(
                f"dpm.condition: labels, but {config.data.source} has none; use random or unique, or another data.source"
            )
        if not source.labelled and ("ti" in config.extract.methods or config.surrogate.wants_labels):
            raise UserError(
                f"data.source: {config.data.source} has no labels, which method ti and surrogate.labels classifier need; "
                "drop ti from extract.methods and use surrogate.labels: cluster"
            )

    def surrogate(self) -> None:
        surrogate = self.config.surrogate
        if "td" in self.config.extract.methods:
            check_label_weights(self.config)
            if surrogate.teacher is not None:
                open_teacher(surrogate.teacher, surrogate.teacher_size, surrogate.teacher_input)

    def steps(self) -> None:
        if self.schedule is not None:
            with naming("extract.steps"):
                visited = sampler_of(self.config.extract).visited_timesteps(self.schedule)
            if self.config.dpm.base is not None and not guided_steps(self.config.extract, self.schedule, "base"):
                raise UserError(
                    f"holds none of the {len(visited)} timesteps that {self.config.extract.sampler} visits, so method base would "
                    "be plain sampling; widen it, for example [0.25, 1]",
                    "extract.base_interval",
                )

    def canaries(self) -> None:
        read_plan(str(self.config.privacy.canaries))

    def score(self) -> None:
        for section in (self.config.score, *self.config.score.others.values()):
            Bands.make(section.bands, similarity_of(section))
        if self.config.cluster.memory_gb is not None:
            from side_ray.runs.cost.search import planned_search  # the package of costs imports this module

            for each in self.artifacts.every.values():
                planned_search(each)
        if self.config.score.features_cache is not None:
            open_store(self.config.score.features_cache, key="score.features_cache", **self.config.storage.model_dump())
        if self.config.score.reconstructions is True and not self.artifacts.latent:
            raise UserError("is for latent models, and this one has no VAE; drop it", "score.reconstructions")


def check_places(config: Config) -> None:
    """Check that the run does not write into what it reads, and that the sets of images are not in each other.

    Raises:
        UserError: they are, by whatever spelling or link.
    """
    data, run = config.data, config.run.uri
    paths = {"data.path": data.path, "data.holdout_path": data.holdout_path}
    if config.dpm.kind == "import":
        paths |= {"dpm.path": config.dpm.path, "dpm.base": config.dpm.base}
    if config.given:
        paths["given.samples"] = config.given.samples
    # A pattern with ** finds files at any depth.
    places = {key: path.partition("/**")[0] for key, path in paths.items() if path}
    writes = {"run.uri": run, "score.features_cache": config.score.features_cache}
    for key, path in places.items():
        for own, uri in writes.items():
            if uri is not None and within(uri, path):
                raise UserError(
                    f"{uri} is {key} or in it, so that its files would be read as data; choose another", own
                )
        if any(within(path, (stage := f"{run.rstrip('/')}/{name}")) and within(stage, path) for name in VERSIONS):
            raise UserError(f"{path} is where this run writes; choose another path, or another run.uri", key)
    pairs = [("given.samples", "data.path"), ("given.samples", "data.holdout_path")]
    if not data.item("data.source").splits_one_path:
        pairs.append(("data.holdout_path", "data.path"))
    for key, other in pairs:
        one, two = places.get(key), places.get(other)
        if one and two and (within(one, two) or within(two, one)):
            what = "generated images" if key == "given.samples" else "images that the model never saw"
            raise UserError(f"{one} and {other} ({two}) are the same or in each other; give {what} that are apart", key)


def require_lora(artifacts: Artifacts) -> None:
    """Raise UserError unless the DPM can be fine-tuned by LoRA. A U-Net that is trained here can be."""
    config = artifacts.config
    if config.dpm.kind != "import":
        require_peft()
    else:
        with open_imported(artifacts) as model:
            LoraNetwork(model, 1, 1)


def require_base(artifacts: Artifacts) -> None:
    """Raise UserError unless the model can be extrapolated from `dpm.base`."""
    with open_imported(artifacts) as model, opened_base(artifacts.config) as (_, base):
        check_base(model, base)


@contextmanager
def open_imported(artifacts: Artifacts) -> Iterator[Dpm]:
    """The imported model: the run's copy or, if it has none, the one at `dpm.path`, which has the same content.

    Raises:
        UserError: it cannot be opened.
    """
    config, made = artifacts.config, artifacts.dpm
    if made.done and made.references() is None:
        yield load_dpm(made.fetch(), code=config.dpm.function is not None)
    else:
        with imported(config, image_shape(artifacts)) as (_, model):
            yield model


def guided_steps(extract: ExtractSection, schedule: Schedule, method: str = "td") -> int:
    """Number of visited timesteps that a method guides; a classifier does where α_t is large enough."""
    process = process_of(schedule)
    interval = interval_of(process, extract.base_interval) if method == "base" else extract.guidance_interval
    start, end = (edge * process.timesteps for edge in interval)
    least = 0.0 if method in BY_MODEL else process.guided_from
    visited = sampler_of(extract).visited_timesteps(schedule)
    return sum(start <= time < end and process.level(time)[0] >= least for time in visited)


def schedule_of(artifacts: Artifacts) -> Schedule:
    """The noise process of the DPM: that of the config, or the imported model's own.

    Raises:
        UserError: the imported model cannot be opened.
    """
    config = artifacts.config
    if config.dpm.kind != "import":
        return new_schedule(config.dpm.schedule, config.dpm.timesteps)
    with open_imported(artifacts) as model:
        return model.schedule


def _check_batch(config: Config) -> None:
    batch, workers, parts = config.dpm.batch_size, config.cluster.train_workers, config.dpm.grad_accumulation
    # An elastic group may have any size in its range, so its shares may be unequal.
    if isinstance(workers, int) and batch % workers:
        raise UserError(
            f"dpm.batch_size: {batch} is not divisible by cluster.train_workers ({workers}); choose a multiple"
        )
    if batch < config.cluster.most_train_workers * parts:
        raise UserError(
            f"dpm.batch_size: {batch} images are too few for {config.cluster.most_train_workers} workers with {parts} part(s) "
            "each; raise it, or lower cluster.train_workers or dpm.grad_accumulation"
        )


def _check_tracker(name: str | None) -> None:
    """Raise NotThere unless the package of `report.tracker` is installed; a folder of that name, as trackers write, is none."""
    found = None if name is None else find_spec(name)
    if name is not None and (found is None or found.origin is None):
        raise NotThere(f"{name} is not installed here; pip install {name}, or drop the key", "report.tracker")


def _check_control(artifacts: Artifacts) -> None:
    """Raise UserError if the source holds too few other images for the control."""
    config, other = artifacts.config, control_artifacts(artifacts)
    if other.prepare.done:
        return
    counts = [count for count in describe(other.config.data, other.pools).counts if count is not None]
    if len(counts) == (1 if config.data.holdout_path is None else 2):
        with naming("control.members"):
            check_enough(other.config.data, counts, inventory(other.pools, counts, [[]] * len(counts)))


def check_given(artifacts: Artifacts) -> None:
    """Check that `extract.samples` is the number of given samples.

    Raises:
        UserError: it is another number, or there are no samples.
    """
    config, count = artifacts.config, artifacts.given.count()
    assert config.given is not None
    if count != config.extract.samples:
        gone = samples_inventory(artifacts.given)
        remedy = f"left out were {reasons(gone)}: restore what is a sample, or " if gone["left_out"] else ""
        raise UserError(
            f"the config says {config.extract.samples:,}, but {config.given.samples} holds {count:,} samples; {remedy}set it to "
            "that number",
            "extract.samples",
        )
