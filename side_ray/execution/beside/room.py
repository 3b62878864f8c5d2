"""How many actors without a GPU fit in a cluster beside a pool, whatever the order in which Ray places them."""

from collections.abc import Mapping, Sequence

from side_ray.config import ClusterSection
from side_ray.execution.session import fitting


def spare_actors(cluster: ClusterSection, gpus: float, nodes: Sequence[Mapping[str, float]]) -> int:
    """Number of actors of `actor_cpus` CPUs and no GPU for which there is room while a pool has its largest size.

    On several nodes with GPUs in use only nodes without one count: there an actor can take no CPU that a member of the pool
    needs, and Ray places work without a GPU there first.

    Args:
        gpus: GPUs that each actor of the pool reserves.
        nodes: `CPU` and `GPU` of each node that is alive.
    """
    most = cluster.actors[1]
    if gpus and len(nodes) > 1:
        return sum(fitting(cluster.actor_cpus, node.get("CPU", 0)) for node in nodes if not node.get("GPU", 0))
    slots = sum(fitting(cluster.actor_cpus, node.get("CPU", 0)) for node in nodes)
    if gpus:
        most = min(most, sum(fitting(gpus, node.get("GPU", 0)) for node in nodes))
    return max(0, slots - most)


def alive_nodes() -> list[dict[str, float]]:
    """The resources of each node of the cluster that is alive."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
