import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, UNet2DModel
from safetensors.torch import load_file, save_file

from side_ray.diffusion.dpm import load_dpm
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.sampler import Noise, sample
from side_ray.diffusion.samplers.ddim import Ddim
from side_ray.diffusion.unet_dpm import UnetDpm, new_unet, save_pipeline
from side_ray.errors import UserError

LEVELS = {"block_out_channels": (8, 16)}
"""Of the U-Net of `pipeline`."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("saved") / "pipeline"
    torch.manual_seed(0)
    unet = new_unet({**LEVELS, "norm_num_groups": 4}, (1, 8, 8)).eval()
    save_pipeline(unet, new_schedule("cosine", 100, "v_prediction").config, directory)
    return directory


@pytest.fixture
def pipeline(saved, tmp_path) -> Path:
    """A pipeline of its own for each test, copied, because making one takes longer."""
    return Path(shutil.copytree(saved, tmp_path / "pipeline"))


def same_weights(a: UNet2DModel, b: UNet2DModel) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# -- conversion to ε ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "cosine"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_eps_is_what_diffusers_makes_of_the_prediction(small_dpm, kind, prediction):
    dpm = small_dpm(kind, prediction)
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    scheduler = DDIMScheduler.from_config(dpm.schedule.config, clip_sample=False)
    scheduler.set_timesteps(1000)
    for t in (3, 400, 900):
        with torch.no_grad():
            output = dpm.unet(x, t).sample
        x0 = scheduler.step(output, t, x).pred_original_sample
        alpha_bar = dpm.alphas_cumprod[t]
        eps = (x.double() - alpha_bar.sqrt() * x0.double()) / (1 - alpha_bar).sqrt()
        torch.testing.assert_close(dpm.eps(x, torch.full((3,), t)), eps.float(), rtol=1e-4, atol=1e-4)


def test_eps_takes_another_timestep_for_each_row(small_dpm):
    for prediction in ("epsilon", "v_prediction", "sample"):
        dpm = small_dpm(prediction=prediction)
        x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        t = torch.tensor([10, 500, 990])
        rows = torch.cat([dpm.eps(x[i : i + 1], t[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(dpm.eps(x, t), rows, rtol=1e-5, atol=1e-5)


def test_of_a_learned_variance_only_the_mean_is_taken(small_unet):
    unet = small_unet()
    double = UNet2DModel.from_config(dict(unet.config) | {"out_channels": 2}).eval()
    weights = unet.state_dict()
    weights["conv_out.weight"] = torch.cat([weights["conv_out.weight"], torch.ones(1, 8, 3, 3)])
    weights["conv_out.bias"] = torch.cat([weights["conv_out.bias"], torch.ones(1)])
    double.load_state_dict(weights)
    x, t = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 900])
    plain = UnetDpm(unet, new_schedule())
    torch.testing.assert_close(UnetDpm(double, new_schedule()).eps(x, t), plain.eps(x, t), rtol=1e-5, atol=1e-5)


def test_eps_needs_no_autograd_and_no_training_mode(small_dpm):
    dpm = small_dpm()
    x, t = torch.zeros(1, 1, 8, 8), torch.tensor([5])
    assert not dpm.eps(x, t).requires_grad
    dpm.unet.train()
    with pytest.raises(ValueError, match="training mode"):
        dpm.eps(x, t)


def test_class_labels_go_with_a_conditional_unet_only(small_dpm):
    x, t, labels = torch.zeros(1, 1, 8, 8), torch.tensor([5]), torch.tensor([0])
    with pytest.raises(ValueError, match="class labels"):
        small_dpm().eps(x, t, labels)
    conditional = small_dpm(num_class_embeds=3)
    assert conditional.num_classes == 3
    assert small_dpm().num_classes is None
    with pytest.raises(ValueError, match="class labels"):
        conditional.eps(x, t)


# -- files -------------------------------------------------------------------------------------------------------------


def test_an_exported_pipeline_is_plain_diffusers(small_unet, pipeline):
    opened = DDPMPipeline.from_pretrained(pipeline)
    assert same_weights(opened.unet, small_unet(**LEVELS))
    assert opened.scheduler.config["beta_schedule"] == "squaredcos_cap_v2"
    assert opened.scheduler.config["num_train_timesteps"] == 100
    assert opened(batch_size=2, num_inference_steps=2, output_type="np").images.shape == (2, 8, 8, 1)
    files = {str(p.relative_to(pipeline)) for p in pipeline.rglob("*") if p.is_file()}
    assert files == {
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
    }


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 16)])
@pytest.mark.parametrize("classes", [None, 4])
def test_plain_diffusers_samples_the_same_images_from_an_exported_pipeline(small_unet, tmp_path, shape, classes):
    save_pipeline(small_unet(shape, num_class_embeds=classes), new_schedule("linear").config, tmp_path)
    labels = None if classes is None else torch.tensor([0, 1, 3])
    ours = sample(load_dpm(tmp_path), Noise([1, 2, 3], shape), Ddim(20), class_labels=labels)

    opened = DDPMPipeline.from_pretrained(tmp_path)
    scheduler = DDIMScheduler.from_config(opened.scheduler.config)
    scheduler.set_timesteps(20)
    x = Noise([1, 2, 3], shape).normal()
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = opened.unet(x, t, class_labels=labels).sample
            x = scheduler.step(output, t, x, eta=0.0, use_clipped_model_output=True).prev_sample
    # Rounding differs by processor and grows over the steps; another sampler departs by hundredths.
    torch.testing.assert_close(ours, x, rtol=0, atol=2e-4)


def test_round_trip(small_unet, pipeline):
    dpm = load_dpm(pipeline)
    assert isinstance(dpm, UnetDpm)
    assert same_weights(dpm.unet, small_unet(**LEVELS))
    assert not dpm.unet.training
    assert dpm.image_shape == (1, 8, 8)
    assert dpm.num_train_timesteps == 100
    assert dpm.device == torch.device("cpu")
    assert dpm.alphas_cumprod.dtype == torch.float64
    assert torch.equal(dpm.alphas_cumprod.float(), new_schedule("cosine", 100).alphas_cumprod)
    assert dpm.schedule.config["prediction_type"] == "v_prediction"


def test_a_ddim_pipeline(small_unet, tmp_path):
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=1e-3, num_train_timesteps=500)
    DDIMPipeline(small_unet(), scheduler).save_pretrained(tmp_path)
    dpm = load_dpm(str(tmp_path))
    assert torch.equal(dpm.alphas_cumprod.float(), scheduler.alphas_cumprod)


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("index", [True, False])
def test_a_bare_unet_with_its_scheduler_config(small_unet, pipeline, tmp_path, beside, index):
    # With an index at the top this is the layout of early pipelines, still found on the hub.
    bare = tmp_path / "bare"
    shutil.copytree(pipeline / "unet", bare)
    scheduler = bare if beside else bare / "scheduler"
    scheduler.mkdir(exist_ok=True)
    shutil.copy(pipeline / "scheduler" / "scheduler_config.json", scheduler)
    if index:
        shutil.copy(pipeline / "model_index.json", bare)
    dpm = load_dpm(bare)
    assert same_weights(dpm.unet, small_unet(**LEVELS))
    assert dpm.num_train_timesteps == 100


def test_weights_in_shards(small_unet, pipeline):
    small_unet(**LEVELS).save_pretrained(pipeline / "unet", max_shard_size="20KB")
    (pipeline / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert len(list((pipeline / "unet").glob("*.safetensors"))) > 1
    assert same_weights(load_dpm(pipeline).unet, small_unet(**LEVELS))


def test_half_precision_weights_are_read_as_float32(small_unet, pipeline):
    small_unet().half().save_pretrained(pipeline / "unet")
    dpm = load_dpm(pipeline)
    assert dpm.unet.dtype == torch.float32
    assert dpm.eps(torch.zeros(1, 1, 8, 8), torch.tensor([5])).dtype == torch.float32


class Payload:
    """A pickle that leaves a trace when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.pt", "unet.ckpt"])
