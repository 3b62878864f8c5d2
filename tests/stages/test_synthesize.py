"""A model in another range of pixels is a stop with a remedy; a weak one in the right range is not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.optimal import OptimalDpm
from side_ray.diffusion.spaces.pixels import PixelCodec
from side_ray.diffusion.unet_dpm import new_unet, save_pipeline
from side_ray.errors import UserError
from side_ray.execution.audit import Audit
from side_ray.execution.progress import Reporter
from side_ray.images import decode_column, to_float
from side_ray.runs.dataset import read_split
from side_ray.runs.imported import look
from side_ray.runs.imported.look import Look, Members, explained, other_ranges
from side_ray.runs.plan import Condition
from side_ray.stages.extract import extract
from side_ray.stages.prepare import prepare
from side_ray.stages.synthesize import check_model, synthesize
from side_ray.stages.train_dpm import train_dpm
from tests.audits import tiny_config
from tests.local import stages_here

pytestmark = pytest.mark.long

BEGIN = [prepare, train_dpm, synthesize]


def config(run, model, **changes):
    changes = {"surrogate__synthetic": 100, "extract__samples": 100, "extract__methods": ["random"]} | changes
    return tiny_config(
        run, dpm={"path": str(model), **changes.pop("dpm", {})}, extract__sampler="ddim", extract__steps=10, **changes
    )


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """The members of `config` in [−1, 1]."""
    run = tmp_path_factory.mktemp("members") / "run"
    artifacts = stages_here(tiny_config(run, dpm__kind="optimal"), [prepare])
    return to_float(read_split(artifacts.run.store, artifacts.prepare.key, "member").images)


def closed_form(members, codec, path):
    OptimalDpm(members if codec is None else codec.encode(members), new_schedule()).save(path)
    return path


@pytest.mark.parametrize(
    ("codec", "remedy", "settings"),
    [
        (PixelCodec((0.0,), (1.0,)), r"dpm\.pixel_range: \[0, 1\]", {"pixel_range": [0, 1]}),
        (
            PixelCodec.standardized([0.31], [0.38]),
            r"dpm\.pixel_mean: \[0\.3\d*\] and dpm\.pixel_std: \[0\.3\d*\]",
            {"pixel_mean": [0.31], "pixel_std": [0.38]},
        ),
    ],
)
def test_another_range_stops_the_audit_and_its_remedy_works(members, tmp_path, codec, remedy, settings):
    model = closed_form(members, codec, tmp_path / "model")
    for _ in range(2):  # the second time the look is not repeated
        with pytest.raises(UserError, match=rf"^dpm\.path: 64 samples.*{remedy}; set that, or dpm\.check: off"):
            stages_here(config(tmp_path / "run", model), BEGIN)
    mended = stages_here(config(tmp_path / "run", model, dpm=settings), [*BEGIN, extract])
    images = decode_column(mended.samples(Condition("random", 0.0)).read_first(2).column("image"))
    distances = torch.cdist(to_float(images).flatten(1), members.flatten(1)).min(dim=1).values
    assert distances.max() < 0.05
    assert stages_here(config(tmp_path / "off", model, dpm={"check": False}), BEGIN).synthetic.present() == {0, 1}


def test_what_is_sampled_already_is_looked_at_and_not_sampled_again(members, tmp_path, monkeypatch):
    good = stages_here(config(tmp_path / "run", closed_form(members, None, tmp_path / "good")), BEGIN)
    assert Look(**good.check.read_json("look.json")["samples"]).distance < 1
    for key in good.check.marks:
        good.run.store.delete(key)
    monkeypatch.setattr(look, "draw", None)
    assert stages_here(good.config, BEGIN).check.done


def test_a_weak_model_in_the_right_range_passes_with_a_warning(tmp_path, capsys):
    torch.manual_seed(0)
    unet = new_unet({"block_out_channels": (8, 16), "norm_num_groups": 4}, (1, 8, 8))
    save_pipeline(unet, new_schedule().config, tmp_path / "model")
    audit = Audit.open(config(tmp_path / "run", tmp_path / "model"), Reporter(Console(width=400)))
    artifacts = stages_here(audit.config, BEGIN)
    found = artifacts.check.read_json("look.json")
    assert found["range"] is None
    assert found["samples"]["distance"] > found["unseen"]["distance"]
    check_model(audit)
    assert "the samples look unlike the training images" in "".join(capsys.readouterr())


def test_a_look_compares_values_and_distances():
    images = np.random.default_rng(0).integers(0, 256, (50, 48, 40, 3), dtype=np.uint8)
    members = Members(images)
    same = members.look(images)
    assert (same.unlike, same.distance) == pytest.approx((0, 0), abs=0.05)
    assert (same.mean, same.std) == pytest.approx((images.mean(), images.std()))
    others = members.look(images[:20], themselves=True)
    assert others.distance > 100
    brighter = members.look((images // 2 + 127).astype(np.uint8))
    assert brighter.unlike == pytest.approx(64, abs=2)


def test_a_range_must_explain_the_values_and_the_distance():
    samples, unseen = Look(167, 48, 89, 785), Look(78, 96, 2, 309)
    fits = Look(80, 90, 5, 300)
    assert explained(samples, unseen, {"a": replace(fits, distance=320), "b": fits}) == "b"
    assert explained(samples, unseen, {"unlike": replace(fits, unlike=50)}) is None
    assert explained(samples, unseen, {"far": replace(fits, distance=600)}) is None
    assert explained(replace(samples, distance=320), unseen, {"no nearer": fits}) is None
    assert explained(samples, unseen, {"copies": replace(fits, unlike=80, distance=20)}) == "copies"


def test_ranges_of_constant_channels_have_no_standardization():
    gray = np.zeros((3, 4, 4, 1), np.uint8)
    assert all("mean" not in name for name in other_ranges(gray))
    colour = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    assert any("[0.485, 0.456, 0.406]" in name for name in other_ranges(colour))
