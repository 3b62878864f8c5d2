"""An audit without Ray of a latent model: the closed form of the members' latents, with a VAE that loses much of their detail."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from rich.console import Console
from sklearn.datasets import load_digits

import side_ray
from side_ray.algorithm import run_until
from side_ray.diffusion.dpm import load_dpm
from side_ray.diffusion.optimal import OptimalDpm
from side_ray.diffusion.spaces.latents import LatentCodec, LatentStatistics
from side_ray.diffusion.spaces.pixels import PixelCodec
from side_ray.diffusion.spaces.view import LatentView
from side_ray.errors import UserError
from side_ray.execution.privacy import TIMES, LossSpec, LossWorker
from side_ray.execution.progress import Reporter
from side_ray.execution.search_actors import SearchPart
from side_ray.execution.shard_pool import ShardJob
from side_ray.images import decode_column, to_float, to_uint8
from side_ray.results.purge import private
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.cost.sampling import estimate, plan_lines
from side_ray.runs.dataset import read_latents, read_split
from side_ray.runs.plan import Condition
from side_ray.runs.preflight import preflight
from side_ray.search import merge
from side_ray.similarity import similarity_of
from side_ray.stages.prepare import prepare
from side_ray.stages.synthesize import check_model
from side_ray.stages.train_dpm import train_dpm
from side_ray.stages.train_surrogate import StudentRecipe
from side_ray.surrogate.guide import open_surrogate
from side_ray.training.classifier import CleanRecipe
from tests.audits import tiny_config
from tests.bruteforce import check
from tests.latents import trained_vae
from tests.local import audit_here, stages_here

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("undrawn")]

SHAPE = (2, 4, 4)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A directory with the closed form in the latent space of a VAE."""
    directory = tmp_path_factory.mktemp("latent")
    artifacts = stages_here(tiny_config(directory / "members", dpm__kind="optimal"), [prepare])
    members = to_float(read_split(artifacts.run.store, artifacts.prepare.key, "member").images)
    digits = torch.tensor(load_digits().images).float()[:, None] / 8 - 1
    vae = trained_vae(digits, 100)
    latents = LatentCodec.of(vae).encode(members)
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    OptimalDpm(LatentCodec.of(vae).encode(members), DDPMScheduler(clip_sample=False)).save(directory / "model")
    vae.save_pretrained(directory / "model" / "vae")
    return directory / "model"


def changes(model: Path) -> dict:
    return {
        "dpm__kind": "import",
        "dpm__path": str(model),
        "extract__sampler": "ddim",
        "extract__steps": 20,
    }


@pytest.fixture(scope="module")
def audited(model) -> Artifacts:
    return audit_here(model.parent / "run", **changes(model))


def test_what_it_memorised_is_found_and_every_number_agrees(audited):
    metrics = audited.report.read_json("metrics.json")
    assert metrics["verdict"]["outcome"] == "found"
    assert metrics["verdict"]["distinct"] >= 40
    assert check(audited.run.store.uri) == []
    assert audited.check.done


def test_without_reconstructions_the_vae_hides_copies(audited, model):
    with_them = audited.report.read_json("metrics.json")
    ceiling = with_them["reconstructions"]
    assert ceiling["n"] == 60
    assert 0 < ceiling["closest_5_percent"] <= ceiling["median"] <= ceiling["farthest_5_percent"]
    without = audit_here(audited.run.store.uri, **changes(model), score__reconstructions=False)
    blind = without.report.read_json("metrics.json")
    assert blind["reconstructions"] is None
    assert check(without.run.store.uri) == []
    found = [each["conditions"][0]["top_mean"]["0.1"] for each in (with_them, blind)]
    assert found[0] == 0
    assert found[1] > 0.2
    assert without.samples(Condition("random", 0.0)).directory == audited.samples(Condition("random", 0.0)).directory
    # Leaves the newest files as the other tests know them.
    audit_here(audited.run.store.uri, **changes(model))


