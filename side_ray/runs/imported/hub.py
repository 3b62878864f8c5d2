"""Models on the HuggingFace hub, fetched once into the hub's own cache: `hf://owner/name@revision`.

Address, cache, account and offline mode are those of huggingface_hub: HF_ENDPOINT, HF_HOME, HF_TOKEN or `hf auth login`, and
HF_HUB_OFFLINE.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from side_ray.errors import RunError, UserError, first_line
from side_ray.storage import Entry

SCHEME = "hf://"
_ADDRESS = re.compile(r"hf://(?P<name>[A-Za-z0-9][\w.-]*/[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<file>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
WRONG = "write hf://owner/name@revision, where the revision (a commit, tag or branch) may be left out"


@dataclass(frozen=True)
class HubModel:
    """A repository at one commit.

    sizes: of its files in bytes, by path; of those in the cache where the hub cannot be reached.
    """

    path: str
    name: str
    revision: str
    commit: str
    sizes: tuple[tuple[str, int], ...]

    @property
    def directory(self) -> Path:
        """Where the cache has its files."""
        return _snapshot(self.name, self.commit)

    @property
    def address(self) -> str:
        """Of the repository at this commit."""
        return f"{SCHEME}{self.name}@{self.commit}"

    def list(self) -> Iterator[Entry]:
        """As of a store."""
        for name, size in self.sizes:
            yield Entry(name, size, 0.0)

    def fetch_dir(self, prefix: str = "", *, only: Collection[str]) -> Path:
        """A directory with the files in `only`. Raises RunError if one cannot be fetched."""
        for name in sorted(only):
            _download(self.path, self.name, self.commit, name)
        if self.revision != self.commit:
            # The cache's note of what a branch or tag led to, for later commands without a connection.
            reference = _reference(self.name, self.revision)
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(self.commit)
        return self.directory


def is_on_hub(path: str) -> bool:
    return path.startswith(SCHEME)


def hub_file(path: str, key: str) -> Path:
    """The file at `hf://owner/name@revision/file`, fetched. Raises what `hub_model` does."""
    found = _ADDRESS.fullmatch(path)
    if found is None or found["file"] is None:
        raise UserError(f"{path} names no file on the hub; write hf://owner/name@revision/file.safetensors", key)
    model = hub_model(path.removesuffix(f"/{found['file']}"), key)
    if found["file"] not in dict(model.sizes):
        raise UserError(f"{path}: there is no such file in the repository; check its name", key)
    return model.fetch_dir(only=[found["file"]]) / found["file"]


def pinned(path: str, key: str) -> str:
    """`hf://owner/name@commit/file` for the file at an address that may have a branch. Raises what `hub_model` does."""
    file = path.split("/", 4)[4]
    return f"{hub_model(path.removesuffix(f'/{file}'), key).address}/{file}"


def repository_of(path: str) -> str:
    """`owner/name` of an address on the hub."""
    return "/".join(path.removeprefix(SCHEME).split("/")[:2]).partition("@")[0]


def is_in_cache(at: str) -> bool:
    """Whether the hub's cache on this machine has the file at `hf://owner/name@commit/file`."""
    name, commit, file = _parts(at)
    return (_snapshot(name, commit) / file).exists()


def cached_file(at: str) -> Path:
    """The file at `hf://owner/name@commit/file` in the hub's cache on this machine, fetched if it is not there. Raises RunError
    if it cannot be."""
    name, commit, file = _parts(at)
    if not is_in_cache(at):
        _download(f"{SCHEME}{name}@{commit}", name, commit, file)
    return _snapshot(name, commit) / file


def _parts(at: str) -> tuple[str, str, str]:
    owner, name, file = at.removeprefix(SCHEME).split("/", 2)
    name, _, commit = name.partition("@")
    return f"{owner}/{name}", commit, file


def _download(path: str, name: str, commit: str, file: str) -> None:
    from huggingface_hub import HfApi

    try:
        HfApi().hf_hub_download(name, file, revision=commit)
    except Exception as error:  # of the hub's client, or of the HTTP library behind it
        why = first_line(error)
        raise RunError(f"{path}: {file} cannot be fetched from the hub ({why}); run it again") from None


@lru_cache(maxsize=64)
def hub_model(path: str, key: str) -> HubModel:
    """The repository at `hf://owner/name@revision`. A branch is looked up once in a process, so that one audit has one commit.

    Args:
        key: the config key, for messages.

    Raises:
        UserError: the address is wrong, or there is nothing that this account may read.
        RunError: the hub cannot be reached, and nothing is in the cache.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    found = _ADDRESS.fullmatch(path)
    if found is None or found["file"] is not None:
        raise UserError(f"{path} is no address on the hub; {WRONG}", key)
    name, revision = found["name"], found["revision"] or "main"
    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True)
    except RevisionNotFoundError:
        raise UserError(f"{path}: the repository has no revision {revision}; {WRONG}", key) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{path}: the hub has no such model, or this account may not read it; check the name, or log in (hf auth login, "
            "or HF_TOKEN in the environment)",
            key,
        ) from None
    except Exception as error:  # of the hub's client, or of the HTTP library behind it
        return _from_cache(path, name, revision, key, error)
    sizes = sorted((each.rfilename, each.size or 0) for each in info.siblings or [])
    return HubModel(path, name, revision, str(info.sha), tuple(sizes))


def _from_cache(path: str, name: str, revision: str, key: str, error: Exception) -> HubModel:
    reference = _reference(name, revision)
    commit = revision if _COMMIT.fullmatch(revision) else reference.read_text().strip() if reference.is_file() else ""
    directory = _snapshot(name, commit)
    files = [each for each in sorted(directory.rglob("*")) if each.is_file()] if commit else []
    if not files:
        raise RunError(
            f"{path} is not in this machine's cache, and the hub cannot be reached ({first_line(error)}); run it once with a "
            "connection, or give a local directory",
            key,
        ) from None
    sizes = sorted((each.relative_to(directory).as_posix(), each.stat().st_size) for each in files)
    return HubModel(path, name, revision, commit, tuple(sizes))


def _reference(name: str, revision: str) -> Path:
    return _cached(name) / "refs" / revision


def _snapshot(name: str, commit: str) -> Path:
    return _cached(name) / "snapshots" / commit


def _cached(name: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