def test_pickled_weights_are_refused_unopened(pipeline, tmp_path, name):
    (pipeline / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (pipeline / "unet" / name).write_bytes(pickle.dumps(Payload(tmp_path / "opened")))
    with pytest.raises(UserError, match=f"{name}.*safetensors"):
        load_dpm(pipeline)
    assert not (tmp_path / "opened").exists()


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def without_a_tensor(pipeline: Path) -> None:
    path = pipeline / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["conv_out.bias"]
    save_file(weights, path)


def truncated(pipeline: Path) -> None:
    path = pipeline / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


DAMAGE = {
    "gone": lambda p: shutil.rmtree(p),
    "a file": lambda p: (shutil.rmtree(p), p.write_text("")),
    "empty": lambda p: (shutil.rmtree(p), p.mkdir()),
    "no unet": lambda p: shutil.rmtree(p / "unet"),
    "no scheduler": lambda p: shutil.rmtree(p / "scheduler"),
    "no weights": lambda p: (p / "unet" / "diffusion_pytorch_model.safetensors").unlink(),
    "no unet config": lambda p: (p / "unet" / "config.json").unlink(),
    "unet config no JSON": lambda p: (p / "unet" / "config.json").write_text("{"),
    "unet config a list": lambda p: (p / "unet" / "config.json").write_text("[]"),
    "index no JSON": lambda p: (p / "model_index.json").write_text("not json"),
    "index a latent model": lambda p: edit(p / "model_index.json", vqvae=["diffusers", "VQModel"]),
    "index a conditional U-Net": lambda p: edit(p / "model_index.json", unet=["diffusers", "UNet2DConditionModel"]),
    "index entry null": lambda p: edit(p / "model_index.json", unet=None),
    "truncated weights": truncated,
    "a tensor missing": without_a_tensor,
    "wider config": lambda p: edit(p / "unet" / "config.json", block_out_channels=[16, 32]),
    "deeper config": lambda p: edit(p / "unet" / "config.json", layers_per_block=3),
    "shallower config": lambda p: edit(p / "unet" / "config.json", add_attention=False),
    "block type": lambda p: edit(p / "unet" / "config.json", down_block_types=["NoBlock", "NoBlock"]),
    "another class": lambda p: edit(p / "unet" / "config.json", _class_name="UNet2DConditionModel"),
    "no image size": lambda p: edit(p / "unet" / "config.json", sample_size=None),
    "image size a word": lambda p: edit(p / "unet" / "config.json", sample_size="big"),
    "scheduler no JSON": lambda p: (p / "scheduler" / "scheduler_config.json").write_text(""),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_no_model_gets_one_line_with_the_path(pipeline, damage):
    DAMAGE[damage](pipeline)
    with pytest.raises(UserError) as caught:
        load_dpm(pipeline)
    assert "\n" not in str(caught.value)
    assert str(pipeline) in str(caught.value) or "sample_size" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"block_out_channels": [8192, 8192], "layers_per_block": 4}, "parameters, more than"),
        ({"block_out_channels": [8, 10**6]}, "parameters, more than"),
        ({"block_out_channels": [8, 10**18]}, "more than any U-Net has"),
        ({"num_class_embeds": 10**9}, "more than any U-Net has"),
        ({"num_class_embeds": 10**6}, "do not fit config.json: "),
        ({"block_out_channels": [8, 4096]}, "do not fit config.json: "),
        ({"in_channels": 10**9}, "more than any U-Net has"),
        ({"attention_head_dim": 0}, "diffusers refuses this U-Net"),
        ({"time_embedding_type": "none"}, "diffusers refuses this U-Net"),
        ({"norm_num_groups": 0}, "diffusers refuses this U-Net"),
        ({"block_out_channels": {"0": 8}}, "diffusers refuses this U-Net"),
        ({"time_embedding_dim": 10**7}, "more than any U-Net has"),
    ],
)
def test_an_absurd_unet_is_refused_before_a_weight_is_read_or_allocated(pipeline, monkeypatch, changes, said):
    def read(*of, **options):
        raise AssertionError("weights are read")

    monkeypatch.setattr(UNet2DModel, "from_pretrained", read)
    edit(pipeline / "unet" / "config.json", **changes)
    with pytest.raises(UserError, match=said) as caught:
        load_dpm(pipeline)
    assert str(pipeline) in str(caught.value)


