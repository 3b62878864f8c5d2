"""Step: sample the synthetic set D_synthetic ~ p_θ (Eq. 153), unguided. The surrogate condition is distilled on it."""

from side_ray.execution.audit import Audit
from side_ray.stages.extract import SamplingJob, run_sampling


def synthesize(audit: Audit) -> None:
    """Sample the synthetic set: λ = 0, stream `synthetic`.

    Raises:
        RunError: some shards failed. The message names them; all others are written.
    """
    artifacts = audit.artifacts
    shards = audit.config.surrogate.synthetic // audit.config.extract.shard_size
    run_sampling(audit, [SamplingJob(artifacts.synthetic, shards, "synthetic", 0.0, None)], "synthetic")
    audit.run.point_latest(synthetic=artifacts.synthetic.directory)
