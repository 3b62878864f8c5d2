"""How a run keeps an imported model: copied, or by reference where its weights are large."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from side_ray.config import Config
from side_ray.errors import Damaged, RunError, naming
from side_ray.runs.imported.hub import is_in_cache, is_on_hub, pinned, repository_of
from side_ray.runs.imported.opening import Found, identity, lora_files
from side_ray.runs.imported.references import FILE, Reference, References
from side_ray.runs.run import Artifact, Run
from side_ray.storage import open_store
from side_ray.storage.digests import file_digest

COPIED = frozenset({".py", ".json", ".txt", ".model", ".jinja", ".yaml", ".yml"})
"""Suffixes of code, configs and tokenizers, which are always copied."""
GIB = 2**30


def put_model(artifact: Artifact, directory: Path, config: Config, found: Found, known: list[Any]) -> bool:
    """Put an imported model into the run, and return whether its weights are referenced there, not copied.

    Args:
        directory: what `imported` gives.
        known: the identity of the model by which the artifact is named.

    Raises:
        RunError: its files changed meanwhile.
    """
    artifact.store.delete(f"{artifact.key}/{FILE}")
    places = _places(config, found)
    size = sum(path.stat().st_size for _, path in places.values())
    refers = bool(places) and size >= config.dpm.copy_below_gb * GIB
    artifact.put_dir(directory, without=places if refers else ())
    if refers:
        artifact.write_json(FILE, _references(config, found).to_json())
    if identity(config, found) != known:
        raise RunError("its files changed while they were read; run it again when they are complete", "dpm.path")
    return refers


def renew(artifact: Artifact, config: Config, found: Found) -> None:
    """Enter where the model is now, if its weights are referenced and the same files are at another place.

    The artifact must be that of `found`, so that the content is known to be the same. Raises what `references` does.
    """
    before = artifact.references()
    if before is None:
        return
    now = _references(config, found)
    same = {name: each.sha256 for name, each in before.files.items()} == {
        name: each.sha256 for name, each in now.files.items()
    }
    if same and now.to_json() != before.to_json():
        artifact.write_json(FILE, now.to_json())
        artifact.finish(**artifact.info() | {"path": config.dpm.path})


def check_kept(config: Config, run: Run) -> None:
    """Check that the weights at `dpm.path`, `dpm.lora` and `dpm.base` are still those that the run refers to, if it does.

    Otherwise a file that has changed would be taken for another model, whose audit would begin in the same run.

    Raises:
        UserError: one is not there, or has changed. The message names it.
    """
    models = {"dpm.path": config if config.dpm.kind == "import" else None, "dpm.base": config.of_base}
    keys = [entry.key.rpartition("/")[0] for entry in run.store.list("dpm") if entry.key.endswith(f"/{FILE}")]
    for key in sorted(keys):
        try:
            kept = Artifact(run.store, key).references()
        except Damaged:
            continue  # it is made again
        for name, of in models.items():
            if kept is not None and of is not None:
                with naming(name):
                    asked = kept.only(partial(_is_asked_for, of))
                    replace(asked, storage=of.storage.model_dump()).check()


def _is_asked_for(config: Config, at: str) -> bool:
    """Whether a config names what is at this place."""
    dpm = config.dpm
    local = [*dpm.lora, *dpm.files]
    if at in {str(Path(each).expanduser().absolute()) for each in local if not is_on_hub(each)}:
        return True
    if is_on_hub(at):
        # What the cache lacks is fetched again, and another commit is another model.
        asked = {repository_of(each) for each in (str(dpm.path), *dpm.lora) if is_on_hub(each)}
        return repository_of(at) in asked and is_in_cache(at)
    if dpm.function is not None or is_on_hub(str(dpm.path)):
        return False
    return at.startswith(f"{open_store(str(dpm.path), key='dpm.path', **config.storage.model_dump()).uri}/")


def _places(config: Config, found: Found) -> dict[str, tuple[str, Path]]:
    """By their path in the model's directory, the place of all weights, as in `Reference`, and the local file."""
    places = {
        name: (f"{found.root}/{name}" if found.root else str(path), path)
        for name, path in found.paths.items()
        if path.suffix not in COPIED
    }
    for number, (text, path) in enumerate(zip(config.dpm.lora, lora_files(config), strict=True)):
        local = path.absolute()
        places[f"lora/{number}.safetensors"] = pinned(text, "dpm.lora") if is_on_hub(text) else str(local), local
    return places


def _references(config: Config, found: Found) -> References:
    files = {
        name: Reference(at, path.stat().st_size, file_digest(path))
        for name, (at, path) in _places(config, found).items()
    }
    if not any(each.in_object_storage for each in files.values()):
        return References(files)
    return References(files, found.root, sorted(found.paths), config.storage.model_dump())
