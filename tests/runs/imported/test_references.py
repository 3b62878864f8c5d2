"""An imported model whose weights stay where they are: the same numbers, and no sample of another model under its name."""

import os
import shutil
from pathlib import Path

import pytest
import torch

import side_ray
from side_ray.algorithm import run_until
from side_ray.diffusion.dpm import load_dpm
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.unet_dpm import new_unet, save_pipeline
from side_ray.errors import RunError, UserError
from side_ray.execution.audit import Audit
from side_ray.execution.progress import Reporter
from side_ray.execution.repair import check_finished
from side_ray.execution.shard_pool import Task
from side_ray.results.purge import purge
from side_ray.results.recorded import Recorded
from side_ray.results.remake import remake
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.imported.references import FILE
from side_ray.runs.plan import Condition
from side_ray.runs.preflight import preflight
from side_ray.runs.status import rows
from side_ray.stages.extract import Generator, generator_spec, sampling_job
from side_ray.stages.prepare import prepare
from side_ray.stages.synthesize import synthesize
from side_ray.stages.train_dpm import train_dpm
from side_ray.storage import digests, open_store
from tests.audits import tiny_config
from tests.formats import pictures, write_folder
from tests.local import audit_here, stages_here

SHAPE = (1, 8, 8)
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
RANDOM = Condition("random", 0.0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SIDE_RAY_CACHE", str(tmp_path / "cache"))


def save(place: Path, bias: float = 0.0) -> Path:
    torch.manual_seed(0)
    unet = new_unet({"block_out_channels": (8, 16), "norm_num_groups": 4}, SHAPE)
    unet.requires_grad_(False).conv_out.bias.fill_(bias)
    save_pipeline(unet, new_schedule("linear", 50).config, place)
    for path in place.rglob("*"):
        os.utime(path, (1e9, 1e9))
    return place


@pytest.fixture
def model(tmp_path):
    return save(tmp_path / "model")


def config(run, model, **dpm):
    section = {"path": str(model), "copy_below_gb": 0, "check": False, **dpm}
    sizes = {"surrogate__synthetic": 50, "extract__samples": 50, "extract__steps": 2, "extract__methods": ["random"]}
    return tiny_config(run, dpm=section, **sizes)


def imported(run, model, **dpm) -> Artifacts:
    return stages_here(config(run, model, **dpm), [prepare, train_dpm])


def changed_byte(path: Path) -> None:
    """Another byte in a file of the same size and modification time."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


FAULTS = {
    "byte": (changed_byte, "has changed (SHA-256"),
    "shorter": (shortened, "has changed ("),
    "gone": (Path.unlink, "is not there"),
}
faulty = pytest.mark.parametrize(("damage", "words"), FAULTS.values(), ids=FAULTS)


def refused(work, path, words, kind=UserError) -> str:
    with pytest.raises(kind) as caught:
        work()
    text = str(caught.value)
    assert "\n" not in text
    assert f"{path} {words}" in text
    assert os.uname().nodename in text
    assert "put the same file back" in text
    return text


def samples(artifacts: Artifacts) -> list[bytes]:
    return [row["bytes"] for row in artifacts.samples(RANDOM).read(0, ["image"]).column("image").to_pylist()]


# -- the same audit ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def audits(undrawn, tmp_path_factory):
    """The same audit with its model copied and referenced."""
    place = tmp_path_factory.mktemp("audits")
    model = save(place / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIDE_RAY_CACHE", str(place / "cache"))
        sections = {"copied": {}, "referenced": {"copy_below_gb": 0}}
        yield (
            model,
            {
                name: audit_here(place / name, dpm={"path": str(model), "check": False, **dpm}, extract__steps=2)
                for name, dpm in sections.items()
            },
        )


def test_a_referenced_model_gives_the_numbers_and_fingerprints_of_a_copied_one(audits):
    _, found = audits
    copied, referenced = found["copied"], found["referenced"]
    for name in ("dpm", "surrogate", "report"):
        assert getattr(copied, name).key == getattr(referenced, name).key
    assert copied.samples(RANDOM).directory == referenced.samples(RANDOM).directory
    assert samples(copied) == samples(referenced)
    made = [Artifacts.report.func(each).read_json("metrics.json") for each in (copied, referenced)]
    provenance = [each.pop("provenance") for each in made]
    assert made[0] == made[1]
    assert provenance[0]["sha256"] == provenance[1]["sha256"]
    assert any(key.endswith(WEIGHTS) for key in provenance[1]["sha256"])


def test_only_the_configs_are_in_the_run(audits):
    model, found = audits
    kept = {
        name: {entry.key.removeprefix(f"{each.dpm.key}/") for entry in each.run.store.list(each.dpm.key)}
        for name, each in found.items()
    }
    assert kept["copied"] - kept["referenced"] == {WEIGHTS}
    assert kept["referenced"] - kept["copied"] == {FILE}
    held = found["referenced"].dpm.read_json(FILE)["files"]
    assert held == {
        WEIGHTS: {
            "at": str(model / WEIGHTS),
            "size": (model / WEIGHTS).stat().st_size,
            "sha256": found["copied"].dpm.digests()[f"{found['copied'].dpm.key}/{WEIGHTS}"],
        }
    }


@pytest.mark.parametrize("method", ["random", "td"])
def test_a_sample_is_made_again(audits, method):
    _, found = audits
    made = remake(Recorded.open(found["referenced"].run.store), method, None, 3)
    assert made.identical
    assert any(key.endswith(WEIGHTS) for key in made.weights)


def test_without_the_weights_the_run_is_read_and_only_remaking_is_refused(audits, tmp_path, monkeypatch):
    model, found = audits
    there, run = found["referenced"], tmp_path / "run"
    shutil.copytree(there.run.store.uri, run)
    hidden = model.rename(model.with_name("hidden"))
    try:
        opened = side_ray.open_run(str(run))
        store = open_store(str(run))
        assert all(row.left == 0 for row in rows(store, str(run)))
        assert opened.metrics["provenance"]["sha256"]
        refused(lambda: opened.remake("random", None, 3), model / WEIGHTS, "is not there")
        assert purge(store)
    finally:
        hidden.rename(model)


def test_a_list_of_weights_that_is_damaged_is_made_again(audits, tmp_path):
    _, found = audits
    config, run = found["referenced"].config, tmp_path / "run"
    shutil.copytree(found["referenced"].run.store.uri, run)
    section = config.run.model_copy(update={"uri": str(run)})
    audit = Audit.open(config.model_copy(update={"run": section}), Reporter())
    dpm = audit.artifacts.dpm
    check_finished(audit)
    assert dpm.done
    (run / dpm.key / FILE).write_text("{}")
    check_finished(audit)
    assert not dpm.done
    stages_here(audit.config, [train_dpm])
    assert dpm.references() == found["referenced"].dpm.references()


# -- what has changed --------------------------------------------------------------------------------------------------


@faulty
def test_weights_that_changed_are_refused_at_the_start(model, tmp_path, damage, words):
    imported(tmp_path / "run", model)
    preflight(Artifacts.open(config(tmp_path / "run", model)))
    damage(model / WEIGHTS)
    asked = config(tmp_path / "run", model)
    assert refused(lambda: preflight(Artifacts.open(asked)), model / WEIGHTS, words).startswith("dpm.path: ")
    shutil.rmtree(model)
    preflight(Artifacts.open(config(tmp_path / "run", save(model))))


def test_another_model_in_the_same_run_is_none_that_changed(model, tmp_path):
    first = imported(tmp_path / "run", model)
    shutil.rmtree(model)
    other = save(tmp_path / "other", bias=1.0)
    preflight(Artifacts.open(config(tmp_path / "run", other)))
    second = imported(tmp_path / "run", other)
    assert first.dpm.key != second.dpm.key


def generator(artifacts: Artifacts) -> Generator:
    job = sampling_job(RANDOM, artifacts, artifacts.samples(RANDOM))
    return Generator(generator_spec(artifacts, [job]))


@faulty
def test_weights_that_changed_are_refused_by_an_actor_that_opens_them(model, tmp_path, damage, words):
    artifacts = imported(tmp_path / "run", model)
    damage(model / WEIGHTS)
    actor = generator(artifacts)
    refused(lambda: actor.make(Task(0, 0), actor.new_row(Task(0, 0))), model / WEIGHTS, words)
    assert not artifacts.samples(RANDOM).present()


@faulty
def test_weights_that_change_under_an_open_model_make_no_more_samples(model, tmp_path, damage, words):
    artifacts = imported(tmp_path / "run", model)
    actor = generator(artifacts)
    actor.ready()
    damage(model / WEIGHTS)
    refused(lambda: actor.make(Task(0, 0), actor.new_row(Task(0, 0))), model / WEIGHTS, words)
    assert not artifacts.samples(RANDOM).present()


def test_weights_that_are_replaced_by_the_same_are_accepted(model, tmp_path):
    artifacts = imported(tmp_path / "run", model)
    actor = generator(artifacts)
    actor.ready()
    shutil.copy(model / WEIGHTS, tmp_path / "copy")
    (tmp_path / "copy").replace(model / WEIGHTS)
    actor.make(Task(0, 0), actor.new_row(Task(0, 0)))
    assert artifacts.samples(RANDOM).present()


def test_weights_that_change_during_the_import_are_refused(model, tmp_path, monkeypatch):

    for limit in (0, 2):
        run = tmp_path / f"run{limit}"
        audit = Audit.open(config(run, model, copy_below_gb=limit), Reporter())
        stages_here(audit.config, [prepare])
        before = audit.artifacts.dpm
        changed_byte(model / WEIGHTS)
        with pytest.raises(RunError, match=r"dpm\.path: its files changed while they were read"):
            train_dpm(audit)
        assert not before.done


def test_a_model_that_was_moved_is_found_at_its_new_place(model, tmp_path):
    first = imported(tmp_path / "run", model)
    moved = model.rename(tmp_path / "moved")
    preflight(Artifacts.open(config(tmp_path / "run", moved)))
    second = imported(tmp_path / "run", moved)
    assert second.dpm.key == first.dpm.key
    assert [each.at for each in second.dpm.references().files.values()] == [str(moved / WEIGHTS)]
    assert second.dpm.info()["path"] == str(moved)
    generator(second).ready()


@pytest.mark.slow
def test_a_pool_of_actors_stops_and_names_the_file(ray_session, model, tmp_path):
    asked = config(tmp_path / "run", model)
    audit = run_until("train_dpm", asked, Reporter())
    changed_byte(model / WEIGHTS)
    refused(lambda: synthesize(audit), model / WEIGHTS, "has changed (SHA-256", RunError)
    assert not audit.artifacts.synthetic.present()
    changed_byte(model / WEIGHTS)
    assert run_until("synthesize", asked, Reporter()).artifacts.synthetic.present()


# -- reading no more than once -----------------------------------------------------------------------------------------


def test_weights_are_read_once_as_long_as_they_may_not_have_changed(model, tmp_path, monkeypatch):
    real, read = digests.hashlib.file_digest, []

    def counted(file, name):
        read.append(Path(file.name).name)
        return real(file, name)

    monkeypatch.setattr("side_ray.runs.imported.opening.LARGE", 0)
    monkeypatch.setattr("side_ray.storage.digests.SETTLED_NS", -(10**18))
    monkeypatch.setattr("side_ray.storage.digests.hashlib.file_digest", counted)
    run, name = tmp_path / "run", Path(WEIGHTS).name
    for _ in range(2):
        artifacts = imported(run, model)
        preflight(Artifacts.open(config(run, model)))
        for _ in range(2):
            actor = generator(artifacts)
            actor.make(Task(0, 0), actor.new_row(Task(0, 0)))
    assert read.count(name) == 1


# -- other places ------------------------------------------------------------------------------------------------------


CODE = """
import torch

def load(directory):
    scale = torch.load(directory / "scale.pt", weights_only=True)
    bars = torch.linspace(0.99, 0.01, 50, dtype=torch.float64)
    return {"network": lambda x, t: x * scale, "predicts": "epsilon", "alphas_cumprod": bars, "shape": (1, 8, 8)}
"""


@faulty
def test_code_is_copied_and_the_weights_that_it_reads_are_not(tmp_path, damage, words):
    own = tmp_path / "own"
    own.mkdir()
    (own / "my_model.py").write_text(CODE)
    weights = own / "scale.pt"
    torch.save(torch.tensor(0.5), weights)
    artifacts = imported(tmp_path / "run", f"{own / 'my_model.py'}:load", files=[str(weights)])
    kept = {path.name for path in (tmp_path / "run" / artifacts.dpm.key).iterdir()}
    assert "my_model.py" in kept
    assert "scale.pt" not in kept
    assert f"{artifacts.dpm.key}/scale.pt" in artifacts.dpm.digests()
    actor = generator(artifacts)
    actor.ready()
    assert float(actor.dpm.eps(torch.ones(1, 1, 8, 8), torch.tensor([3])).max()) == 0.5
    damage(weights)
    refused(lambda: preflight(Artifacts.open(artifacts.config)), weights, words)
    refused(generator(artifacts).ready, weights, words)


@pytest.mark.long
@pytest.mark.parametrize("damaged", ["unet", "text_encoder", "lora", "base"])
def test_the_parts_of_a_text_model_with_lora_and_base(tmp_path, damaged):
    pytest.importorskip("transformers", reason="needs the extra text")
    pytest.importorskip("peft", reason="needs the extra text")
    from tests.latents import FACTOR, SIDE
    from tests.texts import save_lora, save_text

    save_text(tmp_path / "model")
    save_text(tmp_path / "base")
    lora = save_lora(tmp_path, "diffusers", 2)
    write_folder(tmp_path / "images", pictures(40, (SIDE * FACTOR, SIDE * FACTOR)), classes=1)
    data = {"source": "folder", "path": str(tmp_path / "images"), "members": 20, "holdout": 10}

    def made(run, limit):
        section = {"prompts": "empty", "lora": str(lora), "base": str(tmp_path / "base"), "copy_below_gb": limit}
        asked = config(tmp_path / run, tmp_path / "model", **section)
        return stages_here(asked.model_copy(update={"data": tiny_config("/x", data=data).data}), [prepare, train_dpm])

    copied, referenced = made("copied", 2), made("referenced", 0)
    for name in ("dpm", "base"):
        one, other = getattr(copied, name), getattr(referenced, name)
        assert one.key == other.key
        weights = {key: value for key, value in one.digests().items() if key.endswith(".safetensors")}
        assert weights == {key: value for key, value in other.digests().items() if key.endswith(".safetensors")}
        assert not [entry for entry in other.store.list(other.key) if entry.key.endswith(".safetensors")]
    noise = torch.randn(2, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    first, second = (load_dpm(each.dpm.fetch()) for each in (copied, referenced))
    with torch.no_grad():
        states = [each.encoder(["a flower"] * 2) for each in (first, second)]
    assert torch.equal(*states)
    assert torch.equal(*(each.eps(noise, torch.tensor([3, 3]), states[0]) for each in (first, second)))
    place = {"lora": lora, "base": tmp_path / "base" / WEIGHTS}.get(damaged)
    place = place or next((tmp_path / "model" / damaged).glob("*.safetensors"))
    changed_byte(place)
    refused(lambda: preflight(Artifacts.open(referenced.config)), place, "has changed (SHA-256")
    refused((referenced.base if damaged == "base" else referenced.dpm).fetch, place, "has changed (SHA-256")


@pytest.mark.server
@faulty
def test_weights_in_object_storage_are_downloaded_once_and_checked(s3, model, tmp_path, damage, words):
    uri = f"s3://{s3.bucket}/{tmp_path.name}/model"
    store = open_store(uri)
    store.put_dir(model, "")
    artifacts = imported(tmp_path / "run", uri)
    assert artifacts.dpm.key == imported(tmp_path / "local", model).dpm.key
    assert [each.at for each in artifacts.dpm.references().files.values()] == [f"{uri}/{WEIGHTS}"]
    before = {path for path in Path(os.environ["SIDE_RAY_CACHE"]).rglob("*.safetensors") if not path.is_symlink()}
    generator(artifacts).ready()
    after = {path for path in Path(os.environ["SIDE_RAY_CACHE"]).rglob("*.safetensors") if not path.is_symlink()}
    assert before == after
    assert len(after) == 1
    damage(model / WEIGHTS)
    if (model / WEIGHTS).exists():
        store.put_file(model / WEIGHTS, WEIGHTS)
    else:
        store.delete(WEIGHTS)
    refused(generator(artifacts).ready, f"{uri}/{WEIGHTS}", words)
    refused(lambda: preflight(Artifacts.open(config(tmp_path / "run", uri))), f"{uri}/{WEIGHTS}", words)
