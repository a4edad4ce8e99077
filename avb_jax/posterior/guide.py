"""`AutoAVB`: an implicit posterior with the interface of NumPyro's automatic guides."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from avb_jax.posterior.fit import DEFAULTS, Settings
from avb_jax.posterior.numpyro_models import Draws, NumPyroPosterior, fit_numpyro
from avb_jax.types import Key

POOL, POOL_KEY = 8192, 0x61766203  # settled draws that single ones are taken of; what their key is


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
        self._pool: Draws | None = None

    def fit(self, key: Key, *args: Any, progress: bool = False, **kwargs: Any) -> "AutoAVB":
        """Fits the posterior, given the model's own arguments; returns the guide."""
        self._posterior = fit_numpyro(
            self.model, *args, key=key, settings=self.settings, progress=progress, **kwargs
        )
        self._pool, self._pool_key = None, jax.random.fold_in(key, POOL_KEY)
        return self

    @property
    def posterior(self) -> NumPyroPosterior:
        """What was fitted; raises ValueError where nothing was."""
        if self._posterior is None:
            raise ValueError("the guide is not fitted yet; call fit(key, ...) first")
        return self._posterior

    def __call__(self, *args: Any, **kwargs: Any) -> Draws:
        """One draw, its latents registered as the guide's sites.

        It is one of `POOL` draws, made once and chosen by the key: each has q's distribution, but
        some of n come twice, about n²/2 `POOL`; `sample_posterior` makes all of its own.
        """
        import numpyro
        import numpyro.distributions as dist
        from numpyro import handlers

        with handlers.block():  # the density that moves the draws runs the model too
            pool = self._settled()
        chosen = jax.random.randint(numpyro.prng_key(), (), 0, POOL)
        draws = {name: pool[name][chosen] for name in self.posterior.latent}
        return {
            name: numpyro.sample(name, dist.Delta(draw, event_dim=draw.ndim))
            for name, draw in draws.items()
        }

    def _settled(self) -> Draws:
        """Draws that have been through the transitions, [POOL, ...] of each site."""
        posterior = self.posterior
        if self._pool is None:
            with jax.ensure_compile_time_eval():  # to outlast the trace that asks for them
                self._pool = posterior.sample(self._pool_key, POOL)
        return self._pool

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
