"""Configs to start from are valid, keep their comments, and hold what was found at the paths."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from side_ray.cli.app import app
from side_ray.config.file import load_config
from side_ray.diffusion.unet_dpm import new_unet, save_pipeline
from side_ray.setup.starter import config_names, filled, starter


def images(path: Path, count: int, side: int) -> str:
    for number in range(count):
        folder = path / f"class-{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (side, side), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return str(path)


@pytest.fixture
def model(tmp_path) -> str:
    from side_ray.diffusion.noise_process import new_schedule

    unet = new_unet({"block_out_channels": [8], "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"],
                     "layers_per_block": 1, "norm_num_groups": 4}, (1, 8, 8))  # fmt: skip
    save_pipeline(unet, new_schedule("linear", 1000).config, tmp_path / "model")
    return str(tmp_path / "model")


def invoke(*arguments: str):
    return CliRunner().invoke(app, ["init", *arguments])


def test_what_is_found_at_the_paths_is_filled_in(tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train, unseen = images(tmp_path / "train", 8, 12), images(tmp_path / "unseen", 7, 12)
    result = invoke("folder", "--data", train, "--unseen", unseen, "--model", model)
    assert result.exit_code == 0, result.stderr
    assert "next: side-ray plan audit.yaml --probe" in result.stdout
    config = load_config("audit.yaml")
    assert (config.data.source, config.data.path, config.data.holdout_path) == ("folder", train, unseen)
    assert (config.data.members, config.data.holdout) == (8, 3)
    assert (config.data.image_size, config.data.grayscale) == (8, True)
    assert (config.dpm.kind, config.dpm.path) == ("import", model)
    assert config.extract.methods == ["random", "ti", "td"]
    assert "# exactly the images that the model was trained on" in Path("audit.yaml").read_text()
    again = invoke("folder", "--data", train)
    assert again.exit_code == 2
    assert again.stderr.startswith("side-ray: audit.yaml: exists already")


def test_an_archive_without_labels_and_without_a_model(tmp_path):
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive:
        for number in range(5):
            Image.fromarray(np.full((9, 9), number, np.uint8)).save(tmp_path / "one.png")
            archive.write(tmp_path / "one.png", f"{number}.png")
    text = starter("folder", str(tmp_path / "train.zip"))
    values = yaml.safe_load(text)
    assert (values["data"]["members"], values["data"]["image_size"]) == (5, 9)
    assert "holdout_path" not in values["data"]
    assert values["extract"]["methods"] == ["random", "td"]
    assert "/MODELS/MY-PIPELINE" in text


@pytest.mark.parametrize("name", config_names())
def test_every_config_that_is_carried_can_be_written(name, tmp_path):
    result = invoke(name, "--out", str(tmp_path / "audit.yaml"))
    assert result.exit_code == 0, result.stderr
    load_config(tmp_path / "audit.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mnist"], "init: no config 'mnist'; choose one of"),
        (["folder", "--model", "x"], "init: --unseen and --model go with --data"),
        (["folder", "--data", "/nowhere"], "data.path: there is no file or directory"),
        (["digits", "--out", "/nowhere/at/all.yaml"], "/nowhere/at/all.yaml cannot be written"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_key_without_a_line_is_noticed():
    with pytest.raises(ValueError, match=r"no lines for data\.path"):
        filled("data:\n  source: folder\n", {"data.path": "x"})
