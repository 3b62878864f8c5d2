"""Opening the model at `dpm.path`."""

from pathlib import Path

from side_ray.config import Config
from side_ray.diffusion.dpm import load_dpm, with_codec
from side_ray.diffusion.spaces.pixels import PixelCodec
from side_ray.errors import UserError, naming
from side_ray.storage import open_store


def fetch_import(config: Config, shape: tuple[int, int, int]) -> Path:
    """Local directory of the imported pipeline, after a check that its images have `shape` (C, H, W).

    Raises:
        UserError: it cannot be opened, or its images have another shape.
    """
    assert config.dpm.path is not None
    store = open_store(config.dpm.path, key="dpm.path", **config.storage.model_dump())
    directory = store.fetch_dir("")
    with naming("dpm.path"):
        model = load_dpm(directory)
    with naming("dpm.pixel_mean" if config.dpm.pixel_mean else "dpm.pixel_range"):
        with_codec(model, PixelCodec.of(config.dpm))
    made = tuple(model.image_shape)
    if made != shape:
        raise UserError(
            f"{config.dpm.path} makes images of {_told(made)}, the data has {_told(shape)}; if it was trained on this data, "
            f"{_fitting(config, made, shape)}",
            "dpm.path",
        )
    return directory


def _told(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{width} × {height} pixels and {channels} channel{'s' if channels > 1 else ''}"


def _fitting(config: Config, made: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """The settings that make the data fit a model that makes images of the shape `made`."""
    channels, height, width = made
    settings = []
    if not config.data.item("data.source").converts:
        return f"give a data.source other than {config.data.source}, which has one size"
    if height != width and made[1:] != shape[1:]:
        return f"give a folder of images of {width} × {height} pixels as data.path"
    if channels not in (1, 3) and channels != shape[0]:
        return "give a model of gray or RGB images; side-ray score --samples … --train … audits images of any model"
    if made[1:] != shape[1:]:
        settings.append(f"data.image_size={height}")
    if channels != shape[0]:
        settings.append(f"data.grayscale={str(channels == 1).lower()}")
    return f"set {' and '.join(settings)}"
