"""Parses the verbs of the `side-ray` command: steps of an audit, `audit` for all of them, and studies."""

from typing import Annotated

import typer

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Audit how much of its training set a diffusion model has memorised, and how much of that can be extracted.",
)

ConfigPath = Annotated[
    str, typer.Argument(metavar="CONFIG", help="YAML file of the audit, for example jobs/configs/digits.yaml")
]
OptionalConfigPath = Annotated[str | None, typer.Argument(metavar="[CONFIG]", help="YAML file of the audit")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Settings that override the file")
]


def _verb(name: str, config: str, overrides: list[str] | None, fail_above: int | None = None) -> None:
    from side_ray.cli.actions import run_verb

    raise typer.Exit(run_verb(name, config, overrides or [], fail_above))


@app.command("prepare")
def prepare(config: ConfigPath, overrides: Overrides = None) -> None:
    """Copy the training images into the run directory, split into members and unseen images."""
    _verb("prepare", config, overrides)


@app.command("train-dpm")
def train_dpm(config: ConfigPath, overrides: Overrides = None) -> None:
    """Train or import the DPM under audit."""
    _verb("train_dpm", config, overrides)


@app.command("train-surrogate")
def train_surrogate(config: ConfigPath, overrides: Overrides = None) -> None:
    """Sample and label the synthetic set, and distil the time-dependent classifier on it."""
    _verb("train_surrogate", config, overrides)


@app.command("extract")
def extract(config: ConfigPath, overrides: Overrides = None) -> None:
    """Sample every condition: Random, OL-TI and SIDE at each λ."""
    _verb("extract", config, overrides)


@app.command("score")
def score(
    config: OptionalConfigPath = None,
    overrides: Overrides = None,
    samples: Annotated[str | None, typer.Option(help="Generated images: a folder, a zip archive or Parquet")] = None,
    train: Annotated[str | None, typer.Option(help="Training set to compare them with")] = None,
    unseen: Annotated[
        str | None, typer.Option(help="Similar images that the model never saw; they set the cut")
    ] = None,
    run: Annotated[str, typer.Option(help="Run directory for the scores and the report")] = "runs/score",
) -> None:
    """Score every sample of an audit; or, with --samples and --train and without a config, your own generated images."""
    from side_ray.cli import actions

    given = [text for text in (config, *(overrides or [])) if text is not None]
    raise typer.Exit(actions.guarded(lambda: actions.score(given, samples, train, unseen, run)))


@app.command("report")
def report(config: ConfigPath, overrides: Overrides = None) -> None:
    """Write metrics.json, metrics.csv and index.html, and print the table."""
    _verb("report", config, overrides)


@app.command("audit")
def audit(
    config: ConfigPath,
    overrides: Overrides = None,
    fail_above: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Exit with 3 if more than N distinct training images are found, for CI"),
    ] = None,
) -> None:
    """Run the whole audit. Outputs that exist are not made again."""
    _verb("report", config, overrides, fail_above)


@app.command("theory")
def theory(config: ConfigPath, overrides: Overrides = None) -> None:
    """Compute the paper's theoretical quantities of the DPM: its densities, its latents, and the effect of labels on them."""
    _verb("theory", config, overrides)


@app.command("twins")
def twins(config: ConfigPath, overrides: Overrides = None) -> None:
    """Audit the DPM and its class-conditional twins with true, random and unique labels."""
    _verb("twins", config, overrides)


@app.command("sweep")
def sweep(config: ConfigPath, overrides: Overrides = None) -> None:
    """Audit every setting of the config's section `sweep`, and report which one extracts most."""
    _verb("sweep", config, overrides)


@app.command("reproduce")
def reproduce(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="table1, table2, table3, table4, fig4, fig5 or fig7")],
    overrides: Overrides = None,
    preset: Annotated[str, typer.Option(help="tiny (a minute), digits (a laptop) or paper (a GPU cluster)")] = "digits",
    run: Annotated[str | None, typer.Option(help="Use the newest report of this run directory instead")] = None,
    endpoint: Annotated[str | None, typer.Option(help="URL of an S3-compatible server, for --run")] = None,
) -> None:
    """Recompute a table or figure of the paper, and report where the results agree."""
    from side_ray.cli import actions

    raise typer.Exit(actions.guarded(lambda: actions.reproduce(table, overrides or [], preset, run, endpoint)))


@app.command("plan")
def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    probe: Annotated[bool, typer.Option("--probe", help="Time one guided batch on this machine's device")] = False,
    throughput: Annotated[
        float | None, typer.Option(min=1e-9, help="Samples per second of one device, if known")
    ] = None,
) -> None:
    """Print what an audit would do, which outputs exist already, and what it costs, without starting it."""
    from side_ray.cli import actions
    from side_ray.config.file import load_config

    raise typer.Exit(actions.guarded(lambda: actions.plan(load_config(config, overrides or []), probe, throughput)))


@app.command("status")
def status(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run directory: a local path or s3://bucket/prefix")],
    endpoint: Annotated[str | None, typer.Option(help="URL of an S3-compatible server")] = None,
) -> None:
    """Print the progress of a run, on any machine that can read its storage."""
    from side_ray.cli import actions

    raise typer.Exit(actions.guarded(lambda: actions.status(run, endpoint)))
