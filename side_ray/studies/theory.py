"""The paper's theoretical quantities of a DPM (densities, latents, effect of labels): theory.json, figures and a text."""

import math
from typing import Any

import numpy as np

from side_ray.algorithm import run_until
from side_ray.config import Config
from side_ray.diffusion.condition import condition_labels
from side_ray.diffusion.dpm import load_dpm, variance_preserving
from side_ray.diffusion.noise_process import add_noise
from side_ray.diffusion.sampler import Noise
from side_ray.diffusion.unet_dpm import UnetDpm
from side_ray.errors import UserError
from side_ray.execution.audit import Audit
from side_ray.execution.progress import Reporter
from side_ray.execution.repair import mending
from side_ray.execution.shard_pool import run_shards
from side_ray.images import ImageSet, to_float
from side_ray.report.theory import theory_figures, theory_text, verdicts
from side_ray.runs.dataset import read_split
from side_ray.runs.shards import ShardSet
from side_ray.stages.train_dpm import classes_of_members
from side_ray.studies.theory_worker import Kind, TheoryJob, TheorySpec, TheoryWorker, noise_seeds
from side_ray.surrogate.labels import cluster_labels, pixel_features
from side_ray.theory.latents import analyse
from side_ray.theory.measures import (
    Estimate,
    mixture_divergence,
    point_memorization_of_samples,
    semantic_memorization_of_samples,
)

SCHEMA = 1


def run_theory(config: Config, reporter: Reporter) -> list[str]:
    """Make the DPM if it does not exist, and compute the theory on it. Returns lines for the terminal."""
    audit = Audit.open(config, reporter)
    found = mending(audit, lambda: theory(run_until("train_dpm", config, reporter)))
    return [*verdicts(found), f"theory: {audit.run.store.uri}/{audit.artifacts.theory.key}/theory.md"]


def theory(audit: Audit) -> dict[str, Any]:
    """Compute what is missing. Returns the content of theory.json.

    Raises:
        UserError: a timestep or a number of classes is out of range, or the DPM is an imported class-conditional model,
            for which the training classes are unknown.
        RunError: some shards failed. All others are kept.
    """
    target = audit.artifacts.theory
    if not audit.has(target, content=True):
        study = _Study(audit)
        study.compute()
        found = study.results()
        target.write_json("theory.json", found)
        for figure in theory_figures(found):
            target.write(f"{figure.name}.svg", figure.svg.encode())
        target.write("theory.md", theory_text(found).encode())
        target.finish(images=found["images"])
    audit.run.point_latest(theory=target.key)
    return target.read_json("theory.json")


