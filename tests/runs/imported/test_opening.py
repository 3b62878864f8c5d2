"""Models as people have them: what is opened, what identifies it, and what is refused in words that help."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from side_ray.diffusion.condition import Condition
from side_ray.diffusion.dpm import is_latent, load_dpm
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.unet_dpm import new_unet, save_pipeline
from side_ray.errors import UserError
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.imported.opening import files_hash, imported
from side_ray.runs.preflight import preflight
from side_ray.setup.starter import _shape
from side_ray.storage import open_store
from tests.audits import tiny_config
from tests.latents import save_ldm, vae_of

SHAPE = (1, 8, 8)


def small_unet(**config) -> UNet2DModel:
    torch.manual_seed(0)
    return new_unet({"block_out_channels": (8, 16), "norm_num_groups": 4, **config}, SHAPE)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("saved") / "pipeline"
    save_pipeline(small_unet(), new_schedule("linear", 50).config, directory)
    return directory


@pytest.fixture
def pipeline(saved, tmp_path) -> Path:
    """A pipeline of its own for each test, copied, because making one takes longer."""
    return Path(shutil.copytree(saved, tmp_path / "pipeline"))


def config(path, **dpm):
    return tiny_config(Path("/nowhere/run"), dpm={"path": str(path), **dpm}, extract__steps=4)


def opened(path, **dpm):
    with imported(config(path, **dpm), SHAPE) as (directory, model):
        files = {each.relative_to(directory).as_posix() for each in directory.rglob("*") if each.is_file()}
        return files, model, load_dpm(directory)


def refused(path, **dpm) -> str:
    with pytest.raises(UserError) as caught:
        opened(path, **dpm)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def fingerprint(path, **dpm) -> str:
    return Artifacts.open(config(path, **dpm)).dpm.fingerprint


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# -- what is read ------------------------------------------------------------------------------------------------------


def test_only_what_is_loaded_is_copied_and_identifies_the_model(pipeline):
    files, *_ = opened(pipeline)
    assert files == {
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
    }
    before = fingerprint(pipeline)
    for name in (
        ".git/objects/ab",
        "optimizer.bin",
        "checkpoint-500/unet/diffusion_pytorch_model.safetensors",
        "logs.json",
    ):
        (pipeline / name).parent.mkdir(parents=True, exist_ok=True)
        (pipeline / name).write_bytes(b"{}")
    assert opened(pipeline)[0] == files
    assert fingerprint(pipeline) == before
    edit(pipeline / "unet" / "config.json", sample_size=[8, 8], note="changed")
    assert fingerprint(pipeline) != before


def test_from_object_storage_only_what_is_read_is_downloaded(pipeline, s3, tmp_path):
    before = fingerprint(pipeline)
    (pipeline / "trainer_state.json").write_text("{}")
    for name in ("optimizer.bin", "checkpoint-500/unet/diffusion_pytorch_model.safetensors", "unet/other.safetensors"):
        (pipeline / name).parent.mkdir(parents=True, exist_ok=True)
        (pipeline / name).write_bytes(bytes(3 << 20))
    store = open_store(uri := f"s3://{s3.bucket}/{tmp_path.name}")
    store.put_dir(pipeline, "model")
    store.write("model/unet", b"an object with the name of a directory")
    assert fingerprint(f"{uri}/model") == before
    assert _shape(f"{uri}/model") == SHAPE
    kept = [path for path in Path(os.environ["SIDE_RAY_CACHE"]).rglob("*") if path.is_file()]
    assert {path.name for path in kept if path.suffix != ".lock"} == {
        "model_index.json",
        "config.json",
        "scheduler_config.json",
        "trainer_state.json",
        "diffusion_pytorch_model.safetensors",
    }
    assert sum(path.stat().st_size for path in kept) < 1 << 20


def test_a_model_that_an_earlier_version_imported_is_taken_up(pipeline, tmp_path):
    (pipeline / "trainer_state.json").write_text("{}")  # was part of the fingerprint
    takes_up(str(pipeline), pipeline, tmp_path / "run")


def test_a_model_that_an_earlier_version_imported_from_object_storage_is_taken_up(pipeline, s3, tmp_path):
    (pipeline / "trainer_state.json").write_text("{}")
    open_store(uri := f"s3://{s3.bucket}/{tmp_path.name}").put_dir(pipeline, "")
    takes_up(uri, pipeline, tmp_path / "run")


def takes_up(path: str, pipeline: Path, run: Path) -> None:
    audit = tiny_config(run, dpm={"path": path})
    now = Artifacts.open(audit)
    names = sorted(each.relative_to(pipeline).as_posix() for each in pipeline.rglob("*") if each.is_file())
    earlier = now.run.artifact("dpm", 1, "import", files_hash({name: pipeline / name for name in names}))
    assert now.dpm.key != earlier.key
    earlier.put_dir(pipeline)
    earlier.finish(kind="import")
    assert Artifacts.open(audit).dpm.key == earlier.key


def test_a_fingerprint_of_a_plain_pipeline_is_that_of_earlier_versions(pipeline):
    digest = hashlib.sha256()
    for each in sorted(
        (each for each in pipeline.rglob("*") if each.is_file()), key=lambda each: str(each.relative_to(pipeline))
    ):
        digest.update(
            each.relative_to(pipeline).as_posix().encode() + b"\0" + hashlib.sha256(each.read_bytes()).digest()
        )
    artifacts = Artifacts.open(config(pipeline))
    assert artifacts.dpm.key == artifacts.run.artifact("dpm", 1, "import", digest.hexdigest()).key


def test_weights_of_one_variant_only_are_opened(pipeline):
    small_unet().save_pretrained(pipeline / "unet", variant="fp16")
    assert "unet/diffusion_pytorch_model.fp16.safetensors" not in opened(pipeline)[0]
    half = opened(pipeline, variant="fp16")[0]
    assert "unet/diffusion_pytorch_model.safetensors" not in half
    assert fingerprint(pipeline, variant="fp16") != fingerprint(pipeline)
    (pipeline / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    files, model, again = opened(pipeline)
    assert files == half
    assert all(torch.equal(a, b) for a, b in zip(model.unet.parameters(), again.unet.parameters(), strict=True))
    small_unet().save_pretrained(pipeline / "unet", variant="bf16")
    assert "choose one as dpm.variant" in refused(pipeline)
    assert "dpm.variant: there are no weights of the variant 'int8'; there are: bf16, fp16" in refused(
        pipeline, variant="int8"
    )


def test_a_trainings_checkpoint_has_averaged_weights_and_no_scheduler(pipeline):
    checkpoint = pipeline / "checkpoint-500"
    small_unet().save_pretrained(checkpoint / "unet_ema")
    other = small_unet()
    torch.nn.init.ones_(other.requires_grad_(False).conv_out.bias)
    other.save_pretrained(checkpoint / "unet")
    (checkpoint / "optimizer.bin").write_bytes(b"\0" * 100)
    assert "scheduler/scheduler_config.json" in refused(checkpoint)
    shutil.copytree(pipeline / "scheduler", checkpoint / "scheduler")
    assert opened(checkpoint)[1].unet.conv_out.bias[0].item() == 1
    files, averaged, again = opened(checkpoint, weights="ema")
    assert {name.split("/")[0] for name in files} == {"unet_ema", "scheduler"}
    assert averaged.unet.conv_out.bias[0].item() == again.unet.conv_out.bias[0].item() != 1
    assert "dpm.weights" in refused(pipeline, weights="ema")
    for each in pipeline.iterdir():
        if each.name != "checkpoint-500":
            shutil.rmtree(each) if each.is_dir() else each.unlink()
    assert "holds checkpoints of a training (checkpoint-500)" in refused(pipeline)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["google/ddpm-cifar10-32", "https://somewhere/model"])
def test_a_hubs_id_is_told_from_a_path(name):
    assert "is hf://owner/name@revision" in refused(name)


@pytest.mark.parametrize("name", ["model.pt", "weights.ckpt", "model.bin", "model.safetensors"])
def test_a_file_is_no_model(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    message = refused(tmp_path / name)
    assert ("pickled" in message) == (not name.endswith("safetensors"))
    assert "side-ray score --samples" in message
    inside = refused(tmp_path)
    assert "side-ray models" in inside
    assert ("weights_only=True" in inside) == (not name.endswith("safetensors"))


def test_a_directory_of_models_names_them(pipeline):
    assert "give one of the directories in it: pipeline" in refused(pipeline.parent)
    (pipeline.parent / "empty").mkdir()
    assert "holds no files" in refused(pipeline.parent / "empty")
    assert "/none" in refused(pipeline.parent / "none")


@pytest.mark.parametrize("index", [True, False])
def test_a_latent_model_makes_images_of_the_size_of_its_vae(tmp_path, index):
    save_ldm(tmp_path)
    if not index:
        (tmp_path / "model_index.json").unlink()
    assert "makes images of 16 × 16 pixels and 3 channels, the data has 8 × 8" in refused(tmp_path)
    with imported(config(tmp_path), (3, 16, 16)) as (directory, model):
        assert (directory / "vqvae" / "config.json").exists()
        assert is_latent(model)
    assert Artifacts.open(config(tmp_path)).latent
    before = fingerprint(tmp_path)
    vae_of("tiny").save_pretrained(tmp_path / "vqvae")
    assert fingerprint(tmp_path) != before


@pytest.mark.parametrize("index", [True, False])
def test_a_text_encoder_beside_a_latent_model_is_named(tmp_path, index):
    save_ldm(tmp_path)
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder" / "config.json").write_text("{}")
    if index:
        edit(tmp_path / "model_index.json", text_encoder=["transformers", "CLIPTextModel"])
    else:
        (tmp_path / "model_index.json").unlink()
    message = refused(tmp_path)
    assert "text_encoder" in message
    assert "side-ray score --samples" in message


def test_a_network_of_another_class_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "DiTTransformer2DModel"}))
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    (tmp_path / "scheduler_config.json").write_text("{}")
    assert "DiTTransformer2DModel" in refused(tmp_path)


# -- what its schedule and classes say ---------------------------------------------------------------------------------


def test_steps_are_checked_against_the_imported_schedule(pipeline, tmp_path):
    def audit(steps):
        changes = {"extract__sampler": "ddim", "extract__steps": steps, "extract__methods": ["random"]}
        return Artifacts.open(tiny_config(tmp_path / "run", dpm={"path": str(pipeline)}, **changes))

    with pytest.raises(UserError, match=r"^extract\.steps: .*2 to 50 steps on this noise schedule, got 60"):
        preflight(audit(60))
    preflight(audit(50))
    edit(pipeline / "scheduler" / "scheduler_config.json", num_train_timesteps=4000)
    preflight(audit(2000))
    artifact = audit(60).dpm
    artifact.put_dir(pipeline)
    artifact.finish()
    with pytest.raises(UserError, match=r"2 to 4000 steps"):
        preflight(audit(5000))


def test_an_early_config_without_predict_epsilon_predicts_images(pipeline):
    before = fingerprint(pipeline)
    path = pipeline / "scheduler" / "scheduler_config.json"
    settings = json.loads(path.read_text())
    del settings["prediction_type"]
    path.write_text(json.dumps(settings | {"predict_epsilon": False}))
    assert opened(pipeline)[1].schedule.config["prediction_type"] == "sample"
    assert fingerprint(pipeline) != before
    path.write_text(json.dumps(settings | {"predict_epsilon": True}))
    assert opened(pipeline)[1].schedule.config["prediction_type"] == "epsilon"


@pytest.mark.parametrize("changes", [{"clip_sample": False}, {"clip_sample_range": 2.0}, {"thresholding": True}])
def test_settings_that_were_ignored_make_another_model(pipeline, changes):
    artifacts = Artifacts.open(config(pipeline))
    edit(pipeline / "scheduler" / "scheduler_config.json", **changes)
    names = sorted(each.relative_to(pipeline).as_posix() for each in pipeline.rglob("*") if each.is_file())
    ignoring = artifacts.run.artifact("dpm", 1, "import", files_hash({name: pipeline / name for name in names}))
    assert Artifacts.open(config(pipeline)).dpm.key != ignoring.key


def test_a_null_class_is_never_drawn(tmp_path):
    DDPMPipeline(small_unet(num_class_embeds=11), DDPMScheduler()).save_pretrained(tmp_path)
    files, model, again = opened(tmp_path, null_class=10)
    assert "condition.json" in files
    assert model.condition == again.condition == Condition((1,) * 10 + (0,))
    assert set(model.condition.classes_of(list(range(1000)))) == set(range(10))
    assert fingerprint(tmp_path, null_class=10) != fingerprint(tmp_path)
    Condition((3, *[1] * 10)).save(tmp_path)
    assert opened(tmp_path, null_class=0)[1].condition == Condition((0, *[1] * 10))
    assert "dpm.null_class: is 11, the model has the classes 0 … 10" in refused(tmp_path, null_class=11)


def test_the_guidance_of_a_null_class_changes_the_samples_and_not_the_model(tmp_path):
    save_pipeline(small_unet(num_class_embeds=11), new_schedule("linear", 50).config, tmp_path)

    def keys(**dpm) -> tuple[str, str]:
        artifacts = Artifacts.open(config(tmp_path, null_class=10, **dpm))
        return artifacts.dpm.key, artifacts.synthetic.directory

    settings = [{}, {"guidance_scale": 3.0}, {"classes": "uniform"}, {"classes": "labels"}, {"classes": "null_class"}]
    found = [keys(**each) for each in settings]
    assert len({model for model, _ in found}) == 1
    assert len({samples for _, samples in found}) == len(settings)
    assert keys(guidance_scale=1.0, classes="model") == keys()
    assert opened(tmp_path, null_class=10, guidance_scale=3.0)[1].num_classes == 11
    assert "dpm.guidance_scale: needs the class that stands for no class" in refused(tmp_path, guidance_scale=3.0)


def test_a_model_without_classes_has_no_null_class(pipeline):
    assert "the model has no classes" in refused(pipeline, null_class=0)
