"""Opening the model at `dpm.path`: finding it, choosing the files that are read, and what identifies it."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from side_ray.config import Config, DpmSection, StorageSection
from side_ray.config.dpm import DENOISER
from side_ray.diffusion.condition import Condition
from side_ray.diffusion.condition.drawn import Conditioning, encoder_of
from side_ray.diffusion.denoisers.base import ModelKind
from side_ray.diffusion.denoisers.function import FILE as FUNCTION_FILE
from side_ray.diffusion.denoisers.function import Function
from side_ray.diffusion.denoisers.layout import LORA, PICKLED, SIZE
from side_ray.diffusion.files import LARGEST_JSON
from side_ray.diffusion.spaces.pixels import PixelCodec
from side_ray.errors import UserError, naming, renamed
from side_ray.registry import REGISTRIES
from side_ray.runs.imported.hub import HubModel, hub_file, hub_model, is_on_hub
from side_ray.storage import Store, open_store
from side_ray.storage.digests import file_digest
from side_ray.storage.scratch import scratch

if TYPE_CHECKING:
    from side_ray.diffusion.dpm import Dpm

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w.-]+)?")
"""What a model is called on a hub."""
ELSE = "side-ray models lists what can be audited; side-ray score --samples … --train … audits images of any model"
LARGE = 16 << 20
"""Files of at least so many bytes are not read again at every start to identify a model, but only if they may have changed."""
ONCE_IGNORED = {"clip_sample": True, "clip_sample_range": 1.0, "thresholding": False, "predict_epsilon": True}
"""Settings of a scheduler that earlier versions ignored, and the values that they took for granted."""


@dataclass(frozen=True)
class Found:
    """A model, unopened: its kind, by relative path the local files that are read, and the names of all that are there.

    store: where it is; None for a function's files, and for a model on the hub.
    commit: of the hub's repository; "" for any other place.
    root: the URI of its directory, on the hub at that commit, or its absolute path; "" for a function's files.
    """

    kind: type[ModelKind]
    paths: Mapping[str, Path]
    names: Sequence[str]
    store: Store | None = None
    commit: str = ""
    root: str = ""


def find_model(config: Config) -> Found:
    """The model at `dpm.path`, unopened. Raises what `model_of` does."""
    return _function(config) if config.dpm.function is not None else model_of(config.dpm, config.storage)


def model_of(dpm: DpmSection, storage: StorageSection) -> Found:
    """The model in the directory `dpm.path`, unopened. From object storage and the hub only the files that are read are
    downloaded.

    Raises:
        UserError: there is none, or one of a kind that cannot be audited.
        RunError: the storage cannot be reached.
    """
    path = dpm.path
    assert path is not None
    _check_path(path)
    store: Store | HubModel
    store = hub_model(path, "dpm.path") if is_on_hub(path) else open_store(path, key="dpm.path", **storage.model_dump())
    sizes = {entry.key: entry.size for entry in sorted(store.list())}
    if not sizes:
        raise UserError(f"{path} holds no files; give the directory of a diffusers pipeline", "dpm.path")
    names, kinds = list(sizes), REGISTRIES[DENOISER]
    with naming("dpm.path"), _outline(store, sizes) as outline:
        for name in kinds.names:
            if kinds[name].recognizes(outline):
                read = sorted(kinds[name].files(names, dpm))
                directory = store.fetch_dir("", only=read)
                paths = {each: directory / each for each in read}
                if isinstance(store, HubModel):
                    return Found(kinds[name], paths, names, commit=store.commit, root=store.address)
                return Found(kinds[name], paths, names, store, root=store.uri)
        raise UserError(f"{_what_is_there(path, names)}; {ELSE}", "dpm.path")


@contextmanager
def _outline(store: Store | HubModel, sizes: Mapping[str, int]) -> Iterator[Path]:
    """A directory in which a kind of model can be recognized: its JSON files, and empty files in place of those that are not
    on this machine."""
    small = [name for name, size in sizes.items() if name.endswith(".json") and size <= LARGEST_JSON]
    fetched = store.fetch_dir("", only=small)
    if all((fetched / name).exists() for name in sizes):
        yield fetched
        return
    with scratch() as directory:
        for name in sizes:
            path = directory / name
            with suppress(FileExistsError, NotADirectoryError):  # an object may have the name of a directory
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(fetched / name) if name in small else path.touch()
        yield directory


def _function(config: Config) -> Found:
    """The user's Python file and `dpm.files`."""
    assert config.dpm.function is not None
    paths: dict[str, Path] = {}
    for key, text in [("dpm.path", config.dpm.function[0]), *(("dpm.files", each) for each in config.dpm.files)]:
        path = Path(text).expanduser().absolute()
        if not path.is_file():
            raise UserError(f"there is no file {text}; give a local path", key)
        if path.name in (*paths, FUNCTION_FILE, "pixels.json", "condition.json"):
            raise UserError(f"{path.name} is a name that another file has; rename it", key)
        paths[path.name] = path
    return Found(Function, dict(sorted(paths.items())), list(paths))


