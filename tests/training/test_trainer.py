"""Training on a real Ray: killed workers, a killed driver, failing storage, and use of the model in plain diffusers."""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import yaml
from diffusers import DDIMScheduler, DDPMPipeline
from tensorboardX.proto.event_pb2 import Event

from side_ray.algorithm import run_until
from side_ray.diffusion.dpm import load_dpm
from side_ray.diffusion.sampler import Noise, sample, sample_seed
from side_ray.diffusion.samplers.ddim import Ddim
from side_ray.execution.audit import Audit
from side_ray.execution.progress import Reporter
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.plan import Condition
from side_ray.runs.run import Run
from side_ray.stages.train_dpm import train_dpm
from side_ray.stages.train_surrogate import train_surrogate
from side_ray.storage import open_store
from side_ray.training import trainer
from side_ray.training.checkpoints import Checkpoints
from side_ray.training.loop import TrainSpec
from tests.audits import tiny_config, tiny_values
from tests.nodes import ray_nodes
from tests.s3 import faulty_proxy
from tests.stages.test_prepare import Listener

PATIENCE_S = 400
TWO = {"cluster__train_workers": 2, "dpm__steps": 400, "dpm__checkpoint_every": 20}


def workers(under: int) -> list[psutil.Process]:
    """Ray Train's worker processes among the descendants of a process."""
    found = []
    for process in psutil.Process(under).children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def reach(reached: Callable[[], bool], driver: subprocess.Popen) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        assert driver.poll() is None, "the training ended before it could be disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def disturbed(uri: str, tmp_path: Path, env: dict[str, str]) -> tuple[Artifacts, list[int]]:
    """Train with two workers; kill a worker, then the driver, then resume. Returns the artifacts and the newest checkpoint at
    each kill."""
    config = tmp_path / "audit.yaml"
    config.write_text(yaml.safe_dump(tiny_values(uri, **TWO)))
    artifacts = Artifacts(tiny_config(uri, **TWO), Run(open_store(uri)))
    checkpoints = Checkpoints(artifacts.dpm)
    command = [sys.executable, "-m", "side_ray.cli", "train-dpm", str(config)]
    env = {**os.environ, **env}

    def newest() -> int:
        return max(checkpoints.steps(), default=0)

    with open(tmp_path / "log", "w") as log, subprocess.Popen(command, stdout=log, stderr=log, env=env) as driver:
        reach(lambda: newest() > 0, driver)
        first = newest()
        os.kill(workers(driver.pid)[1].pid, signal.SIGKILL)
        reach(lambda: newest() > first + 40, driver)
        second = newest()
        os.kill(driver.pid, signal.SIGKILL)
    assert not artifacts.dpm.done
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=env)
    assert result.returncode == 0, result.stderr
    return artifacts, [first, second]


def check_recovery(artifacts: Artifacts, kills: list[int], undisturbed: float) -> None:
    info = artifacts.dpm.info()
    assert (info["steps"], info["workers"]) == (400, 2)
    assert len(info["resumed_at"]) == 2
    # At a kill the training is at most one interval ahead of the newest checkpoint.
    assert all(resumed >= seen for resumed, seen in zip(info["resumed_at"], kills, strict=True)), (info, kills)
    assert info["final_loss"] == pytest.approx(undisturbed, rel=0.01)
    assert artifacts.dpm.read_json("curve.json")["steps"] == list(range(2, 401, 2))
    assert not Checkpoints(artifacts.dpm).steps()


