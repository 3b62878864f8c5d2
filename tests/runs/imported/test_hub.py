"""Models on the hub, from a local server of its routes: what is fetched and recorded, and what is told without a connection."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.unet_dpm import new_unet, save_pipeline
from side_ray.errors import RunError, UserError
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.imported.hub import cached_file, hub_file, hub_model, pinned
from side_ray.runs.imported.opening import imported, lora_files
from side_ray.runs.plan import Condition, conditions
from side_ray.runs.preflight import preflight
from side_ray.stages.extract import extract
from side_ray.stages.prepare import prepare
from side_ray.stages.train_dpm import train_dpm
from tests.audits import tiny_config
from tests.local import stages_here

SHAPE = (1, 8, 8)
FIRST, SECOND = "1" * 40, "2" * 40
TOKEN = "hf_secret"
BASE = Condition("base", 2.0)


@dataclass
class Hub:
    """A repository `owner/name`: its files by commit, its branches and what was asked for."""

    commits: dict[str, Path] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str, token: str | None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of a GET; a HEAD gets the same without the body."""
        parts = [unquote(part) for part in path.strip("/").split("/")]
        api = parts[:2] == ["api", "models"]
        name, (verb, revision, *rest) = parts[2:4] if api else parts[:2], [*parts[4:], "", "", ""] if api else parts[2:]
        if name != ["owner", "name"] or (self.private and token != f"Bearer {TOKEN}"):
            return 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b""
        commit = self.branches.get(revision, revision)
        if commit not in self.commits:
            return 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}, b""
        directory = self.commits[commit]
        if api:
            files = [each for each in sorted(directory.rglob("*")) if each.is_file()]
            listed = [{"rfilename": str(each.relative_to(directory)), "size": each.stat().st_size} for each in files]
            about = {"id": "owner/name", "modelId": "owner/name", "sha": commit, "siblings": listed, "private": False}
            return 200, {"Content-Type": "application/json"}, json.dumps(about).encode()
        file = directory / "/".join(rest)
        if verb != "resolve" or not file.is_file():
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        content = file.read_bytes()
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}, content


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[Hub]:
    found = Hub(branches={"main": FIRST, "v1": FIRST})
    for commit, bias in ((FIRST, 0.0), (SECOND, 1.0)):
        unet = new_unet({"block_out_channels": (8, 16), "norm_num_groups": 4}, SHAPE)
        unet.requires_grad_(False).conv_out.bias.fill_(bias)
        place = tmp_path / commit
        save_pipeline(unet, new_schedule("linear", 50).config, place)
        (place / "README.md").write_text("a card")
        (place / "pytorch_model.bin").write_bytes(b"pickled")
        (place / "training" / "lora.safetensors").parent.mkdir()
        (place / "training" / "lora.safetensors").write_bytes(b"weights")
        found.commits[commit] = place

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = urlsplit(self.path).path
            found.asked.append(path)
            status, headers, body = found.answer(path, self.headers.get("Authorization"))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *given):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=running.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{running.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub_model.cache_clear()
    yield found
    hub_model.cache_clear()
    running.shutdown()
    running.server_close()


@pytest.fixture
def offline(monkeypatch):
    def cut():
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        hub_model.cache_clear()

    return cut


def config(path, run="/nowhere/run", **dpm):
    return tiny_config(run, dpm={"path": str(path), **dpm}, extract__steps=4, extract__methods=["random"])


def opened(path) -> set[str]:
    with imported(config(path), SHAPE) as (directory, _):
        return {each.relative_to(directory).as_posix() for each in directory.rglob("*") if each.is_file()}


def fingerprint(path) -> str:
    return Artifacts.open(config(path)).dpm.fingerprint


def refused(path, kind=UserError) -> str:
    with pytest.raises(kind) as caught:
        opened(path)
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)
    return str(caught.value)


def test_only_what_is_loaded_is_fetched_and_only_once(server):
    files = opened("hf://owner/name@v1")
    assert files == opened(server.commits[FIRST])
    fetched = {path.partition(f"/resolve/{FIRST}/")[2] for path in server.asked if "/resolve/" in path}
    assert fetched == files
    server.asked.clear()
    hub_model.cache_clear()
    assert opened("hf://owner/name@v1") == files
    assert server.asked == ["/api/models/owner/name/revision/v1"]


def test_a_models_identity_is_its_content(server):
    local = fingerprint(server.commits[FIRST])
    assert fingerprint("hf://owner/name") == fingerprint(f"hf://owner/name@{FIRST}") == local
    assert fingerprint(f"hf://owner/name@{SECOND}") != local


def test_a_branch_that_moves_does_not_move_within_an_audit(server):
    artifacts = Artifacts.open(config("hf://owner/name@main"))
    assert artifacts.hub_commit == FIRST
    server.branches["main"] = SECOND
    assert fingerprint("hf://owner/name@main") == artifacts.dpm.fingerprint
    hub_model.cache_clear()
    assert fingerprint("hf://owner/name@main") != artifacts.dpm.fingerprint


def test_without_a_connection_the_cache_serves_or_one_line_says_what_to_do(server, offline):
    files, known = opened("hf://owner/name@v1"), fingerprint("hf://owner/name@v1")
    offline()
    for path in ("hf://owner/name@v1", f"hf://owner/name@{FIRST}"):
        assert opened(path) == files
        assert fingerprint(path) == known
    for path in ("hf://owner/name@v2", f"hf://owner/name@{SECOND}", "hf://owner/other"):
        assert "is not in this machine's cache, and the hub cannot be reached" in refused(path, RunError)