def test_an_embedding_of_something_else_than_class_indices_is_refused(small_unet):
    with pytest.raises(UserError, match="class_embed_type"):
        UnetDpm(small_unet(class_embed_type="timestep"), new_schedule())


def test_a_unet_with_other_output_channels_is_refused():
    config = {"in_channels": 6, "out_channels": 3, "sample_size": 8, "norm_num_groups": 4}
    blocks = {"block_out_channels": (8,), "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    with pytest.raises(UserError, match="channels"):
        UnetDpm(UNet2DModel(**config, **blocks), new_schedule())


# -- a new U-Net -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (4, 16, 24)])
def test_a_new_unet_fits_the_images(shape):
    unet = new_unet({"block_out_channels": (8, 16, 16), "norm_num_groups": 4}, shape)
    assert unet.training
    dpm = UnetDpm(unet.eval(), new_schedule())
    assert dpm.image_shape == shape
    assert dpm.eps(torch.zeros(2, *shape), torch.tensor([0, 999])).shape == (2, *shape)


def test_a_new_unet_takes_diffusers_arguments():
    config = {
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "num_class_embeds": 7,
        "dropout": 0.1,
    }
    unet = new_unet(config, (1, 8, 8))
    assert all(unet.config[key] == value for key, value in config.items())


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        ({"channels": 3}, (1, 8, 8)),
        ({"block_out_channels": (30, 60)}, (1, 8, 8)),
        ({"block_out_channels": ()}, (1, 8, 8)),
        ({"block_out_channels": 32}, (1, 8, 8)),
        ({"in_channels": 3}, (1, 8, 8)),
        ({"down_block_types": ("DownBlock2D",)}, (1, 8, 8)),
        ({"down_block_types": ("A", "B")}, (1, 8, 8)),
        ({"block_out_channels": (32, 32, 32)}, (1, 10, 8)),
        ({}, (1, 8, 7)),
    ],
)
def test_a_unet_that_cannot_be_gets_one_line(config, shape):
    with pytest.raises(UserError) as caught:
        new_unet(config, shape)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(pipeline, value):
    path = next((pipeline / "unet").glob("*.safetensors"))
    tensors = load_file(path)
    name = sorted(tensors)[-1]
    tensors[name].view(-1)[-1] = value
    save_file(tensors, path)
    with pytest.raises(UserError, match=rf"hold NaN or infinite values \({name}\); give those of a training"):
        load_dpm(pipeline)
