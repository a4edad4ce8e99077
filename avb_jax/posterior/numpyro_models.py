"""`fit_numpyro` and `AutoAVB`: implicit posteriors of NumPyro models, in their own spaces."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from avb_jax.posterior.fit import DEFAULTS, Settings, fit
from avb_jax.posterior.fitted import Posterior
from avb_jax.types import Array, Key

Draws = dict[str, Array]


class NumPyroPosterior:
    """The posterior of a NumPyro model. Made by `fit_numpyro`.

    Attributes:
        flat: the `Posterior` of the flat unconstrained vector.
        log_joint: its density: z [D] -> nats.
    """

    def __init__(self, flat: Posterior, model: Callable, space: "_Space", arguments: tuple):
        self.flat, self.log_joint = flat, space.log_joint
        self._model, self._space, self._arguments = model, space, arguments

    def sample(self, key: Key, num_samples: int = 1000) -> Draws:
        """Draws in the model's own space, deterministic sites too: {site: [n, ...]}."""
        return self._space.constrain(self.flat.sample(key, num_samples))

    def to_arviz(self, key: Key, num_samples: int = 1000) -> Any:
        """Draws as `arviz.InferenceData`, one chain of n.

        Its groups: posterior, log_likelihood, posterior_predictive, observed_data, and
        sample_stats with `lp`, the log density of the unconstrained draws, nats.
        """
        import warnings

        from numpyro.infer import Predictive, log_likelihood

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # ArviZ announces its next version
            import arviz as az
        keys = jax.random.split(key)
        z = self.flat.sample(keys[0], num_samples)
        draws, (args, kwargs) = self._space.constrain(z), self._arguments
        latent = {name: draws[name] for name in self._space.latent}
        observed = self._space.observed
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            terms = log_likelihood(self._model, latent, *args, **kwargs)
            bare = _without(kwargs, observed)
            predicted = Predictive(self._model, latent)(keys[1], *args, **bare)
        lp = jax.jit(jax.vmap(self.log_joint))(z)
        one_chain = {
            "posterior": draws,
            "log_likelihood": {name: terms[name] for name in observed},
            "posterior_predictive": {name: predicted[name] for name in observed},
            "sample_stats": {"lp": lp},
        }
        groups: dict[str, Any] = {
            group: {name: np.asarray(value)[None] for name, value in values.items()}
            for group, values in one_chain.items()
        }
        return az.from_dict(**groups, observed_data={k: np.asarray(v) for k, v in observed.items()})


def _without(kwargs: dict, observed: dict) -> dict:
    """The arguments with None for those that are the observations themselves."""
    same = {
        name for name, value in kwargs.items()
        for seen in observed.values() if value is seen
    }  # fmt: skip
    return {name: None if name in same else value for name, value in kwargs.items()}


class _Space:
    """A model's unconstrained space, by NumPyro's own transforms."""

    def __init__(self, model: Callable, key: Key, args: tuple, kwargs: dict):
        from jax.flatten_util import ravel_pytree
        from numpyro.infer.util import initialize_model

        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            _check_sites(model, key, args, kwargs)
            found = initialize_model(key, model, model_args=args, model_kwargs=kwargs)
        flat, self._unravel = ravel_pytree(found.param_info.z)
        self._potential, self._postprocess = found.potential_fn, found.postprocess_fn
        self.dim, self.latent = flat.size, tuple(found.param_info.z)
        self.observed = {
            name: site["value"] for name, site in found.model_trace.items() if _is_data(site)
        }

    def log_joint(self, z: Array) -> Array:
        """z [D] -> log density of the unconstrained latents, nats."""
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return -self._potential(self._unravel(z))

    def constrain(self, z: Array) -> Draws:
        """z [n, D] -> {site: [n, ...]}."""
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return jax.jit(jax.vmap(lambda z: self._postprocess(self._unravel(z))))(z)


def _is_data(site: dict) -> bool:
    """Whether it is observed, and no `numpyro.factor`."""
    import numpyro.distributions as dist

    observed = site["type"] == "sample" and site["is_observed"]
    return observed and not isinstance(site["fn"], dist.Unit)


def _check_sites(model: Callable, key: Key, args: tuple, kwargs: dict) -> None:
    """Raises ValueError for a model without latents, or with discrete ones."""
    from numpyro import handlers
    from numpyro.infer import init_to_uniform

    started = handlers.substitute(handlers.seed(model, key), substitute_fn=init_to_uniform)
    trace = handlers.trace(started).get_trace(*args, **kwargs)
    latent = {
        name: site for name, site in trace.items()
        if site["type"] == "sample" and not site["is_observed"]
    }  # fmt: skip
    if not latent:
        raise ValueError("the model has no latent site; allowed is one with continuous latents")
    discrete = [name for name, site in latent.items() if site["fn"].support.is_discrete]
    if discrete:
        raise ValueError(
            f"the model's sites {', '.join(discrete)} are discrete; allowed are continuous "
            "latents: sum the discrete ones out"
        )


