"""A source that is registered from outside the package: one class, and section `data` and the pools know it."""

import json
import pickle

import numpy as np
import pytest

from side_ray.config import DataSection, StorageSection
from side_ray.config.base import Count, Section, omitted_by_default
from side_ray.config.file import parse_config
from side_ray.errors import UserError
from side_ray.sources import SOURCES
from side_ray.sources.base import Record, Source
from side_ray.sources.pools import Description, describe, kind_of, open_pools, open_samples
from tests.audits import tiny_values
from tests.formats import everything, pictures, write_folder, write_parquet


class RawOptions(Section):
    raw_side: Count = omitted_by_default(4)
    """Side of the images."""


class RawSource(Source):
    """Files `*.raw`, each one image of uint8 RGB pixels."""

    Options = RawOptions
    file_pattern = r"\.raw$"

    def __init__(self, files, side):
        self.files, self.uri, self.raw_side = files, files.uri, side

    @classmethod
    def open(cls, place, options):
        return cls(place.files(), options.raw_side)

    labelled = False

    def count(self):
        return len(self.files.listing().names)

    def units(self):
        return iter([{"names": self.files.listing().names.to_pylist()}])

    def read(self, unit, only=None):
        for name in unit["names"]:
            pixels = np.frombuffer(self.files.read(name), np.uint8)
            yield Record(name, pixels.reshape(self.raw_side, self.raw_side, 3))

    def identity(self):
        return f"{self.raw_side}/{self.files.identity()}"


@pytest.fixture
def raw(tmp_path):
    SOURCES.register("raw", RawSource)
    images = pictures(3, (6, 6))
    for number, image in enumerate(images):
        (tmp_path / f"{number}.raw").write_bytes(image.tobytes())
    yield images
    SOURCES.unregister("raw")


def test_a_source_from_outside_is_configured_opened_and_described(raw, tmp_path):
    values = tiny_values(
        "run", data={"source": "raw", "path": str(tmp_path), "raw_side": 6, "members": 2, "holdout": 0}
    )
    values["given"], values["extract"] = {"samples": "x"}, {"methods": ["random"], "lambdas": [0], "samples": 1}
    config = parse_config(values, "audit.yaml")
    pools = open_pools(config.data, config.storage)
    assert describe(config.data, pools) == Description((3,), (6, 6, 3), False)
    found = everything(pickle.loads(pickle.dumps(pools[0])))
    assert (np.stack([record.content for record in found]) == raw).all()
    assert config.data.settings()["raw_side"] == 6
    assert kind_of(str(tmp_path), "data.path", StorageSection()) == "raw"


def test_its_keys_are_checked_like_any_other(raw, tmp_path):
    with pytest.raises(UserError, match=r"data\.raw_side: input should be greater than or equal to 1, not 0"):
        parse_config(tiny_values("run", data__source="raw", data__path="x", data__raw_side=0), "audit.yaml")
    with pytest.raises(UserError, match=r"data\.raw_side: is for data\.source raw, not folder; drop it"):
        parse_config(tiny_values("run", data__source="folder", data__path="x", data__raw_side=6), "audit.yaml")
    with pytest.raises(UserError, match=r"data\.path: source raw needs the path of the images"):
        parse_config(tiny_values("run", data__source="raw"), "audit.yaml")


def test_it_changes_no_fingerprint_of_configs_without_it(raw):
    def dumped():
        return json.dumps(DataSection(source="folder", path="x", members=1, holdout=1).settings(), sort_keys=True)

    with_it = dumped()
    SOURCES.unregister("raw")
    assert dumped() == with_it


@pytest.mark.parametrize("kind", ["raw", "parquet", "folder"])
def test_given_samples_are_recognized(kind, raw, tmp_path):
    (tmp_path / "given").mkdir()
    if kind == "raw":
        (tmp_path / "given" / "0.raw").write_bytes(pictures(1, (4, 4)).tobytes())
    elif kind == "parquet":
        write_parquet(tmp_path / "given" / "a.parquet", pictures(1), None)
    else:
        write_folder(tmp_path / "given", pictures(1), classes=0)
    source = open_samples(str(tmp_path / "given"), StorageSection())
    assert isinstance(source, SOURCES[kind])
    assert source.count() == 1


def test_faults_of_given_samples_name_their_own_key(tmp_path):
    with pytest.raises(UserError, match=r"^given\.samples: there is no image in") as caught:
        open_samples(str(tmp_path), StorageSection())
    assert caught.value.key == "given.samples"