def test_what_is_not_there_is_told(server):
    assert "has no revision v9" in refused("hf://owner/name@v9")
    assert "the hub has no such model, or this account may not read it" in refused("hf://owner/nothing")
    for wrong in ("hf://name", "hf://owner/name@", "hf://owner/name@v1/unet", "hf://owner/name@a b"):
        assert "write hf://owner/name@revision" in refused(wrong)
    shutil.rmtree(server.commits[SECOND] / "unet")
    assert f"no U-Net in hf://owner/name@{SECOND}" in refused(f"hf://owner/name@{SECOND}")


def test_a_private_model_needs_the_token_of_the_environment(server, monkeypatch):
    server.private = True
    assert opened("hf://owner/name")
    hub_model.cache_clear()
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert "hf auth login" in refused(f"hf://owner/name@{SECOND}")


def test_a_file_of_a_repository(server):
    (path,) = lora_files(config("hf://owner/name", lora="hf://owner/name@v1/training/lora.safetensors"))
    assert path.read_bytes() == b"weights"
    address = "hf://owner/name@v1/training/lora.safetensors"
    assert pinned(address, "dpm.lora") == f"hf://owner/name@{FIRST}/training/lora.safetensors"
    assert cached_file(pinned(address, "dpm.lora")) == path
    assert path.suffix == ".safetensors"
    assert [each for each in server.asked if "unet" in each] == []
    for wrong in ("hf://owner/name@v1", "hf://owner/name@v1/none.safetensors"):
        with pytest.raises(UserError, match=r"^dpm\.lora: "):
            hub_file(wrong, "dpm.lora")


def test_a_download_that_breaks_is_one_line(server):
    hub_model("hf://owner/name", "dpm.path")
    shutil.rmtree(server.commits.pop(FIRST))
    assert "cannot be fetched from the hub" in refused("hf://owner/name", RunError)


def test_the_run_holds_the_model_and_its_commit(server, offline, tmp_path):
    made = stages_here(config("hf://owner/name@v1", tmp_path / "run"), [prepare, train_dpm]).dpm
    assert made.info()["commit"] == FIRST
    assert made.info()["path"] == "hf://owner/name@v1"
    weights = made.fetch() / "unet" / "diffusion_pytorch_model.safetensors"
    assert not weights.is_symlink()
    assert weights.read_bytes() == (server.commits[FIRST] / "unet" / weights.name).read_bytes()
    assert not any(TOKEN.encode() in each.read_bytes() for each in (tmp_path / "run").rglob("*") if each.is_file())


def test_weights_that_are_not_copied_are_read_from_each_nodes_own_cache(server, offline, tmp_path, monkeypatch):
    asked = config("hf://owner/name@v1", tmp_path / "run", copy_below_gb=0, check=False)
    made = stages_here(asked, [prepare, train_dpm]).dpm
    name = "unet/diffusion_pytorch_model.safetensors"
    weights = server.commits[FIRST] / name
    assert made.key == Artifacts.open(config(server.commits[FIRST], tmp_path / "run")).dpm.key
    assert made.references().files[name].at == f"hf://owner/name@{FIRST}/{name}"
    server.asked.clear()
    assert (made.fetch() / name).read_bytes() == weights.read_bytes()
    assert server.asked == []
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "other"))
    server.branches["v1"] = SECOND
    assert (made.fetch() / name).read_bytes() == weights.read_bytes()
    kept = (tmp_path / "other" / "models--owner--name" / "snapshots" / FIRST / name).resolve()
    kept.write_bytes(kept.read_bytes()[:-1] + b"!")
    with pytest.raises(
        UserError, match=f"hf://owner/name@{FIRST}/{name} has changed .SHA-256.*delete it from the hub's cache"
    ):
        made.fetch()
    server.branches["v1"] = FIRST
    hub_model.cache_clear()
    with pytest.raises(UserError, match=f"hf://owner/name@{FIRST}/{name} has changed"):
        preflight(Artifacts.open(asked))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "third"))
    offline()
    with pytest.raises(RunError, match="cannot be fetched from the hub"):
        made.fetch()


def test_a_base_on_the_hub_is_fingerprinted_recorded_and_sampled(server, tmp_path):
    def base_of(revision: str, run: str = "run"):
        dpm = {"path": str(server.commits[SECOND]), "base": f"hf://owner/name@{revision}", "check": False}
        extract = {"methods": ["random"], "samples": 50, "sampler": "ddim", "steps": 4}
        extract |= {"base_lambdas": [2], "base_interval": [0, 1]}
        return tiny_config(tmp_path / run, dpm=dpm, **{f"extract__{key}": value for key, value in extract.items()})

    config = base_of("v1")
    artifacts = stages_here(config, [prepare, train_dpm, extract])
    assert artifacts.base_commit == FIRST
    info = artifacts.base.info()
    assert (info["commit"], info["path"]) == (FIRST, "hf://owner/name@v1")
    images = [artifacts.samples(each).read(0, ["image"]).column("image").to_pylist() for each in conditions(config)]
    assert len(images) == 2
    assert images[0] != images[1]
    by_commit = Artifacts.open(base_of(FIRST))
    assert by_commit.samples(BASE).fingerprint == artifacts.samples(BASE).fingerprint
    server.branches["v1"] = "3" * 40
    server.commits["3" * 40] = shutil.copytree(server.commits[FIRST], tmp_path / "third")
    unet = new_unet({"block_out_channels": (8, 16), "norm_num_groups": 4}, SHAPE)
    unet.save_pretrained(tmp_path / "third" / "unet")
    hub_model.cache_clear()
    assert Artifacts.open(config).samples(BASE).fingerprint != artifacts.samples(BASE).fingerprint
    with pytest.raises(UserError, match=r"^dpm\.base: .* has no revision v9"):
        Artifacts.open(base_of("v9")).samples(BASE)
