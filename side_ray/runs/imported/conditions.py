"""What the conditions of samples are drawn from, where neither the config nor the model says it: the members' labels, captions,
or a file of prompts.
"""

import hashlib
from dataclasses import replace
from itertools import chain

import numpy as np
import pyarrow as pa

from side_ray.config import Config, DpmSection
from side_ray.config.dpm import CAPTIONS, EMPTY, MEMBER_CAPTIONS, UNSEEN_CAPTIONS
from side_ray.diffusion.condition.drawn import Conditioning
from side_ray.errors import NotThere, UserError
from side_ray.runs.dataset import read_captions, read_labels
from side_ray.runs.run import Artifact
from side_ray.storage import open_store
from side_ray.storage.sealed import read_table

LEAST_ALIKE = 0.9
"""Of unseen images, relative to the members, so large a share must have captions."""
CLASSES, PROMPTS = "classes.json", "prompts.parquet"
SPLITS = {
    CAPTIONS: ("member", "calibration", "holdout"),
    MEMBER_CAPTIONS: ("member",),
    UNSEEN_CAPTIONS: ("holdout",),
}
"""The splits whose captions each value of `dpm.prompts` means."""


def source_of(config: Config, prepared: str) -> list[str] | None:
    """What identifies the artifact of `write_conditions`; None where the config needs none.

    Args:
        prepared: fingerprint of the prepared images.

    Raises:
        UserError: the file of prompts cannot be read, or holds none.
    """
    dpm = config.dpm
    if dpm.classes == "labels" or dpm.prompts in SPLITS:
        return [dpm.prompts or dpm.classes, prepared]
    if dpm.prompts is None or dpm.prompts == EMPTY:
        return None
    return ["prompts", hashlib.sha256("\n".join(_prompts_in(config)).encode()).hexdigest()]


def write_conditions(target: Artifact, prepared: Artifact, config: Config) -> None:
    """Write what `completed` reads.

    Args:
        prepared: the prepared images.

    Raises:
        UserError: the images have no labels, or no captions.
    """
    dpm = config.dpm
    if dpm.classes == "labels":
        labels = read_labels(prepared.store, prepared.key, "member")
        if labels is None:
            raise UserError("labels, but the training images have none; use model or uniform", "dpm.classes")
        target.write_json(CLASSES, {"counts": np.bincount(labels[labels >= 0]).tolist()})
    elif dpm.prompts in SPLITS:
        captions = [read_captions(prepared.store, prepared.key, split) for split in SPLITS[dpm.prompts]]
        found = [[each for each in some if each is not None] for some in captions]
        prompts, images = list(chain(*found)), sum(map(len, captions))
        if not prompts:
            raise UserError(
                f"{dpm.prompts}, but none of the {images:,} images has a caption; give a source with captions "
                f"(docs/your-model.md), {EMPTY}, or a file with a prompt in each line",
                "dpm.prompts",
            )
        shares = [len(has) / len(some) for has, some in zip(found, captions, strict=True) if some]
        if min(shares) < LEAST_ALIKE * shares[0]:
            raise UserError(
                f"{dpm.prompts}, but {shares[0]:.0%} of the members and only {min(shares):.0%} of unseen images have one, so a "
                f"comparison would favour the members; give unseen images with captions (data.holdout_path), or {EMPTY}",
                "dpm.prompts",
            )
        target.write_table(PROMPTS, pa.table({"prompt": prompts}))
    else:
        target.write_table(PROMPTS, pa.table({"prompt": _prompts_in(config)}))
    target.finish()


def completed(conditioning: Conditioning, target: Artifact) -> Conditioning:
    """How samples are conditioned, with what `write_conditions` wrote."""
    if conditioning.prompts is None:
        return replace(conditioning, counts=tuple(target.read_json(CLASSES)["counts"]))
    table = read_table(target.store, f"{target.key}/{PROMPTS}", ["prompt"])
    return replace(conditioning, texts=tuple(table.column("prompt").to_pylist()))


def read_conditioning(dpm: DpmSection, target: Artifact | None) -> Conditioning:
    """How samples are conditioned. `target`: what `write_conditions` wrote; None where the config needs none."""
    conditioning = Conditioning.of(dpm)
    return conditioning if target is None else completed(conditioning, target)


def _prompts_in(config: Config) -> list[str]:
    """The lines of the file at `dpm.prompts` that are not blank."""
    path = str(config.dpm.prompts)
    folder, _, name = path.rpartition("/")
    store = open_store(
        folder or ("/" if path.startswith("/") else "."), key="dpm.prompts", **config.storage.model_dump()
    )
    try:
        lines = store.read(name).decode("utf-8-sig").splitlines()
    except (FileNotFoundError, IsADirectoryError):
        raise NotThere(
            f"there is no file {path}; give a text file with a prompt in each line, or {', '.join(SPLITS)} or {EMPTY}",
            "dpm.prompts",
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text in UTF-8; give a file with a prompt in each line", "dpm.prompts") from None
    if not (prompts := [line.strip() for line in lines if line.strip()]):
        raise UserError(f"{path} holds no prompt; write one in each line, or give {EMPTY}", "dpm.prompts")
    return prompts
