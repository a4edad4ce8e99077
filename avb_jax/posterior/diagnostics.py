"""How far draws are to be trusted: against reference draws, and by simulated data."""

import warnings

import numpy as np
from numpy.typing import ArrayLike

FOLDS = 5
LEAST_DRAWS = 7  # of either: a tenth of four folds, which stops the training, holds both labels
HIDDEN = 10  # units of each of the classifier's two layers, for each dimension
MOST_DRAWS = 4000  # of either sample, that the classifier sees


def classifier_two_sample_test(draws: ArrayLike, reference: ArrayLike, *, seed: int = 0) -> float:
    """C2ST: held-out accuracy of a classifier of two samples; ½ where they cannot be told apart.

    Lopez-Paz and Oquab, "Revisiting Classifier Two-Sample Tests", ICLR 2017; the network and the
    five folds are those of Lueckmann et al., "Benchmarking Simulation-Based Inference", AISTATS
    2021. Both samples are standardised by the reference's mean and standard deviation, and the
    larger one is cut to the size of the other, at most 4,000.

    Args:
        draws: [n, D].
        reference: [m, D].
        seed: of the choice of draws, the folds and the network.

    Raises:
        ValueError: for arrays of other shapes, draws that are not finite, or less than 7 of them.
    """
    from sklearn.exceptions import ConvergenceWarning  # here: importing the package stays quick
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neural_network import MLPClassifier

    ours, theirs = (np.asarray(a, np.float64) for a in (draws, reference))
    if ours.ndim != 2 or theirs.ndim != 2 or ours.shape[1] != theirs.shape[1]:
        raise ValueError(
            f"draws had shape {ours.shape} and reference {theirs.shape}; allowed are [n, D] "
            "and [m, D]"
        )
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        raise ValueError("draws or reference held values that are not finite")
    rng = np.random.default_rng(seed)
    count = min(len(ours), len(theirs), MOST_DRAWS)
    if count < LEAST_DRAWS:
        raise ValueError(f"the smaller sample had {count} draws; allowed is {LEAST_DRAWS} or more")
    scale = np.where(theirs.std(axis=0) > 0.0, theirs.std(axis=0), 1.0)
    both = [a[rng.permutation(len(a))[:count]] for a in (ours, theirs)]
    x = (np.concatenate(both) - theirs.mean(axis=0)) / scale
    labels = np.repeat([0, 1], count)
    width = HIDDEN * x.shape[1]
    classifier = MLPClassifier((width, width), max_iter=200, early_stopping=True, random_state=seed)
    folds = KFold(FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return float(cross_val_score(classifier, x, labels, cv=folds).mean())


def rank_statistics(draws: ArrayLike, truth: ArrayLike) -> np.ndarray:
    """Of simulation-based calibration: how many of L draws lie below the truth, [n, D].

    Where the posterior is right and the truth was drawn from the prior, ranks are uniform on 0 … L
    (Talts, Betancourt, Simpson, Vehtari and Gelman, arXiv 1804.06788, theorem 1).

    Args:
        draws: [L, n, D], L draws for each of n simulated data sets.
        truth: [n, D], what each data set was made from.
    """
    return np.sum(np.asarray(draws) < np.asarray(truth)[None], axis=0)


def ecdf_band(
    num_simulations: int, num_draws: int, *, coverage: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A simultaneous band of the ECDF of uniform ranks: (fractions, lower, upper), [L + 1] each.

    The narrowest band of equal pointwise probability that all of the ECDF stays in with the given
    probability, by simulation (Säilynoja, Bürkner and Vehtari, "Graphical test for discrete
    uniformity", Statistics and Computing 2022).

    Args:
        num_simulations: n, ranks behind an ECDF.
        num_draws: L, the largest rank.
        coverage: of the band.
        seed: of the simulation.
    """
    from scipy.stats import binom

    rng = np.random.default_rng(seed)
    fractions = np.arange(1, num_draws + 2) / (num_draws + 1)
    ranks = rng.integers(0, num_draws + 1, (2000, num_simulations))
    counts = np.stack([np.bincount(r, minlength=num_draws + 1) for r in ranks]).cumsum(axis=1)
    # A curve's distance from the middle is the least two-sided tail probability along it.
    tails = [binom.cdf(counts, num_simulations, fractions)]
    tails.append(binom.sf(counts - 1, num_simulations, fractions))
    level = np.quantile(np.minimum(*tails)[:, :-1].min(axis=1), 1.0 - coverage)
    lower, upper = (binom.ppf(q, num_simulations, fractions) for q in (level, 1.0 - level))
    return fractions, lower / num_simulations, upper / num_simulations
