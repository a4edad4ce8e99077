"""Likelihoods of a trained model."""

from avb_jax.evaluation.ais import (
    AISResult,
    ais_log_likelihood,
    ais_upper_bound,
    bidirectional,
    evaluate_ais,
)
from avb_jax.evaluation.annealing import MESCHEDER2017, AISSettings
from avb_jax.evaluation.bracket import Bracket, elbo_bracket
from avb_jax.evaluation.elbo import elbo_estimate, fit_posterior, fitted_elbo
from avb_jax.evaluation.importance import evaluate_log_likelihood, importance_log_likelihood
from avb_jax.evaluation.iwae import evaluate_iwae, iwae_bound
from avb_jax.evaluation.latent import (
    aggregate_kl,
    describe_posteriors,
    linear_probe_accuracy,
    unit_activities,
)
from avb_jax.evaluation.proposal import (
    Proposal,
    fit_proposal,
    log_density_proposal,
    refit_proposal,
    sample_proposal,
)
from avb_jax.evaluation.quadrature import quadrature_elbo, quadrature_log_likelihood
from avb_jax.evaluation.report import METHODS, EvaluationSettings, evaluate
from avb_jax.evaluation.weights import ImportanceResult, pareto_k

__all__ = [
    "MESCHEDER2017",
    "METHODS",
    "AISResult",
    "AISSettings",
    "Bracket",
    "EvaluationSettings",
    "ImportanceResult",
    "Proposal",
    "aggregate_kl",
    "ais_log_likelihood",
    "ais_upper_bound",
    "bidirectional",
    "describe_posteriors",
    "elbo_bracket",
    "elbo_estimate",
    "evaluate",
    "evaluate_ais",
    "evaluate_iwae",
    "evaluate_log_likelihood",
    "fit_posterior",
    "fit_proposal",
    "fitted_elbo",
    "importance_log_likelihood",
    "iwae_bound",
    "linear_probe_accuracy",
    "log_density_proposal",
    "pareto_k",
    "quadrature_elbo",
    "quadrature_log_likelihood",
    "refit_proposal",
    "sample_proposal",
    "unit_activities",
]