def fit_numpyro(
    model: Callable,
    *args: Any,
    key: Key | None = None,
    settings: Settings = DEFAULTS,
    progress: bool = False,
    **kwargs: Any,
) -> NumPyroPosterior:
    """`fit`, of a NumPyro model as it is.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> import avb_jax as avb
        >>> def model(y=None):
        ...     mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        ...     sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
        ...     numpyro.sample("y", dist.Normal(mu, sigma).expand([4]), obs=y)
        >>> quick = avb.posterior.Settings(num_steps=100, num_samples=64, transitions=4)
        >>> y = jnp.array([0.1, 0.5, -0.3, 0.7])
        >>> fit = avb.posterior.fit_numpyro(model, y=y, settings=quick)
        >>> data = fit.to_arviz(jax.random.key(1), 500)
        >>> import arviz as az
        >>> axes = az.plot_pair(data, var_names=["mu", "sigma"])

    Args:
        model: a function with NumPyro's primitives, all of whose latents are continuous.
        *args: the model's own.
        **kwargs: the model's own. Observations given by name are left out, as None, where
            `to_arviz` predicts new ones.
        key: the same key gives the same posterior; key(0) where unset.
        settings: see `Settings`.
        progress: whether to show a bar.

    Raises:
        ValueError: for a model without latents or with discrete ones, and as `fit`.
        FloatingPointError: as `fit`.
    """
    keys = jax.random.split(jax.random.key(0) if key is None else key)
    space = _Space(model, keys[0], args, kwargs)
    flat = fit(space.log_joint, space.dim, keys[1], settings=settings, progress=progress)
    return NumPyroPosterior(flat, model, space, (args, kwargs))


class AutoAVB:
    """A guide with the interface of NumPyro's automatic ones, for what needs draws alone.

    `fit` takes the place of SVI, whose loss needs a density that an implicit guide has not;
    `numpyro.infer.Predictive(model, guide=guide, params={}, num_samples=n)` works after it.

    Args:
        model: as for `fit_numpyro`.
        settings: see `Settings`.
    """

    def __init__(self, model: Callable, *, settings: Settings = DEFAULTS):
        self.model, self.settings = model, settings
        self._posterior: NumPyroPosterior | None = None

    def fit(self, key: Key, *args: Any, progress: bool = False, **kwargs: Any) -> "AutoAVB":
        """Fits the posterior, given the model's own arguments; returns the guide."""
        self._posterior = fit_numpyro(
            self.model, *args, key=key, settings=self.settings, progress=progress, **kwargs
        )
        return self

    @property
    def posterior(self) -> NumPyroPosterior:
        """What was fitted; raises ValueError where nothing was."""
        if self._posterior is None:
            raise ValueError("the guide is not fitted yet; call fit(key, ...) first")
        return self._posterior

    def __call__(self, *args: Any, **kwargs: Any) -> Draws:
        """One draw, its latents registered as the guide's sites."""
        import numpyro
        import numpyro.distributions as dist
        from numpyro import handlers

        latent, key = self.posterior._space.latent, numpyro.prng_key()
        with handlers.block():  # the density that moves the draws runs the model too
            draws = self.sample_posterior(key, sample_shape=())
        return {
            name: numpyro.sample(name, dist.Delta(draws[name], event_dim=draws[name].ndim))
            for name in latent
        }

    def sample_posterior(self, key: Key, params: Any = None, *, sample_shape: tuple = ()) -> Draws:
        """Draws in the model's own space, of the given shape before each site's own."""
        count = int(np.prod(sample_shape, dtype=int))
        draws = self.posterior.sample(key, count)
        return {k: v.reshape(*sample_shape, *v.shape[1:]) for k, v in draws.items()}

    def median(self, params: Any = None) -> Draws:
        """Each site's median, of 4,000 draws."""
        return self.quantiles(params, 0.5)

    def quantiles(self, params: Any, quantiles: float | list[float]) -> Draws:
        """Each site's quantiles, of 4,000 draws: the quantiles' axis is the first."""
        draws = self.posterior.sample(jax.random.key(0), 4000)
        return {k: jnp.quantile(v, jnp.asarray(quantiles), axis=0) for k, v in draws.items()}
