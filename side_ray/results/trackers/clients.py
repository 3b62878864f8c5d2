"""The trackers' own libraries. None is a dependency: each is imported when it is used, and finds its account by itself."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = "side-ray"
"""Where the environment names no project."""
_BATCH = 100
"""What MLflow takes at once."""


@dataclass(frozen=True)
class Finished:
    """What a tracker is told of an audit: a name, the resolved config, flat numbers, texts, and files by name."""

    name: str
    config: Mapping[str, Any]
    numbers: Mapping[str, float]
    texts: Mapping[str, str]
    files: Mapping[str, bytes]

    def write(self, directory: str) -> Iterator[Path]:
        """The files, written to a directory."""
        for name, content in self.files.items():
            path = Path(directory) / name
            path.write_bytes(content)
            yield path


def log_wandb(finished: Finished) -> str:
    """A run of Weights & Biases, with the files as its artifact."""
    import wandb

    # Never ask for an account: nobody may be there. A run of the caller's own goes on.
    settings = wandb.Settings(console="off", silent=True, disable_git=True, save_code=False, login_timeout=30)
    project = os.environ.get("WANDB_PROJECT") or PROJECT
    run = wandb.init(
        project=project, name=finished.name, config=dict(finished.config), reinit="create_new", settings=settings
    )
    with tempfile.TemporaryDirectory() as directory:
        artifact = wandb.Artifact(f"report-{run.id}", type="report")
        for path in finished.write(directory):
            artifact.add_file(str(path), name=path.name)
        run.log(dict(finished.numbers))
        run.summary.update(dict(finished.texts))
        run.log_artifact(artifact)
        run.finish()
    return f"offline run {run.id}" if run.offline else str(run.url)


def log_mlflow(finished: Finished) -> str:
    """A run of MLflow, with the files as its artifacts. The caller's active run is left alone."""
    import mlflow
    from mlflow.entities import Metric, Param, RunTag

    client = mlflow.MlflowClient()
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
    known = client.get_experiment_by_name(name)
    experiment = known.experiment_id if known else client.create_experiment(name)
    run = client.create_run(experiment, run_name=finished.name).info.run_id
    now, params = int(time.time() * 1000), list(_flat(finished.config))
    client.log_batch(
        run,
        metrics=[Metric(key, value, now, 0) for key, value in finished.numbers.items()],
        tags=[RunTag(key, text) for key, text in finished.texts.items()],
    )
    for start in range(0, len(params), _BATCH):
        client.log_batch(run, params=[Param(key, text) for key, text in params[start : start + _BATCH]])
    with tempfile.TemporaryDirectory() as directory:
        for path in finished.write(directory):
            client.log_artifact(run, str(path))
    client.set_terminated(run)
    return f"experiment {name}, run {run}"


def log_trackio(finished: Finished) -> str:
    """A run of Trackio, with the files as its artifact; a Space that it makes for that is private."""
    import trackio

    project = os.environ.get("TRACKIO_PROJECT") or PROJECT
    run = trackio.init(
        project,
        name=finished.name,
        config={**finished.config, **finished.texts},
        embed=False,
        private=True,
        auto_log_cpu=False,
        auto_log_gpu=False,
    )
    with tempfile.TemporaryDirectory() as directory:
        artifact = trackio.Artifact("report", type="report")
        for path in finished.write(directory):
            artifact.add_file(path, name=path.name)
        trackio.log(dict(finished.numbers))
        trackio.log_artifact(artifact)
        trackio.finish()
    return f"project {project}, run {run.name}"


CLIENTS: Mapping[str, Callable[[Finished], str]] = {
    "wandb": log_wandb,
    "mlflow": log_mlflow,
    "trackio": log_trackio,
}
"""By tracker, the function that logs to it and says where. Each raises what its library raises."""


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of nested values as `section.key` and text."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", str(value)
