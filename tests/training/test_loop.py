"""The training loop without Ray: several workers are equivalent to one, and a resumed training to an uninterrupted one."""

import multiprocessing
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from side_ray.config import Config
from side_ray.execution.audit import Audit
from side_ray.execution.progress import Reporter
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.run import Artifact
from side_ray.stages.prepare import prepare
from side_ray.stages.train_dpm import DpmRecipeMaker
from side_ray.storage import open_store
from side_ray.training import trainer
from side_ray.training.checkpoints import Checkpoints
from side_ray.training.loop import Diverged, Schedule, TrainingLoop, TrainSpec, checkpoint_steps
from tests.audits import tiny_config

pytestmark = pytest.mark.long

STEPS = 12


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory) -> Artifacts:
    """Prepared digits."""
    config = tiny_config(tmp_path_factory.mktemp("loop") / "run")
    audit = Audit.open(config, Reporter())
    prepare(audit)
    return audit.artifacts


def spec_of(artifacts: Artifacts, name: str, config: Config | None = None, **schedule: Any) -> TrainSpec:
    """The U-Net of the tiny audit, 16 images per step."""
    dpm = (config or artifacts.config).dpm
    settings = {"steps": STEPS, "batch_size": 16, "lr": 1e-3, "weight_decay": 0.0, "checkpoint_every": 4}
    settings |= {"grad_clip": 1.0, "ema_decay": 0.9, **schedule}
    target = Artifact(artifacts.run.store, f"dpm/{name}")
    return TrainSpec(target, DpmRecipeMaker(artifacts.prepare, dpm, 0), Schedule(**settings), "fp32", 1)


def trained(spec: TrainSpec, until: int | None = None) -> TrainingLoop:
    forget()
    torch.set_num_threads(1)
    loop = TrainingLoop(spec)
    loop.run(until)
    loop.checkpoints.wait()
    return loop


def forget() -> None:
    """accelerate keeps its state per process, precision included: one in a real run, several in the tests."""
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def weights(loop: TrainingLoop) -> torch.Tensor:
    assert loop.ema
    return torch.cat([tensor.flatten() for tensor in [*loop.raw.parameters(), *loop.ema.shadow_params]]).detach()


@pytest.fixture(scope="module")
def alone(artifacts) -> TrainingLoop:
    return trained(spec_of(artifacts, "alone"))


def rank(number: int, world: int, port: int, spec: TrainSpec, answer: str) -> None:
    """One gloo worker, as Ray Train's torch backend sets it up."""
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": str(world)}
    torch.distributed.init_process_group("gloo", rank=number, world_size=world)
    loop = trained(spec)
    if number == 0:
        torch.save({"curve": loop.curve, "weights": weights(loop)}, answer)
    torch.distributed.barrier()
    # Skip the destructors: gloo's sometimes hangs if another worker has exited already.
    os._exit(0)


def together(world: int, spec: TrainSpec, directory: Path) -> dict[str, Any]:
    from tests.s3 import free_ports

    answer = str(directory / f"{world}.pt")
    # One process imports torch and is then forked.
    multiprocessing.set_forkserver_preload([__name__])
    given = (world, free_ports(1)[0], spec, answer)
    torch.multiprocessing.start_processes(rank, given, nprocs=world, start_method="forkserver")
    return torch.load(answer, weights_only=True)


def test_two_gloo_workers_with_half_the_batch_each_are_one_with_all_of_it(artifacts, alone, tmp_path):
    # The order of summation differs, so losses differ in the last bits, and weights by more because of Adam's division.
    found = together(2, spec_of(artifacts, "two"), tmp_path)
    assert found["curve"]["steps"] == alone.curve["steps"] == list(range(1, STEPS + 1))
    np.testing.assert_allclose(found["curve"]["loss"], alone.curve["loss"], rtol=2e-5)
    torch.testing.assert_close(found["weights"], weights(alone), rtol=0, atol=1e-4)


