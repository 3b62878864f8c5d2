"""Runs the audits of a batch in one run directory.

Stages that several audits share are made once, because the run directory names them by what they depend on. An audit that fails
does not stop the others. Run again, the batch makes what is missing. Where an audit's model or data have
changed since the last run, its new report is compared with the one before.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table

from side_ray.algorithm import run_until
from side_ray.errors import Damaged, RunError, UserError
from side_ray.execution.progress import Reporter
from side_ray.report.compare.batch import page, terminal_table
from side_ray.report.findings import headline
from side_ray.runs.artifacts import Artifacts
from side_ray.storage import Store, open_store
from side_ray.storage.sealed import read_json, write_json
from side_ray.studies.batch.history import Entry, extended
from side_ray.studies.batch.plan import Planned, read_batch

SCHEMA = 1
DIRECTORY = "batch"
History = dict[str, list[Entry]]


def run_batch(
    path: str, overrides: Sequence[str], reporter: Reporter, clock: Callable[[], float] = time.monotonic
) -> tuple[Table, str, list[str]]:
    """Run the audits of a batch and write `batch/index.html` and `batch/batch.json` after each.

    Args:
        clock: seconds, for the budget.

    Returns:
        The summary as a table for the terminal, the address of its page, and a line for each audit whose newest report has more
        copies than the one before and than chance explains, or cannot be compared with it.

    Raises:
        RunError: audits failed, or were left for the next run because the budget is used up. The others are complete.
        UserError: see `read_batch`.
    """
    batch, planned = read_batch(path, overrides)
    config = planned[0].config
    store = open_store(config.run.uri, **config.storage.model_dump())
    rows = {each.name: _row(each, _finished(each)) for each in planned}
    history = _history(store)
    for each in planned:
        _note(store, history, each.name, rows[each.name], reporter)
    began = clock()
    for number, each in enumerate(planned, 1):
        if batch.hours is not None and clock() - began > 3600 * batch.hours:
            break
        reporter.say(f"batch: audit {number} of {len(planned)}, {each.name}")
        started = clock()
        try:
            done = run_until("report", each.config, reporter).artifacts
            rows[each.name] = {**_row(each, done), "hours": (clock() - started) / 3600}
            _note(store, history, each.name, rows[each.name], reporter)
        except UserError as error:
            reporter.warn(f"batch: {each.name} failed: {error}")
            rows[each.name] = {**_row(each, None), "state": "failed", "finding": str(error)}
        _write(store, rows, history, planned)
    _write(store, rows, history, planned)
    by_state = {state: [name for name, row in rows.items() if row["state"] == state] for state in ("failed", "left")}
    if any(by_state.values()):
        said = [f"{len(names)} {state} ({', '.join(names[:5])})" for state, names in by_state.items() if names]
        raise RunError(
            f"batch: {' and '.join(said)} of {len(planned)} audits; the others are complete, see "
            f"{store.uri}/{DIRECTORY}/index.html; run the same command again to resume"
        )
    last = [(each.name, history[each.name][-1]) for each in planned]
    worse = [f"{name}: {entry['changed']}" for name, entry in last if entry["worse"] is not False]
    return terminal_table(list(rows.values())), f"{store.uri}/{DIRECTORY}/index.html", worse


def _history(store: Store) -> History:
    """The reports that the batch has finished so far, by the audit's name, also of audits that are no longer in its file.

    Raises:
        UserError: the file is damaged. It is not made anew, because what was worse before would be forgotten.
    """
    try:
        found = read_json(store, f"{DIRECTORY}/batch.json")
    except FileNotFoundError:
        return {}
    except Damaged as damage:
        raise UserError(f"{store.uri}: {damage}; delete {DIRECTORY}/batch.json to begin a new history") from None
    if "history" in found:
        return dict(found["history"])
    rows = [row for row in found["audits"] if row["report"]]  # written by a version without a history
    kept = ("report", "outcome", "distinct", "train_size")
    return {
        f"{row['model']}/{row['data']}": [{key: row[key] for key in kept} | {"date": "", "changed": "", "worse": False}]
        for row in rows
    }


def _note(store: Store, history: History, name: str, row: dict[str, Any], reporter: Reporter) -> None:
    """Add the audit's report to its history, and say what changed."""
    before = history.get(name, [])
    after = extended(store, before, row)
    if after:
        history[name] = after
    if len(after) > max(1, len(before)):
        reporter.say(f"batch: {name}: {after[-1]['changed']}")


def _finished(planned: Planned) -> Artifacts | None:
    """The audit's artifacts if its report is there already."""
    try:
        artifacts = Artifacts.open(planned.config)
        return artifacts if artifacts.report.done else None
    except Exception:  # what is wrong is said when the audit runs
        return None


def _row(planned: Planned, done: Artifacts | None) -> dict[str, Any]:
    """An audit in the summary."""
    row: dict[str, Any] = {"model": planned.model, "data": planned.data, "state": "left", "finding": "", "report": None}
    row |= {"hours": None, "outcome": None, "distinct": None, "train_size": None}
    if done is not None:
        metrics = done.report.read_json("metrics.json")
        verdict = metrics.get("verdict") or {}
        row |= {"state": "done", "finding": headline(metrics), "report": done.report.key}
        row |= {"outcome": verdict.get("outcome"), "distinct": verdict.get("distinct")}
        row |= {"train_size": metrics["train_size"]}
    return row


def _write(store: Store, rows: dict[str, dict[str, Any]], history: History, planned: Sequence[Planned]) -> None:
    found = [rows[each.name] for each in planned]
    write_json(store, f"{DIRECTORY}/batch.json", {"schema": SCHEMA, "audits": found, "history": history})
    store.write(f"{DIRECTORY}/index.html", page(found, history, store.uri).encode())
