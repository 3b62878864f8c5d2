"""The sweep over λ, C and other settings, as a Ray Tune experiment whose trials share stages."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from side_ray.algorithm import run_steps
from side_ray.config import Config
from side_ray.errors import RunError
from side_ray.execution.audit import Audit
from side_ray.execution.node.lease import hold_lease
from side_ray.execution.progress import Reporter
from side_ray.execution.search_actors import SearchActors
from side_ray.execution.session import ensure_ray
from side_ray.execution.shard_pool import one_line
from side_ray.report.sweep import FAILED, FINISHED, STOPPED, Outcome, best, sweep_rows, value_of
from side_ray.report.table import rows_csv
from side_ray.results.evidence import side_by_side
from side_ray.runs.preflight import preflight
from side_ray.runs.run import fingerprint
from side_ray.runs.scores import read_cut
from side_ray.runs.status import record
from side_ray.similarity import similarity_of
from side_ray.stages.label import label
from side_ray.stages.prepare import prepare
from side_ray.stages.score import score_synthetic
from side_ray.stages.synthesize import synthesize
from side_ray.stages.train_dpm import train_dpm
from side_ray.stages.train_surrogate import train_surrogate
from side_ray.statistics.bands import CALIBRATED, bands_of
from side_ray.storage.sealed import write_table
from side_ray.studies.sweep_plan import Setting, SweepPlan, audit_of, survivors
from side_ray.studies.sweep_trial import SCORES, TrialSpec, read_result, run_trial, trial_spec

TABLE, BEST = "sweep", "best.yaml"
PROGRESS_EVERY_S = 30
UNGUIDED: list[Callable[[Audit], None]] = [prepare, train_dpm, synthesize, score_synthetic]
SHARED = [*UNGUIDED, label, train_surrogate]
"""Stages that trials share: Random needs only `UNGUIDED`, a guided trial all."""


def sweep(config: Config, reporter: Reporter) -> tuple[SweepPlan, list[Outcome]]:
    """Run the missing parts of the sweep; write its table and the config of the best setting.

    Raises:
        UserError: a setting is not valid for an audit; raised before anything starts.
        RunError: some trials failed. The message names them; the others are in the table.
    """
    audit = Audit.open(config, reporter)
    plan = SweepPlan(audit.artifacts)
    _check(plan)
    record(audit.artifacts, plan.stages())
    reporter.say(_describe(plan))
    share_stages(plan, reporter)
    with hold_lease(plan.results, reporter, "sweep"):
        outcomes = _read(plan) if plan.results.done else _make(plan, reporter)
    failed = [f"{each.name} ({each.error})" for each in outcomes if each.status == FAILED]
    if failed:
        raise RunError(
            f"sweep: {len(failed)} of {len(outcomes)} trials failed: {'; '.join(failed)}. The others are in "
            f"{plan.results.store.uri}/{plan.results.key}/{TABLE}.csv; run the same command again to retry"
        )
    audit.run.point_latest(sweep=plan.results.key)
    return plan, outcomes


def _make(plan: SweepPlan, reporter: Reporter) -> list[Outcome]:
    ensure_ray(plan.config.cluster)
    # `score.shards` applies to audits only: a trial holds all features itself unless they are large.
    whole = plan.config.score.model_copy(update={"shards": None})
    with SearchActors(plan.base, whole) as search:
        trials = {each: trial_spec(each, found, plan.results, search) for each, found in plan.artifacts.items()}
        goals, errors = _run(plan, trials, reporter)
    notes = {note for each, goal in goals.items() for note in (trials[each].result(goal) or {}).get("notes", [])}
    for note in sorted(notes):
        reporter.warn(note)
    outcomes = _weighed(plan, [_outcome(plan, each, goals[each], errors) for each in plan.settings])
    _write(plan, outcomes)
    if not errors:
        plan.results.finish(goals={each.name: goal for each, goal in goals.items()})
    return outcomes


def _read(plan: SweepPlan) -> list[Outcome]:
    goals = plan.results.info()["goals"]
    return _weighed(plan, [_outcome(plan, each, goals[each.name], {}) for each in plan.settings])


def _weighed(plan: SweepPlan, outcomes: list[Outcome]) -> list[Outcome]:
    """The outcomes; those of finished settings with what they show beyond chance (`side_by_side`)."""
    finished = {
        each: plan.artifacts[each]
        for each, found in zip(plan.settings, outcomes, strict=True)
        if found.metrics and found.status == FINISHED
    }
    rows = side_by_side(finished)
    return [
        replace(found, metrics={**(found.metrics or {}), **rows[each]}) if each in rows else found
        for each, found in zip(plan.settings, outcomes, strict=True)
    ]


def share_stages(plan: SweepPlan, reporter: Reporter) -> None:
    """Make what several trials share, each once: the DPM, a synthetic set per number of steps, a student per classifier.

    This happens before the trials start: a trial that waits for a training would occupy its CPUs.
    """
    made = set()
    for setting, artifacts in plan.artifacts.items():
        key = artifacts.surrogate.key if setting.scale else artifacts.cut.directory
        if key in made:
            continue
        run_steps(Audit(artifacts, reporter), SHARED if setting.scale else UNGUIDED)
        made |= {key, artifacts.cut.directory}


def _check(plan: SweepPlan) -> None:
    seen = set()
    for setting, artifacts in plan.artifacts.items():
        if (setting.steps, setting.labels) not in seen:
            preflight(artifacts)
            seen.add((setting.steps, setting.labels))


def _describe(plan: SweepPlan) -> str:
    students = len({found.surrogate.key for each, found in plan.artifacts.items() if each.scale})
    total = sum(found.config.extract.samples for found in plan.artifacts.values())
    early = plan.config.sweep.early_stopping
    stopping = f"; after {early.after} of the samples the best {early.keep:g} of the trials continue" if early else ""
    return f"sweep: {len(plan.settings)} trials with {students} students, {total:,} samples{stopping}"


def _run(
    plan: SweepPlan, trials: Mapping[Setting, TrialSpec], reporter: Reporter
) -> tuple[dict[Setting, int], dict[str, str]]:
    """Run every rung. Returns the last goal of each trial, and the errors of failed trials by name."""
    early, rules = plan.config.sweep.early_stopping, plan.config.sweep
    goals: dict[Setting, int] = {}
    errors: dict[str, str] = {}
    running = list(plan.settings)
    for number, share in enumerate(plan.rungs):
        goals |= {each: plan.goal(each, share) for each in running}
        if any(trials[each].result(goals[each]) is None for each in running):
            errors |= _run_rung(plan, number, running, goals, trials, reporter)
        values = {
            each: value_of(found["metrics"], rules.score, rules.band)
            for each in running
            if (found := trials[each].result(goals[each])) is not None
        }
        running = list(values)
        if early and share < 1 and values:
            running = survivors(values, early.keep)
            reporter.say(f"sweep: {len(running)} of {len(values)} trials continue after {share:g} of their samples")
    return goals, errors


def _run_rung(
    plan: SweepPlan,
    number: int,
    wanted: list[Setting],
    goals: Mapping[Setting, int],
    trials: Mapping[Setting, TrialSpec],
    reporter: Reporter,
) -> dict[str, str]:
    """Run the trials `wanted` up to their goals with Ray Tune. Returns the errors of failed trials by name."""
    # The command itself handles Ctrl-C; finished shards are kept.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    # Tune's newer output prints every metric of every trial; the older one supports a table with chosen columns.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    from ray import tune

    cluster, rules = plan.config.cluster, plan.config.sweep
    column = CALIBRATED if rules.band == CALIBRATED else f"cumulative-{rules.band}"
    filesystem, root = plan.results.store.arrow()
    # The name depends on the trials: after a failed trial is retried, other trials may survive to this rung than before.
    names = fingerprint([trials[each].name for each in wanted])
    directory, name = f"{root}/{plan.results.key}/tune", f"rung-{number}-{names}"
    trainable = tune.with_resources(
        partial(run_trial, trials={trials[each].name: trials[each] for each in wanted}),
        {"CPU": cluster.actor_cpus, "GPU": float(cluster.gpus)},
    )
    if tune.Tuner.can_restore(f"{directory}/{name}", storage_filesystem=filesystem):
        reporter.say("sweep: resuming")
        tuner = tune.Tuner.restore(
            f"{directory}/{name}", trainable=trainable, storage_filesystem=filesystem, restart_errored=True
        )
    else:
        space = [{"trial": each.name, "goal": goals[each], "lambda": each.scale, **each.columns()} for each in wanted]
        tuner = tune.Tuner(
            trainable,
            param_space={"setting": tune.grid_search(space)},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=rules.max_concurrent_trials,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=directory,
                storage_filesystem=filesystem,
                failure_config=tune.FailureConfig(max_failures=rules.retries),
                progress_reporter=tune.CLIReporter(
                    parameter_columns={"setting/goal": "of"},
                    metric_columns={"samples": "samples"} | {f"{score}/{column}": f"{score} %" for score in SCORES},
                    max_report_frequency=PROGRESS_EVERY_S,
                    max_progress_rows=60,
                ),
                verbose=1,
            ),
        )
    results = tuner.fit()
    return {result.config["setting"]["trial"]: one_line(result.error) for result in results if result.error}


def _trial_name(trial: Any) -> str:
    return str(trial.config["setting"]["trial"])


def _outcome(plan: SweepPlan, setting: Setting, goal: int, errors: Mapping[str, str]) -> Outcome:
    artifacts = plan.artifacts[setting]
    planned = artifacts.config.extract.samples
    metrics: dict[str, Any] | None = None
    found = read_result(plan.results, setting.name, goal)
    if found is not None:
        metrics = {**found["metrics"], "cut": read_cut(artifacts).value}
    status = FAILED if setting.name in errors or metrics is None else FINISHED if goal == planned else STOPPED
    method, scale = setting.condition.method, setting.scale
    error = errors.get(setting.name, "it did not finish") if status == FAILED else ""
    return Outcome(setting.name, setting.columns(), method, scale, status, planned, metrics, error)


def _write(plan: SweepPlan, outcomes: list[Outcome]) -> None:
    similarity, rules = similarity_of(plan.config.score), plan.config.sweep
    bands = bands_of(plan.config).resolve()
    frame = {
        "similarity": {
            "name": similarity.name,
            **similarity.params(),
            "bands": bands,
            "closer": "higher" if similarity.larger_is_closer else "lower",
        },
        "train_size": plan.base.sizes["member"],
    }
    rows = sweep_rows(outcomes, frame)
    store, key = plan.results.store, plan.results.key
    store.write(f"{key}/{TABLE}.csv", rows_csv(rows).encode())
    write_table(store, f"{key}/{TABLE}.parquet", pa.Table.from_pylist(rows))
    winner = best(outcomes, rules.score, rules.band)
    if winner is not None:
        setting = next(each for each in plan.settings if each.name == winner.name)
        store.write(f"{key}/{BEST}", audit_of(plan.config, setting).to_yaml().encode())
