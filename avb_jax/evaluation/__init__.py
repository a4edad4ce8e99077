"""Likelihoods of a trained model."""

from avb_jax.evaluation.ais import AISResult, ais_log_likelihood, ais_upper_bound
from avb_jax.evaluation.annealing import MESCHEDER2017, AISSettings
from avb_jax.evaluation.bracket import Bracket, elbo_bracket
from avb_jax.evaluation.elbo import elbo_estimate, fit_posterior, fitted_elbo
from avb_jax.evaluation.importance import (
    ImportanceResult,
    evaluate_log_likelihood,
    importance_log_likelihood,
)
from avb_jax.evaluation.proposal import (
    Proposal,
    fit_proposal,
    log_density_proposal,
    sample_proposal,
)
from avb_jax.evaluation.quadrature import quadrature_elbo, quadrature_log_likelihood
from avb_jax.evaluation.report import evaluate

__all__ = [
    "MESCHEDER2017",
    "AISResult",
    "AISSettings",
    "Bracket",
    "ImportanceResult",
    "Proposal",
    "ais_log_likelihood",
    "ais_upper_bound",
    "elbo_bracket",
    "elbo_estimate",
    "evaluate",
    "evaluate_log_likelihood",
    "fit_posterior",
    "fit_proposal",
    "fitted_elbo",
    "importance_log_likelihood",
    "log_density_proposal",
    "quadrature_elbo",
    "quadrature_log_likelihood",
    "sample_proposal",
]
