import pytest

from side_ray.report.paper.printed import printed


def test_every_printed_table_is_whole():
    assert len(printed("table1")) == 27
    assert [row["lambda"] for row in printed("table4")] == list(range(51))
    assert {row["score"]: row["correlation"] for row in printed("table2")} == {"ams": 0.80, "ums": 0.70}
    for row in printed("table2"):
        assert row["correlation"] ** 2 == pytest.approx(row["r2"], abs=0.01)
