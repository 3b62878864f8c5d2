"""The `side-ray` command: one verb per stage, and `audit` for all of them."""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from side_ray.config import Config
from side_ray.config.file import load_config
from side_ray.errors import NotThere, RunError, UserError

if TYPE_CHECKING:
    from side_ray.execution.progress import Reporter

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Audit what a diffusion model memorised of its training set, and how much of it can be extracted.",
)

ConfigPath = Annotated[
    str, typer.Argument(metavar="CONFIG", help="YAML file of the audit, for example jobs/configs/digits.yaml")
]
OptionalConfigPath = Annotated[str | None, typer.Argument(metavar="[CONFIG]", help="YAML file of the audit")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Settings that replace those of the file")
]


def _run(last: str, path: str, overrides: list[str] | None) -> None:
    raise typer.Exit(guarded(lambda: _until(last, path, overrides or [])))


def _until(last: str, path: str, overrides: list[str]) -> None:
    _audit(last, load_config(path, overrides))


def _audit(last: str, config: Config) -> None:
    # Imported late: a wrong config should be told at once, not after seconds of loading libraries.
    from rich.console import Console

    from side_ray.algorithm import run_until
    from side_ray.execution.progress import Reporter
    from side_ray.execution.session import shut_down
    from side_ray.report.table import terminal_table

    reporter = Reporter()
    try:
        if last in STUDIES:
            print("\n".join(_study(last, config, reporter)))
            return
        artifacts = run_until(last, config, reporter)
        if last == "report":
            Console(width=None if sys.stdout.isatty() else 160).print(
                terminal_table(artifacts.report.read_json("metrics.json"))
            )
            print(f"report: {artifacts.run.store.uri}/{artifacts.report.key}/index.html")
    finally:
        shut_down()


STUDIES = ("theory", "twins")
"""Verbs that go beyond an audit: each needs some of its stages and writes an artifact of its own."""


def _study(name: str, config: Config, reporter: "Reporter") -> list[str]:
    """Run a study; returns what it found, in lines for the terminal."""
    from side_ray.studies.lines import run_theory, run_twins

    return {"theory": run_theory, "twins": run_twins}[name](config, reporter)


@app.command("prepare")
def prepare(config: ConfigPath, overrides: Overrides = None) -> None:
    """Bring the training images into the run directory, split into members and unseen sets."""
    _run("prepare", config, overrides)


@app.command("train-dpm")
def train_dpm(config: ConfigPath, overrides: Overrides = None) -> None:
    """Train the DPM under audit, or import it."""
    _run("train_dpm", config, overrides)


@app.command("train-surrogate")
def train_surrogate(config: ConfigPath, overrides: Overrides = None) -> None:
    """Sample the synthetic set and distil the time-dependent classifier on it."""
    _run("train_surrogate", config, overrides)


@app.command("extract")
def extract(config: ConfigPath, overrides: Overrides = None) -> None:
    """Sample every condition: Random, OL-TI and SIDE at each λ."""
    _run("extract", config, overrides)


@app.command("score")
def score(
    config: OptionalConfigPath = None,
    overrides: Overrides = None,
    samples: Annotated[str | None, typer.Option(help="Generated images: a folder, a zip archive or Parquet")] = None,
    train: Annotated[str | None, typer.Option(help="The training set they are compared with")] = None,
    unseen: Annotated[str | None, typer.Option(help="Like images that the model never saw: they set the cut")] = None,
    run: Annotated[str, typer.Option(help="Run directory for the scores and the report")] = "runs/score",
) -> None:
    """Score every sample of an audit; or, with --samples and --train, generated images that you have, without any config."""
    given = [text for text in (config, *(overrides or [])) if text is not None]
    raise typer.Exit(guarded(lambda: _score(given, samples, train, unseen, run)))


def _score(given: list[str], samples: str | None, train: str | None, unseen: str | None, run: str) -> None:
    if samples is None and train is None:
        if not given:
            raise UserError("score: give CONFIG, or --samples and --train; see side-ray score --help")
        _audit("score", load_config(given[0], given[1:]))
        return
    if samples is None or train is None:
        raise UserError(
            "score: --samples and --train go together: generated images, and the training set they may copy"
        )
    from side_ray.runs.given import given_config

    _audit("report", given_config(samples, train, unseen, run, given))


@app.command("report")
def report(config: ConfigPath, overrides: Overrides = None) -> None:
    """Write metrics.json, metrics.csv and index.html, and print the table."""
    _run("report", config, overrides)


@app.command("audit")
def audit(config: ConfigPath, overrides: Overrides = None) -> None:
    """Run the whole audit, making only what is not there yet."""
    _run("report", config, overrides)


@app.command("theory")
def theory(config: ConfigPath, overrides: Overrides = None) -> None:
    """Compute the paper's theory on the DPM: its densities, its latents, and what labels do to them."""
    _run("theory", config, overrides)


@app.command("twins")
def twins(config: ConfigPath, overrides: Overrides = None) -> None:
    """Audit the DPM's class-conditional twins beside it: true, random and unique labels."""
    _run("twins", config, overrides)


