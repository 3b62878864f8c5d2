"""Checks of a config that read data, weights and storage, made before a stage starts."""

from pathlib import Path

from side_ray.config import Config
from side_ray.diffusion.denoisers.unet import unet_section
from side_ray.diffusion.dpm import load_dpm
from side_ray.diffusion.draw import sampler_of
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.unet_dpm import new_unet
from side_ray.errors import UserError, naming
from side_ray.runs.artifacts import VERSIONS, Artifacts, check_label_weights, image_shape
from side_ray.runs.control import control_artifacts
from side_ray.similarity import similarity_of
from side_ray.sources.canaries import read_plan
from side_ray.sources.pools import Description, describe
from side_ray.sources.select import check_sizes
from side_ray.statistics.bands import Bands
from side_ray.storage import open_store, within
from side_ray.surrogate.encoders import open_teacher


def preflight(artifacts: Artifacts) -> None:
    """Check a config for faults that would otherwise stop the audit in a later stage.

    Raises:
        UserError: one line that names the config key and the remedy.
        RunError: the run directory cannot be read or written.
    """
    config = artifacts.config
    check_places(config)
    similarity = similarity_of(config.score)
    Bands.make(config.score.bands, similarity)
    source = None if artifacts.prepare.done else describe(config.data, artifacts.pools)
    if source is not None:
        counts = [count for count in source.counts if count is not None]
        if len(counts) == len(source.counts):
            check_sizes(config.data, *counts)
    if config.given:
        check_given(artifacts)
    else:
        _check_dpm(artifacts, source)
    if config.privacy.canaries is not None:
        read_plan(config.privacy.canaries)
    artifacts.run.store.check()


def check_places(config: Config) -> None:
    """Check that the run does not write into what it reads, and that the sets of images are not in each other.

    Raises:
        UserError: they are, by whatever spelling or link.
    """
    data, run = config.data, config.run.uri
    paths = {"data.path": data.path, "data.holdout_path": data.holdout_path, "dpm.path": config.dpm.path}
    if config.dpm.kind != "import":
        del paths["dpm.path"]
    if config.given:
        paths["given.samples"] = config.given.samples
    places = {key: path for key, path in paths.items() if path}
    for key, path in places.items():
        if within(run, path):
            raise UserError(
                f"{run} is {key} or in it, so that the run's files would be read as data; choose another", "run.uri"
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


def _check_dpm(artifacts: Artifacts, source: Description | None) -> None:
    config = artifacts.config
    with naming("extract.steps"):
        schedule = new_schedule(config.dpm.schedule, config.dpm.timesteps)
        sampler_of(config.extract).visited_timesteps(schedule)
    if source is not None:
        height, width, channels = source.shape
        if config.dpm.kind == "train":
            with naming("dpm.unet"):
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
    if config.dpm.kind == "train":
        _check_batch(config)
    if "td" in config.extract.methods:
        check_label_weights(config)
        if config.surrogate.teacher is not None:
            open_teacher(config.surrogate.teacher, config.surrogate.teacher_size, config.surrogate.teacher_input)
    if config.dpm.kind == "import" and not artifacts.dpm.done:
        fetch_import(config, image_shape(artifacts))
    if config.control:
        _check_control(artifacts)


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


def _check_control(artifacts: Artifacts) -> None:
    """Raise UserError if the source holds too few other images for the control."""
    config, other = artifacts.config, control_artifacts(artifacts)
    if other.prepare.done:
        return
    counts = [count for count in describe(other.config.data, other.pools).counts if count is not None]
    if len(counts) == (1 if config.data.holdout_path is None else 2):
        with naming("control.members"):
            check_sizes(other.config.data, *counts)


def fetch_import(config: Config, shape: tuple[int, int, int]) -> Path:
    """Local directory of the imported pipeline, after a check that its images have `shape` (C, H, W).

    Raises:
        UserError: it cannot be opened, or its images have another shape.
    """
    assert config.dpm.path is not None
    store = open_store(config.dpm.path, key="dpm.path", **config.storage.model_dump())
    directory = store.fetch_dir("")
    with naming("dpm.path"):
        made = tuple(load_dpm(directory).image_shape)
    if made != shape:
        raise UserError(
            f"dpm.path: {config.dpm.path} makes images of shape {made}, the data has {shape}; give the data set that this "
            "model was trained on"
        )
    return directory


def check_given(artifacts: Artifacts) -> None:
    """Check that `extract.samples` is the number of given samples.

    Raises:
        UserError: it is another number, or there are no samples.
    """
    config, count = artifacts.config, artifacts.given.count()
    assert config.given is not None
    if count != config.extract.samples:
        raise UserError(
            f"extract.samples: the config says {config.extract.samples:,}, but {config.given.samples} holds {count:,} samples; "
            "set it to that number"
        )
