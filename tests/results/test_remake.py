"""A sample made again from its seed equals the stored one, and what was changed since is noticed."""

import pyarrow.parquet as pq
import pytest

import side_ray
from side_ray.errors import UserError
from side_ray.runs.plan import Condition
from tests.local import audit_here


@pytest.mark.parametrize(("method", "sample_id"), [("random", 0), ("td", 57), ("td", 99)])
def test_a_sample_is_made_again_bit_for_bit(uri, method, sample_id):
    made = side_ray.open_run(uri).remake(method, None, sample_id)
    assert made.identical
    assert made.difference == 0
    assert (made.target is None) == (method == "random")
    assert len(made.weights) == (2 if method == "td" else 1)
    assert "identical: every pixel equals" in str(made)
    assert made.to_json()["seed"] == made.seed


def test_another_image_in_the_file_is_noticed(copied, artifacts):
    """Samples of Random stand where those of SIDE stood."""
    path = copied / artifacts.samples(Condition("td", 2.0)).key(1)
    other = copied / artifacts.samples(Condition("random", 0.0)).key(1)
    schema = pq.read_schema(path)
    table = pq.read_table(other, partitioning=None).replace_schema_metadata(schema.metadata)
    pq.write_table(table, path)
    found = [side_ray.open_run(copied).remake("td", 2, number) for number in range(50, 60)]
    changed = [each for each in found if not each.identical]
    assert changed
    assert "DIFFERENT: " in str(changed[0])
    assert changed[0].to_json()["difference"] > 0


def test_other_weights_are_noticed(copied, artifacts):
    path = copied / artifacts.surrogate.key / "student" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    run = side_ray.open_run(copied)
    with pytest.raises(UserError, match=r"the report names .*: the weights changed"):
        run.remake("td", 2, 0)
    assert run.remake("random", None, 0).identical
    path.unlink()
    with pytest.raises(UserError, match="the weights are no longer there"):
        run.remake("td", 2, 0)


@pytest.mark.long
def test_another_sampler_is_taken_from_the_report(tmp_path):
    audit_here(tmp_path / "run", extract__sampler="ddim", extract__eta=0.5, extract__methods=["random"])
    assert side_ray.open_run(tmp_path / "run").remake("random", 0, 3).identical
