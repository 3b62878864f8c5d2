"""The adapters of docs/adapters, with the real packages where these are installed, give what the library itself computes."""

from pathlib import Path

import pytest
import torch

from side_ray.diffusion.denoisers.adapted import AdaptedDpm, Model
from side_ray.diffusion.denoisers.function import Function
from side_ray.diffusion.dpm import load_dpm
from tests.lucidrains import package

ADAPTERS = Path(__file__).parents[3] / "docs" / "adapters"


def opened(tmp_path, name, **changes):
    """The model of an adapter, some of whose lines are changed."""
    text = (ADAPTERS / name).read_text()
    for old, new in changes.values():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / name).write_text(text)
    Function.describe(tmp_path, Path(name), "load")
    return load_dpm(tmp_path, code=True)


@pytest.mark.long
def test_lucidrains(tmp_path):
    library = package()
    torch.manual_seed(0)
    size = ("dim=64, dim_mults=(1, 2, 4, 8), channels=3", "dim=16, dim_mults=(1, 2), channels=1")
    diffusion = library.GaussianDiffusion(library.Unet(dim=16, dim_mults=(1, 2), channels=1), image_size=16).eval()
    state = {f"ema_model.{name}": value for name, value in diffusion.state_dict().items()}
    torch.save({"step": 10, "ema": state | {"initted": torch.tensor(True)}}, tmp_path / "model-10.pt")
    dpm = opened(tmp_path, "lucidrains.py", size=size, side=("image_size=32", "image_size=16"))
    assert isinstance(dpm, AdaptedDpm)
    assert dpm.image_shape == (1, 16, 16)
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    for time in (0, 400, 900):
        with torch.no_grad():
            theirs = diffusion.model_predictions(x, torch.full((2,), time))
        z0, eps = dpm.denoise(x, time)
        torch.testing.assert_close(eps, theirs.pred_noise, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(z0, theirs.pred_x_start, rtol=1e-3, atol=1e-2)


@pytest.mark.long
def test_monai(tmp_path):
    nets = pytest.importorskip("monai.networks.nets")
    schedulers = pytest.importorskip("monai.networks.schedulers")
    torch.manual_seed(0)
    unet = nets.DiffusionModelUNet(
        spatial_dims=2, in_channels=1, out_channels=1, channels=(32, 64), attention_levels=(False, True),
        num_res_blocks=2, num_head_channels=32,
    ).eval()  # fmt: skip
    torch.save(unet.state_dict(), tmp_path / "unet.pt")
    dpm = opened(tmp_path, "monai_model.py", size=("(1, 64, 64)", "(1, 16, 16)"))
    assert dpm.codec is not None
    assert (dpm.codec.black, dpm.codec.white) == ((0.0,), (1.0,))
    scheduler = schedulers.DDPMScheduler(num_train_timesteps=1000, clip_sample=False)
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    for time in (0, 400, 900):
        with torch.no_grad():
            output = unet(x, torch.full((2,), time))
        _, theirs = scheduler.step(output, time, x)
        torch.testing.assert_close(dpm.denoise(x, time)[0], theirs, rtol=1e-3, atol=1e-2)


def test_an_edm_network_is_told_sigma_and_gives_the_image():
    """The table of docs/adapters/edm.py, around a network of that interface."""
    ends = torch.tensor([0.002, 80.0], dtype=torch.float64) ** (1 / 7)
    sigmas = torch.lerp(ends[0], ends[1], torch.linspace(0, 1, 1000, dtype=torch.float64)) ** 7
    told = []

    def network(x, sigma):
        told.append(sigma)
        return x / (1 + sigma.view(-1, 1, 1, 1) ** 2)

    values = {"network": network, "predicts": "sample", "alphas": torch.ones(1000), "sigmas": sigmas, "tell": "sigma"}
    dpm = AdaptedDpm(Model.of({**values, "shape": (1, 8, 8)}), None)
    x = torch.randn(2, 1, 8, 8)
    z0, eps = dpm.denoise(x, 999)
    assert told[0].tolist() == pytest.approx([80, 80])
    torch.testing.assert_close(z0, x / (1 + 80**2))
    torch.testing.assert_close(eps, (x - z0) / 80)
    assert [float(dpm.process.level(t)[1]) for t in dpm.process.visited(3)] == pytest.approx(
        [80, float(sigmas[500]), 0.002]
    )


@pytest.mark.parametrize("path", sorted(ADAPTERS.glob("*.py")), ids=lambda path: path.name)
def test_every_adapter_is_python_with_a_function_load(path):
    code = compile(path.read_text(), str(path), "exec")
    assert "load" in code.co_names
    assert path.name in (Path(__file__).parents[3] / "docs" / "models.md").read_text()
