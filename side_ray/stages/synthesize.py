"""Step: sample the synthetic set D_synthetic ~ p_θ (Eq. 153), unguided. The surrogate condition is distilled on it."""

from side_ray.errors import UserError
from side_ray.execution.audit import Audit
from side_ray.execution.session import ensure_ray, run_remotely
from side_ray.runs.imported.look import ALIKE, LOOK, LOOKED_AT, UNLIKE, Look, look_at
from side_ray.stages.extract import SamplingJob, run_sampling


def synthesize(audit: Audit) -> None:
    """Sample the synthetic set: λ = 0, stream `synthetic`.

    Raises:
        UserError: see `check_model`.
        RunError: some shards failed. The message names them; all others are written.
    """
    check_model(audit)
    artifacts = audit.artifacts
    job = SamplingJob(artifacts.synthetic, artifacts.synthetic_shards, "synthetic", 0.0, None)
    run_sampling(audit, [job], "synthetic")
    audit.run.point_latest(synthetic=artifacts.synthetic.directory)


def check_model(audit: Audit) -> None:
    """Compare some samples of an imported model with members and unseen images; does nothing if that was done.

    Raises:
        UserError: the samples fit the data only if the model's pixels have another range.
    """
    config, target = audit.config, audit.artifacts.check
    if config.dpm.kind != "import" or not config.dpm.check:
        return
    if not audit.has(target):
        ensure_ray(config.cluster)
        cluster = config.cluster
        found = run_remotely(
            look_at, audit.artifacts, title="dpm.check", cpus=cluster.actor_cpus, gpus=cluster.gpus, retries=3
        )
        target.write_json(LOOK, found)
        target.finish()
    found = target.read_json(LOOK)
    samples, unseen = Look(**found["samples"]), Look(**found["unseen"])
    compared = f"{LOOKED_AT} samples of the model: {samples}; unseen images: {unseen}"
    if found["range"]:
        raise UserError(
            f"{compared}. The samples fit the training images ({Look(**found['fitting'])}) with {found['range']}; set that, or "
            "dpm.check: off to audit the model as it is",
            "dpm.path",
        )
    audit.reporter.say(f"dpm: {compared}")
    if samples.unlike > max(UNLIKE, 2 * unseen.unlike) and samples.distance > ALIKE * unseen.distance:
        audit.reporter.warn(
            "dpm.path: the samples look unlike the training images: the model is weak, or was trained on other images, or in "
            "another range of pixels (dpm.pixel_range); what is not found then may still be in it"
        )