def _check_path(path: str) -> None:
    """Raise UserError for what is no directory, with what to do about it."""
    local = Path(path.removeprefix("file://")).expanduser()
    if path.startswith(("http://", "https://")) or (not local.exists() and HUB_ID.fullmatch(path)):
        raise UserError(
            f"{path} is no directory here; a model on the HuggingFace hub is hf://owner/name@revision, and one on another site "
            "must be downloaded first",
            "dpm.path",
        )
    if "://" not in path and local.is_file():
        what = "pickled weights" if local.suffix in PICKLED else "a file"
        raise UserError(
            f"{path} is {what}; give the directory of a diffusers pipeline, or a function that opens it: my_model.py:load with "
            f"dpm.files (docs/models.md); {ELSE}",
            "dpm.path",
        )


def _what_is_there(path: str, names: list[str]) -> str:
    tops = {name.split("/")[0] for name in names if "/" in name}
    pickled = [name for name in names if Path(name).suffix in PICKLED]
    if checkpoints := sorted(top for top in tops if re.fullmatch(r"checkpoint[-_]\d+", top)):
        return (
            f"{path} holds checkpoints of a training ({', '.join(checkpoints[:3])}) and no pipeline; give one of these"
        )
    if inner := sorted(top for top in tops if f"{top}/model_index.json" in names):
        return f"{path} holds no model itself; give one of the directories in it: {', '.join(inner[:3])}"
    if pickled:
        return (
            f"{path} holds no pipeline, only pickled weights ({pickled[0]}); give a function that opens them with "
            "torch.load(…, weights_only=True): my_model.py:load with dpm.files (docs/models.md)"
        )
    found = ", ".join(names[:3]) or "nothing"
    return f"no diffusion model in {path}: it is of none of the kinds {', '.join(REGISTRIES[DENOISER].names)}, found: {found}"


@contextmanager
def linked(found: Found) -> Iterator[Path]:
    """A directory of links to the files that are read. It is removed at the end."""
    with scratch() as directory:
        for name, path in found.paths.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).symlink_to(path.resolve())
        yield directory


@contextmanager
def imported(config: Config, shape: tuple[int, int, int]) -> "Iterator[tuple[Path, Dpm]]":
    """A directory of the files that are read of the imported model, with what the section `dpm` says of it, and the model; its
    images have `shape` (C, H, W). The directory is removed at the end.

    Raises:
        UserError: it cannot be opened, or its images have another shape.
    """
    with opened(config) as (directory, model):
        Conditioning.of(config.dpm).check(model)
        made = tuple(model.image_shape)
        if made != shape:
            raise UserError(
                f"{config.dpm.path} makes images of {_told(made)}, the data has {_told(shape)}; if it was trained on this data, "
                f"{_fitting(config, made, shape)}{_or_resized(model, shape)}",
                "dpm.path",
            )
        yield directory, model


@contextmanager
def opened_base(config: Config) -> "Iterator[tuple[Path, Dpm]]":
    """As of `imported`, the model at `dpm.base`, whatever it is; `check_base` compares it with the fine-tuned one."""
    base = config.of_base
    assert base is not None
    with renamed("dpm.path", "dpm.base"), renamed("dpm.variant", "dpm.base"), opened(base) as found:
        yield found


@contextmanager
def opened(config: Config) -> "Iterator[tuple[Path, Dpm]]":
    """As of `imported`, a model of any shape and condition."""
    from side_ray.diffusion.dpm import is_latent, load_dpm, with_codec  # takes seconds to import

    found, dpm = find_model(config), config.dpm
    with linked(found) as directory:
        if dpm.function is not None:
            Function.describe(directory, Path(dpm.function[0]), dpm.function[1])
        if dpm.lora:
            _link_loras(config, found, directory)
        if dpm.image_size is not None:
            if not found.kind.takes_size:
                raise UserError(
                    "is for text-conditioned models; this one has a size of its own, drop it", "dpm.image_size"
                )
            (_replaced(directory, SIZE) / SIZE).write_text(json.dumps({"image_size": dpm.image_size}) + "\n")
        try:
            model = load_dpm(directory, code=dpm.function is not None)
        except UserError as error:
            if error.key == "dpm.image_size":
                raise
            raise UserError(error.message.replace(str(directory), str(dpm.path)), "dpm.path") from error
        if dpm.function is not None and is_latent(model) != dpm.latent:
            what = "no codec; drop it" if dpm.latent else "a codec, so the model diffuses latents; set it to true"
            raise UserError(f"{dpm.path} returns {what}", "dpm.latent")
        if dpm.null_class is not None:
            model.condition = _without(model, dpm.null_class)
            model.condition.save(_replaced(directory, "condition.json"))
        if (codec := PixelCodec.of(dpm)) is not None:
            with naming("dpm.pixel_mean" if dpm.pixel_mean else "dpm.pixel_range"):
                with_codec(model, codec)
            codec.save(_replaced(directory, "pixels.json"))
        yield directory, model


