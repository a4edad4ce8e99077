"""Models of the public collection posteriordb in NumPyro, and its reference draws.

Each model is a function of the data's own fields. Normal distributions are given by their standard
deviation. `load` reads a model's data and 10,000 draws of its posterior, as plain arrays.
"""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints


def eight_schools_noncentered(J, y, sigma):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", J):
        trans = numpyro.sample("theta_trans", dist.Normal(0.0, 1.0))
        theta = numpyro.deterministic("theta", mu + tau * trans)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def eight_schools_centered(J, y, sigma):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", J):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def autoregression(K, T, y):
    alpha = numpyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = numpyro.sample("beta", dist.Normal(0.0, 10.0).expand([K]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    past = jnp.stack([y[K - k : T - k] for k in range(1, K + 1)], axis=-1)
    numpyro.sample("y", dist.Normal(alpha + past @ beta, sigma), obs=y[K:])


def garch11(T, y, sigma1):
    mu = numpyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
    alpha0 = numpyro.sample("alpha0", dist.ImproperUniform(constraints.positive, (), ()))
    alpha1 = numpyro.sample("alpha1", dist.Uniform(0.0, 1.0))
    share = numpyro.sample("share", dist.Uniform(0.0, 1.0))
    beta1 = numpyro.deterministic("beta1", share * (1.0 - alpha1))
    numpyro.factor("flat", jnp.log1p(-alpha1))  # beta1 is flat below 1 - alpha1

    def variance(before, past):
        now = alpha0 + alpha1 * jnp.square(past - mu) + beta1 * before
        return now, now

    first = jnp.square(jnp.asarray(sigma1, y.dtype))
    _, later = jax.lax.scan(variance, first, y[:-1])
    scale = jnp.sqrt(jnp.concatenate([first[None], later]))
    numpyro.sample("y", dist.Normal(mu, scale), obs=y)


def kidscore_interaction(N, kid_score, mom_hs, mom_iq, **_):
    flat = dist.ImproperUniform(constraints.real, (), (4,))
    beta = numpyro.sample("beta", flat)
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    columns = jnp.stack([jnp.ones_like(mom_iq), mom_hs, mom_iq, mom_hs * mom_iq], axis=-1)
    numpyro.sample("kid_score", dist.Normal(columns @ beta, sigma), obs=kid_score)


def linear_regression(N, D, X, y):
    beta = numpyro.sample("beta", dist.Normal(0.0, 10.0).expand([D]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(10.0))
    numpyro.sample("y", dist.Normal(X @ beta, sigma), obs=y)


def gaussian_mixture(N, y):
    mu = numpyro.sample("mu", dist.ImproperUniform(constraints.ordered_vector, (), (2,)))
    numpyro.factor("mu_prior", jnp.sum(dist.Normal(0.0, 2.0).log_prob(mu)))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0).expand([2]).to_event(1))
    theta = numpyro.sample("theta", dist.Beta(5.0, 5.0))
    weights = dist.Categorical(probs=jnp.stack([theta, 1.0 - theta]))
    with numpyro.plate("data", N):
        numpyro.sample("y", dist.MixtureSameFamily(weights, dist.Normal(mu, sigma)), obs=y)


def gaussian_process_poisson(N, x, k, **_):
    rho = numpyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = numpyro.sample("alpha", dist.HalfNormal(2.0))
    f_tilde = numpyro.sample("f_tilde", dist.Normal(0.0, 1.0).expand([N]).to_event(1))
    squares = jnp.square((x[:, None] - x[None]) / rho)
    # In float32 a Cholesky factor wants more than the model's 1e-10 on the diagonal.
    jitter = 1e-10 if x.dtype == jnp.float64 else 1e-6
    covariance = jnp.square(alpha) * (jnp.exp(-0.5 * squares) + jitter * jnp.eye(N, dtype=x.dtype))
    f = numpyro.deterministic("f", jnp.linalg.cholesky(covariance) @ f_tilde)
    numpyro.sample("k", dist.Poisson(jnp.exp(f)), obs=k)


class Reference(NamedTuple):
    """One posterior of the collection.

    Attributes:
        model: the NumPyro model, a function of the data's fields.
        data: name of the data's file, without its endings.
        draws: the same of the reference draws.
        parameters: sites that the draws have.
    """

    model: Callable
    data: str
    draws: str
    parameters: tuple[str, ...]


_SCHOOLS = ("eight_schools", "eight_schools-eight_schools_noncentered", ("mu", "tau", "theta"))
REFERENCES = {
    "eight_schools_noncentered": Reference(eight_schools_noncentered, *_SCHOOLS),
    "eight_schools_centered": Reference(eight_schools_centered, *_SCHOOLS),
    "arK": Reference(autoregression, "arK", "arK-arK", ("alpha", "beta", "sigma")),
    "garch11": Reference(garch11, "garch", "garch-garch11", ("mu", "alpha0", "alpha1", "beta1")),
    "kidscore_interaction": Reference(
        kidscore_interaction, "kidiq", "kidiq-kidscore_interaction", ("beta", "sigma")
    ),
    "blr": Reference(linear_regression, "sblrc", "sblrc-blr", ("beta", "sigma")),
    "low_dim_gauss_mix": Reference(
        gaussian_mixture, "low_dim_gauss_mix", "low_dim_gauss_mix-low_dim_gauss_mix",
        ("mu", "sigma", "theta"),
    ),
    "gp_pois_regr": Reference(
        gaussian_process_poisson, "gp_pois_regr", "gp_pois_regr-gp_pois_regr",
        ("rho", "alpha", "f"),
    ),
}  # fmt: skip


def _read(path: Path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(archive.namelist()[0]))


def files(name: str, directory: str | Path) -> tuple[Path, Path]:
    """Those of a model's data and of its draws.

    Raises:
        ValueError: where one is missing.
    """
    reference = REFERENCES[name]
    ends = f"{reference.data}.data.json.zip", f"{reference.draws}.draws.json.zip"
    data, draws = (Path(directory) / end for end in ends)
    for path in (data, draws):
        if not path.exists():
            raise ValueError(
                f"{path} does not exist; allowed is a directory of posteriordb's files"
            )
    return data, draws


def load(name: str, directory: str | Path) -> tuple[dict, dict[str, np.ndarray]]:
    """The data's fields, whole numbers and float arrays, and the draws: {"mu[1]": [n], ...}.

    Raises:
        ValueError: where a file is missing.
    """
    fields, chains = map(_read, files(name, directory))
    data = {
        field: value if isinstance(value, int) else np.asarray(value, np.float32)
        for field, value in fields.items()
    }
    return data, {key: np.concatenate([c[key] for c in chains]) for key in chains[0]}


def flatten(draws: dict[str, np.ndarray], parameters: tuple[str, ...]) -> dict[str, np.ndarray]:
    """A model's draws {site: [n, ...]} under the collection's names: {"mu[1]": [n], ...}."""
    flat = {}
    for name in parameters:
        values = np.asarray(draws[name])
        if values.ndim == 1:
            flat[name] = values
        else:
            flat |= {f"{name}[{i + 1}]": values[:, i] for i in range(values.shape[1])}
    return flat
