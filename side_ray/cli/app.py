"""Parses the verbs of the `side-ray` command: steps of an audit, `audit` for all of them, and studies."""

from typing import Annotated

import typer

import side_ray

EXIT_CODES = (
    "Exit codes: 0 done; 1 stopped for a reason outside the config, finished work is kept; 2 wrong arguments or config; "
    "3 done, but what was to be checked does not hold (--fail-worse, remake); 130 or 143 stopped by SIGINT or SIGTERM."
)
app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Audit how much of its training set a diffusion model has memorised, and how much of that can be extracted.",
    epilog=EXIT_CODES + "\n\nNO_COLOR=1 turns colours off. Help on a verb: side-ray VERB -h",
)

ConfigPath = Annotated[
    str, typer.Argument(metavar="CONFIG", help="YAML file of the audit, for example jobs/configs/digits.yaml")
]
OptionalConfigPath = Annotated[str | None, typer.Argument(metavar="[CONFIG]", help="YAML file of the audit")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Settings that override the file")
]


Run = Annotated[str, typer.Argument(metavar="RUN", help="Run directory: a local path or s3://bucket/prefix")]
Endpoint = Annotated[str | None, typer.Option(help="URL of an S3-compatible server")]
Address = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Dashboard of the Ray cluster; else RAY_API_SERVER_ADDRESS or RAY_ADDRESS"),
]
FailAbove = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="Exit with 3 if more than N distinct training images are found, for CI"),
]
FailWorse = Annotated[
    bool,
    typer.Option(
        "--fail-worse", help="Exit with 3 if an audit has more copies than its report before and than chance explains"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]


def _examples(*lines: str) -> str:
    return "\n\n".join(["Examples:", *(f"side-ray {line}" for line in lines)])


def _version(wanted: bool) -> None:
    if wanted:
        print(f"side-ray {side_ray.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version", callback=_version, is_eager=True)
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and results only")] = False,
    progress: Annotated[bool, typer.Option(help="Show progress while a stage runs")] = True,
    as_json: Annotated[
        bool, typer.Option("--log-json", help="Print messages as JSON lines, for log collectors")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show where an unexpected error comes from")] = False,
) -> None:
    import os

    from side_ray.cli.actions import OPTIONS

    OPTIONS.update(quiet=quiet, progress=progress, as_json=as_json)
    if verbose:
        os.environ["SIDE_RAY_TRACEBACK"] = "1"


def _verb(name: str, config: str, overrides: list[str] | None, fail_above: int | None = None) -> None:
    from side_ray.cli.actions import run_verb

    raise typer.Exit(run_verb(name, config, overrides or [], fail_above))


@app.command("prepare", epilog=_examples("prepare audit.yaml"))
def prepare(config: ConfigPath, overrides: Overrides = None) -> None:
    """Copy the training images into the run directory, split into members and unseen images."""
    _verb("prepare", config, overrides)


@app.command("train-dpm", epilog=_examples("train-dpm audit.yaml dpm.steps=20000"))
def train_dpm(config: ConfigPath, overrides: Overrides = None) -> None:
    """Train or import the DPM under audit."""
    _verb("train_dpm", config, overrides)


@app.command("train-surrogate", epilog=_examples("train-surrogate audit.yaml surrogate.labels=cluster"))
def train_surrogate(config: ConfigPath, overrides: Overrides = None) -> None:
    """Sample and label the synthetic set, and distil the time-dependent classifier on it."""
    _verb("train_surrogate", config, overrides)


@app.command("extract", epilog=_examples("extract audit.yaml", 'extract audit.yaml "extract.lambdas=[0, 3, 8]"'))
def extract(config: ConfigPath, overrides: Overrides = None) -> None:
    """Sample every condition: Random, OL-TI and SIDE at each λ."""
    _verb("extract", config, overrides)


@app.command(
    "score",
    epilog=_examples(
        "score --samples generated --train train --unseen unseen --run runs/generated",
        "score audit.yaml score.bands=paper",
    ),
)
def score(
    config: OptionalConfigPath = None,
    overrides: Overrides = None,
    samples: Annotated[str | None, typer.Option(help="Generated images: a folder, a zip archive or Parquet")] = None,
    train: Annotated[str | None, typer.Option(help="Training set to compare them with")] = None,
    unseen: Annotated[
        str | None, typer.Option(help="Similar images that the model never saw; they set the cut")
    ] = None,
    run: Annotated[str, typer.Option(help="Run directory for the scores and the report")] = "runs/score",
    plan: Annotated[bool, typer.Option("--plan", help="Only print how long it takes on this machine")] = False,
) -> None:
    """Score every sample of an audit; or, with --samples and --train and without a config, your own generated images."""
    from side_ray.cli import actions

    given = [text for text in (config, *(overrides or [])) if text is not None]
    raise typer.Exit(actions.guarded(lambda: actions.score(given, samples, train, unseen, run, plan)))


@app.command("report", epilog=_examples("report audit.yaml report.gallery=24"))
def report(config: ConfigPath, overrides: Overrides = None) -> None:
    """Write metrics.json, metrics.csv and index.html, and print the table."""
    _verb("report", config, overrides)


@app.command(
    "audit",
    epilog=_examples(
        "audit jobs/configs/digits.yaml", "audit audit.yaml run.uri=s3://bucket/prefix extract.samples=2000"
    ),
)
def audit(
    config: ConfigPath,
    overrides: Overrides = None,
    fail_above: FailAbove = None,
) -> None:
    """Run the whole audit. Outputs that exist are not made again."""
    _verb("report", config, overrides, fail_above)


@app.command("theory", epilog=_examples("theory audit.yaml"))
def theory(config: ConfigPath, overrides: Overrides = None) -> None:
    """Compute the paper's theoretical quantities of the DPM: its densities, its latents, and the effect of labels on them."""
    _verb("theory", config, overrides)


@app.command("twins", epilog=_examples("twins audit.yaml run.uri=runs/twins"))
def twins(config: ConfigPath, overrides: Overrides = None) -> None:
    """Audit the DPM and its class-conditional twins with true, random and unique labels."""
    _verb("twins", config, overrides)


@app.command("sweep", epilog=_examples('sweep jobs/configs/digits_sweep.yaml "sweep.lambdas=[0, 3, 8]"'))
def sweep(config: ConfigPath, overrides: Overrides = None) -> None:
    """Audit every setting of the config's section `sweep`, and report which one extracts most."""
    _verb("sweep", config, overrides)


@app.command("batch", epilog=_examples("batch audits.yaml", "batch audits.yaml run.uri=s3://bucket/audits"))
def batch(
    audits: Annotated[str, typer.Argument(metavar="AUDITS", help="YAML file that lists models and data sets")],
    overrides: Overrides = None,
    fail_worse: FailWorse = False,
) -> None:
    """Audit every model of a list on every data set of a list; shared stages are made once. Running it again resumes."""
    from side_ray.cli import actions

    raise typer.Exit(actions.guarded(lambda: actions.batch(audits, overrides or [], fail_worse)))


@app.command(
    "submit",
    epilog=_examples(
        "submit audit.yaml run.uri=s3://bucket/prefix --address http://127.0.0.1:8265",
        "submit --attach side-ray-0a1b2c3d --address http://127.0.0.1:8265",
    ),
)
def submit(
    config: OptionalConfigPath = None,
    overrides: Overrides = None,
    address: Address = None,
    verb: Annotated[str, typer.Option(help="What to run: audit, batch, sweep, theory, twins, or a step")] = "audit",
    fail_above: FailAbove = None,
    fail_worse: FailWorse = False,
    attach: Annotated[str | None, typer.Option(metavar="JOB", help="Follow a job that was submitted before")] = None,
    attach_running: Annotated[
        bool, typer.Option("--attach-running", help="If the same job is running already, follow that one")
    ] = False,
    wait: Annotated[bool, typer.Option(help="Follow the job until it ends")] = True,
) -> None:
    """Run an audit as a job on a Ray cluster, and follow it; the exit code is the job's. Submitting again resumes."""
    from side_ray.cli import submitting

    given = [text for text in (config, *(overrides or [])) if text is not None]
    limits = {
        "--fail-above": None if fail_above is None else str(fail_above),
        "--fail-worse": "" if fail_worse else None,
    }
    raise typer.Exit(submitting.submit(given, address, verb, limits, attach, attach_running, wait))


@app.command("stop", epilog=_examples("stop side-ray-0a1b2c3d --address http://127.0.0.1:8265"))
def stop(
    job: Annotated[str, typer.Argument(metavar="JOB", help="Id of the job, as `submit` printed it")],
    address: Address = None,
) -> None:
    """Stop a submitted job. Finished work is kept, and submitting again resumes."""
    from side_ray.cli import submitting

    raise typer.Exit(submitting.stop(job, address))


@app.command("reproduce", epilog=_examples("reproduce table1 --preset tiny", "reproduce fig5 --run runs/digits"))
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


@app.command(
    "plan",
    epilog=_examples("plan audit.yaml --probe cluster.price_per_hour=2.5", "plan audit.yaml --throughput 12.5 --json"),
)
def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    probe: Annotated[bool, typer.Option("--probe", help="Time one guided batch on this machine's device")] = False,
    throughput: Annotated[
        float | None, typer.Option(min=1e-9, help="Samples per second of one device, if known")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print what an audit would do, which outputs exist already, and what it costs, without starting it."""
    from side_ray.cli import actions
    from side_ray.config.file import load_config

    raise typer.Exit(
        actions.guarded(lambda: actions.plan(load_config(config, overrides or []), probe, throughput, as_json))
    )


@app.command("status", epilog=_examples("status runs/digits", "status s3://bucket/prefix --json"))
def status(run: Run, endpoint: Endpoint = None, as_json: AsJson = False) -> None:
    """Print the progress of a run, on any machine that can read its storage."""
    from side_ray.cli import actions, reading

    raise typer.Exit(actions.guarded(lambda: reading.status(run, endpoint, as_json)))


@app.command("remake", epilog=_examples("remake runs/digits --method td --lambda 8 --sample 868 --out again.png"))
def remake(
    run: Run,
    method: Annotated[str, typer.Option(help="random, td (SIDE), lora, ti (OL-TI) or base")],
    sample: Annotated[int, typer.Option(help="Its sample_id, as on the page and in extracted.csv")],
    scale: Annotated[float | None, typer.Option("--lambda", help="λ; not needed where the method has only one")] = None,
    out: Annotated[str | None, typer.Option(metavar="FILE.png", help="Write the image made again to this file")] = None,
    endpoint: Endpoint = None,
    as_json: AsJson = False,
) -> None:
    """Make a sample of a finished run again from its seed, and check that it is the stored one, pixel by pixel (else exit 3)."""
    from side_ray.cli import actions, reading

    raise typer.Exit(actions.guarded(lambda: reading.remake(run, endpoint, method, scale, sample, out, as_json)))


@app.command(
    "compare",
    epilog=_examples(
        "compare runs/before runs/after --html comparison.html", "compare runs/released runs/candidate --fail-worse"
    ),
)
def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN RUN...", help="Run directories; the first is the reference")
    ],
    html: Annotated[str | None, typer.Option(metavar="FILE.html", help="Write a page to this file")] = None,
    fail_worse: Annotated[
        bool, typer.Option("--fail-worse", help="Exit with 3 if a later run has more copies than chance explains")
    ] = False,
    endpoint: Endpoint = None,
    as_json: AsJson = False,
) -> None:
    """Compare finished runs, condition by condition: a model before and after a mitigation, or two models."""
    from side_ray.cli import actions, reading

    raise typer.Exit(actions.guarded(lambda: reading.compare(runs, endpoint, html, as_json, fail_worse)))


@app.command("purge", epilog=_examples("purge runs/digits", "purge s3://bucket/prefix --yes"))
def purge(
    run: Run,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False,
    endpoint: Endpoint = None,
    as_json: AsJson = False,
) -> None:
    """Remove the training images, the samples and the pairs of a run; keep its numbers, figures and models."""
    from side_ray.cli import actions, reading

    raise typer.Exit(actions.guarded(lambda: reading.purge(run, endpoint, yes, as_json)))


@app.command(
    "export",
    epilog=_examples("export runs/digits --hf-card --eval-results", "export runs/digits --pdf --out certificate"),
)
def export(
    run: Run,
    hf_card: Annotated[bool, typer.Option("--hf-card", help="A section for a model card, with its metadata")] = False,
    eval_results: Annotated[bool, typer.Option("--eval-results", help="Entries for the Hub's .eval_results")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="All metrics as a table")] = False,
    parquet: Annotated[bool, typer.Option("--parquet", help="The same with types")] = False,
    croissant: Annotated[bool, typer.Option("--croissant", help="Croissant metadata of the report's tables")] = False,
    pdf: Annotated[
        bool, typer.Option("--pdf", help="The page as PDF (needs Chromium); page 1 is a certificate")
    ] = False,
    out: Annotated[str, typer.Option(metavar="DIRECTORY", help="Where the files are written")] = ".",
    endpoint: Endpoint = None,
) -> None:
    """Write a finished run in the formats of other tools."""
    from side_ray.cli import actions, reading

    given = {
        "hf-card": hf_card,
        "eval-results": eval_results,
        "csv": csv,
        "parquet": parquet,
        "croissant": croissant,
        "pdf": pdf,
    }
    formats = [name for name, wanted in given.items() if wanted]
    raise typer.Exit(actions.guarded(lambda: reading.export(run, endpoint, formats, out)))


@app.command("open", epilog=_examples("open runs/digits", "open s3://bucket/prefix --no-browser"))
def show(
    run: Run,
    endpoint: Endpoint = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the page's address")] = False,
) -> None:
    """Open the page of a finished run in a browser."""
    from side_ray.cli import actions, reading

    raise typer.Exit(actions.guarded(lambda: reading.show(run, endpoint, no_browser)))


@app.command("doctor", epilog=_examples("doctor", "doctor s3://bucket/prefix"))
def doctor(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Run directory whose storage is to be tried too")
    ] = None,
    endpoint: Endpoint = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine: versions, device, FAISS, memory, disk, and the speed of a run's storage (exit 3 if one fails)."""
    from side_ray.cli import actions, reading

    raise typer.Exit(actions.guarded(lambda: reading.doctor(run, endpoint, as_json)))


@app.command("canaries", epilog=_examples("canaries images --pairs 300 --out canaries.csv"))
def canaries(
    images: Annotated[str, typer.Argument(metavar="IMAGES", help="Images to choose from, in any format")],
    pairs: Annotated[
        int, typer.Option(min=1, help="Pairs of images; n of them can show at most about ε = log(n/3)")
    ] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw")] = 0,
    out: Annotated[str, typer.Option(metavar="FILE.csv", help="The plan to write")] = "canaries.csv",
    endpoint: Endpoint = None,
) -> None:
    """Plan which images to train on and which to leave out, by fair coins, to audit the privacy loss of a training elsewhere."""
    from side_ray.cli import actions, reading

    raise typer.Exit(actions.guarded(lambda: reading.canaries(images, pairs, seed, out, endpoint)))


@app.command("models", epilog=_examples("models", "models --json"))
def models(as_json: AsJson = False) -> None:
    """List the kinds of models that can be audited, and the sources, samplers and similarities to choose from."""
    from side_ray.cli import actions, reading

    raise typer.Exit(actions.guarded(lambda: reading.models(as_json)))


@app.command(
    "init",
    epilog=_examples("init digits", "init folder --data train --unseen unseen --model my-pipeline --out my-audit.yaml"),
)
def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="digits, folder (your own model), cifar10, …")] = "folder",
    data: Annotated[str | None, typer.Option(help="Images that the model was trained on, in any format")] = None,
    unseen: Annotated[str | None, typer.Option(help="Similar images that the model never saw")] = None,
    model: Annotated[str | None, typer.Option(help="Directory of a diffusers pipeline")] = None,
    out: Annotated[str, typer.Option(metavar="FILE", help="The config to write")] = "audit.yaml",
    force: Annotated[bool, typer.Option("--force", help="Replace the file")] = False,
) -> None:
    """Write a commented config to start from, filled in with the format, number and size of the images that it finds."""
    from side_ray.cli import actions, reading

    raise typer.Exit(actions.guarded(lambda: reading.init(name, data, unseen, model, out, force)))
