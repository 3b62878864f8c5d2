"""Configs that nobody would write on purpose: each is one bounded line that names the place, and nothing is allocated first."""

import sys
import tracemalloc
from contextlib import suppress
from functools import cache

import pytest
import yaml

from side_ray.config import Config
from side_ray.config.file import load_config, override, parse_config
from side_ray.errors import LONGEST_LINE, UserError
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.preflight import preflight
from side_ray.runs.status import planned
from side_ray.storage import open_store
from tests.audits import keys, tiny_config, tiny_values

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: 2024-01-01", "run: a date is no value of a config"),
        ("run: {uri: !!int x}", "not valid YAML"),
        ("? [a, b]\n: 1", "a key is not plain text"),
        ("? {a: 1}\n: 1", "a key is not plain text"),
        ("1: x", "the key 1 is not text"),
        ("run: {true: x}", "run: the key True is not text"),
        ("run: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("run: !!binary aGVsbG8=", "a bytes is no value"),
        ("run: !!set {a, b}", "a set is no value"),
        ('run: {uri: "a\\0b"}', "run.uri: holds control characters"),
        ("[" * 20_000, "is nested too deeply"),
        ("run: " + "[" * 40 + "]" * 40, "is nested too deeply"),
        (BOMB, "it has more than 100,000 values"),
        ("run: &a [*a]", "an alias is inside what it stands for"),
        ("run: {uri: s3://key:secret@bucket/x}", "run.uri: holds credentials in a URL"),
        ("storage: {endpoint: 'http://key:secret@host'}", "storage.endpoint: holds credentials in a URL"),
        ("cluster: {address: 'ray://user:secret@head:10001'}", "cluster.address: holds credentials in a URL"),
        ("- a\n- b", "holds no sections"),
        ("", "holds no sections"),
        ("run: [", "not valid YAML"),
        ("x" * (1 << 20) + "x", "1,048,577 bytes are too many"),
    ],
)
def test_a_file_that_is_no_config_is_one_line(text, message, tmp_path):
    path = tmp_path / "audit.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "secret" not in str(caught.value)
    assert all(len(line) <= LONGEST_LINE for line in str(caught.value).splitlines())


def test_a_large_file_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "audit.yaml"
    path.write_text("x" * (2 << 20))
    monkeypatch.setattr(type(path), "read_text", None)
    with pytest.raises(UserError, match="bytes are too many for a config"):
        load_config(path)


@pytest.mark.parametrize("path", ["", "a\0b", "/", "/dev/null/x", "x" * 5000])
def test_paths_of_no_config(path):
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert len(str(caught.value)) <= LONGEST_LINE


@pytest.mark.parametrize(
    "text",
    [
        "a.b=!!int x",
        "a.b=[",
        "a=1",
        ".=",
        "a.b=" + "[" * 5000,
        "a.b=2024-01-01",
        "a.b=&a [*a]",
        "a.\udce9=1",
        "a.b={[]: 1}",
        "a.b=s3://key:secret@b",
        ".".join("a" * 50) + "=1",
        "a.b=\udce9",
    ],
)
def test_overrides_that_are_none(text):
    with pytest.raises(UserError) as caught:
        override({}, [text])
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= LONGEST_LINE


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dpm__timesteps", 10**8),
        ("score__neighbors", 10**9),
        ("score__shards", 10**6),
        ("cluster__gpus", 1000),
        ("cluster__actor_cpus", 10**6),
        ("extract__lambdas", [0, 1e308]),
        ("extract__samples", 10**10),
        ("extract__shard_size", 10**9),
        ("surrogate__classes", 10**9),
        ("surrogate__width", 10**6),
        ("data__image_size", 10**6),
        ("theory__points", 10**9),
        ("sweep__trials", 10**9),
        ("score__bands", {"high": [0, float("inf")]}),
        ("dpm__unet", {"block_out_channels": [32] * 3000}),
        ("dpm__unet", {"layers_per_block": 3000}),
        ("data__members", 10**30),
    ],
)
def test_absurd_numbers_are_refused_by_their_key(key, value, tmp_path):
    path = tmp_path / "audit.yaml"
    path.write_text(yaml.safe_dump(tiny_values("run", **{key: value})))
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert key.replace("__", ".") in str(caught.value)
    assert all(len(line) <= LONGEST_LINE for line in str(caught.value).splitlines())


def test_equal_faults_are_counted(tmp_path):
    path = tmp_path / "audit.yaml"
    path.write_text(yaml.safe_dump(tiny_values("run", extract__lambdas=["x"] * 20_000)))
    with pytest.raises(UserError) as caught:
        load_config(path)
    (line,) = str(caught.value).splitlines()
    assert line.endswith("(and 19,999 more entries like it)")


@pytest.mark.parametrize("endpoint", ["http://[::1", "http://host:port", "http://host:99999999", "//x", "http://"])
def test_broken_endpoints(endpoint):
    with pytest.raises(UserError, match=r"^storage\.endpoint: "):
        open_store("s3://bucket/x", endpoint=endpoint)


def test_homes_that_do_not_exist():
    with pytest.raises(UserError, match="names a home directory that does not exist"):
        open_store("~nobody-of-this-name/x")


NUMBERS = [key for key in keys(Config) if key[0] != "run"]
OPENED: list[str] = []


@cache
def listen() -> None:
    """Collect what is opened from now on. A hook cannot be removed, and slows every test after it."""
    sys.addaudithook(lambda event, arguments: OPENED.append(str(arguments[0])) if event == "open" else None)


@pytest.mark.slow
@pytest.mark.parametrize("value", [10**12, 1e308, [0, 10**12], [1.0, 1e308]], ids=str)
def test_no_number_is_allocated_or_makes_anything_be_read(value, tmp_path):
    """Whatever key has it: it is refused, or costs nothing before the work starts."""
    artifacts = Artifacts.open(tiny_config(tmp_path / "run"))
    preflight(artifacts)  # loads what every config needs
    planned(artifacts)
    listen()
    refused = 0
    for key in NUMBERS:
        values = tiny_values(str(tmp_path / "run"))
        section = values
        for name in key[:-1]:
            section = section.setdefault(name, {})
        section[key[-1]] = value
        OPENED.clear()
        tracemalloc.start()
        try:
            config = parse_config(values, "test")
        except UserError:
            refused += 1
            assert not OPENED
        else:
            artifacts = Artifacts.open(config)
            with suppress(UserError):
                preflight(artifacts)
            planned(artifacts)
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 16 << 20, key
    assert refused > len(NUMBERS) / 2
