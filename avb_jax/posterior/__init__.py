"""Posterior inference for anybody's log joint density: see `fit` and `fit_numpyro`."""

from avb_jax.posterior.amortized import AmortizedPosterior, fit_amortized
from avb_jax.posterior.coordinates import Start
from avb_jax.posterior.diagnostics import classifier_two_sample_test, ecdf_band, rank_statistics
from avb_jax.posterior.fit import Settings, fit, load
from avb_jax.posterior.fitted import ELBO, Posterior
from avb_jax.posterior.guide import AutoAVB
from avb_jax.posterior.numpyro_models import NumPyroPosterior, fit_numpyro, load_numpyro

__all__ = [
    "ELBO",
    "AmortizedPosterior",
    "AutoAVB",
    "NumPyroPosterior",
    "Posterior",
    "Settings",
    "Start",
    "classifier_two_sample_test",
    "ecdf_band",
    "fit",
    "fit_amortized",
    "fit_numpyro",
    "load",
    "load_numpyro",
    "rank_statistics",
]
