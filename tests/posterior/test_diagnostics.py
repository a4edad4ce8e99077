"""The two-sample test and simulation-based calibration, on samples whose answer is known."""

import numpy as np
import pytest

from avb_jax.posterior import classifier_two_sample_test, ecdf_band, rank_statistics


def test_samples_of_one_density_cannot_be_told_apart():
    """Accuracy ½ within 3 standard errors of 2,000 judgements; shifted by one, Φ(½) = 0.69."""
    rng = np.random.default_rng(0)
    reference, same = rng.normal(size=(2, 1000, 2))
    assert abs(classifier_two_sample_test(same, reference) - 0.5) < 3.0 * 0.5 / 2000**0.5
    moved = classifier_two_sample_test(same + np.array([1.0, 0.0]), reference)
    assert abs(moved - 0.69) < 3.0 * 0.47 / 2000**0.5 + 0.01


@pytest.mark.parametrize(
    ("draws", "message"),
    [(np.zeros((5, 3)), "draws had shape"), (np.full((9, 2), np.nan), "not finite"),
     (np.zeros((6, 2)), "the smaller sample had 6 draws; allowed is 7 or more")],
)  # fmt: skip
def test_bad_samples_are_one_sentence(draws, message):
    with pytest.raises(ValueError, match=message):
        classifier_two_sample_test(draws, np.zeros((9, 2)))


def test_the_fewest_draws_that_are_allowed_are_enough():
    draws, reference = np.random.default_rng(0).normal(size=(2, 7, 2))
    assert 0.0 <= classifier_two_sample_test(draws, reference) <= 1.0


def test_ranks_count_the_draws_below_the_truth():
    draws = np.arange(4.0)[:, None, None] * np.ones((4, 2, 1))
    np.testing.assert_array_equal(rank_statistics(draws, np.array([[-1.0], [2.5]])), [[0], [3]])


def test_the_band_holds_uniform_ranks_as_often_as_it_says():
    """95% of 1,000 fresh curves, within 3 standard errors and one for the band's own."""
    fractions, lower, upper = ecdf_band(100, 50, seed=0)
    ranks = np.random.default_rng(1).integers(0, 51, (1000, 100))
    curves = np.stack([np.bincount(r, minlength=51) for r in ranks]).cumsum(axis=1) / 100
    inside = np.all((curves >= lower - 1e-9) & (curves <= upper + 1e-9), axis=1).mean()
    assert 0.95 - 4.0 * (0.95 * 0.05 / 1000) ** 0.5 < inside
    assert inside < 0.99 and fractions[-1] == 1.0
