"""Runs the verbs and prints their results. Heavy libraries are imported late, so that a wrong config is reported at once."""

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from side_ray.config import Config
from side_ray.config.file import load_config
from side_ray.errors import PROGRAM, CheckFailed, Damaged, RunError, UserError, bounded, masked, one_line
from side_ray.execution.node.stopping import LINE, stoppable

if TYPE_CHECKING:
    from side_ray.execution.progress import Reporter

STUDIES = {"theory": "side_ray.studies.theory:run_theory", "twins": "side_ray.studies.twins:run_twins"}
"""Studies by verb: `module:function`, a function of a config and a reporter that returns lines for the terminal."""


OPTIONS: dict[str, Any] = {}
"""Arguments of the reporter, from the options before the verb."""


@contextmanager
def _reporter() -> Iterator["Reporter"]:
    """Yield a reporter; shut down Ray at the end."""
    from side_ray.execution.progress import Reporter
    from side_ray.execution.session import own_ray

    with own_ray():
        yield Reporter(**OPTIONS)


def print_table(table: Any) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160).print(table)


def print_json(value: Any) -> None:
    """Print JSON-able values, indented."""
    print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


def audit(last: str, config: Config, fail_above: int | None = None) -> None:
    """Run an audit up to the step `last`; print the table of results and the verdict if that is the report.

    Raises:
        CheckFailed: more than `fail_above` distinct training images were found.
    """
    with _reporter() as reporter:
        from side_ray.algorithm import run_until
        from side_ray.report.table import terminal_table
        from side_ray.report.verdict.sentences import sentence
        from side_ray.runs.run import PAGE

        done = run_until(last, config, reporter)
        if last == "report":
            metrics = done.artifacts.report.read_json("metrics.json")
            print_table(terminal_table(metrics))
            print(f"report: {done.run.store.uri}/{PAGE}\nverdict: {sentence(metrics)}")
            found = metrics["verdict"]["distinct"] if metrics["verdict"]["outcome"] == "found" else 0
            if fail_above is not None and found > fail_above:
                raise CheckFailed(f"{found:,} distinct training images were found; --fail-above allows {fail_above:,}")


def study(name: str, config: Config) -> None:
    """Run a study of `STUDIES` and print its results."""
    with _reporter() as reporter:
        module, _, function = STUDIES[name].partition(":")
        print("\n".join(getattr(import_module(module), function)(config, reporter)))


def score(
    given: list[str], samples: str | None, train: str | None, unseen: str | None, run: str, only_plan: bool = False
) -> None:
    """Score the samples of an audit, or the images at given paths.

    Args:
        given: the config file and overrides; only overrides if `samples` and `train` are set.
        samples: path of the generated images.
        train: path of the training set.
        unseen: path of images that the model never saw.
        run: run directory for scores and report.
        only_plan: print how long it takes on this machine, and start nothing.

    Raises:
        UserError: only one of `samples` and `train` is set, or there is neither a config nor a path.
    """
    if samples is None and train is None:
        if not given:
            raise UserError("score: give CONFIG, or --samples and --train; see side-ray score --help")
        config = load_config(given[0], given[1:])
        plan(config, True, None, False) if only_plan else audit("score", config)
        return
    if samples is None or train is None:
        raise UserError(
            "score: --samples and --train go together: generated images, and the training set they may copy"
        )
    from side_ray.studies.given import given_config

    config = given_config(samples, train, unseen, run, given)
    plan(config, True, None, False) if only_plan else audit("report", config)


def sweep(config: Config) -> None:
    """Run a sweep; print its table and the paths of its files."""
    with _reporter() as reporter:
        from side_ray.report.sweep import samples_made, terminal_table
        from side_ray.studies.sweep import BEST, TABLE
        from side_ray.studies.sweep import sweep as run_sweep

        plan, outcomes = run_sweep(config, reporter)
        print_table(terminal_table(outcomes, config.sweep.score, config.sweep.band))
        made, planned = samples_made(outcomes)
        where = f"{plan.results.store.uri}/{plan.results.key}"
        print(f"samples: {made:,} of {planned:,}\ntable: {where}/{TABLE}.csv\nbest setting: {where}/{BEST}")


def batch(path: str, overrides: list[str], fail_worse: bool) -> None:
    """Run a batch of audits; print its summary.

    Raises:
        CheckFailed: with `fail_worse`, an audit's newest report has more copies than the one before and than chance explains.
    """
    with _reporter() as reporter:
        from side_ray.studies.batch.run import run_batch

        table, address, worse = run_batch(path, overrides, reporter)
        print_table(table)
        print(f"summary: {address}")
    if fail_worse and worse:
        raise CheckFailed("more copies than in the report before, or not comparable with it: " + " · ".join(worse))


