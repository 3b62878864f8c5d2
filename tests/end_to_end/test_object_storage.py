"""The same audit with its run directory on a real S3 server where one request in ten fails."""

import os
import subprocess
import sys
import time

import boto3
import pytest
import yaml

from side_ray.runs.artifacts import Artifacts
from side_ray.runs.plan import conditions
from side_ray.runs.run import Run
from side_ray.storage import open_store
from tests.audits import tiny_config, tiny_values
from tests.s3 import faulty_proxy


def written(tmp_path, uri: str) -> str:
    """The path of the tiny audit's config with a run directory."""
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(tiny_values(uri)))
    return str(tmp_path / "audit.yaml")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_failing_requests_change_nothing(s3, tiny_audit, tmp_path):
    uri = f"s3://{s3.bucket}/audits/tiny"
    with faulty_proxy(s3.endpoint, 0.1) as proxy:
        command = [sys.executable, "-m", "side_ray.cli", "audit", written(tmp_path, uri)]
        env = {**os.environ, **s3.env, "AWS_ENDPOINT_URL": proxy.endpoint}
        result = subprocess.run(command, capture_output=True, text=True, env=env, timeout=800)
        assert result.returncode == 0, result.stderr
        assert proxy.made.total() > 20
        assert len(proxy.made) == 6  # every kind of fault
    store = open_store(uri)
    artifacts = Artifacts(tiny_config(uri), Run(store))
    for each in conditions(artifacts.config):
        ours, theirs = (a.samples(each).read_first(4) for a in (artifacts, tiny_audit))
        assert ours.equals(theirs)
    metrics = [a.report.read_json("metrics.json") for a in (artifacts, tiny_audit)]
    assert metrics[0]["conditions"] == metrics[1]["conditions"]

    client = boto3.client("s3")
    assert "Uploads" not in client.list_multipart_uploads(Bucket=s3.bucket)
    names = [entry.key.rsplit("/", 1)[-1] for entry in store.list()]
    assert not [name for name in names if "tmp" in name or name.startswith(".")]
    assert store.exists(f"{artifacts.report.key}/index.html")
    assert not list(store.list(f"{artifacts.dpm.key}/checkpoints"))


@pytest.mark.parametrize(
    ("change", "uri", "word"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "s3://bucket/x", "bucket"),
        ({}, "s3://no-such-bucket/x", "no-such-bucket"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "s3://bucket/x", "127.0.0.1:9"),
    ],
    ids=["wrong key", "missing bucket", "nobody answers"],
)
def test_an_unusable_store_is_reported_quickly_in_one_line(s3, side_ray, tmp_path, monkeypatch, change, uri, word):
    began = time.monotonic()
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    result = side_ray("audit", written(tmp_path, uri))
    assert result.exit_code == 1
    lines = [line for line in result.stderr.splitlines() if line.startswith("side-ray: ")]
    assert len(lines) == 1
    assert word in lines[0]
    assert "Traceback" not in result.stderr
    assert s3.env["AWS_SECRET_ACCESS_KEY"] not in result.stderr + result.stdout
    assert time.monotonic() - began < 60


def test_a_directory_that_cannot_be_written_is_one_line(side_ray, tmp_path):
    (tmp_path / "file").write_text("")
    result = side_ray("audit", written(tmp_path, str(tmp_path / "file" / "run")))
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("side-ray: ")
    assert str(tmp_path / "file") in line
