"""`fit_numpyro` and `load_numpyro`: implicit posteriors of NumPyro models, in their own spaces."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from avb_jax.posterior.fit import DEFAULTS, Settings, fit, load
from avb_jax.posterior.fitted import Posterior
from avb_jax.types import Array, Key

Draws = dict[str, Array]


class NumPyroPosterior:
    """The posterior of a NumPyro model. Made by `fit_numpyro` and `load_numpyro`.

    Attributes:
        flat: the `Posterior` of the flat unconstrained vector.
        log_joint: its density: z [D] -> nats.
        latent: names of the model's latent sites.
    """

    def __init__(self, flat: Posterior, model: Callable, space: "_Space", arguments: tuple):
        self.flat, self.log_joint, self.latent = flat, space.log_joint, space.latent
        self._model, self._space, self._arguments = model, space, arguments

    def sample(self, key: Key, num_samples: int = 1000) -> Draws:
        """Draws in the model's own space, deterministic sites too: {site: [n, ...]}."""
        return self._space.constrain(self.flat.sample(key, num_samples))

    def save(self, directory: str | Path) -> None:
        """Writes all but the model and its arguments into a directory: see `load_numpyro`."""
        self.flat.save(directory)

    def to_arviz(self, key: Key, num_samples: int = 1000) -> Any:
        """Draws as `arviz.InferenceData`, one chain of n.

        Its groups: posterior, log_likelihood, posterior_predictive (each observed site drawn anew,
        as if it were not observed), observed_data, and sample_stats with `lp`, the log density of
        the unconstrained draws, nats.
        """
        import warnings

        from numpyro import handlers
        from numpyro.infer import Predictive, log_likelihood

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # ArviZ announces its next version
            import arviz as az
        keys = jax.random.split(key)
        z = self.flat.sample(keys[0], num_samples)
        draws, (args, kwargs) = self._space.constrain(z), self._arguments
        latent = {name: draws[name] for name in self.latent}
        observed = self._space.observed
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            terms = log_likelihood(self._model, latent, *args, **kwargs)
            unconditioned = handlers.uncondition(self._model)  # or its data would be what it says
            predicted = Predictive(unconditioned, latent)(keys[1], *args, **kwargs)
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
        if z.shape != (self.dim,):
            raise ValueError(f"the model has {self.dim} unconstrained numbers")
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
        **kwargs: the model's own.
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


def load_numpyro(
    directory: str | Path, model: Callable, *args: Any, **kwargs: Any
) -> NumPyroPosterior:
    """A posterior that `NumPyroPosterior.save` wrote, of the same model and arguments.

    Raises:
        ValueError: if the directory holds none, is damaged, or holds one of another dimension.
    """
    space = _Space(model, jax.random.key(0), args, kwargs)
    flat = load(directory, space.log_joint)
    return NumPyroPosterior(flat, model, space, (args, kwargs))
