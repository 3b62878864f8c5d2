"""The cpu image, built by the instructions of its Dockerfile in a chroot, and used as the user that they name."""

import json
import os
import re
import shutil
import tomllib
from collections.abc import Iterator

import pytest

from tests.audits import ROOT, TINY
from tests.container.builder import Image
from tests.container.chroot import why_not
from tests.container.dockerfile import stages
from tests.kustomize import containers, render

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(bool(why_not()), reason=f"no chroot: {why_not()}"),
]
NOT_PINNED = {"pip", "setuptools", "wheel", "side-ray"}
"""Packages of the base image, and this one."""
PODS = {
    mount["mountPath"]
    for each in containers(render(ROOT / "cluster" / "base"))
    if each["name"] == "ray-head"
    for mount in each["volumeMounts"]
}
"""The folders that the pods of the cluster can write to."""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    root = tmp_path_factory.mktemp("image") / "root"
    given = {name: os.environ[name] for name in ("TORCH_INDEX",) if name in os.environ}
    try:
        yield Image(root, given).build("cpu")
    finally:
        shutil.rmtree(root, ignore_errors=True)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def versions(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Versions without their local part, in which builds for CPU and CUDA differ, by package."""
    return {canonical(name): version.partition("+")[0] for name, version in pairs}


def pinned() -> dict[str, str]:
    return versions(re.findall(r"(?m)^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text()))


def test_the_command_of_the_image_runs_as_a_user_without_rights(image: Image) -> None:
    assert image.run("id", "-u").strip() == "1000"
    assert "Usage: side-ray" in image.run()


def test_it_holds_what_is_copied_and_what_is_made_and_no_more(image: Image) -> None:
    copied = {name for step, rest in stages()["cpu"] if step == "COPY" for name in rest.split()[:-1]}
    assert {path.name for path in image.path().iterdir()} == {*copied, "sbom.json"}
    assert list(image.path().rglob("__pycache__")) == []
    assert not any((image.chroot.root / name).exists() for name in ("tmp/sbom", "root/.cache/pip"))


def test_the_user_cannot_change_what_is_installed(image: Image) -> None:
    # Not in a read-only container, in which nothing at all can be changed.
    command = "find / -xdev -writable -not -type l -not -path '/proc/*' -not -path '/dev/*' 2>/dev/null"
    writable = image.run("sh", "-c", f"{command} || true", writable=None).split()
    assert {path for path in writable if not path.startswith("/home/ray")} <= {"/tmp", "/var/tmp", "/run/lock"}
    assert image.run("python", "-c", "import os; os.chdir('/'); import side_ray; print(side_ray.__file__)").startswith(
        "/usr/local/lib/"
    )


def test_its_version_is_that_of_the_project_and_the_machine_passes_its_checks(image: Image) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert image.run("side-ray", "--version").strip() == f"side-ray {project['version']}"
    checks = {each["name"]: each for each in json.loads(image.run("side-ray", "doctor", "--json", writable=PODS))}
    assert checks["torch"]["found"].partition("+")[0] == pinned()["torch"]


def test_every_package_is_pinned_and_in_the_bill_of_materials(image: Image) -> None:
    bill = json.loads(image.path("sbom.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"].split(".")[0]) == ("CycloneDX", "1")
    listed = versions([(each["name"], each["version"]) for each in bill["components"]])
    assert listed == versions(
        [(each["name"], each["version"]) for each in json.loads(image.run("pip", "list", "--format=json"))]
    )
    assert {"torch", "ray", "faiss-cpu", "side-ray"} <= listed.keys()
    assert {name: version for name, version in listed.items() if pinned().get(name) != version}.keys() <= NOT_PINNED
    without = [each["name"] for each in bill["components"] if not each.get("licenses")]
    assert len(without) < len(bill["components"]) / 10


def test_an_audit_runs_on_a_read_only_root(image: Image) -> None:
    config = TINY.relative_to(ROOT)
    script = f"side-ray audit {config} run.uri=/tmp/run && ls /tmp/run/report.html && side-ray status /tmp/run"
    printed = image.run("sh", "-c", script, writable=PODS)
    assert "/tmp/run/report.html" in printed


def test_the_packages_of_the_cuda_image_fit_together(image: Image) -> None:
    # Builds of torch for CPUs on this machine would be taken before that of the index.
    dry = "PIP_FIND_LINKS= pip install --dry-run --ignore-installed --report /tmp/report.json"
    for step, rest in stages()["cuda"]:
        if step == "RUN" and rest.startswith("pip install"):
            image.step(rest.replace("pip install", dry, 1), "root")
    report = json.loads((image.chroot.root / "tmp" / "report.json").read_text())
    found = versions([(each["metadata"]["name"], each["metadata"]["version"]) for each in report["install"]])
    assert {name: found.get(name) for name in ("torch", "ray", "faiss-gpu")} == {
        name: pinned()[name] for name in ("torch", "ray", "faiss-gpu")
    }
    assert "faiss-cpu" not in found
