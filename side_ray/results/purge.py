"""Removes the images of a run and keeps its numbers: a run holds the training images, and samples that copy them."""

import json
import re
from datetime import UTC, datetime

from side_ray.errors import UserError
from side_ray.results.pairs.thumbnails import FOLDER
from side_ray.runs.run import DONE, DONE_COPY, PAGE, PDF, PURGED
from side_ray.storage import Entry, Store

STAGES = ("prepare", "synthetic", "condition", "samples", "control_samples", "features", "inputs", "reconstructions")
"""Directories of a run that hold nothing but images and what belongs to them."""
MADE_OF_MEMBERS = "images.safetensors"
"""In the directory of a DPM: the closed-form optimum consists of the training images."""
TENSORBOARD = "/tensorboard/"
"""In the path of a training's log, which may hold grids of samples."""
_PICTURE = re.compile(r'<img\b[^>]*\bsrc="data:image/[^>]*>')
_PAIRS = re.compile(r'(<script type="application/json" id="pairs-data">).*?(</script>)', re.DOTALL)
REMOVED = '<span class="empty">image removed</span>'


def private(store: Store) -> list[Entry]:
    """The files of a run that hold images, without the pages, sorted by key.

    Raises:
        UserError: there is no run at this place.
    """
    entries = sorted(store.list(), key=lambda entry: entry.key)
    if not any(entry.key == "config.yaml" for entry in entries):
        raise UserError(f"{store.uri}: holds no run (no config.yaml); check the path and, for S3, the endpoint")
    closed = {entry.key.rpartition("/")[0] for entry in entries if entry.key.endswith(f"/{MADE_OF_MEMBERS}")}
    return [
        entry
        for entry in entries
        if entry.key == PDF
        or entry.key.split("/")[0] in STAGES
        or (entry.key.startswith("report/") and f"/{FOLDER}/" in entry.key)
        or TENSORBOARD in entry.key
        or entry.key.rpartition("/")[0] in closed
    ]


def purge(store: Store) -> list[str]:
    """Delete the files of `private`, and take the images out of the run's pages. Run again, it does what is left.

    A stage counts as not done before its first image is gone, so that an audit that is run again makes it again. The date is
    kept in `purged.json`.

    Returns:
        The keys of the pages.
    """
    keys = [entry.key for entry in private(store)]
    for marker in (key for key in keys if key.endswith((f"/{DONE}", f"/{DONE_COPY}"))):
        store.delete(marker)
    for key in [*STAGES, *(key for key in keys if key.split("/")[0] not in STAGES)]:
        store.delete(key)
    pages = [entry.key for entry in store.list("report") if entry.key.endswith(".html")]
    pages += [PAGE] if store.exists(PAGE) else []
    for page in pages:
        # The report is to be made again, with pairs, if the audit is.
        for marker in (DONE, DONE_COPY):
            store.delete(f"{page.rpartition('/')[0]}/{marker}".removeprefix("/"))
        without = _PAIRS.sub(r"\1null\2", _PICTURE.sub(REMOVED, store.read(page).decode()))
        store.write(page, without.encode())
    store.write(
        PURGED, json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds"), "files": len(keys)}).encode()
    )
    return pages
