"""The paths of all artifacts of an audit, and the fingerprints of what each depends on. No Ray."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from side_ray.config import Config
from side_ray.config.extract import SIDE
from side_ray.diffusion.denoisers import made_from_members
from side_ray.diffusion.denoisers.layout import vae_in
from side_ray.errors import Damaged, UserError, renamed
from side_ray.images import TURNS
from side_ray.runs.dataset import PartFeatures, StoredFeatures, part_keys
from side_ray.runs.imported.conditions import source_of
from side_ray.runs.imported.opening import Found, find_model, former_identity, identity
from side_ray.runs.plan import Condition, conditions
from side_ray.runs.run import DONE, Artifact, Run
from side_ray.runs.shards import ShardSet, shards_of
from side_ray.similarity.weights import checked_kind
from side_ray.similarity.weights import digest as digest_of_weights
from side_ray.sources.base import Source, newest_of
from side_ray.sources.pools import describe, open_pools, open_samples, shape_by_config, transform_of
from side_ray.sources.reading.files import earlier_identity
from side_ray.sources.select import SPLITS, Split
from side_ray.storage import open_store

# Increase a stage's version when its output changes for the same config; artifacts of older versions are then not used.
VERSIONS = {"prepare": 1, "dpm": 1, "synthetic": 1, "surrogate": 1, "samples": 1, "scores": 5, "strata": 1, "hits": 1}
VERSIONS |= {"report": 10, "theory": 1, "twins": 1, "control": 1, "control_samples": 1, "control_scores": 1, "sweep": 2}
VERSIONS |= {
    "check": 1,
    "privacy": 1,
    "condition": 1,
    "reconstructions": 1,
    "ceiling": 1,
    "features": 1,
    "frechet": 1,
    "latents": 1,
}

CONTROL = "control.json"
STRATA_IMAGES = 2000
"""Images of the synthetic set that the strata are learnt on, rounded up to whole shards."""
PROBED = 500
"""About how many samples are compared after a change too, to find out whether the training changed its images so."""
CEILING_MEMBERS = 256
"""Most members that are compared with themselves after they have lost detail."""
CONTENT = "_content.json"
CUT_EVERY = 2
"""Every second given sample is also used to set the calibrated cut."""


class Artifacts:
    """The artifacts of a config. Each path contains the fingerprint of all that the artifact depends on."""

    def __init__(self, config: Config, run: Run) -> None:
        self.config = config
        self.run = run

    @classmethod
    def open(cls, config: Config) -> "Artifacts":
        """The artifacts of a config in its run directory; nothing is read or written. Raises UserError for an invalid run.uri."""
        store = open_store(config.run.uri, **config.storage.model_dump())
        return cls(config, Run(store))

    def sharing(self, config: Config) -> "Artifacts":
        """The artifacts of a config with the same data and DPM; the fingerprints of these are not computed again."""
        other = Artifacts(config, self.run)
        other.pools, other.prepare, other.dpm, other.latent = self.pools, self.prepare, self.dpm, self.latent
        if config.dpm.base == self.config.dpm.base:
            other.base = self.base
        return other

    @cached_property
    def others(self) -> "dict[str, Artifacts]":
        """The same audit by the similarities of `score.also`: the same samples, with other scores."""
        return {
            name: self.sharing(self.config.model_copy(update={"score": section}))
            for name, section in self.config.score.others.items()
        }

    @property
    def every(self) -> "dict[str, Artifacts]":
        """The audit by each similarity: that of the config first, then `others`."""
        return {self.config.score.similarity: self, **self.others}

    def _artifact(self, stage: str, *parts: Any) -> Artifact:
        return self.run.artifact(stage, VERSIONS[stage], *parts)

    @cached_property
    def pools(self) -> tuple[Source, ...]:
        """The sources that the images come from."""
        return open_pools(self.config.data, self.config.storage)

    @cached_property
    def prepare(self) -> Artifact:
        # The fingerprint covers the content of the sources, not their paths.
        content = [identity for pool in self.pools if (identity := pool.identity()) is not None]
        artifact, earlier = self._artifact("prepare", *self._drawn, *content), self.earlier_prepare
        return earlier if earlier.key != artifact.key and self._holds(earlier, content) else artifact

    @cached_property
    def earlier_prepare(self) -> Artifact:
        """The same images as an earlier version named them, which knew files by name, size and a part of the content."""
        content = [identity for pool in self.pools if (identity := pool.identity()) is not None]
        return self._artifact("prepare", *self._drawn, *map(earlier_identity, content))

    @property
    def _drawn(self) -> tuple[Any, ...]:
        return self.config.data.settings(), self.config.run.seed

    def _holds(self, earlier: Artifact, content: list[str]) -> bool:
        """Whether images prepared by an earlier version, which did not read all content to identify it, are of this content.

        They are if no file was modified since. The content is then recorded, so that later changes are recognized.
        """
        try:
            return bool(earlier.read_json(CONTENT)["content"] == content)
        except (FileNotFoundError, Damaged, KeyError):
            done = {entry.key: entry.mtime for entry in self.run.store.list(earlier.key)}.get(f"{earlier.key}/{DONE}")
            if done is None or max(map(newest_of, self.pools)) >= done:
                return False
        earlier.write_json(CONTENT, {"content": content})
        return True

    @cached_property
    def found(self) -> Found:
        """The files of an imported model."""
        return find_model(self.config)

    @cached_property
    def identity(self) -> list[Any]:
        """What names an imported model."""
        return identity(self.config, self.found)

    @property
    def hub_commit(self) -> str:
        """The commit of a model on the hub; "" for any other."""
        return self.found.commit if self.config.dpm.kind == "import" else ""

    @cached_property
    def dpm(self) -> Artifact:
        dpm = self.config.dpm
        if dpm.kind == "import":
            found, parts = self.found, self.identity
            artifact = self._artifact("dpm", "import", *parts)
            if len(parts) > 1 or artifact.done or next(self.run.store.list("dpm"), None) is None:
                return artifact
            if (known := former_identity(found)) is None:
                return artifact
            earlier = self._artifact("dpm", "import", known)
            return earlier if earlier.done else artifact
        if made := made_from_members(dpm):
            return self._artifact("dpm", dpm.kind, *made.settings(dpm), self.prepare.fingerprint)
        settings = dpm.training_settings()
        if dpm.condition != "random":
            settings.pop("condition_classes", None)
        return self._artifact("dpm", settings, self._precision, self.config.run.seed, self.prepare.fingerprint)

    @cached_property
    def base(self) -> Artifact | None:
        """The model that an imported one was fine-tuned from, named as an imported model is; None without `dpm.base`."""
        if self.config.of_base is None:
            return None
        return self._artifact("dpm", "import", *self.base_identity)

    @cached_property
    def found_base(self) -> Found | None:
        """As `found`, of the base."""
        if self.config.of_base is None:
            return None
        with renamed("dpm.path", "dpm.base"), renamed("dpm.variant", "dpm.base"):
            return find_model(self.config.of_base)

    @cached_property
    def base_identity(self) -> list[Any]:
        """As `identity`, of the base; empty without one."""
        config, found = self.config.of_base, self.found_base
        return [] if config is None or found is None else identity(config, found)

    @property
    def base_commit(self) -> str:
        """As `hub_commit`, of the base."""
        return "" if self.found_base is None else self.found_base.commit

    @property
    def latents(self) -> Artifact | None:
        """The range of a latent model's own latents, which holds what extrapolation from a base model makes; None without that.
        Surrogates keep it themselves."""
        if self.base is None or not self.latent:
            return None
        return self._artifact("latents", *self._synthetic_set)

    @property
    def _synthetic_set(self) -> list[Any]:
        return [self.synthetic.fingerprint, self.config.surrogate.synthetic]

    @cached_property
    def latent(self) -> bool:
        """Whether the model under audit diffuses the latents of a VAE. Only an imported model may."""
        if self.config.dpm.function is not None:
            return self.config.dpm.latent
        return self.config.dpm.kind == "import" and bool(vae_in(self.found.paths))

    @cached_property
    def check(self) -> Artifact:
        """The look at some samples of an imported model beside its training images."""
        return self._artifact("check", *self._sampling, self.prepare.fingerprint)

    @cached_property
    def condition(self) -> Artifact | None:
        """What the conditions of samples are drawn from; None where the config and the model say that."""
        parts = source_of(self.config, self.prepare.fingerprint)
        return None if parts is None else self._artifact("condition", *parts)

    @cached_property
    def given(self) -> Source:
        """The source of the given samples, which take the place of a DPM."""
        assert self.config.given is not None
        return open_samples(self.config.given.samples, self.config.storage, self.config.given.image_column)

    @cached_property
    def synthetic(self) -> ShardSet:
        if self.config.given:
            return self._shards(self._artifact("synthetic", *self._given), self.config.surrogate.synthetic)
        return self._shards(self._artifact("synthetic", "synthetic", *self._sampling))

    @cached_property
    def surrogate(self) -> Artifact:
        paths = {"encoder", "trust_encoder", "teacher"}
        settings = self.config.surrogate.model_dump(mode="json", exclude={"checkpoint_every", *paths})
        weights = [_file_hash(key, path) for key, path in self.config.label_weights.items()]
        if self.config.surrogate.features == "sscd":
            weights.append(self.config.score.option("preprocessing"))
        return self._artifact("surrogate", settings, self.synthetic.fingerprint, self.prepare.fingerprint, *weights)

    def samples(self, condition: Condition) -> ShardSet:
        """The samples of one condition. Random's depend on no classifier, and OL-TI's do not depend on the surrogate labels."""
        if condition.method == "given":
            artifact = self._artifact("samples", *self._given)
            return self._shards(artifact.child(condition.name), self.config.extract.samples)
        classifier: list[Any] = []
        if condition.method in SIDE:
            classifier = [self.surrogate.fingerprint]
        elif condition.method == "ti":
            fields = {"arch", "stem", "width", "ti_steps", "batch_size", "lr", "lr_schedule", "weight_decay"}
            classifier = [self.config.surrogate.model_dump(mode="json", include=fields), self.prepare.fingerprint]
            if self.latent:  # what holds the guided latents comes from the synthetic set
                classifier += self._synthetic_set
        elif condition.method == "base":
            assert self.base is not None
            classifier = [self.base.fingerprint, *(self._synthetic_set if self.latent else [])]
            if self.config.extract.base_interval is not None:
                classifier.append(list(self.config.extract.base_interval))
        interval = self.config.extract.guidance_interval
        if classifier and condition.method != "base" and interval != (0.0, 1.0):
            classifier.append(list(interval))
        artifact = self._artifact("samples", "extract", condition.method, *self._sampling, *classifier)
        return self._shards(artifact.child(condition.name))

    def classifier(self, condition: Condition) -> str | None:
        """Key of the classifier or model that guides a condition; None if it is unguided."""
        if condition.method == "base":
            assert self.base is not None
            return self.base.key
        part = {"td": "student", "lora": "lora", "ti": "ol_ti"}.get(condition.method)
        return self.surrogate.child(part).key if part else None

    def scores(self, condition: Condition) -> ShardSet:
        """Scores of one condition's samples: one shard of scores per shard of samples."""
        # Hits are also counted at the calibrated cut, which depends on the size of the synthetic set and on the rate.
        cut = [self.cut.fingerprint, self.config.surrogate.synthetic, self.config.score.false_match_rate]
        bands = self.config.score.model_dump(mode="json", include={"bands"})
        samples = self.samples(condition)
        artifact = self._artifact("scores", *self._scoring, bands, cut, samples.fingerprint)
        return self._shards(artifact.child(condition.name), samples.total)

    def hits(self, condition: Condition) -> ShardSet:
        """The training images that one condition's samples hit in each band: one file per shard of scores, see `hits_of`."""
        return hits_of(self.run, self.scores(condition), condition)

    @cached_property
    def cut(self) -> ShardSet:
        """Scores of the synthetic set against the calibration images, which set the calibrated cut."""
        artifact = self._artifact("scores", *self._scoring, self.synthetic.fingerprint)
        return self._shards(artifact.child("method=synthetic/lambda=0.0"), self.synthetic.total)

    @cached_property
    def strata(self) -> Artifact:
        """The strata, learnt on the first images of the synthetic set, and the stratum of every image."""
        return self._artifact("strata", *self._scoring, self.synthetic.fingerprint, self.strata_shards)

    @property
    def strata_shards(self) -> int:
        """Number of shards of the synthetic set that the strata are learnt on."""
        return min(self.cut_shards, shards_of(STRATA_IMAGES, self.config.extract.shard_size))

    @cached_property
    def _reconstructed(self) -> Artifact | None:
        if self.config.given or self.config.score.reconstructions is False or not self.latent:
            return None
        parts = self.config.extract.shard_size, self.dpm.fingerprint, self.prepare.fingerprint
        return self._artifact("reconstructions", *parts)

    @property
    def reconstructions(self) -> dict[Split, ShardSet]:
        """The images of each split as a latent model's VAE gives them back; empty where samples are not compared with them."""
        made = self._reconstructed
        if made is None:
            return {}
        return {split: self._shards(made.child(f"split={split}"), self.sizes[split]) for split in SPLITS}

    @cached_property
    def features(self) -> StoredFeatures | None:
        """The stored features of the audit's images; None where the similarity stores none. Raises what `Artifact.info` does."""
        return self._features_in(self.run)

    @cached_property
    def shared_features(self) -> StoredFeatures | None:
        """The same in `score.features_cache`; None without it."""
        uri = self.config.score.features_cache
        if uri is None:
            return None
        return self._features_in(Run(open_store(uri, key="score.features_cache", **self.config.storage.model_dump())))

    def _features_in(self, run: Run) -> StoredFeatures | None:
        if not self.config.score.item("score.similarity").stores_features:
            return None
        version, parts = VERSIONS["features"], len(part_keys(self.prepare))
        made, total = (
            run.artifact("features", version, self._embedding, self.prepare.fingerprint),
            sum(self.sizes.values()),
        )
        rows = max(1, -(-total // parts)) if parts else 1
        images = PartFeatures(made.store, made.key, made.fingerprint, rows, total)
        again = {}
        for split, shards in self.reconstructions.items():
            own = run.artifact("features", version, self._embedding, shards.fingerprint).child(f"split={split}")
            again[split] = ShardSet(own.store, own.key, own.fingerprint, shards.rows, shards.total)
        return StoredFeatures(images, parts, again, self.prepare)

    def sample_features(self, samples: ShardSet) -> ShardSet | None:
        """The stored features of samples, a shard for each of theirs; None where the similarity stores none."""
        if not self.config.score.item("score.similarity").stores_features:
            return None
        flips = ["flips"] if self.config.compares_flips else []
        artifact = self._artifact("features", self._embedding, *flips, samples.fingerprint)
        below = samples.directory.split("/", 2)[2:]
        return self._shards(artifact.child(*below) if below else artifact, samples.total)

    @cached_property
    def ceiling(self) -> Artifact:
        """How similar members are to their reconstructions."""
        return self._artifact("ceiling", *self._scoring)

    @property
    def ceilings(self) -> ShardSet:
        """How similar some members are to themselves after each of `images.LOSSES`, in one shard."""
        count = min(CEILING_MEMBERS, self.sizes["member"])
        made = self._artifact("ceiling", *self._scoring, "losses", self.config.run.seed)
        return ShardSet(made.store, made.key, made.fingerprint, count, count)

    def frechet(self, condition: Condition | None = None) -> Artifact:
        """The Fréchet distance of one condition's samples to the members, or of the unseen images; of stored features."""
        prepared, count = self.prepare.fingerprint, self.config.extract.samples
        if condition is None:
            return self._artifact("frechet", self._embedding, prepared).child("unseen")
        samples = self.samples(condition).fingerprint
        return self._artifact("frechet", self._embedding, prepared, samples, count).child(condition.name)

    def neighborhood(self, split: Split) -> ShardSet:
        """The surroundings of every image of a split: how densely the images of the audit lie there, and the nearest ones."""
        artifact = self._artifact("scores", *self._scoring, "neighborhood")
        return self._shards(artifact.child(f"split={split}"), self.sizes[split])

    def changed(self, condition: Condition, change: str) -> ShardSet:
        """Best matches of one condition's first samples after a change (`probes`)."""
        samples = self.samples(condition)
        artifact = self._artifact("scores", *self._scoring, change, samples.fingerprint)
        return self._shards(artifact.child(condition.name), samples.total)

    @property
    def probes(self) -> list[str]:
        """The changes of `images.CHANGES` after which some samples are compared too, because nobody has said how the training
        changed its images. Raises what `Artifact.info` does, of the prepared images."""
        config = self.config
        found = ["mirrored"] if config.probes_flips else []
        if config.unknown_training and config.score.item("score.similarity").pixel_distances:
            height, width, channels = self.prepare.info()["shape"]
            found += ["upside down", *(TURNS if height == width else ()), *(["red and blue swapped"] * (channels == 3))]
        return found

    @property
    def probe_shards(self) -> int:
        """Number of shards that are compared after each of `probes`."""
        return shards_of(min(PROBED, self.config.extract.samples), self.config.extract.shard_size)

    @property
    def sample_shards(self) -> int:
        """Number of shards of each condition."""
        return shards_of(self.config.extract.samples, self.config.extract.shard_size)

    @property
    def synthetic_shards(self) -> int:
        """Number of shards of the synthetic set."""
        return shards_of(self.config.surrogate.synthetic, self.config.extract.shard_size)

    @property
    def cut_shards(self) -> int:
        """Number of shards of the synthetic set that set the calibrated cut; 0 without unseen images."""
        return self.synthetic_shards if self.config.data.holdout else 0

    @cached_property
    def report(self) -> Artifact:
        scored = (self, *self.others.values())
        parts = [audit.scores(each).fingerprint for audit in scored for each in conditions(self.config)]
        names = [each.name for each in conditions(self.config)]
        unused: Any = dict.fromkeys(("cluster", "storage", "run", "theory", "sweep"), True)
        settings = self.config.model_dump(
            mode="json",
            exclude=unused | {"report": {"tracker"}, "score": {"features_cache"}, "dpm": {"copy_below_gb"}},
        )
        return self._artifact("report", settings, parts, names, self.cut.fingerprint)

    def losses(self, images: list[tuple[str, int]]) -> Artifact:
        """The denoising losses of members and unseen images, given by split and id."""
        return self._artifact("privacy", images, self._precision, self.config.run.seed, self.dpm.fingerprint)

    @cached_property
    def theory(self) -> Artifact:
        """The paper's theoretical quantities of this DPM and its members."""
        settings = self.config.theory.model_dump(mode="json")
        return self._artifact("theory", settings, self.config.run.seed, self.dpm.fingerprint, self.prepare.fingerprint)

    @cached_property
    def control(self) -> Artifact:
        """The control: results of a DPM trained on other images, guided by the same classifiers."""
        assert self.config.control is not None
        settings = self.config.control.model_dump(mode="json")
        parts = [self.scores(each).fingerprint for each in conditions(self.config)]
        return self._artifact("control", settings, parts, self.dpm.fingerprint, self.prepare.fingerprint)

    @property
    def sizes(self) -> dict[Split, int]:
        """Number of images in each split of the prepared data."""
        info = self.prepare.info()
        return {split: info[split] for split in SPLITS}

    @property
    def distinct(self) -> dict[Split, int]:
        """Number of images in each split, with duplicates that count as one counted once."""
        return self.prepare.info().get("distinct") or self.sizes

    def _shards(self, artifact: Artifact, total: int | None = None) -> ShardSet:
        return ShardSet(artifact.store, artifact.key, artifact.fingerprint, self.config.extract.shard_size, total)

    @cached_property
    def _given(self) -> list[Any]:
        assert self.config.given is not None
        transform, column = transform_of(self.config.data).settings(), self.config.given.image_column
        settings = ["given", self.given.identity(), transform, self.config.extract.shard_size]
        return [*settings, column] if column else settings

    @property
    def _precision(self) -> str:
        return self.config.cluster.precision

    @cached_property
    def _sampling(self) -> list[Any]:
        # Includes the batch size, because the last bits of a network's output depend on it.
        parts = [self.config.extract.sampling_settings(), self._precision, self.config.run.seed, self.dpm.fingerprint]
        conditioning = self.config.dpm.conditioning
        return parts + ([conditioning, self.condition and self.condition.fingerprint] if conditioning else [])

    @cached_property
    def _embedding(self) -> dict[str, Any]:
        """What features depend on, beside the images."""
        settings = self.config.score.settings()
        similarity = self.config.score.item("score.similarity")
        for name in similarity.path_keys & settings.keys():
            if settings[name] is not None:
                settings[name] = _file_hash(f"score.{name}", settings[name], similarity.digest)
        del settings["neighbors"]
        return settings

    @cached_property
    def _scoring(self) -> list[Any]:
        settings = {**self.config.score.settings(), **self._embedding}
        flips = ["flips"] if self.config.compares_flips else []
        again = [] if self._reconstructed is None else [self._reconstructed.fingerprint]
        return [settings, self.prepare.fingerprint, *flips, *again]


def hits_of(run: Run, scores: ShardSet, condition: Condition) -> ShardSet:
    """The files of hits that belong to `scores`, one per shard: every training image in a band (Eq. 15). Row counts vary."""
    artifact = run.artifact("hits", VERSIONS["hits"], scores.fingerprint).child(condition.name)
    return ShardSet(artifact.store, artifact.key, artifact.fingerprint, scores.rows)


def check_label_weights(config: Config) -> None:
    """Check that the weight files used for the surrogate's labels can be read, and are trusted. Raises UserError if not."""
    for key, path in config.label_weights.items():
        if key == "surrogate.teacher":
            _file_hash(key, path)
        else:
            checked_kind(Path(path), key, config.trusts(key))


def _file_hash(key: str, path: str, digest: Callable[[str], str] = lambda path: digest_of_weights(Path(path))) -> str:
    """SHA-256 of a weight file, because other weights at the same path make other labels."""
    try:
        return digest(path)
    except OSError:
        raise UserError(f"{path} is not a file that can be read; give the local path of the weights", key) from None


def image_shape(artifacts: Artifacts) -> tuple[int, int, int]:
    """(C, H, W) of the images, from the config if it sets their size, otherwise from the data set.

    Raises:
        UserError: the config does not set the size, and the data set cannot be read.
    """
    if shape := shape_by_config(artifacts.config.data):
        height, width, channels = shape
    elif artifacts.prepare.done:
        height, width, channels = artifacts.prepare.info()["shape"]
    else:
        height, width, channels = describe(artifacts.config.data, artifacts.pools).shape
    return channels, height, width