def reproduce(table: str, overrides: list[str], preset: str, run: str | None, endpoint: str | None) -> None:
    """Recompute a table of the paper, from a preset or a finished run, and print it."""
    from side_ray.studies.presets import check_table, preset_config

    check_table(table)
    config = preset_config(table, preset, overrides) if run is None else None
    with _reporter() as reporter:
        from side_ray.studies import reproduce as study

        if config is not None:
            store, found = study.reproduce(table, config, reporter)
        else:
            store, found = study.reproduce_from(table, str(run), endpoint)
        print(f"{found.title}\n\n{found.text}\nfiles: {store.uri}/reproduce/{found.name}/")


def plan(config: Config, timed: bool, throughput: float | None, as_json: bool) -> None:
    """Print what an audit would do and cost.

    Args:
        timed: measure the throughput on this machine.
        throughput: samples per second of one device, if known.
    """
    from side_ray.execution.forecast import planned_seconds
    from side_ray.runs.artifacts import Artifacts
    from side_ray.runs.cost.sampling import plan_json, plan_lines, probe
    from side_ray.runs.cost.search import probe_given, probe_search
    from side_ray.runs.preflight import preflight

    artifacts, missing = Artifacts.open(config), list[str]()
    # The cost can be computed before the data, weights and storage are available.
    preflight(artifacts, missing)
    obstacle = "; ".join(missing)
    pace = probe_search(artifacts) if timed else None
    rate = throughput
    if pace is not None:
        rate = probe_given(artifacts, pace) if config.given else probe(artifacts)
    seconds = None if rate is None else planned_seconds(artifacts, rate)
    if as_json:
        print_json(plan_json(artifacts, rate, obstacle, seconds, pace))
    else:
        print("\n".join(plan_lines(artifacts, rate, obstacle, seconds, pace)))


def guarded(action: Callable[[], object], stopped: str = LINE) -> int:
    """Call `action` and return the exit code. A UserError, and being stopped by a signal, is one line on stderr.

    Args:
        stopped: the line where a signal stops the action.
    """
    failure: BaseException | None = None
    with stoppable(_kill, stopped) as stop:
        try:
            action()
        except BaseException as error:
            failure = error
        if stop.number:
            _kill()
            stop.leave()
    return 0 if failure is None else _tell(failure)


def _kill() -> None:
    if session := sys.modules.get("side_ray.execution.session"):
        session.kill()


def _tell(failure: BaseException) -> int:
    if isinstance(failure, UserError):
        print(f"{PROGRAM}{failure}", file=sys.stderr)
        return failure.exit_code
    if isinstance(failure, Damaged):
        print(f"{PROGRAM}{bounded(str(failure))}; run side-ray audit, which makes it again", file=sys.stderr)
    elif not isinstance(failure, Exception):
        raise failure
    else:
        if os.environ.get("SIDE_RAY_TRACEBACK"):
            print(masked("".join(traceback.format_exception(failure))), file=sys.stderr)
        fault = bounded(one_line(failure))
        print(f"side-ray: an error that is not expected ({fault}); SIDE_RAY_TRACEBACK=1 shows where", file=sys.stderr)
    return RunError.exit_code


def run_verb(name: str, path: str, overrides: list[str], fail_above: int | None = None) -> int:
    """Run a verb on a config file: a step with all steps before it, a study, or `sweep`. Returns the exit code.

    Args:
        fail_above: of an audit: exit with 3 if more distinct training images were found.
    """

    def action() -> None:
        config = load_config(path, overrides)
        if name in STUDIES:
            study(name, config)
        elif name == "sweep":
            sweep(config)
        else:
            audit(name, config, fail_above)

    return guarded(action)


def job(name: str) -> None:
    """Entry point of a submitted job: `python jobs/audit.py --config FILE [section.key=value …]`.

    Args:
        name: the verb, see `run_verb`.
    """
    parser = argparse.ArgumentParser(description=f"Run {name} and all steps before it.")
    parser.add_argument("--config", required=True, help="YAML file of the audit")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that override the file")
    parser.add_argument(
        "--fail-above", type=int, metavar="N", help="audit: exit with 3 if more distinct training images are found"
    )
    arguments = parser.parse_args()
    sys.exit(run_verb(name, arguments.config, arguments.overrides, arguments.fail_above))
