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
from side_ray.execution.session import ensure_ray
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.preflight import preflight
from side_ray.storage import open_store, s3
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


ADDRESSES = ("ray://user:hunter2@head:10001", "http://user:hunter2@head:8265", "user:hunter2@head:6379")


@pytest.mark.parametrize("address", ADDRESSES)
def test_ray_address(address, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", address)
    config = tiny_config(tmp_path / "run")
    for use in (lambda: preflight(Artifacts.open(config)), lambda: ensure_ray(config.cluster)):
        with pytest.raises(UserError, match=r"^RAY_ADDRESS: holds credentials") as caught:
            use()
        assert "hunter2" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    assert config.cluster.model_copy(update={"address": "head:6379"}).ray_address == "head:6379"


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
@pytest.mark.parametrize(
    "url", ["http://user:hunter2@host:9000", "user:hunter2@host:9000", "http://host?token=hunter2"]
)
def test_the_endpoint_in_the_environment(name, url, monkeypatch):
    monkeypatch.setenv(name, url)
    with pytest.raises(UserError, match=f"^{name}: holds credentials") as caught:
        open_store("s3://bucket/run")
    assert "hunter2" not in str(caught.value)
    assert open_store("s3://bucket/run", endpoint="http://host:9000").endpoint == "http://host:9000"


@pytest.mark.parametrize("proxy", ["http://user:hunter2@127.0.0.1:1", "user:hunter2@127.0.0.1:1"])
def test_a_proxy_may_have_a_password_which_no_message_shows(proxy, monkeypatch):
    """As in every environment behind such a proxy."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, proxy)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(s3, "FIRST_CONTACT", s3.FIRST_CONTACT | {"attempts": 1})
    with pytest.raises(UserError, match="no connection to the proxy; check HTTPS_PROXY") as caught:
        open_store("s3://bucket/run", endpoint="http://192.0.2.1:9000").check()
    assert "hunter2" not in f"{caught.value}{UserError(str(caught.value.__cause__))}"


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
