"""Arbitrary configs, overrides and damaged image files: a value, or one bounded line; never another exception."""

import gzip
import json
import os
import shutil
import tempfile
from copy import deepcopy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from side_ray.config import Config, StorageSection
from side_ray.config.file import load_config
from side_ray.diffusion.dpm import load_dpm
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.unet_dpm import new_unet, save_pipeline
from side_ray.errors import LONGEST_LINE, MOST_LINES, UserError, printable
from side_ray.similarity.sscd import Sscd
from side_ray.sources.pools import kind_of
from side_ray.sources.reading.pixels import Transform, Unusable
from side_ray.surrogate.encoders import open_teacher
from side_ray.surrogate.resnet import ResNet, ResNetConfig
from tests.audits import tiny_values
from tests.formats import encoded, everything, pictures, pools, webdataset, write_folder, write_parquet, zipped
from tests.similarity.networks import onnx_model

pytestmark = pytest.mark.slow

CASES = int(os.environ.get("FUZZ_CASES", "2000"))
SETTINGS = settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
PLAIN = tiny_values("run")
PLAIN_TEXT = yaml.safe_dump(PLAIN)
KEYS = sorted(f"{section}.{key}" for section, keys in PLAIN.items() for key in keys)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=30), st.dates(), st.binary(max_size=8)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SCALARS, inner, max_size=4), max_leaves=12
)


def dump(value: object) -> str:
    """As YAML, by libyaml where that can: it refuses halves of surrogate pairs."""
    try:
        return yaml.dump(value, Dumper=yaml.CDumper)
    except UnicodeEncodeError:
        return yaml.dump(value)


def check(error: UserError) -> None:
    lines = str(error).splitlines()
    assert 1 <= len(lines) <= MOST_LINES + 1
    assert all(len(line) <= LONGEST_LINE and line == printable(line) for line in lines)


@SETTINGS
@given(st.dictionaries(st.sampled_from([*KEYS, "x.y", *Config.model_fields]), VALUES, max_size=4), st.text(max_size=40))
def test_configs(changes, rest):
    values = deepcopy(PLAIN)
    for key, value in changes.items():
        section, _, name = key.partition(".")
        if name and isinstance(values.setdefault(section, {}), dict):
            values[section][name] = value
        elif not name:
            values[section] = value
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "audit.yaml"
        dumped = dump(values)
        for text in (dumped, dumped + rest, rest):
            path.write_bytes(text.encode("utf-8", "surrogateescape" if text.isascii() else "ignore"))
            try:
                config = load_config(path)
                path.write_text(config.to_yaml())
                assert load_config(path) == config
            except UserError as error:
                check(error)


@SETTINGS
@given(st.sampled_from(KEYS), VALUES | st.text(alphabet=st.characters(), max_size=60), st.booleans())
def test_overrides(key, value, dumped):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "audit.yaml"
        path.write_text(PLAIN_TEXT)
        try:
            load_config(path, [f"{key}={dump(value) if dumped else value}"])
        except UserError as error:
            check(error)


CONTENTS = [
    encoded(pictures(1)[0], kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
]
CONTENTS += [encoded((pictures(1)[0][:, :, 0].astype(np.uint16)) * 257, kind) for kind in ("PNG", "TIFF")]


def mutated(content: bytes, edits: list[tuple[float, int]], end: float) -> bytes:
    data = bytearray(content)
    for place, byte in edits:
        data[int(place * (len(data) - 1))] = byte
    return bytes(data[: max(1, int(end * len(data)))])


EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6)
END = st.one_of(st.just(1.0), st.floats(0, 1))


@SETTINGS
@given(st.sampled_from(CONTENTS), EDITS, END)
def test_images(content, edits, end):
    try:
        pixels = Transform()(mutated(content, edits, end))
    except Unusable as error:
        check(UserError(str(error)))
    else:
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("files")
    images = pictures(3, (8, 8))
    write_folder(root / "f", images)
    zipped(root / "f", root / "a.zip")
    write_parquet(root / "a.parquet", images, [0, 1, 0])
    (root / "a.tar").write_bytes(webdataset(images, [0, 1, 0]))
    (root / "b.tar.gz").write_bytes(gzip.compress((root / "a.tar").read_bytes(), mtime=0))
    np.savez(root / "a.npz", images, np.arange(3))
    np.save(root / "a.npy", images)
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array([{"bytes": encoded(image), "path": None} for image in images], struct)})
    with pa.ipc.new_stream(str(root / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    return {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()}


@SETTINGS
@given(st.integers(0, 6), EDITS, END)
def test_archives_and_tables(files, number, edits, end):
    name = sorted(files)[number]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / name
        path.write_bytes(mutated(files[name], edits, end))
        try:
            (source,) = pools(kind_of(str(path), "data.path", StorageSection()), path)
            assert source.count() != -1
            everything(source)
            source.left_out()
        except UserError as error:
            check(error)


ROWS = [{"file_name": f"{n:05d}.png", "text": f"picture {n}", "label": n} for n in range(3)]
MANIFESTS = {
    "dataset.json": json.dumps({"labels": [[row["file_name"], row["label"]] for row in ROWS]}),
    "metadata.jsonl": "\n".join(map(json.dumps, ROWS)),
    "metadata.csv": "file_name,label,text\n" + "\n".join(f"{row['file_name']},1,a" for row in ROWS),
    "00001.txt": "a picture",
    "00001.json": json.dumps({"label": 3, "caption": "a picture"}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("folder")
    write_folder(root, pictures(3, (4, 4)), classes=0)
    return root


@SETTINGS
@given(st.sampled_from(sorted(MANIFESTS)), EDITS, END, st.text(max_size=20))
def test_manifests(folder, name, edits, end, rest):
    with tempfile.TemporaryDirectory() as directory:
        for image in folder.iterdir():
            os.link(image, Path(directory) / image.name)
        (Path(directory) / name).write_bytes(mutated(MANIFESTS[name].encode(), edits, end) + rest.encode())
        try:
            everything(pools("folder", directory)[0])
        except UserError as error:
            check(error)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A directory of each kind of weights that is read."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    save_pipeline(new_unet({"norm_num_groups": 8}, (1, 8, 8)), new_schedule("linear", 10).config, root / "pipeline")
    (root / "encoder").mkdir()
    (root / "encoder" / "weights.onnx").write_bytes(onnx_model())
    network = ResNet(ResNetConfig(num_classes=2, blocks=(1, 1, 1, 1), width=4, in_channels=1))
    (root / "teacher").mkdir()
    torch.save(network.state_dict(), root / "teacher" / "weights.pt")
    save_file(network.state_dict(), root / "teacher" / "weights.safetensors")
    return root


@SETTINGS
@given(st.integers(0, 99), EDITS, END)
def test_models(models, number, edits, end):
    files = sorted(path for path in models.rglob("*") if path.is_file())
    chosen = files[number % len(files)].relative_to(models)
    with tempfile.TemporaryDirectory() as directory:
        shutil.copytree(models / chosen.parts[0], Path(directory) / chosen.parts[0])
        path = Path(directory) / chosen
        path.write_bytes(mutated(path.read_bytes(), edits, end))
        try:
            if chosen.parts[0] == "pipeline":
                load_dpm(Path(directory) / "pipeline")
            elif chosen.parts[0] == "encoder":
                Sscd(path, "resize320").embed(pictures(1, (8, 8)))
            else:
                open_teacher(str(path), None, "imagenet")
        except UserError as error:
            check(error)