@app.command("sweep")
def sweep(config: ConfigPath, overrides: Overrides = None) -> None:
    """Audit every setting that the config's section `sweep` asks for, and say which extracts most."""
    raise typer.Exit(guarded(lambda: _sweep(config, overrides or [])))


def _sweep(path: str, overrides: list[str]) -> None:
    config = load_config(path, overrides)
    from rich.console import Console

    from side_ray.execution.progress import Reporter
    from side_ray.execution.session import shut_down
    from side_ray.report.sweep import samples_made, terminal_table
    from side_ray.studies.sweep import BEST, TABLE
    from side_ray.studies.sweep import sweep as run_sweep

    try:
        plan, outcomes = run_sweep(config, Reporter())
        Console(width=None if sys.stdout.isatty() else 160).print(
            terminal_table(outcomes, config.sweep.score, config.sweep.band)
        )
        made, planned = samples_made(outcomes)
        where = f"{plan.results.store.uri}/{plan.results.key}"
        print(f"samples: {made:,} of {planned:,}\ntable: {where}/{TABLE}.csv\nbest setting: {where}/{BEST}")
    finally:
        shut_down()


@app.command("reproduce")
def reproduce(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="table1, table2, table3, table4, fig4, fig5 or fig7")],
    overrides: Overrides = None,
    preset: Annotated[str, typer.Option(help="tiny (a minute), digits (a laptop) or paper (a GPU cluster)")] = "digits",
    run: Annotated[str | None, typer.Option(help="Take the newest report of this run directory instead")] = None,
    endpoint: Annotated[str | None, typer.Option(help="URL of an S3-compatible server, for --run")] = None,
) -> None:
    """Recompute a table or figure of the paper, and say where it agrees."""
    raise typer.Exit(guarded(lambda: _reproduce(table, overrides or [], preset, run, endpoint)))


def _reproduce(table: str, overrides: list[str], preset: str, run: str | None, endpoint: str | None) -> None:
    from side_ray.studies.presets import check_table, preset_config

    check_table(table)
    config = preset_config(table, preset, overrides) if run is None else None
    from side_ray.execution.progress import Reporter
    from side_ray.execution.session import shut_down
    from side_ray.studies import reproduce as stage

    try:
        if config is not None:
            store, found = stage.reproduce(table, config, Reporter())
        else:
            store, found = stage.reproduce_from(table, str(run), endpoint)
        print(f"{found.title}\n\n{found.text}\nfiles: {store.uri}/reproduce/{found.name}/")
    finally:
        shut_down()


@app.command("plan")
def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    probe: Annotated[bool, typer.Option("--probe", help="Time one guided batch on this machine's device")] = False,
    throughput: Annotated[
        float | None, typer.Option(min=1e-9, help="Samples per second of one device, if known")
    ] = None,
) -> None:
    """Say what an audit would do, what of it is there already and what it costs, without starting anything."""
    raise typer.Exit(guarded(lambda: _plan(config, overrides or [], probe, throughput)))


@app.command("status")
def status(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run directory: a local path or s3://bucket/prefix")],
    endpoint: Annotated[str | None, typer.Option(help="URL of an S3-compatible server")] = None,
) -> None:
    """Say how far a run is, from any machine that can read its storage."""
    raise typer.Exit(guarded(lambda: _status(run, endpoint)))


def _status(run: str, endpoint: str | None) -> None:
    from rich.console import Console

    from side_ray.runs.status import rows, table
    from side_ray.storage import open_store

    Console(width=None if sys.stdout.isatty() else 160).print(table(rows(open_store(run, endpoint=endpoint), run)))


def _plan(path: str, overrides: list[str], timed: bool, throughput: float | None) -> None:
    config = load_config(path, overrides)
    from side_ray.runs.artifacts import open_run
    from side_ray.runs.cost import plan_lines, probe
    from side_ray.runs.preflight import preflight

    artifacts = open_run(config)
    obstacle = ""
    try:
        preflight(config, artifacts)
    except (NotThere, RunError) as error:
        # What an audit costs can be told before its data, weights and storage are there.
        obstacle = str(error)
    print("\n".join(plan_lines(config, artifacts, probe(config, artifacts) if timed else throughput, obstacle)))


def guarded(action: Callable[[], object]) -> int:
    """Call `action` and return the exit code, a person's mistake told in one line on stderr instead of a traceback."""
    try:
        action()
    except UserError as error:
        print(f"side-ray: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("side-ray: stopped; what is finished is kept, run the same command again to go on", file=sys.stderr)
        return 130
    return 0


def job(last: str) -> None:
    """Entry point of a submitted job: `python jobs/audit.py --config FILE [section.key=value …]`.

    Args:
        last: the stage to end with, one of `side_ray.stages.audit.STAGES`, one of `STUDIES`, or `sweep`.
    """
    parser = argparse.ArgumentParser(description=f"Run {last} and all that it needs.")
    parser.add_argument("--config", required=True, help="YAML file of the audit")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="settings that replace those of the file"
    )
    arguments = parser.parse_args()
    action = _sweep if last == "sweep" else partial(_until, last)
    sys.exit(guarded(lambda: action(arguments.config, arguments.overrides)))


if __name__ == "__main__":
    app()
