"""The verbs that read runs, and those about this machine. Each prints text, or JSON for scripts."""

import sys
from dataclasses import asdict
from pathlib import Path

import typer
from rich.text import Text

from side_ray.cli.actions import print_json, print_table
from side_ray.errors import CheckFailed, UserError
from side_ray.storage import open_store


def status(run: str, endpoint: str | None, as_json: bool) -> None:
    """Print the progress of a run."""
    from side_ray.runs.status import purged_at, rows, table

    store = open_store(run, endpoint=endpoint)
    found, purged = rows(store, run), purged_at(store)
    if as_json:
        print_json({"stages": [row.to_json() for row in found], "purged": purged})
        return
    print_table(table(found))
    if purged:
        print(f"its images were removed on {purged}; the numbers are kept")


def remake(
    run: str, endpoint: str | None, method: str, scale: float | None, sample_id: int, out: str | None, as_json: bool
) -> None:
    """Make a sample again and compare it with the stored one.

    Args:
        out: PNG file to write the image to.

    Raises:
        CheckFailed: it differs from the stored one.
    """
    from side_ray.images import encode_png
    from side_ray.results.recorded import Recorded
    from side_ray.results.remake import remake as make_again

    made = make_again(Recorded.open(open_store(run, endpoint=endpoint)), method, scale, sample_id)
    if out is not None:
        _write(out, encode_png(made.image))
    if as_json:
        print_json(made.to_json())
    else:
        print(made)
    if made.identical is False:
        raise CheckFailed("the sample made again is not the stored one")


def compare(runs: list[str], endpoint: str | None, html: str | None, as_json: bool, fail_worse: bool) -> None:
    """Compare runs with the first one.

    Args:
        html: file to write the page to.

    Raises:
        CheckFailed: with `fail_worse`, a condition of a later run has more copies than chance explains.
    """
    from side_ray.report.compare.view import page, terminal_tables
    from side_ray.report.wording import condition_name
    from side_ray.studies.compare import compare as compared

    if len(runs) < 2:
        raise UserError("compare: give two or more run directories")
    found = compared([open_store(run, endpoint=endpoint) for run in runs])
    if html is not None:
        _write(html, page(found).encode())
    if as_json:
        print_json(found)
    else:
        for table in terminal_tables(found):
            print_table(table)
    worse = [f"{runs[row['run']]}: {condition_name(row)}" for row in found["rows"] if row["worse"]]
    if fail_worse and worse:
        raise CheckFailed(f"more copies than in {runs[0]}: {'; '.join(worse)}")


def purge(run: str, endpoint: str | None, yes: bool, as_json: bool) -> None:
    """Remove the images of a run.

    Args:
        yes: do not ask.
    """
    from side_ray.results.purge import private
    from side_ray.results.purge import purge as remove

    store = open_store(run, endpoint=endpoint)
    found = private(store)
    size = sum(entry.size for entry in found)
    what = f"{len(found):,} files ({size / 2**20:,.1f} MiB) of {store.uri}: training images, samples, and pairs on its pages"
    if not yes and not (sys.stdin.isatty() and typer.confirm(f"Remove {what}? This cannot be undone.")):
        raise UserError(f"purge: would remove {what}; nothing was removed: give --yes to confirm")
    pages = remove(store)
    if as_json:
        print_json({"files": len(found), "bytes": size, "pages": pages})
    else:
        print(f"removed {what}\nkept: metrics, tables, figures, scores and models")


def export(run: str, endpoint: str | None, formats: list[str], out: str) -> None:
    """Write a finished run in formats of `EXPORTS`.

    Args:
        out: directory of the files.
    """
    from side_ray.results.export import EXPORTS
    from side_ray.results.recorded import Recorded

    if not formats:
        raise UserError(f"export: give one or more of {', '.join(f'--{name}' for name in EXPORTS)}")
    found = Recorded.open(open_store(run, endpoint=endpoint))
    for name in formats:
        write, file = EXPORTS[name]
        content = write(found)
        path = Path(out) / file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{out} cannot be made ({error.strerror or error}); give another --out") from None
        _write(str(path), content)
        print(f"wrote {path}")


def show(run: str, endpoint: str | None, no_browser: bool) -> None:
    """Open the page of a finished run; from object storage, in a local copy."""
    import tempfile
    import webbrowser

    from side_ray.results.pairs.thumbnails import FOLDER
    from side_ray.results.recorded import Recorded
    from side_ray.runs.run import PAGE

    store = open_store(run, endpoint=endpoint)
    found = Recorded.open(store)
    page = Path(store.uri) / PAGE
    if not page.is_file():
        key = PAGE if store.exists(PAGE) else f"{found.key}/index.html"
        page = Path(tempfile.mkdtemp(prefix="side-ray-")) / PAGE
        _write(str(page), store.read(key))
        for entry in store.list(f"{found.key}/{FOLDER}"):
            beside = page.parent / (entry.key if key == PAGE else entry.key.removeprefix(f"{found.key}/"))
            beside.parent.mkdir(parents=True, exist_ok=True)
            _write(str(beside), store.read(entry.key))
    print(page.resolve().as_uri())
    if not no_browser:
        webbrowser.open(page.resolve().as_uri())


def doctor(run: str | None, endpoint: str | None, as_json: bool) -> None:
    """Check this machine and, if given, a run directory.

    Raises:
        CheckFailed: something is wrong.
    """
    from rich.table import Table

    from side_ray.setup.doctor import doctor as examine

    found = examine(None if run is None else open_store(run, endpoint=endpoint))
    if as_json:
        print_json([asdict(each) for each in found])
    else:
        table = Table("", "check", "found", "what to do", box=None)
        for each in found:
            table.add_row("✗" if each.remedy else "✓", each.name, Text(each.found), Text(each.remedy))
        print_table(table)
    wrong = [each.name for each in found if each.remedy]
    if wrong:
        raise CheckFailed(f"doctor: {len(wrong)} of {len(found)} checks failed: {', '.join(wrong)}")


def canaries(images: str, pairs: int, seed: int, out: str, endpoint: str | None) -> None:
    """Write a plan of canaries, and print what to do with it. Raises UserError."""
    from side_ray.sources.canaries import plan_canaries

    print("\n".join(plan_canaries(images, pairs, seed, out, endpoint)))


def models(as_json: bool) -> None:
    """Print what can be audited, and by what."""
    from side_ray.setup.kinds import kinds, kinds_lines

    if as_json:
        print_json(kinds())
    else:
        print("\n".join(kinds_lines()))


def init(name: str, data: str | None, unseen: str | None, model: str | None, out: str, force: bool) -> None:
    """Write a config to start from.

    Args:
        force: replace the file.

    Raises:
        UserError: the file exists already; see also `starter`.
    """
    from side_ray.setup.starter import starter

    if Path(out).exists() and not force:
        raise UserError(f"{out}: exists already; give another --out, or --force to replace it")
    text = starter(name, data, unseen, model)
    _write(out, text.encode())
    capitals = "" if "/MODELS/MY" not in text and "/DATA/" not in text else "replace what is in capitals, then: "
    print(f"wrote {out}\nnext: {capitals}side-ray plan {out} --probe")


def _write(path: str, content: bytes) -> None:
    try:
        Path(path).write_bytes(content)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}); give another path") from None