@pytest.fixture(scope="module")
def undisturbed(ray_session, tmp_path_factory) -> float:
    """Final loss of the same training by one worker without interruptions."""
    config = tiny_config(tmp_path_factory.mktemp("train") / "run", **{**TWO, "cluster__train_workers": 1})
    return run_until("train_dpm", config, Reporter()).artifacts.dpm.info()["final_loss"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_worker_and_a_killed_driver_lose_at_most_an_interval(tmp_path, undisturbed):
    artifacts, kills = disturbed(str(tmp_path / "run"), tmp_path, {})
    check_recovery(artifacts, kills, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_same_in_object_storage_one_request_in_ten_of_which_fails(s3, tmp_path, undisturbed):
    with faulty_proxy(s3.endpoint, 0.1) as proxy:
        env = {**s3.env, "AWS_ENDPOINT_URL": proxy.endpoint}
        artifacts, kills = disturbed(f"s3://{s3.bucket}/trained", tmp_path, env)
        assert proxy.made.total() > 10
    check_recovery(artifacts, kills, undisturbed)


def test_plain_diffusers_samples_the_same_images_from_the_exported_model(tiny_audit):
    """DDIM with η = 0, 10 steps, ε recomputed from the clipped x̂₀. Tolerance 2e-4 in [-1, 1]: float32 sums differ in order."""
    directory = tiny_audit.run.store.fetch_dir(tiny_audit.dpm.key)
    seeds = [sample_seed(0, "extract", i) for i in range(16)]
    ours = sample(load_dpm(directory), Noise(seeds, (1, 8, 8)), Ddim(10))
    pipeline = DDPMPipeline.from_pretrained(directory)
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(10)
    x = Noise(seeds, (1, 8, 8)).normal()
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(pipeline.unet(x, t).sample, t, x, eta=0.0, use_clipped_model_output=True).prev_sample
    torch.testing.assert_close(ours, x.clamp(-1, 1), rtol=0, atol=2e-4)
    assert ours.std() > 0.3


def events(artifacts: Artifacts) -> list[Event]:
    """Events in TensorBoard's format: length, its checksum, the event, its checksum."""
    found = []
    for entry in artifacts.run.store.list(f"{artifacts.dpm.key}/tensorboard"):
        data, place = artifacts.run.store.read(entry.key), 0
        while place < len(data):
            length = int(np.frombuffer(data[place : place + 8], "<u8")[0])
            found.append(Event.FromString(data[place + 12 : place + 12 + length]))
            place += length + 16
    return found


def kill_a_worker_after_a_checkpoint(checkpoints: Checkpoints) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if checkpoints.steps() and (found := workers(os.getpid())):
            os.kill(found[-1].pid, signal.SIGKILL)
            return
        time.sleep(0.02)


def test_two_workers_with_a_kill_learn_the_same_as_one_without(tmp_path, ray_session, tiny_audit):
    """TensorBoard also gets the loss, grids of samples and the AMS of the probe."""
    watched = {"dpm__samples_every": 80, "dpm__probe": 50}
    config = tiny_config(tmp_path / "run", cluster__train_workers=2, dpm__grad_accumulation=2, **watched)
    artifacts = Artifacts(config, Run(open_store(config.run.uri)))
    killer = threading.Thread(target=kill_a_worker_after_a_checkpoint, args=[Checkpoints(artifacts.dpm)])
    killer.start()
    run_until("train_dpm", config, Reporter())
    killer.join()
    info, undisturbed = artifacts.dpm.info(), tiny_audit.dpm.info()
    assert (info["steps"], info["workers"], len(info["resumed_at"])) == (160, 2, 1)
    assert info["final_loss"] == pytest.approx(undisturbed["final_loss"], rel=0.01)

    values = [(event.step, value) for event in events(artifacts) for value in event.summary.value]
    tags = {value.tag for _, value in values}
    assert tags >= {"train/loss", "train/lr", "train/images_per_second", "samples", "probe/ams_low", "probe/mean_best"}
    grids = {(step, value.image.width, value.image.height) for step, value in values if value.tag == "samples"}
    assert grids == {(80, 64, 64), (160, 64, 64)}
    assert all(0 <= value.simple_value <= 1 for _, value in values if value.tag == "probe/ams_low")
    last = [value.simple_value for step, value in values if value.tag == "train/loss" and step == 160]
    assert last == [pytest.approx(info["final_loss"], rel=1e-5)]


@pytest.mark.slow
def test_an_elastic_training_uses_the_available_workers(tmp_path, ray_session, tiny_audit):
    config = tiny_config(tmp_path / "run", cluster__train_workers=[1, 3])
    info = run_until("train_dpm", config, Reporter()).artifacts.dpm.info()
    assert info["workers"] == 3
    assert info["final_loss"] == pytest.approx(tiny_audit.dpm.info()["final_loss"], rel=0.01)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_elastic_training_continues_without_a_lost_node(tmp_path, undisturbed):
    changes = {**TWO, "cluster__train_workers": [1, 2], "cluster__train_cpus": 2}
    run = str(tmp_path / "run")
    config = tmp_path / "audit.yaml"
    config.write_text(yaml.safe_dump(tiny_values(run, **changes)))
    artifacts = Artifacts(tiny_config(run, **changes), Run(open_store(run)))
    command = [sys.executable, "-m", "side_ray.cli", "train-dpm", str(config)]
    with (
        ray_nodes(tmp_path, 2, cpus=2) as nodes,
        open(tmp_path / "log", "w") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=nodes.env) as driver,
    ):
        reach(lambda: bool(Checkpoints(artifacts.dpm).steps()), driver)
        lost = nodes.raylet(1)
        assert lost
        lost.kill()
        assert driver.wait(PATIENCE_S * 2) == 0, (tmp_path / "log").read_text()
    info = artifacts.dpm.info()
    assert (info["steps"], info["workers"], len(info["resumed_at"])) == (400, 1, 1)
    assert info["final_loss"] == pytest.approx(undisturbed, rel=0.01)


def test_a_lost_network_whose_samples_are_kept_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "ensure_ray", lambda cluster: None)
    monkeypatch.setattr(trainer, "check_room", lambda *of: "")

    def fit(specs: list[TrainSpec], *of: object) -> None:
        for spec in specs:
            spec.artifact.finish(final_loss=1.0, accuracy=[], truth=[])

    monkeypatch.setattr(trainer, "_fit", fit)
    for stage, words, output in (
        (train_dpm, "", None),
        (train_dpm, "train_dpm: the network was lost", lambda each: each.synthetic),
        (train_dpm, "train_dpm: the network was lost", lambda each: each.samples(Condition("td", 2.0))),
        (train_surrogate, "", None),
        (train_surrogate, "student: the network was lost", lambda each: each.samples(Condition("td", 2.0))),
        (train_surrogate, "ol_ti: the network was lost", lambda each: each.samples(Condition("ti", 1.0))),
        (train_surrogate, "", lambda each: each.samples(Condition("random", 0.0))),
    ):
        listener = Listener()
        audit = Audit.open(tiny_config(tmp_path / uuid.uuid4().hex, surrogate__labels="random"), listener)
        audit.artifacts.prepare.finish(classes=10)
        if output is not None:
            audit.run.store.write(output(audit.artifacts).key(0), bytes(20))
        stage(audit)
        assert [words in line for line in listener.lines if "lost" in line] == [True] * bool(words)
