"""Likelihoods of a trained model."""

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
from avb_jax.evaluation.quadrature import quadrature_log_likelihood
from avb_jax.evaluation.report import elbo_estimate, evaluate

__all__ = [
    "ImportanceResult",
    "Proposal",
    "elbo_estimate",
    "evaluate",
    "evaluate_log_likelihood",
    "fit_proposal",
    "importance_log_likelihood",
    "log_density_proposal",
    "quadrature_log_likelihood",
    "sample_proposal",
]
