"""Configs to start from: those that the package carries, filled in with what is found at the paths of one's own data."""

import re
from importlib import resources
from pathlib import Path
from typing import Any

from side_ray.config import DataSection, DpmSection, StorageSection
from side_ray.errors import UserError, naming
from side_ray.sources.pools import describe, kind_of, open_pools

LINE = re.compile(r"^  (\w+):\s*(.*?)(\s+#.*)?$")


def config_names() -> list[str]:
    """Names of the configs that the package carries."""
    return sorted(path.stem for path in _configs().glob("*.yaml"))


def starter(name: str, data: str | None = None, unseen: str | None = None, model: str | None = None) -> str:
    """A config with its comments, as YAML text.

    Args:
        name: one of `config_names`.
        data: path of the training images; their format, number and labels are filled in.
        unseen: path of similar images that the model never saw.
        model: directory of a diffusers pipeline; its image size is filled in.

    Raises:
        UserError: no such config, or nothing usable is at a path.
    """
    if name not in config_names():
        raise UserError(f"init: no config {name!r}; choose one of {', '.join(config_names())}")
    text = (_configs() / f"{name}.yaml").read_text(encoding="utf-8")
    if (data, unseen, model) == (None, None, None):
        return text
    if data is None:
        raise UserError("init: --unseen and --model go with --data, the images that the model was trained on")
    return filled(text, _values(data, unseen, model))


def filled(text: str, values: dict[str, Any]) -> str:
    """YAML text with other values for some keys `section.key`; comments stay. A key whose value is None is left out.

    Raises:
        ValueError: the text has no line for a key.
    """
    lines, section, left = [], "", dict(values)
    for line in text.splitlines():
        if line[:1].isalpha():
            section = line.partition(":")[0]
        found = LINE.match(line)
        key = f"{section}.{found[1]}" if found else ""
        if found and key in left:
            value = left.pop(key)
            if value is not None:
                lines.append(f"  {found[1]}: {value}{found[3] or ''}")
        else:
            lines.append(line)
    if left:
        raise ValueError(f"the config has no lines for {', '.join(left)}")
    return "\n".join(lines) + "\n"


def _values(data: str, unseen: str | None, model: str | None) -> dict[str, Any]:
    """What is known about the data and the model, by config key."""
    storage = StorageSection()
    given = {"source": kind_of(data, "data.path", storage), "path": data, "members": 1, "holdout": 0}
    section = DataSection.model_validate(given | ({"holdout_path": unseen} if unseen else {}))
    found = describe(section, open_pools(section, storage))
    values: dict[str, Any] = {"data.source": section.source, "data.path": data, "data.holdout_path": unseen}
    members, *others = found.counts
    if members is not None:
        values["data.members"] = members
    if others and others[0] is not None:
        values["data.holdout"] = max(1, min(others[0] // 2, members or others[0]))
    side, gray = min(found.shape[:2]), False
    if model is not None:
        values["dpm.path"] = model
        channels, side, _ = _shape(model)
        gray = channels == 1
    values |= {"data.image_size": side, "data.grayscale": str(gray).lower()}
    if found.labelled:
        values["extract.methods"] = "[random, ti, td]"
    return values


def _shape(model: str) -> tuple[int, int, int]:
    from side_ray.diffusion.dpm import load_dpm
    from side_ray.runs.imported.opening import linked, model_of

    found = model_of(DpmSection(kind="import", path=model), StorageSection())
    with naming("dpm.path"), linked(found) as directory:
        return load_dpm(directory).image_shape


def _configs() -> Path:
    """The directory of the configs: in the installed package, or in the repository."""
    packaged = Path(str(resources.files("side_ray.setup"))) / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "jobs" / "configs"
