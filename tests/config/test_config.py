"""Every bad config gets one clear line that names the key and the remedy, before anything starts."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from side_ray.cli import app
from side_ray.config.file import load_config
from side_ray.errors import UserError

DIGITS = Path(__file__).parents[2] / "jobs" / "configs" / "digits.yaml"

# What is changed, and what the message must say: the key and a word of the remedy.
BAD = {
    "unknown section": ({"extractor": {}}, "extractor: unknown key; did you mean extract?"),
    "unknown key": ({"extract.lamdas": [0, 1]}, "extract.lamdas: unknown key; did you mean lambdas?"),
    "unknown nested key": (
        {"dpm.unet.layer_per_block": 1},
        "dpm.unet.layer_per_block: unknown key; did you mean layers_per_block?",
    ),
    "word for a number": ({"dpm.steps": "many"}, "dpm.steps: "),
    "true for a number": ({"extract.samples": True}, "extract.samples: "),
    "true for a real number": ({"dpm.lr": True}, "dpm.lr: must be a number"),
    "fraction for a count": ({"extract.samples": 10.5}, "extract.samples: "),
    "negative λ": ({"extract.lambdas": [0, -1]}, "extract.lambdas.1: input should be greater than or equal to 0"),
    "λ not a number": ({"extract.lambdas": [0, float("nan")]}, "extract.lambdas.1: "),
    "infinite λ": ({"extract.lambdas": [0, float("inf")]}, "extract.lambdas.1: "),
    "λ grid without 0": ({"extract.lambdas": [1, 5]}, "extract.lambdas: λ = 0, the Random baseline, is missing; add 0"),
    "λ twice": ({"extract.lambdas": [0, 5, 5.0]}, "extract.lambdas: holds a value twice"),
    "no λ for td": ({"extract.lambdas": [0]}, "extract.lambdas: method td needs a λ > 0"),
    "no λ for ti": ({"extract.ti_lambdas": [0]}, "extract.ti_lambdas: method ti needs a λ > 0"),
    "unknown method": ({"extract.methods": ["random", "magic"]}, "extract.methods.1: "),
    "no method": ({"extract.methods": []}, "extract.methods: "),
    "method twice": ({"extract.methods": ["td", "td"]}, "extract.methods: holds a method twice"),
    "unknown sampler": ({"extract.sampler": "euler"}, "extract.sampler: "),
    "N_G not a multiple": (
        {"extract.samples": 2001},
        "extract.samples: 2001 is not a multiple of extract.shard_size (500); use for example 2000",
    ),
    "synthetic not a multiple": (
        {"surrogate.synthetic": 5001},
        "surrogate.synthetic: 5001 is not a multiple of extract.shard_size",
    ),
    "no samples": ({"extract.samples": 0}, "extract.samples: "),
    "one class": ({"surrogate.classes": 1}, "surrogate.classes: input should be greater than or equal to 2"),
    "more classes than images": ({"surrogate.classes": 9000}, "surrogate.classes: 9000 classes cannot come from"),
    "unknown labels": ({"surrogate.labels": "clip"}, "surrogate.labels: "),
    "import without path": ({"dpm.kind": "import"}, "dpm: kind import needs dpm.path"),
    "path with another kind": (
        {"dpm.kind": "optimal", "dpm.path": "x"},
        "dpm.path is given, so dpm.kind must be import",
    ),
    "channels and groups": (
        {"dpm.unet.block_out_channels": [30, 64]},
        "dpm.unet: every entry of block_out_channels must be a multiple",
    ),
    "levels differ": (
        {"dpm.unet.block_out_channels": [32, 64, 64]},
        "dpm.unet: block_out_channels, down_block_types and up_block_types",
    ),
    "decay of 1": ({"dpm.ema_decay": 1.0}, "dpm.ema_decay: "),
    "no members": ({"data.members": 0}, "data.members: "),
    "unknown source": ({"data.source": "mnist"}, "data.source: "),
    "reversed band": ({"score.bands": {"low": [0.8, 0.6]}}, "score.bands: low is [0.8, 0.6]; write [from, to]"),
    "unknown preset": ({"score.bands": "strict"}, "score.bands: preset strict is unknown; use cumulative"),
    "band of three": ({"score.bands": {"low": [0.1, 0.2, 0.3]}}, "score.bands.low: "),
    "preset of the other similarity": (
        {"score.bands": "sscd"},
        "score.bands: preset sscd is for score.similarity sscd; use cumulative, paper, or bands of your own",
    ),
    "unknown similarity": (
        {"score.similarity": "cosine"},
        "score.similarity: 'cosine' is unknown; use one of nl2, sscd",
    ),
    "unknown key of scores": ({"score.neighbours": 60}, "score.neighbours: unknown key; did you mean neighbors?"),
    "unknown preprocessing": ({"score.preprocessing": "resize1"}, "score.preprocessing: input should be 'resize288'"),
    "sscd without weights": ({"score.similarity": "sscd"}, "score.checkpoint: similarity sscd needs the path"),
    "too few neighbours": ({"score.neighbors": 10}, "score.neighbors: "),
    "false-match rate": ({"score.false_match_rate": 0}, "score.false_match_rate: "),
    "probe without grids": ({"dpm.probe": 50}, "dpm.probe: is made with the grids; give dpm.samples_every too"),
    "inverse gamma alone": ({"dpm.ema_inv_gamma": 2.0}, "dpm.ema_inv_gamma: goes with dpm.ema_power"),
    "power without averaging": (
        {"dpm.ema_power": 0.7, "dpm.ema_decay": 0},
        "dpm.ema_power: there is no averaging",
    ),
    "no parts": ({"dpm.grad_accumulation": 0}, "dpm.grad_accumulation: input should be greater than or equal to 1"),
    "no workers": ({"cluster.train_workers": 0}, "cluster.train_workers: input should be greater than or equal to 1"),
    "workers reversed": ({"cluster.train_workers": [4, 2]}, "cluster.train_workers: [least, most] with least ≤ most"),
    "three numbers of workers": ({"cluster.train_workers": [1, 2, 3]}, "cluster.train_workers: "),
    "no memory": ({"cluster.train_cache_gb": 0}, "cluster.train_cache_gb: "),
    "features without clusters": (
        {"surrogate.features": "sscd", "surrogate.labels": "random", "score.checkpoint": "x"},
        "surrogate.features: is for surrogate.labels cluster, not random",
    ),
    "CLIP without weights": ({"surrogate.features": "clip"}, "surrogate.encoder: features clip need the path"),
    "SSCD features without weights": ({"surrogate.features": "sscd"}, "surrogate.encoder: features sscd need the path"),
    "encoder for pixels": ({"surrogate.encoder": "x"}, "surrogate.encoder: goes with surrogate.features sscd or clip"),
    "teacher for pixels": ({"surrogate.teacher": "x"}, "surrogate.teacher: goes with surrogate.labels classifier"),
    "input without teacher": ({"surrogate.teacher_size": 64}, "surrogate.teacher_size and teacher_input: go with"),
    "actors reversed": ({"cluster.actors": [4, 2]}, "cluster.actors: [least, most]"),
    "guidance interval reversed": (
        {"extract.guidance_interval": [0.8, 0.2]},
        "extract.guidance_interval: [0.8, 0.2] holds nothing; write [from, to] with from < to",
    ),
    "guidance interval beyond the noise": ({"extract.guidance_interval": [0.2, 1.5]}, "extract.guidance_interval.1: "),
    "N_G and images per class": (
        {"extract.samples_per_target": 10},
        "extract.samples: 1500, but extract.samples_per_target makes it 500; give one of them",
    ),
    "images per class of a classifier": (
        {"extract.samples_per_target": 10, "surrogate.labels": "classifier"},
        "extract.samples_per_target: the classes of a classifier are those of the data",
    ),
    "no image per class": ({"extract.samples_per_target": 0}, "extract.samples_per_target: input should be greater"),
    "unknown key of a sweep": ({"sweep.class": [3]}, "sweep.class: unknown key; did you mean classes?"),
    "empty axis": ({"sweep.classes": []}, "sweep.classes: is empty; leave the key out"),
    "axis with equals": ({"sweep.steps": [8, 8]}, "sweep.steps: holds a value twice"),
    "number of draws in a grid": ({"sweep.trials": 5}, "sweep.trials: is for sweep.search random"),
    "draws without number": ({"sweep.search": "random"}, "sweep.trials: search random needs the number"),
    "λ range reversed": (
        {"sweep.search": "random", "sweep.trials": 3, "sweep.lambda_range": [9, 1]},
        "sweep.lambda_range: [9.0, 1.0] holds nothing",
    ),
    "λ range and list": (
        {"sweep.search": "random", "sweep.trials": 3, "sweep.lambda_range": [1, 9], "sweep.lambdas": [1]},
        "sweep.lambdas: is given beside sweep.lambda_range",
    ),
    "unordered rungs": (
        {"sweep.early_stopping": {"after": [0.5, 0.25]}},
        "sweep.early_stopping.after: must ascend; write for example [0.25, 0.5]",
    ),
    "keeping all": ({"sweep.early_stopping": {"keep": 1}}, "sweep.early_stopping.keep: "),
    "run without uri": ({"run.uri": ""}, "run.uri: "),
    "section is a list": ({"surrogate": [1]}, "surrogate: "),
}


def changed(changes: dict) -> dict:
    values = yaml.safe_load(DIGITS.read_text())
    for name, value in changes.items():
        *sections, key = name.split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
        target[key] = value
    return values


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD.keys())
def test_bad_config_is_one_line_with_key_and_remedy(changes, message, tmp_path):
    path = tmp_path / "audit.yaml"
    path.write_text(yaml.safe_dump(changed(changes)))
    with pytest.raises(UserError) as caught:
        load_config(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: {message}"), text
    assert "\n" not in text
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("content", "message"),
    {
        "not YAML": ("run: [", "not valid YAML"),
        "a list": ("- run\n", "holds no sections"),
        "empty": ("", "holds no sections"),
        "a key twice": ("run: {uri: a, uri: b}\n", "'uri' is given twice"),
        "not text": (b"\xff\xfe\x00", "cannot be read as text"),
        "missing section": ("run: {uri: x}\n", "data: is missing; add it"),
    }.values(),
)
def test_unreadable_files(content, message, tmp_path):
    path = tmp_path / "audit.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as caught:
        load_config(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    "override", ["samples=3", "extract.samples", "=3", "extract.=3", "extract.lambdas=[0, 5", "run.uri.deep=1"]
)
def test_bad_overrides_are_named(override):
    with pytest.raises(UserError, match=r"override '"):
        load_config(DIGITS, [override])


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({}, ["dpm.steps=many"], "override 'dpm.steps=many': dpm.steps: "),
        ({}, ["run.seed=1", "extract.lamdas=[0]"], "override 'extract.lamdas=[0]': extract.lamdas: unknown key"),
        ({}, ["extract.lambdas=[0, -1]"], "override 'extract.lambdas=[0, -1]': extract.lambdas.1: "),
        ({}, ["nothing.x=1"], "override 'nothing.x=1': nothing: unknown key"),
        ({}, ["extract.shard_size=400"], "override 'extract.shard_size=400': extract.samples: 1500 is not a multiple"),
        ({}, ["dpm.steps=3", "dpm.steps=no"], "override 'dpm.steps=no': dpm.steps: "),
        ({"dpm.steps": "many"}, ["run.seed=1"], "audit.yaml: dpm.steps: "),
        ({"dpm.steps": "many"}, ["dpm.lr=1e-3"], "audit.yaml: dpm.steps: "),
    ],
)
def test_a_fault_is_blamed_on_the_override_or_the_file_that_has_it(tmp_path, changes, overrides, message):
    path = tmp_path / "audit.yaml"
    path.write_text(yaml.safe_dump(changed(changes)))
    with pytest.raises(UserError) as error:
        load_config(path, overrides)
    assert str(error.value).replace(str(path), "audit.yaml").startswith(message)


def test_a_fault_of_each_is_blamed_on_each(tmp_path):
    path = tmp_path / "audit.yaml"
    path.write_text(yaml.safe_dump(changed({"dpm.steps": "many"})))
    with pytest.raises(UserError) as error:
        load_config(path, ["run.seed=-1"])
    assert [line.split(": ")[0].split("/")[-1] for line in str(error.value).splitlines()] == [
        "override 'run.seed=-1'",
        "audit.yaml",
    ]


def test_override_values_are_yaml():
    config = load_config(
        DIGITS, ["extract.lambdas=[0, 2.5]", "dpm.lr=1e-3", "score.bands={high: [null, 0.5]}", "dpm.unet.dropout=0.1"]
    )
    assert config.extract.lambdas == [0.0, 2.5]
    assert config.dpm.lr == 1e-3
    assert config.score.bands == {"high": (None, 0.5)}
    assert config.dpm.unet.dropout == 0.1


def test_resolved_config_reads_back_the_same(tmp_path):
    config = load_config(DIGITS, ["run.seed=7"])
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    assert load_config(path) == config


def test_keys_that_came_later_are_dumped_only_where_they_are_used():
    plain, used = load_config(DIGITS), load_config(DIGITS, ["dpm.grad_accumulation=2", "dpm.samples_every=10"])
    assert not {"grad_accumulation", "ema_power", "samples_every", "probe"} & set(plain.model_dump()["dpm"])
    assert used.model_dump()["dpm"]["grad_accumulation"] == 2
    # What only looks at a training changes nothing of it.
    watched = load_config(DIGITS, ["dpm.samples_every=10"]).dpm
    assert watched.training_settings() == plain.dpm.training_settings() != used.dpm.training_settings()


def test_relative_uri_is_refused_inside_a_submitted_job(monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(UserError, match=r"run\.uri: 'runs/digits' is relative"):
        load_config(DIGITS)
    assert load_config(DIGITS, ["run.uri=s3://bucket/prefix"]).run.uri == "s3://bucket/prefix"


def test_several_faults_are_told_at_once(tmp_path):
    path = tmp_path / "audit.yaml"
    path.write_text(yaml.safe_dump(changed({"extract.samples": -5, "dpm.steps": "x"})))
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["extract.samples=2001"], "extract.samples: 2001 is not a multiple"),
        (["data.members=1500"], "data.members: 1500 members and twice 300"),
        (["extract.steps=5000"], "steps"),
        (["dpm.path=/nowhere/at/all"], "/nowhere/at/all"),
        (["score.bands={low: [0.5, 0.9], high: [0.2, 0.6]}"], "score.bands: low"),
        (["dpm.unet.block_out_channels=[32,32,32,32,32]"], "dpm.unet"),
        (["cluster.train_workers=3"], "dpm.batch_size: 64 is not divisible"),
        (
            ["cluster.train_workers=[1, 40]", "dpm.grad_accumulation=2"],
            "dpm.batch_size: 64 images are too few for 40",
        ),
        (["surrogate.features=clip", "surrogate.encoder=/no/such"], "surrogate.encoder: /no/such is not a file"),
    ],
)
def test_command_line_exits_with_2_and_one_line(overrides, message, tmp_path):
    result = CliRunner().invoke(app, ["audit", str(DIGITS), f"run.uri={tmp_path}/run", *overrides])
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run" / "prepare").exists()


@pytest.mark.long
def test_a_process_of_the_command_line_gives_no_traceback(tmp_path):
    arguments = ["audit", str(DIGITS), f"run.uri={tmp_path}/run", "data.members=1500"]
    result = subprocess.run([sys.executable, "-m", "side_ray.cli", *arguments], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("side-ray: data.members: 1500 members and twice 300")
    assert "Traceback" not in result.stderr


def test_reading_a_config_loads_neither_torch_nor_ray():
    code = (
        "import sys; from side_ray.config.file import load_config\n"
        f"load_config({str(DIGITS)!r})\n"
        "print([name for name in ('torch', 'ray', 'diffusers', 'faiss', 'sklearn') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stderr


def test_missing_file_names_itself():
    with pytest.raises(UserError, match=r"nowhere\.yaml: no such config file"):
        load_config("nowhere.yaml")
