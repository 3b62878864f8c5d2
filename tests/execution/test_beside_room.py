"""What runs beside a pool never takes room that the pool may need."""

import pytest

from side_ray.config import ClusterSection
from side_ray.execution.beside.room import spare_actors


@pytest.mark.parametrize(
    ("nodes", "actors", "gpus", "spare"),
    [
        ([{"CPU": 2}], 2, 0, 0),
        ([{"CPU": 8}], 2, 0, 6),
        ([{"CPU": 8}], 20, 0, 0),
        ([{"CPU": 4}, {"CPU": 4}], 5, 0, 3),
        # One node: no sampling actor can start beyond its GPUs.
        ([{"CPU": 8, "GPU": 2}], 20, 1, 6),
        ([{"CPU": 8, "GPU": 2}], 20, 0.5, 4),
        # Several: only the CPUs of nodes without a GPU are safe.
        ([{"CPU": 8, "GPU": 2}, {"CPU": 8, "GPU": 2}], 2, 1, 0),
        ([{"CPU": 8, "GPU": 2}, {"CPU": 16}], 20, 1, 16),
        # The nodes for scoring are lost, or all are.
        ([{"CPU": 4}], 5, 0, 0),
        ([], 1, 1, 0),
    ],
)
def test_only_what_the_pool_can_never_use_is_spare(nodes, actors, gpus, spare):
    assert spare_actors(ClusterSection(actors=(1, actors)), gpus, nodes) == spare
