import math

import numpy as np
import pytest
from scipy import stats

from side_ray.statistics.evidence.privacy import attack_rates, epsilon_bound, guess, loss_score, privacy_loss


def test_the_bound_is_where_so_many_right_guesses_have_probability_alpha():
    bound = epsilon_bound(250, 300, 0.05)
    assert stats.binom.sf(249, 300, 1 / (1 + np.exp(-bound))) == pytest.approx(0.05)
    assert epsilon_bound(300, 300, 0.05) == pytest.approx(4.6, abs=0.01)
    assert epsilon_bound(160, 300, 0.05) == epsilon_bound(0, 0, 0.05) == 0


@pytest.mark.parametrize("pairs", [10, 75, 100, 300, 301, 1000])
def test_guessing_at_random_shows_nothing_in_95_percent(pairs):
    """The exact probability that some guesser's bound is above 0, added up over the guessers."""
    wrong = 0.0
    for guesses in (pairs, math.ceil(pairs / 4)):
        least = [right for right in range(guesses + 1) if epsilon_bound(right, guesses, 0.05 / 4) > 0]
        wrong += 2 * stats.binom.sf(least[0] - 1, guesses, 0.5) if least else 0.0
    assert 0.0 < wrong <= 0.05


def test_perfect_guesses_show_as_much_as_the_pairs_can():
    rng = np.random.default_rng(0)
    sure = (1 + rng.random(300), rng.random(300))
    found = privacy_loss({"loss": sure, "extraction": sure}, {"loss": sure}, 0)
    assert 3.5 < found["epsilon"] < found["most"] == pytest.approx(4.6, abs=0.01)
    assert found["attacks"]["loss"] == {"auc": 1.0, "tpr_at_fpr_1": 1.0, "tpr_at_fpr_01": None}
    assert privacy_loss({"loss": sure}, {"loss": sure}, 20)["epsilon"] < found["epsilon"] - 1


def test_equal_scores_are_not_guessed_and_the_surest_pairs_are_chosen():
    members, unseen = np.array([3.0, 1, -np.inf, 5, 0]), np.array([2.0, 9, -np.inf, -np.inf, 0])
    every, surest = guess("extraction", members, unseen, 0.05)
    assert (every.guesses, every.right) == (3, 2)
    assert (surest.guesses, surest.right) == (2, 1)


def test_attack_rates_count_ties_as_half_and_need_enough_unseen_images():
    assert attack_rates(np.ones(5), np.ones(5)) == {"auc": 0.5, "tpr_at_fpr_1": None, "tpr_at_fpr_01": None}
    found = attack_rates(np.linspace(0.5, 1.5, 100), np.linspace(0, 1, 1000))
    assert 0 < found["tpr_at_fpr_01"] < found["tpr_at_fpr_1"] < 0.6
    # At most 1 % of the unseen images are above the limit.
    assert found["tpr_at_fpr_1"] == (np.linspace(0.5, 1.5, 100) > np.linspace(0, 1, 1000)[-11]).mean()


def test_ranks_weigh_timesteps_alike():
    losses = np.array([[1.0, 900.0], [2.0, 700.0], [3.0, 800.0]])
    assert loss_score(losses).tolist() == [-2.0, -1.5, -2.5]