class _Study:
    """One DPM and the members that represent its training set."""

    def __init__(self, audit: Audit) -> None:
        self.audit, self.config, self.artifacts = audit, audit.config, audit.artifacts
        config, artifacts = self.config, self.artifacts
        self.settings = config.theory
        store, prepared = artifacts.run.store, artifacts.prepare
        self.dpm = variance_preserving(load_dpm(artifacts.dpm.fetch(), code=artifacts.config.dpm.function is not None))
        last = self.dpm.num_train_timesteps - 1
        if max(self.settings.timesteps) > last:
            raise UserError(
                f"theory.timesteps: {max(self.settings.timesteps)} is beyond this model's last timestep {last}"
            )
        self.members = prepared.info()["member"]
        order = np.random.default_rng([config.run.seed, 6]).permutation(self.members)
        self.ids = np.sort(order[: self.settings.images])
        self.images: ImageSet = read_split(store, prepared.key, "member", ids=self.ids.tolist())
        self.classes = self._classes()
        self.jobs = self._jobs()

    def _classes(self) -> np.ndarray | None:
        """The class condition of each image, int64 [N]; None for an unconditional model."""
        if self.dpm.num_classes is None:
            return None
        dpm = self.config.dpm
        if dpm.condition == "none":
            raise UserError(
                "theory: the imported model is class-conditional, and the class of each training image is unknown; "
                "train a model (dpm.condition) or import an unconditional one"
            )
        if dpm.condition == "labels":
            return classes_of_members(self.images.labels, len(self.images), dpm, self.config.run.seed)
        labels = condition_labels(dpm.condition, None, self.members, dpm.condition_classes, self.config.run.seed)
        assert labels is not None
        return labels[self.ids]

    def _jobs(self) -> list[TheoryJob]:
        artifact, points = self.artifacts.theory, self.settings.points

        def job(kind: Kind, name: str, wanted: int, epsilon: float = 0.0) -> TheoryJob:
            rows = min(self.settings.batch_size, wanted)
            output = ShardSet(artifact.store, f"{artifact.key}/{name}", artifact.fingerprint, rows)
            return TheoryJob(output, math.ceil(wanted / rows), kind, wanted, epsilon)

        jobs = [job("data", f"data/epsilon={each!r}", points, each) for each in self.epsilons]
        if self.classes is None:
            jobs.append(job("model", "model", points))
        if isinstance(self.dpm, UnetDpm):
            jobs.append(job("latents", "latents", len(self.ids)))
        return jobs

    @property
    def own_variance(self) -> float:
        """(1−ᾱ_0)/ᾱ_0, the variance of the noise that the model leaves on its images."""
        alpha_bar = float(self.dpm.alphas_cumprod[0])
        return (1 - alpha_bar) / alpha_bar

    @property
    def epsilons(self) -> list[float]:
        """Variances ε of the smoothed training set, ascending: those of the config and `own_variance`."""
        return sorted({*self.settings.epsilons, self.own_variance})

    def compute(self) -> None:
        """Make the missing shards."""
        run_shards(self.audit, TheoryWorker, self.jobs, self._spec, "theory", "points")

    def _spec(self) -> TheorySpec:
        return TheorySpec(
            self.audit.run.store,
            self.artifacts.prepare.key,
            self.artifacts.dpm,
            self.jobs,
            self.settings,
            self.ids.tolist(),
            None if self.classes is None else self.classes.tolist(),
            self.config.run.seed,
            self.config.cluster.actor_cpus,
            self.config.dpm.function is not None,
        )

    def results(self) -> dict[str, Any]:
        """The content of theory.json."""
        d = math.prod(self.dpm.image_shape)
        points = to_float(self.images.images).flatten(1).double().numpy()
        model = next((job for job in self.jobs if job.kind == "model"), None)
        return {
            "schema": SCHEMA,
            "dpm": self.artifacts.dpm.key,
            "kind": self.config.dpm.kind,
            "condition": self.config.dpm.condition,
            "images": len(self.ids),
            "members": self.members,
            "dimension": d,
            "points": self.settings.points,
            "ode_steps": self.settings.ode_steps,
            "probes": self.settings.probes,
            "own_variance": self.own_variance,
            "divergence": [self._divergence(job, d) for job in self.jobs if job.kind == "data"],
            "point_memorization": None if model is None else self._point_memorization(model, points),
            "latents": list(self._latents()),
        }

    def _table(self, job: TheoryJob, column: str) -> np.ndarray:
        found = job.output.read_first(job.shards, [column]).column(column)
        rows = found.slice(0, job.wanted).combine_chunks()
        if hasattr(rows.type, "list_size"):
            return rows.flatten().to_numpy().reshape(job.wanted, rows.type.list_size)
        return rows.to_numpy()

    def _divergence(self, job: TheoryJob, d: int) -> dict[str, Any]:
        """KL(q_ε ‖ p_θ) at one ε."""
        log_q = self._table(job, "log_q")
        found = mixture_divergence(log_q, self._table(job, "log_p"))
        entry: dict[str, Any] = {"epsilon": job.epsilon, **_entry(found), "per_dimension": found.value / d}
        if self.config.dpm.kind == "optimal":
            exact = mixture_divergence(log_q, self._table(job, "log_p_exact"))
            entry["exact"] = _entry(exact)
        return entry

    def _point_memorization(self, job: TheoryJob, points: np.ndarray) -> dict[str, Any]:
        """M_point per training image, from the model's own samples and their density."""
        samples, log_p = self._table(job, "x"), self._table(job, "log_p")
        entries = []
        for epsilon in self.epsilons:
            found = point_memorization_of_samples(samples, log_p, points, epsilon)
            entries.append({"epsilon": epsilon, "value": found.value / len(points), "error": found.error / len(points)})
        entropy = mixture_divergence(np.zeros_like(log_p), log_p)
        return {"entropy": _entry(entropy), "per_image": entries}

    def _latents(self) -> Any:
        """Analyses each latent of the images at each t under every labelling."""
        x0 = to_float(self.images.images)
        labellings = self._labellings()
        for t in self.settings.timesteps:
            noise = Noise(noise_seeds(self.config.run.seed, f"latents/{t}", range(len(x0))), self.dpm.image_shape)
            alpha_bar = float(self.dpm.alphas_cumprod[t])
            levels = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
            x_t = [add_noise(x0, noise.normal(), *levels).flatten(1).numpy() for _ in range(self.settings.draws)]
            yield {"latent": "x_t", "t": t, **self._analysis(np.concatenate(x_t), labellings)}
        for job in self.jobs:
            for t in self.settings.timesteps if job.kind == "latents" else ():
                drawn = np.split(self._table(job, f"t={t}"), self.settings.draws, axis=1)
                entry = {"latent": "middle block", "t": t, **self._analysis(np.concatenate(drawn), labellings)}
                yield entry | self._semantic(t, np.concatenate(drawn))

    def _analysis(self, latents: np.ndarray, labellings: dict[str, np.ndarray]) -> dict[str, Any]:
        repeated = {name: np.tile(labels, self.settings.draws) for name, labels in labellings.items()}
        return analyse(latents, repeated, self.settings.epsilons, self.config.run.seed)

    def _semantic(self, t: int, latents: np.ndarray) -> dict[str, Any]:
        """M_semantic (Eq. 3) per latent, with p_θ(z) the middle block of the model's own samples."""
        model = next((job for job in self.jobs if job.kind == "model"), None)
        if model is None:
            return {}
        drawn = np.concatenate(np.split(self._table(model, f"t={t}"), self.settings.draws, axis=1))
        found = semantic_memorization_of_samples(drawn.astype(np.float64), latents.astype(np.float64))
        return {"semantic_of_samples": found.value / len(latents), "semantic_error": found.error / len(latents)}

    def _labellings(self) -> dict[str, np.ndarray]:
        """The labels of the images under each name, int64 [N]."""
        own, n, seed = self.images.labels, len(self.ids), self.config.run.seed
        labellings: dict[str, np.ndarray] = {}
        if own is not None and (own >= 0).all():
            labellings["true"] = own
        classes = self.settings.classes or (len(np.unique(labellings["true"])) if "true" in labellings else 10)
        if not 2 <= classes <= n:
            raise UserError(f"theory.classes: {classes} classes of {n} images; give 2 to {n}")
        drawn = condition_labels("random", None, n, classes, seed)
        assert drawn is not None
        labellings["random"] = drawn
        labellings["cluster"] = cluster_labels(pixel_features(self.images.images), classes, -1, seed).assignment
        return labellings


def _entry(found: Estimate) -> dict[str, float]:
    return {"value": found.value, "error": found.error}
