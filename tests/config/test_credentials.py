"""Credentials in a URL: refused whatever key has them, and masked wherever they appear all the same."""

import io

import pytest
import yaml
from rich.console import Console

from side_ray.cli import actions
from side_ray.config import Config
from side_ray.config.file import load_config, parse_config
from side_ray.errors import UserError, masked
from side_ray.execution.progress import Reporter
from tests.audits import keys, tiny_config, tiny_values

URLS = (
    "s3://key:hunter2@bucket/x",
    "s3://AKIA:hun/ter2/hunter2@bucket/x",
    "http://hunter2@host:9000",
    "https://host/x.zip?X-Amz-Credential=a&X-Amz-Signature=hunter2",
    "//key:hunter2@host/x",
)


KEYS = keys(Config)


def test_every_key_is_walked():
    names = {".".join(key) for key in KEYS}
    paths = (
        "run.uri data.path data.holdout_path data.labels_file dpm.path storage.endpoint cluster.address given.samples"
    )
    assert {*paths.split(), "score.checkpoint", "surrogate.encoder", "surrogate.teacher"} <= names


@pytest.mark.parametrize("key", KEYS, ids=".".join)
def test_no_key_takes_a_url_with_credentials(key):
    for url in URLS:
        for value in (url, [url], {"x": url}, {url: 1}):
            values = tiny_values("run")
            section = values
            for name in key[:-1]:
                section = section.setdefault(name, {})
            section[key[-1]] = value
            with pytest.raises(UserError, match="holds credentials in a URL") as caught:
                parse_config(values, "test")
            assert ".".join(key) in str(caught.value)
            assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", URLS)
def test_a_file_or_override_with_credentials_is_refused_without_them(url, tmp_path):
    path = tmp_path / "audit.yaml"
    path.write_text(yaml.safe_dump(tiny_values("run", data__path=url)))
    plain = tmp_path / "plain.yaml"
    plain.write_text(yaml.safe_dump(tiny_values("run")))
    long = f"data.path=s3://key:{'hunter2' * 30}@bucket/x"
    for file, overrides in (
        (path, []),
        (plain, [f"data.path={url}"]),
        (plain, [f"data.path=[{url}"]),
        (plain, [long]),
        (plain, [long + "]"]),
    ):
        with pytest.raises(UserError) as caught:
            load_config(file, overrides)
        assert "hunter2" not in str(caught.value)


def test_addresses_without_a_scheme():
    with pytest.raises(UserError, match=r"cluster\.address: holds credentials") as caught:
        tiny_config("run", cluster__address="user:hunter2@head:6379")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", URLS)
def test_what_appears_all_the_same_is_masked(url, capsys, monkeypatch):
    def fail() -> None:
        raise OSError(f"When reading from '{url}': AWS Error ACCESS_DENIED")

    screen = io.StringIO()
    reporter = Reporter(Console(file=screen))
    reporter.say(f"reading {url}")
    reporter.warn(url)
    for traceback in ("", "1"):
        monkeypatch.setenv("SIDE_RAY_TRACEBACK", traceback)
        assert actions.guarded(fail) == 1
    config = tiny_config("run")
    config = config.model_copy(update={"data": config.data.model_copy(update={"path": url})})
    shown = [str(UserError(f"no {url}", "data.path")), config.to_yaml(), screen.getvalue(), capsys.readouterr().err]
    assert all("***" in text and "hunter2" not in text for text in shown)


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a@2x.png",
        "http://host:9000/a@b",
        "http://[::1]:9000/x@y",
        "data//a@b/c",
        "a b@c: d",
        "s3://b?versionId=3",
    ],
)
def test_what_is_no_secret_is_left(text):
    assert masked(text) == text
    tiny_config("run", report={"title": text})
