"""A LoRA training that is killed and started again ends as one that was not killed."""

import os
from dataclasses import dataclass, replace

import pytest
import torch

from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.unet_dpm import new_unet, save_pipeline
from side_ray.execution.audit import Audit
from side_ray.execution.progress import Reporter
from side_ray.runs.run import Artifact
from side_ray.stages.label import label
from side_ray.stages.prepare import prepare
from side_ray.stages.synthesize import synthesize
from side_ray.stages.train_dpm import train_dpm
from side_ray.stages.train_surrogate import LoraRecipeMaker
from side_ray.training import trainer
from side_ray.training.checkpoints import Checkpoints
from side_ray.training.classifier import part
from side_ray.training.loop import CURVE, TrainSpec
from side_ray.training.lora import LoraRecipe
from tests.audits import tiny_config
from tests.local import stages_here
from tests.training.test_loop import forget

pytest.importorskip("peft", reason="needs the extra text")
from side_ray.surrogate.lora import CONFIG, WEIGHTS

pytestmark = pytest.mark.slow
STEPS, EVERY, KILLED_AT = 24, 8, 15
CODE = 9


@dataclass(frozen=True)
class Fatal:
    """Makes a recipe that ends the process, as a kill does, where it draws the batch of step `KILLED_AT`."""

    spec: TrainSpec

    def __call__(self, device: torch.device) -> LoraRecipe:
        recipe = self.spec.recipe(device)
        assert isinstance(recipe, LoraRecipe)
        whole = recipe.draw

        def draw(step: int, rows: slice) -> tuple[torch.Tensor, ...]:
            if step == KILLED_AT:
                os._exit(CODE)
            return whole(step, rows)

        recipe.draw = draw  # type: ignore[method-assign]
        return recipe


def work(*specs: TrainSpec) -> None:
    """What a worker of Ray Train runs."""
    forget()
    trainer._work(specs)


def test_a_killed_training_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    unet = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
    save_pipeline(new_unet(unet, (1, 8, 8)), new_schedule("linear", 100).config, tmp_path / "model")
    surrogate = {"kind": "lora", "labels": "random", "classes": 5, "synthetic": 100, "batch_size": 16, "steps": STEPS}
    surrogate |= {"lr": 1e-2, "lr_schedule": "cosine", "checkpoint_every": EVERY}
    config = tiny_config(tmp_path / "run", dpm={"path": str(tmp_path / "model")}, surrogate=surrogate)
    artifacts = stages_here(config, [prepare, train_dpm, synthesize, label])
    killed = part(Audit.open(config, Reporter()), "lora", LoraRecipeMaker(artifacts), STEPS)
    whole = replace(killed, artifact=Artifact(artifacts.run.store, f"{artifacts.surrogate.key}/whole"))

    context = torch.multiprocessing.get_context("spawn")
    process = context.Process(target=work, args=(replace(killed, recipe=Fatal(killed)),))
    process.start()
    process.join()
    assert process.exitcode == CODE
    assert not killed.artifact.done
    found = Checkpoints(killed.artifact).newest()
    assert found is not None
    names = found[1]["model"]
    assert names
    assert all("lora" in name or "labels" in name for name in names), names

    work(killed, whole)
    (resumed,) = killed.artifact.info()["resumed_at"]
    assert KILLED_AT - EVERY <= resumed < KILLED_AT
    one, other = killed.artifact, whole.artifact
    for name in (WEIGHTS, CONFIG):
        assert one.store.read(f"{one.key}/{name}") == other.store.read(f"{other.key}/{name}")
    assert one.read_json(CURVE) == other.read_json(CURVE)
    facts = [{name: each.info()[name] for name in ("losses", "score", "final_loss")} for each in (one, other)]
    assert facts[0] == facts[1]
    assert other.info()["resumed_at"] == []
