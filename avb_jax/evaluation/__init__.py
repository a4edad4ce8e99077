"""Likelihoods of a trained model."""

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
    "Bracket",
    "ImportanceResult",
    "Proposal",
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