def _link_loras(config: Config, found: Found, directory: Path) -> None:
    """Put the files of LoRA weights beside the model, as its kind reads them."""
    if not found.kind.takes_lora or LORA in found.paths:
        kinds = REGISTRIES[DENOISER]
        able = ", ".join(name for name in kinds.names if kinds[name].takes_lora)
        why = "has LoRA weights already" if LORA in found.paths else f"is of none of the kinds {able}"
        raise UserError(f"the model {why}, so none can be added to it; drop it", "dpm.lora")
    (directory / "lora").mkdir()
    for number, path in enumerate(lora_files(config)):
        (directory / "lora" / f"{number}.safetensors").symlink_to(path.resolve())
    (directory / LORA).write_text(json.dumps({"weights": list(config.dpm.loras.values())}) + "\n")


def lora_files(config: Config) -> list[Path]:
    """The files of LoRA weights at `dpm.lora`. Raises UserError where one is not there, and what `hub_model` does."""
    paths = [hub_file(text, "dpm.lora") if is_on_hub(text) else Path(text).expanduser() for text in config.dpm.lora]
    for path in paths:
        if not path.is_file() or path.suffix != ".safetensors":
            what = "there is no file" if not path.is_file() else "only safetensors are opened, not"
            raise UserError(f"{what} {path}; give a local file of LoRA weights in safetensors", "dpm.lora")
    return paths


def _replaced(directory: Path, name: str) -> Path:
    """The directory, in which a file of this name can be written without following a link."""
    (directory / name).unlink(missing_ok=True)
    return directory


def _without(model: "Dpm", null: int) -> Condition:
    """How often each class is drawn, the null class never."""
    if model.condition is None or not 0 <= null < len(model.condition.counts) or len(model.condition.counts) < 2:
        classes = "no classes" if model.condition is None else f"the classes 0 … {len(model.condition.counts) - 1}"
        raise UserError(f"is {null}, the model has {classes}; drop it or give the number of one", "dpm.null_class")
    return model.condition.without(null)


def identity(config: Config, found: Found) -> list[Any]:
    """What the imported model's samples depend on: the content of its files, and what the section `dpm` says of it."""
    dpm, codec = config.dpm, PixelCodec.of(config.dpm)
    parts: list[Any] = [files_hash(found.paths)]
    if dpm.function is not None:
        parts.append({"function": dpm.function[1]})
    if codec is not None:
        parts += [codec.black, codec.white]
    if dpm.null_class is not None:
        parts.append({"null_class": dpm.null_class})
    if dpm.image_size is not None:
        parts.append({"image_size": dpm.image_size})
    if dpm.lora:
        contents = [files_hash({"lora": path}) for path in lora_files(config)]
        parts.append({"lora": list(zip(contents, dpm.loras.values(), strict=True))})
    for name, path in found.paths.items():
        if name.endswith("scheduler_config.json"):
            try:
                config_of = json.loads(path.read_text())
                heeded = {
                    key: config_of[key] for key, usual in ONCE_IGNORED.items() if config_of.get(key, usual) != usual
                }
            except (OSError, ValueError, AttributeError):
                continue  # opening it says what is wrong
            if heeded:
                parts.append(heeded)
    return parts


def former_identity(found: Found) -> str | None:
    """What identified the model in earlier versions, which hashed all JSON and safetensors files; None if it is the same."""
    hashed = [name for name in found.names if Path(name).suffix in {".json", ".safetensors"}]
    if found.store is None or hashed == list(found.paths):
        return None
    directory = found.store.fetch_dir("", only=hashed)
    return files_hash({name: directory / name for name in hashed})


def files_hash(paths: Mapping[str, Path]) -> str:
    """SHA-256 over files with their relative paths, because other weights at the same path are another model."""
    digest = hashlib.sha256()
    for name, path in paths.items():
        digest.update(name.encode() + b"\0")
        digest.update(_content(path))
    return digest.hexdigest()


def _content(path: Path) -> bytes:
    if path.stat().st_size >= LARGE and (known := file_digest(path)):
        return bytes.fromhex(known)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def is_own_code(config: Config, directory: Path) -> bool:
    """Whether the model in a run's directory is code that is the file at `dpm.path` on this machine, byte by byte."""
    if config.dpm.function is None:
        return False
    own = Path(config.dpm.function[0]).expanduser()
    copy = directory / own.name
    return own.is_file() and copy.is_file() and own.read_bytes() == copy.read_bytes()


def _told(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{width} × {height} pixels and {channels} channel{'s' if channels > 1 else ''}"


def _or_resized(model: "Dpm", shape: tuple[int, ...]) -> str:
    """The setting that makes a text-conditioned model fit the data, if their size can be one that it makes."""
    resizable = encoder_of(model) is not None and shape[1] == shape[2] != model.image_shape[1]
    return f", or dpm.image_size={shape[1]} for images of the data's size" if resizable else ""


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
