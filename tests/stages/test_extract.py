"""The output of a generator depends only on the plan."""

import threading

import numpy as np
import pyarrow as pa
import pytest
import torch

from side_ray.config import ExtractSection
from side_ray.diffusion import draw as drawing
from side_ray.diffusion.draw import DrawSettings
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.optimal import OptimalDpm
from side_ray.images import decode_column
from side_ray.runs.shards import ShardSet
from side_ray.stages import extract
from side_ray.stages.extract import Generator, GeneratorSpec, SamplingJob
from side_ray.storage import open_store
from side_ray.surrogate.resnet import ResNet


@pytest.fixture
def spec(tmp_path):
    """A generator with the closed-form DPM of 12 images and a random classifier of 5 classes, at λ = 0 and 3."""
    images = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    OptimalDpm(images, new_schedule()).save(tmp_path / "dpm")
    torch.manual_seed(1)
    ResNet.preset("small", 5, width=8, in_channels=1, time=True).save(tmp_path / "student")
    store = open_store(str(tmp_path))
    jobs = [
        SamplingJob(ShardSet(store, "random", "f", 10), 2, "extract", 0.0, None),
        SamplingJob(ShardSet(store, "td", "f", 10), 2, "extract", 3.0, "student"),
        SamplingJob(ShardSet(store, "synthetic", "f", 10), 2, "synthetic", 0.0, None),
    ]
    settings = ExtractSection(lambdas=[0, 3], samples=20, shard_size=10, batch_size=4, sampler="ddim", steps=6)
    return GeneratorSpec(store, "dpm", jobs, DrawSettings.of(settings, "fp32"), seed=5, threads=1)


def call(generator: Generator, job: int, shard: int) -> dict:
    row = generator({"job": np.array([job]), "shard": np.array([shard])})
    return {name: value[0] for name, value in row.items()}


def images(spec: GeneratorSpec, job: int, shard: int) -> np.ndarray:
    return decode_column(spec.jobs[job].output.read(shard).column("image"))


def test_a_shard_holds_its_own_sample_ids_seeds_and_targets(spec):
    generator = Generator(spec)
    assert call(generator, 0, 1)["error"] == ""
    assert call(generator, 1, 1)["error"] == ""
    plain, guided = (spec.jobs[g].output.read(1) for g in (0, 1))
    assert plain.column("sample_id").to_pylist() == list(range(10, 20))
    assert plain.column("seed").equals(guided.column("seed"))
    assert plain.column("target").null_count == 10
    assert guided.column("target").to_pylist() == [seed % 5 for seed in guided.column("seed").to_pylist()]
    assert not np.array_equal(images(spec, 0, 1), images(spec, 1, 1))


def test_streams_share_no_seed(spec):
    generator = Generator(spec)
    for group in (0, 2):
        call(generator, group, 0)
    first, second = (set(spec.jobs[g].output.read(0).column("seed").to_pylist()) for g in (0, 2))
    assert not first & second
    assert spec.jobs[2].output.read(0).column_names == ["sample_id", "seed", "image"]


def test_any_actor_and_order_give_the_same_bytes(spec):
    call(Generator(spec), 1, 0)
    first = spec.store.read(spec.jobs[1].output.key(0))
    other = Generator(spec)
    for group, shard in ((0, 1), (1, 1), (1, 0)):
        call(other, group, shard)
    assert spec.store.read(spec.jobs[1].output.key(0)) == first


def test_two_calls_at_once_in_one_actor(spec):
    generator = Generator(spec)
    threads = [threading.Thread(target=call, args=(generator, 1, shard)) for shard in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = [images(spec, 1, shard) for shard in (0, 1)]
    for shard in (0, 1):
        call(Generator(spec), 1, shard)
        assert np.array_equal(images(spec, 1, shard), together[shard])


def test_out_of_memory_halves_the_batch_and_marks_the_shard(spec, monkeypatch):
    real = drawing.sample_latents

    def too_large(dpm, noise, *rest, **settings):
        if noise.shape[0] > 2:
            raise torch.OutOfMemoryError("out of memory")
        return real(dpm, noise, *rest, **settings)

    monkeypatch.setattr(drawing, "sample_latents", too_large)
    row = call(Generator(spec), 0, 0)
    assert row["error"] == ""
    assert "sampled 2 at a time instead of 4" in row["note"]
    assert b"sampled 2 at a time" in spec.jobs[0].output.read(0).schema.metadata[b"side_ray.note"]
    halved = images(spec, 0, 0)
    monkeypatch.undo()
    call(Generator(spec), 0, 0)
    assert np.abs(images(spec, 0, 0).astype(int) - halved).max() <= 1


def test_an_exception_stays_with_its_shard(spec, monkeypatch):
    real = extract.sample_seed
    monkeypatch.setattr(extract, "sample_seed", lambda run, stream, i: 1 // (i != 13) and real(run, stream, i))
    generator = Generator(spec)
    assert call(generator, 0, 1)["error"].startswith("ZeroDivisionError")
    assert not call(generator, 0, 1)["final"]
    assert call(generator, 0, 0)["error"] == ""
    assert spec.jobs[0].output.present() == {0}


def test_a_store_that_refuses_is_final(spec):
    blocked = spec.store.uri + "/random"
    with open(blocked, "w") as file:
        file.write("a file where a directory should be")
    row = call(Generator(spec), 0, 0)
    assert row["final"]
    assert blocked in row["error"]


def test_table_is_plain_parquet_with_huggingface_images(spec):
    call(Generator(spec), 1, 0)
    schema = spec.jobs[1].output.read(0).schema
    assert schema.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert schema.field("sample_id").type == pa.int64()
