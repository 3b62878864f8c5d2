"""Section `surrogate`: the labels, the student and the OL-TI baseline."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from side_ray.config.base import Batch, Classes, Count, Positive, Real, Section, Side, omitted_by_default


class SurrogateSection(Section):
    """The labels of the synthetic set, and what guides: SIDE's student or LoRA surrogate, and OL-TI."""

    kind: Literal["classifier", "lora"] = omitted_by_default("classifier")
    """What guides as SIDE: a classifier of noisy images, or the DPM itself fine-tuned by LoRA on its own labelled images, which
    costs a second evaluation of the DPM a step (needs the extra `text`)."""
    rank: Annotated[Count, Field(le=1024)] = omitted_by_default(8)
    """Of the LoRA matrices."""
    labels: Literal["cluster", "classifier", "random"] = "cluster"
    """Implicit labels of the synthetic set: clusters of its own images, the predictions of a classifier of the members' labels,
    or random ones."""
    classes: Classes = 100
    """Clusters or random labels; for a classifier this is ignored: it has one class per label of the members."""
    synthetic: Count = 50_000
    """Images sampled from the DPM at λ = 0: the student is trained on them, they are clustered, and they set the calibrated
    cut."""
    features: Literal["pixels", "teacher", "sscd", "clip"] = omitted_by_default("pixels")
    """Features that are clustered: pixel values, a classifier's penultimate layer, SSCD descriptors, or a CLIP image
    encoder's."""
    encoder: str | None = omitted_by_default(None)
    """Local path of the encoder of features sscd (by default `score.checkpoint`) or clip: ONNX, or
    TorchScript with `trust_encoder`."""
    trust_encoder: bool = omitted_by_default(False)
    """Run an encoder in TorchScript, a program that can read and write files: only from a place that you trust."""
    teacher: str | None = omitted_by_default(None)
    """Local path of a classifier's weights in torchvision's layout (resnet18 or resnet34; safetensors, or a state dict as
    torch saves it), used instead of training one on the members' labels."""
    teacher_size: Side | None = omitted_by_default(None)
    """Side that images are resized to for that classifier; by default they are not resized."""
    teacher_input: Literal["imagenet", "symmetric"] = omitted_by_default("imagenet")
    """How it expects pixels: normalized with ImageNet's mean and standard deviation, or from -1 to 1."""
    cohesion: Annotated[Real, Field(ge=-1, lt=1)] = 0.5
    """Minimum mean cosine similarity of a cluster's images to its centroid (centred features); looser clusters are dropped."""
    arch: Literal["small", "resnet18", "resnet34"] = "resnet34"
    """Network of all classifiers; `small` has three residual blocks."""
    stem: Literal["cifar", "imagenet"] = "imagenet"
    """First layers: a 3×3 convolution, for images up to about 64 × 64, or a 7×7 convolution of stride 2 with max-pooling."""
    width: Annotated[Count, Field(le=4096)] = 64
    """Channels of the first stage."""
    loss: Literal["kl", "cross_entropy"] = "kl"
    """Of the student, against the labels' probabilities (Eq. 13) or only the most probable label."""
    temperature: Positive = 1.0
    """Softens both sides of loss kl."""
    steps: Count = 20_000
    """Steps of the student, or of the LoRA surrogate."""
    ti_steps: Count = 5_000
    """Steps of the OL-TI baseline and of the teacher, which are both trained on clean images only."""
    batch_size: Batch = 128
    """Images per step, of all classifiers."""
    lr: Positive = 1e-4
    """Learning rate of AdamW."""
    lr_schedule: Literal["constant", "cosine"] = "constant"
    """Constant, or down to 0 at the last step along half a cosine."""
    weight_decay: Annotated[Real, Field(ge=0)] = 0.01
    """Of AdamW."""
    checkpoint_every: Count = 1000
    """Most steps that a kill may cost."""

    @model_validator(mode="after")
    def _labels_together(self) -> Self:
        clusters = self.labels == "cluster"
        if self.kind != "lora" and self.rank != 8:
            raise ValueError("surrogate.rank: is for surrogate.kind lora; drop it")
        if self.features != "pixels" and not clusters:
            raise ValueError(f"surrogate.features: is for surrogate.labels cluster, not {self.labels}; drop it")
        if self.encoder is not None and self.features not in ("sscd", "clip"):
            raise ValueError("surrogate.encoder: goes with surrogate.features sscd or clip; give one, or drop it")
        if self.trust_encoder and self.encoder is None:
            raise ValueError("surrogate.trust_encoder: goes with surrogate.encoder; give one, or drop it")
        if self.features == "clip" and self.encoder is None:
            raise ValueError(
                "surrogate.encoder: features clip need the path of a CLIP image encoder (ONNX or TorchScript)"
            )
        if self.teacher is not None and self.labels != "classifier" and self.features != "teacher":
            raise ValueError("surrogate.teacher: goes with surrogate.labels classifier or surrogate.features teacher")
        if self.teacher is None and (self.teacher_size is not None or self.teacher_input != "imagenet"):
            raise ValueError(
                "surrogate.teacher_size and teacher_input: go with surrogate.teacher; give its path or drop them"
            )
        return self

    @property
    def wants_labels(self) -> bool:
        """Whether the surrogate's labels are made with the members' labels."""
        return self.teacher is None and (self.labels == "classifier" or self.features == "teacher")
