"""A lower bound on the privacy loss ε of one trained model, from one run (Steinke, Nasr & Jagielski 2023).

Members and unseen images that a fair coin has told apart are paired. Which image of a pair was trained on is guessed from a
score. If the training is ε-differentially private under substitution of one image, every guess is right with probability at most
p = e^ε/(1 + e^ε), whatever the others are, so

    P[at least v of r guesses are right] ≤ P[Binomial(r, p) ≥ v],

and the ε at which that probability is α is a lower bound with confidence 1 − α. The scores, their direction, and the pairs that
no guess is made for are fixed without looking at who is a member. Several guessers share α (Bonferroni).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

ALPHA = 0.05
SHARES = (1.0, 0.25)
"""Shares of the pairs that are guessed: all, and those whose scores differ most."""
TIMES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
"""Timesteps of the denoising loss as shares of T, fixed for every model."""
DRAWS = 4
"""Draws of noise at each, the same for every image."""
LEAST_FOR_LOW_RATE = 1000
"""Unseen images from which the true positive rate at a false positive rate of 0.1 % is given."""


@dataclass(frozen=True)
class Guesser:
    """One way of guessing, and what it shows."""

    score: str
    """`loss` or `extraction`."""
    share: float
    """Of the pairs, those that differ most."""
    guesses: int
    right: int
    epsilon: float
    """At this guesser's part of α."""


def epsilon_bound(right: int, guesses: int, alpha: float) -> float:
    """The largest ε ≥ 0 at which so many right guesses have a probability of at most `alpha`; 0 where chance explains them."""
    if not guesses or stats.binom.sf(right - 1, guesses, 0.5) > alpha:
        return 0.0
    p = float(stats.beta.ppf(alpha, right, guesses - right + 1))
    return max(math.log(p / (1 - p)), 0.0)


def guess(score: str, members: np.ndarray, unseen: np.ndarray, alpha: float, handicap: int = 0) -> list[Guesser]:
    """What one score shows, by share of the pairs that are guessed.

    Args:
        score: its name.
        members, unseen: float64 [P], the score of the member and of the unseen image of each pair; larger = rather a member.
            Pairs with equal scores are not guessed.
        alpha: for all shares together.
        handicap: pairs for which the coin may not have been fair; so many right guesses are not counted.
    """
    differ = np.flatnonzero(members != unseen)
    with np.errstate(invalid="ignore"):
        apart = np.abs(members[differ] - unseen[differ])
    order = differ[np.argsort(-np.where(np.isnan(apart), 0.0, apart), kind="stable")]
    found = []
    for share in SHARES:
        chosen = order[: math.ceil(share * members.size)]
        right = max(int((members[chosen] > unseen[chosen]).sum()) - handicap, 0)
        bound = epsilon_bound(right, chosen.size, alpha / len(SHARES))
        found.append(Guesser(score, share, int(chosen.size), right, bound))
    return found


def attack_rates(members: np.ndarray, unseen: np.ndarray) -> dict[str, float | None]:
    """How well one score tells members from unseen images: the area under the ROC curve, and true positive rates.

    Args:
        members, unseen: float64 [M] and [D], larger = rather a member.

    Returns:
        `auc`, `tpr_at_fpr_1`, and `tpr_at_fpr_01` (None below `LEAST_FOR_LOW_RATE` unseen images), in [0, 1].
    """
    ranks = stats.rankdata(np.concatenate([members, unseen]))[: members.size]
    auc = (ranks.sum() - members.size * (members.size + 1) / 2) / (members.size * unseen.size)
    found: dict[str, float | None] = {"auc": float(auc)}
    for name, rate, least in (("tpr_at_fpr_1", 0.01, 100), ("tpr_at_fpr_01", 0.001, LEAST_FOR_LOW_RATE)):
        limit = np.sort(unseen)[::-1][math.floor(rate * unseen.size)]
        found[name] = float((members > limit).mean()) if unseen.size >= least else None
    return found


def privacy_loss(
    scores: Mapping[str, tuple[np.ndarray, np.ndarray]], rest: Mapping[str, Sequence[np.ndarray]], handicap: int
) -> dict[str, Any]:
    """The entry `privacy` of metrics.json.

    Args:
        scores: by name, those of the member and of the unseen image of each pair, float64 [P] each.
        rest: by name, those of all members and of all unseen images that were scored.
        handicap: see `guess`.

    Returns:
        `epsilon` (the largest of all guessers, 95 %), `most` (what so many pairs can show at best), `pairs`, `handicap`,
        `adjacency`, `guessers`, and `attacks` (by score, `attack_rates`).
    """
    pairs = next(iter(scores.values()))[0].size
    alpha = ALPHA / len(scores)
    guessers = [each for name, found in scores.items() for each in guess(name, *found, alpha, handicap)]
    return {
        "epsilon": max(each.epsilon for each in guessers),
        "most": epsilon_bound(pairs, pairs, ALPHA),
        "pairs": pairs,
        "handicap": handicap,
        "adjacency": "substitution",
        "guessers": [asdict(each) for each in guessers],
        "attacks": {name: attack_rates(*found) for name, found in rest.items()},
    }


def loss_score(losses: np.ndarray) -> np.ndarray:
    """One score per image, from its denoising loss at several timesteps: the mean over timesteps of minus its rank.

    Ranks weigh timesteps alike, whatever the size of the loss there.

    Args:
        losses: float64 [N, T], of members and unseen images together.
    """
    return -stats.rankdata(losses, axis=0).mean(axis=1)