def test_parts_of_unequal_size_are_weighted(artifacts, alone):
    """Three parts of 16 images: 5, 5 and 6."""
    loop = trained(spec_of(artifacts, "parts", accumulation=3))
    np.testing.assert_allclose(loop.curve["loss"], alone.curve["loss"], rtol=2e-5)
    torch.testing.assert_close(weights(loop), weights(alone), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_three_workers_with_unequal_shares_in_parts(artifacts, alone, tmp_path):
    found = together(3, spec_of(artifacts, "three", accumulation=2), tmp_path)
    np.testing.assert_allclose(found["curve"]["loss"], alone.curve["loss"], rtol=2e-5)
    torch.testing.assert_close(found["weights"], weights(alone), rtol=0, atol=1e-4)


def test_a_resumed_training_equals_an_uninterrupted_one_bit_by_bit(artifacts, alone):
    spec = spec_of(artifacts, "stopped")
    stopped = trained(spec, until=7)
    assert stopped.checkpoints.steps() == [6, 4]
    resumed = trained(spec)
    assert torch.equal(weights(resumed), weights(alone))
    assert resumed.curve == alone.curve


def test_half_precision_resumes_bit_by_bit_too(artifacts, alone):
    def spec(name: str) -> TrainSpec:
        return replace(spec_of(artifacts, name, steps=8), precision="bf16")

    whole = trained(spec("bf16"))
    trained(spec("bf16-stopped"), until=7)
    assert torch.equal(weights(trained(spec("bf16-stopped"))), weights(whole))
    # The same training with a different arithmetic.
    assert whole.curve["loss"] != alone.curve["loss"][:8]
    assert whole.curve["loss"] == pytest.approx(alone.curve["loss"][:8], rel=0.02)


def test_dropout_and_flips_resume_too(artifacts):
    config = tiny_config("unused", dpm__flips=True)
    unet = config.dpm.unet.model_copy(update={"dropout": 0.3})
    config = config.model_copy(update={"dpm": config.dpm.model_copy(update={"unet": unet})})
    whole = trained(spec_of(artifacts, "dropout", config, steps=8))
    trained(spec_of(artifacts, "dropout-stopped", config, steps=8), until=6)
    torch.rand(3)
    assert torch.equal(weights(trained(spec_of(artifacts, "dropout-stopped", config, steps=8))), weights(whole))


def test_the_previous_checkpoint_replaces_a_damaged_one(artifacts, alone):
    spec = spec_of(artifacts, "damaged")
    checkpoints = trained(spec, until=7).checkpoints
    path = Path(artifacts.run.store.uri) / checkpoints.key(6)
    path.write_bytes(path.read_bytes()[:-5000])
    found = checkpoints.newest()
    assert found is not None
    assert found[0] == 4
    assert torch.equal(weights(trained(spec)), weights(alone))


@pytest.mark.parametrize("every", [1, 2, 3, 8, 1000])
def test_a_kill_at_any_step_loses_at_most_an_interval(every, tmp_path):
    """The checkpoint being written at the kill is lost; the one before it is complete."""
    due = checkpoint_steps(every)
    for step in range(2 * every + 2):
        begun = step // due * due
        written = begun if due == every else max(0, begun - due)
        assert step - written <= every


def test_checkpoints_are_copied_before_they_are_written(tmp_path):
    checkpoints = Checkpoints(Artifact(open_store(str(tmp_path)), "dpm/x"))
    tensor, rows = torch.zeros(3), [1.0]
    for step in (10, 20, 30):
        checkpoints.begin(step, {"a": {"b": [tensor]}, "rows": rows})
        tensor += 1
        rows.append(2.0)
    checkpoints.wait()
    assert checkpoints.steps() == [30, 20]
    assert checkpoints.load(30)["a"]["b"][0].tolist() == [2.0] * 3
    assert checkpoints.load(20)["rows"] == [1.0, 2.0]


def test_power_function_decay(artifacts):
    loop = trained(spec_of(artifacts, "power", ema_power=0.75, ema_inv_gamma=2.0, ema_decay=0.999), until=1)
    assert loop.ema
    assert loop.ema.get_decay(1001) == pytest.approx(1 - (1 + 1000 / 2) ** -0.75)
    assert loop.ema.get_decay(10**9) == 0.999
    assert trained(spec_of(artifacts, "fixed", ema_decay=0.999), until=1).ema.get_decay(101) == pytest.approx(101 / 110)


def test_a_loss_that_is_not_finite_ends_the_training_with_the_step_and_the_key(artifacts, monkeypatch):
    spec = replace(spec_of(artifacts, "nan", lr=1e30, grad_clip=None), title="student", lr_key="surrogate.lr")
    with pytest.raises(
        Diverged, match=r"^student: the loss is (nan|inf) since step \d+; lower surrogate\.lr \(now 1e\+30\)$"
    ):
        trained(spec)
    # Every worker returns normally, so that Ray Train does not retry; the driver finds the message.
    monkeypatch.setattr(trainer, "TrainingLoop", lambda spec: trained(spec))
    trainer._work([spec])
    assert spec.artifact.store.read(f"{spec.artifact.key}/{trainer.DIVERGED}").startswith(b"student: the loss is")
    assert not spec.artifact.done


def test_a_worker_trains_what_is_missing_one_after_the_other(artifacts):
    first, second = (spec_of(artifacts, name, steps=2) for name in ("first", "second"))
    forget()
    trainer._work([first])
    done = first.artifact.info()
    first.artifact.store.write(f"{first.artifact.key}/untouched", b"")
    trainer._work([first, second])
    assert first.artifact.info() == done
    assert first.artifact.store.exists(f"{first.artifact.key}/untouched")
    assert second.artifact.done


def test_weights_that_are_not_finite_are_not_exported(artifacts):
    loop = trained(spec_of(artifacts, "broken", steps=2))
    next(loop.raw.parameters()).data[0] = torch.nan
    with pytest.raises(Diverged, match=r"the weights are not finite after step 2; lower dpm\.lr"):
        loop.finish()