def test_reconstructions_are_what_the_vae_gives_back(audited):
    codec = load_dpm(audited.dpm.fetch()).codec
    for split, shards in audited.reconstructions.items():
        images = read_split(audited.run.store, audited.prepare.key, split).images
        expected = to_uint8(codec.decode(codec.encode(to_float(images))))
        count = -(-len(images) // shards.rows)
        again = decode_column(shards.read_first(count, ["image"]).column("image"))
        assert np.abs(again.astype(int) - expected.astype(int)).max() <= 1
    page = audited.run.store.read("report.html").decode()
    assert "The VAE loses detail" in page
    removed = {entry.key.split("/")[0] for entry in private(audited.run.store)}
    assert "reconstructions" in removed


def test_parts_of_the_training_set_give_the_same_neighbors_with_reconstructions(audited):
    score, sizes, again = audited.config.score, {"member": audited.sizes["member"]}, audited.reconstructions
    images = decode_column(again["member"].read(0, ["image"]).column("image"))[:20]
    similarity = similarity_of(score)
    queries = similarity.embed(images)

    def found(parts):
        every = [SearchPart(audited.prepare, score, sizes, part, parts, 1, again) for part in range(parts)]
        answers = [each.search("member", queries, 50, None) for each in every]
        return merge([neighbors for neighbors, _ in answers], 50, similarity.metric)

    one, several = found(1), found(3)
    assert one.ids[:, 0].tolist() == list(range(20))
    assert (one.values[:, 0] == 0).all()
    assert np.array_equal(one.ids, several.ids)
    assert np.array_equal(one.values, several.values)
    assert all(len(set(row)) == 50 for row in one.ids.tolist())


def test_the_synthetic_set_keeps_the_latents_of_its_images(audited):
    latents = read_latents(audited.synthetic, audited.synthetic_shards)
    assert (latents.shape, latents.dtype) == ((100, *SHAPE), np.float32)
    codec = load_dpm(audited.dpm.fetch()).codec
    images = decode_column(audited.synthetic.read_first(audited.synthetic_shards, ["image"]).column("image"))
    again = to_uint8(codec.decode(torch.from_numpy(latents)))
    assert np.abs(again.astype(int) - images.astype(int)).max() <= 1
    assert "latent" not in audited.samples(Condition("random", 0.0)).read(0).column_names
    student = open_surrogate(audited.surrogate.child("student").fetch(), 2.0)
    assert student.latents == LatentStatistics.of(latents)
    assert not student.sees_images


def test_its_samples_are_made_again(audited):
    run = side_ray.open_run(audited.run.store.uri)
    assert run.remake("random", 0, 3).identical
    assert run.remake("td", 2, 5).identical


def test_a_plan_counts_the_decoder(audited, model):
    cost = estimate(audited)
    assert cost.decoder_evaluations == cost.samples == 300
    assert cost.decoder_flops > 16 * 16 * 64
    assert cost.flops > cost.unet_evaluations * cost.unet_flops + cost.decoder_evaluations * cost.decoder_flops
    assert any(line.startswith("decoder ") for line in plan_lines(audited))
    through = Artifacts.open(tiny_config(audited.run.store.uri, **changes(model), extract__methods=["random", "ti"]))
    more = estimate(through)
    assert more.decoder_evaluations == more.samples + 4 * more.classifier_evaluations


def test_what_holds_guided_latents_is_in_the_fingerprint_of_ol_ti(audited, model):
    def samples(method, scale, **more):
        config = tiny_config(audited.run.store.uri, **changes(model), **more)
        return Artifacts.open(config).samples(Condition(method, scale)).fingerprint

    assert samples("ti", 1.0) != samples("ti", 1.0, surrogate__synthetic=800)
    assert samples("random", 0.0) == samples("random", 0.0, surrogate__synthetic=800)


def test_another_range_of_the_vaes_pixels_stops_it(model, tmp_path):
    codec = PixelCodec((0.0,), (1.0,))
    digits = torch.tensor(load_digits().images).float()[:, None] / 8 - 1
    space = LatentCodec.of(trained_vae(codec.encode(digits), 100)).with_range(codec)
    artifacts = Artifacts.open(tiny_config(model.parent / "members", dpm__kind="optimal"))
    members = to_float(read_split(artifacts.run.store, artifacts.prepare.key, "member").images)
    OptimalDpm(space.encode(members), DDPMScheduler(clip_sample=False)).save(tmp_path / "model")
    space.vae.save_pretrained(tmp_path / "model" / "vae")
    stages = [prepare, train_dpm, check_model]
    with pytest.raises(UserError, match=r"dpm\.pixel_range: \[0, 1\]"):
        stages_here(tiny_config(tmp_path / "run", **changes(tmp_path / "model")), stages)
    stages_here(tiny_config(tmp_path / "run", **changes(tmp_path / "model"), dpm__pixel_range=[0, 1]), stages)


def test_a_student_learns_latents(audited, tmp_path):
    latents = torch.from_numpy(read_latents(audited.synthetic, audited.synthetic_shards))
    labels = (latents.flatten(1)[:, 0] > latents.flatten(1)[:, 0].median()).long()
    teacher = torch.nn.functional.one_hot(labels, 2).float().numpy()
    dpm = load_dpm(audited.dpm.fetch())
    view = LatentView(dpm.process, LatentStatistics.of(latents.numpy()))
    recipe = StudentRecipe(latents, teacher, view, audited.config.surrogate, 0, torch.device("cpu"))
    optimizer = torch.optim.AdamW(recipe.module.parameters(), lr=1e-2)
    for step in range(200):
        loss = recipe.loss(recipe.module, *recipe.draw(step, slice(0, 64)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    recipe.module.eval()
    info = recipe.export(tmp_path)
    first = info["accuracy"][0]
    assert first["hits"] >= 0.8 * first["count"]
    assert open_surrogate(tmp_path, 1.0).latents == view.latents


def test_ol_ti_keeps_the_statistics_of_the_latents(audited, tmp_path):
    class Few:
        labels, shape, count = torch.tensor([0, 1]), (1, 8, 8), 2

        def close(self):
            pass

        def pieces(self):
            return iter(())

    held = LatentStatistics.standard(2)
    recipe = CleanRecipe(Few(), audited.config.surrogate, 0, torch.device("cpu"), held)
    recipe.export(tmp_path)
    opened = open_surrogate(tmp_path, 1.0)
    assert (opened.latents, opened.sees_images) == (held, True)


def test_denoising_losses_are_of_latents(audited):
    worker = LossWorker(LossSpec(audited.prepare, audited.dpm, ShardJob(audited.synthetic, 1), [], 0, 16, 1, False))
    worker.load()
    store, key = audited.run.store, audited.prepare.key
    members, unseen = (
        worker._losses(to_float(read_split(store, key, split).images)) for split in ("member", "holdout")
    )
    assert members.shape == (60, len(TIMES))
    assert members[:, 0].max() < 1e-3 < unseen[:, 0].min()


def test_densities_and_reconstructions_of_other_models_are_refused(audited, tmp_path):
    from side_ray.diffusion.dpm import variance_preserving

    with pytest.raises(UserError, match="not for latent models"):
        variance_preserving(load_dpm(audited.dpm.fetch()))
    with pytest.raises(UserError, match=r"^score\.reconstructions: is for latent models"):
        preflight(Artifacts.open(tiny_config(tmp_path / "run", score__reconstructions=True)))


@pytest.mark.slow
def test_all_methods_on_ray(ray_session, model, tmp_path):
    few = {
        "cluster": {"train_cpus": 1, "actors": [1, 1]},
        "extract__samples": 100,
        "extract__steps": 8,
        "surrogate__labels": "random",
        "surrogate__steps": 40,
        "surrogate__synthetic": 100,
        "surrogate__ti_steps": 10,
    }
    config = tiny_config(tmp_path / "run", **changes(model) | few)
    artifacts = run_until("report", config, Reporter(Console(quiet=True))).artifacts
    assert check(artifacts.run.store.uri) == []
    metrics = artifacts.report.read_json("metrics.json")
    assert metrics["verdict"]["outcome"] == "found"
    assert {each["method"] for each in metrics["conditions"]} == {"random", "ti", "td"}
    run = side_ray.open_run(artifacts.run.store.uri)
    for method, scale in (("td", 2), ("ti", 1)):
        assert run.remake(method, scale, 7).identical
        guided, plain = (
            artifacts.samples(each).read_first(1, ["image"])
            for each in (Condition(method, scale), Condition("random", 0.0))
        )
        assert not np.array_equal(*(decode_column(each.column("image")) for each in (guided, plain)))
    # A damaged reconstruction and a missing ceiling are made again.
    (Path(artifacts.run.store.uri) / artifacts.reconstructions["holdout"].key(0)).write_bytes(b"x" * 100)
    (Path(artifacts.run.store.uri) / artifacts.ceiling.key / "ceiling.parquet").unlink()
    run_until("report", config, Reporter(Console(quiet=True)))
    assert check(artifacts.run.store.uri) == []
    assert artifacts.ceiling.done


def test_the_contract_of_a_latent_run(audited):
    latest = json.loads(audited.run.store.read("latest.json"))
    assert set(latest["reconstructions"]) == {"split=member", "split=calibration", "split=holdout"}
