"""The methods that are compared, and how far their draws are from a reference's."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO, autoguide

from avb_jax import posterior

GUIDES = {
    "mean-field": autoguide.AutoNormal,
    "full-rank": autoguide.AutoMultivariateNormal,
    "iaf": autoguide.AutoIAFNormal,
    "bnaf": autoguide.AutoBNAFNormal,
}
METHODS = ("avb", "avb-sampler", *GUIDES, "nuts")
GUIDE_STEPS, GUIDE_RATE = 5000, 5e-3
WARMUP = 1000  # moves of each chain


def run_nuts(
    model: Callable,
    data: dict,
    key: jax.Array,
    count: int,
    chains: int = 1,
    thinning: int = 1,
    **options: Any,
) -> dict:
    """NUTS's draws by chain, {site: [chains, count, ...]}; the options are those of `NUTS`."""
    mcmc = MCMC(
        NUTS(model, **options), num_warmup=WARMUP, num_samples=count * thinning, thinning=thinning,
        num_chains=chains, chain_method="vectorized", progress_bar=chains == 1,
    )  # fmt: skip
    mcmc.run(key, **data)
    return mcmc.get_samples(group_by_chain=True)


def draw(
    method: str,
    model: Callable,
    data: dict,
    key: jax.Array,
    count: int,
    settings: posterior.Settings,
) -> dict:
    """Draws of the method's posterior, {site: [n, ...]}; the settings are AVB's."""
    fit_key, key = jax.random.split(key)
    if method.startswith("avb"):
        if method == "avb-sampler":
            settings = settings._replace(transitions=0)
        fit = posterior.fit_numpyro(model, key=fit_key, settings=settings, progress=True, **data)
        return fit.sample(key, count)
    if method == "nuts":
        chains = run_nuts(model, data, fit_key, count)
        return {site: values[0] for site, values in chains.items()}
    guide = GUIDES[method](model)
    svi = SVI(model, guide, optax.adam(GUIDE_RATE), Trace_ELBO(num_particles=8))
    found = svi.run(fit_key, GUIDE_STEPS, progress_bar=True, **data)
    return guide.sample_posterior(key, found.params, sample_shape=(count,))


def moment_errors(draws: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far means and standard deviations of draws [n, D] are from the reference's [m, D].

    Both [D], in the reference's standard deviations.
    """
    scale = reference.std(axis=0)
    means = np.abs(draws.mean(axis=0) - reference.mean(axis=0)) / scale
    return means, np.abs(draws.std(axis=0) / scale - 1.0)


def largest_errors(draws: np.ndarray, reference: np.ndarray, seed: int) -> dict[str, float]:
    """The largest over parameters, in the reference's standard deviations, and C2ST."""
    means, spreads = moment_errors(draws, reference)
    levels = (0.05, 0.95)
    apart = np.quantile(draws, levels, axis=0) - np.quantile(reference, levels, axis=0)
    return {
        "mean": np.max(means),
        "spread": np.max(spreads),
        "quantiles": np.max(np.abs(apart) / reference.std(axis=0)),
        "c2st": posterior.classifier_two_sample_test(draws, reference, seed=seed),
    }
