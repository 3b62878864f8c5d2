"""Time-dependent knowledge distillation (TDKD): the loss of the paper's Eq. 13 (155), and accuracy as a function of the
timestep.

One training step is a function of (seed, step): batch, timesteps and noise of every step come from a random stream of its
own. So a resumed training sees the same data as an uninterrupted one, and ranks agree without communication.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from side_ray.diffusion.spaces.view import LatentView, View
from side_ray.errors import RunError

Loss = Literal["kl", "cross_entropy"]


class Draw(NamedTuple):
    """What one training step draws: rows int64 [B], t int64 [B] in [0, timesteps), eps float32 [B, C, H, W], standard
    normal.
    """

    rows: Tensor
    t: Tensor
    eps: Tensor


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy over the timesteps first ≤ t ≤ last: `hits` of `count` noised images."""

    first: int
    last: int
    hits: int
    count: int

    @property
    def share(self) -> float:
        """Accuracy in [0, 1]."""
        return self.hits / self.count


def draw(seed: int, step: int, batch: int, images: int, shape: tuple[int, ...], timesteps: int) -> Draw:
    """The draws of one training step: rows uniform over [0, images) with replacement, t uniform over [0, timesteps),
    noise of `shape`.

    A pure function of its arguments (numpy's Philox, keyed with seed and step), the same on every machine and in every
    process. In data-parallel training every rank draws the whole batch and takes its own slice.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, step]))
    rows = generator.integers(0, images, batch, dtype=np.int64)
    t = generator.integers(0, timesteps, batch, dtype=np.int64)
    eps = generator.standard_normal((batch, *shape), dtype=np.float32)
    return Draw(torch.from_numpy(rows), torch.from_numpy(t), torch.from_numpy(eps))


def kl(teacher: Tensor, logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over the batch of D_KL(teacher ‖ student), Eq. 13, in nats; 0 exactly where the student agrees with the
    teacher.

    teacher: probabilities [B, K]; logits: the student's, [B, K]. A temperature T ≠ 1 softens both (p^(1/T)
    renormalized, logits / T) and multiplies the result by T², which keeps the size of the gradient (Hinton et al.,
    2015).
    """
    if temperature != 1.0:
        teacher = teacher.pow(1 / temperature)
        teacher = teacher / teacher.sum(dim=1, keepdim=True)
    log_student = functional.log_softmax(logits / temperature, dim=1)
    return functional.kl_div(log_student, teacher, reduction="batchmean") * temperature**2


def cross_entropy(teacher: Tensor, logits: Tensor) -> Tensor:
    """Mean cross-entropy against the teacher's hard labels, its argmax (the loss of arXiv 2410.02467v7). Shapes as in
    `kl`.
    """
    return functional.cross_entropy(logits, teacher.argmax(dim=1))


def distillation_loss(teacher: Tensor, logits: Tensor, loss: Loss, temperature: float = 1.0) -> Tensor:
    """`kl` or `cross_entropy` by name; cross-entropy has no temperature."""
    return kl(teacher, logits, temperature) if loss == "kl" else cross_entropy(teacher, logits)


@torch.no_grad()
def accuracy_by_timestep(
    student: Callable[[Tensor, Tensor], Tensor],
    x0: Tensor,
    labels: Tensor,
    view: View | LatentView,
    *,
    bins: int = 10,
    seed: int = 0,
    batch: int = 512,
) -> list[Accuracy]:
    """How often the student predicts x₀'s label from x_t, for `bins` ranges of t of (nearly) equal width, from small
    t to large.

    Every image counts once in every bin, at a timestep and noise of its own, drawn from `seed`. Give images that the
    student was not trained on. x0: float32 [N, C, H, W]; labels: int64 [N]. A module is evaluated in `eval()` and
    returned to the mode it was in.
    """
    module = student if isinstance(student, nn.Module) else None
    training = module.training if module else False
    if module:
        module.eval()
    edges = np.linspace(0, view.timesteps, bins + 1).round().astype(int)
    curve = []
    for i, (first, end) in enumerate(pairwise(edges)):
        hits = 0
        for j, start in enumerate(range(0, len(x0), batch)):
            clean, truth = x0[start : start + batch], labels[start : start + batch]
            noise = draw(seed, i * len(x0) + j, len(clean), 1, tuple(clean.shape[1:]), int(end - first))
            t, eps = noise.t.to(clean.device) + int(first), noise.eps.to(clean.device)
            hits += int((student(view.noised(clean, t, eps), t).argmax(dim=1) == truth).sum())
        curve.append(Accuracy(int(first), int(end) - 1, hits, len(x0)))
    if module:
        module.train(training)
    return curve


def require_better_than_chance(curve: list[Accuracy], labels: Tensor, significance: float = 1e-3) -> None:
    """Raise RunError if the student's accuracy in the first bin, where x_t is nearly clean, does not beat the best
    constant guess.

    labels: int64 [N], those that `curve` was measured with; the constant guess is their most frequent value. 'Beats' is a
    one-sided binomial test at `significance`. Not for random labels, which cannot be predicted for images that were not
    trained on.
    """
    counts = torch.bincount(labels)
    chance = float(counts.max() / counts.sum())
    first = curve[0]
    if stats.binom.sf(first.hits - 1, first.count, chance) > significance:
        raise RunError(
            f"the student is right for {first.share:.1%} of {first.count} nearly clean images (t ≤ {first.last}), "
            f"which does not beat always guessing the commonest label ({chance:.1%}): train it longer, "
            "use fewer classes, or check the labels"
        )
