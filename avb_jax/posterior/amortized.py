"""`fit_amortized`: one implicit posterior for each row of a data set, by one network."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from avb_jax import contrast as contrasts
from avb_jax.densities import draw_kernel
from avb_jax.model import Model
from avb_jax.networks.trunk import Trunk
from avb_jax.posterior.coordinates import Coordinates, Start
from avb_jax.posterior.engine import EXTRA_NOISE, gain_of, of_density
from avb_jax.posterior.fit import DEFAULTS, Settings, check_settings, step_config, train_on
from avb_jax.posterior.networks import GainCritic, Sampler
from avb_jax.posterior.start import check_shape
from avb_jax.posterior.transitions import Transitions, transit, tune
from avb_jax.types import Answers, Array, Encoding, Gaussian, Key, Params, View

ROWS = 64  # data points a step
MOMENT_DRAWS = 256  # of each row, behind the scale of its transitions
TUNED_ROWS = 16
AMORTIZED = DEFAULTS._replace(transitions=20)  # of every row: few, for there are many rows
STEEPEST = 1e3  # nats per unit of w, of gradients


def _row_density(log_joint: Callable, dim: int, x: Array, w: Array) -> Array:
    """log p of one w [D], z = sinh(w), given one x [F], nats."""
    unit = Start(jnp.zeros(dim), jnp.eye(dim))
    return Coordinates.at(unit, partial(log_joint, x), STEEPEST).log_density(w)


def _build(
    of_row: Callable, standardise: Callable, dim: int, features: int, settings: Settings
) -> Model:
    """The engine's model of q(w|x), x [B, F], of the density of one row, as the data have it."""
    trunk = Trunk(dim, 4 * settings.width, 2, refinements=1, refinement_width=2 * settings.width)
    sampler = Sampler(settings.width, settings.depth)
    critic = GainCritic(settings.width, settings.depth)
    noise_dim = dim + EXTRA_NOISE

    def density(w, x):
        return jax.vmap(jax.vmap(of_row), (None, 0))(x, w)

    def score(x, w):  # what the network sees, held: log_joint's second derivatives say little
        return jax.lax.stop_gradient(jax.grad(lambda w: jnp.sum(density(w[None], x)))(w))

    def encode(params, key, x, num_samples):
        keys = jax.random.split(key)
        # Columns may have heavy tails, as those of hierarchical models do.
        answers = Answers(partial(score, x))
        h, guess = trunk.apply(params.encoder["trunk"], jnp.arcsinh(standardise(x)), answers)
        noise = jax.random.normal(keys[0], (num_samples, len(x), noise_dim), x.dtype)
        kernel = sampler.apply(params.encoder["sampler"], h, *guess, noise)
        w = draw_kernel(keys[1], kernel)
        level = jnp.mean(density(jax.lax.stop_gradient(w), x), axis=0)
        return Encoding(w, kernel=kernel, features=jnp.concatenate([h, level[:, None]], axis=-1))

    def log_ratio(params, view: View, w_tilde):
        gain = gain_of(density, view, w_tilde)
        return critic.apply(params.critic, view.context[:, :-1], w_tilde, gain)

    def init(key):
        keys = jax.random.split(key, 3)
        x, w = jnp.zeros((1, features)), jnp.zeros((1, 1, dim))
        (h, _), of_trunk = trunk.init_with_output(keys[0], x, Answers(jnp.zeros_like))
        noise = jnp.zeros((1, 1, noise_dim))
        of_sampler = sampler.init(keys[1], h, w[0], jnp.eye(dim)[None], noise)
        psi = critic.init(keys[2], h, w, w[..., 0])
        return Params({"trunk": of_trunk, "sampler": of_sampler}, {}, psi)

    return of_density(density, features, dim, init=init, encode=encode, log_ratio=log_ratio)


class AmortizedPosterior:
    """q(z|x), for any x [F] like the rows it was fitted to. Made by `fit_amortized`.

    Attributes:
        model: the engine's, of w = arcsinh(z) and x.
        params: its parameters.
        transitions: those that end the sampler.
        training_elbo: the trained critic's last estimate, over rows; no bound.
    """

    def __init__(self, model, params, of_row, transitions, training_elbo):
        self.model, self.params, self.transitions = model, params, transitions
        self.training_elbo = training_elbo
        self._of_row = of_row
        self._draw = jax.jit(self._draw_rows, static_argnums=2)

    def sample(self, key: Key, x: Array, num_samples: int) -> Array:
        """Draws of q(z|x) for each row: x [B, F] -> [S, B, D].

        Raises:
            ValueError: for x of another width, or a number below 1.
        """
        x = jnp.asarray(x, jnp.float32)
        if x.ndim != 2 or x.shape[1:] != self.model.event_shape:
            raise ValueError(f"x had shape {x.shape}; allowed is [B, {self.model.event_shape[0]}]")
        if num_samples < 1:
            raise ValueError(f"num_samples was {num_samples}; allowed is 1 or more")
        return jnp.sinh(self._draw(key, x, num_samples))

    def log_density_estimate(self, key: Key, x: Array, z: Array) -> Array:
        """log q̂(z|x) before the transitions, by the trained critic; no bound: [S, B] nats."""
        w = jnp.arcsinh(z)
        log_volume = jnp.sum(jnp.log(jnp.cosh(w)), axis=-1)
        x = jnp.asarray(x, jnp.float32)
        return self.model.log_posterior_estimate(self.params, key, x, w) - log_volume

    def _draw_rows(self, key: Key, x: Array, num_samples: int) -> Array:
        keys = jax.random.split(key, 3)
        w = self.model.encode(self.params, keys[0], x, num_samples).z
        moments = row_moments(self.model, self.params, keys[1], x)

        def one(x, w, mean, scale_tril, key):
            row = Start(mean, scale_tril)
            log_density = row.in_units(partial(self._of_row, x))
            return row.place(transit(log_density, row.locate(w), key, self.transitions)[0])

        row_keys = jax.random.split(keys[2], len(x))
        return jax.vmap(one, (0, 1, 0, 0, 0), 1)(x, w, *moments, row_keys)


def row_moments(model: Model, params: Params, key: Key, x: Array) -> Gaussian:
    """Of draws of q(w|x) for each row."""
    moments = contrasts.draws_moments(model.encode(params, key, x, MOMENT_DRAWS))
    return contrasts.from_moments(moments, "full")


def fit_amortized(
    log_joint: Callable[[Array, Array], Array],
    data: Array,
    dim: int,
    key: Key,
    *,
    settings: Settings = AMORTIZED,
    progress: bool = False,
) -> AmortizedPosterior:
    """Learns q(z|x) for p(z|x) ∝ exp(log_joint(x, z)), one posterior for each row of the data.

    Args:
        log_joint: (x [F], z [D]) -> log p(x, z) up to what x alone sets, nats.
        data: [n, F], floats; the network sees each column standardised, log_joint as it is.
        dim: D. z should be of the order of one, as unconstrained parameters mostly are.
        key: the same key gives the same posterior.
        settings: as for `fit`, but that draws take all the `transitions`, 20 by default;
            `num_samples` draws are divided over 64 rows a step, at least max(16, 3 D) for each.
        progress: whether to show a bar.

    Raises:
        ValueError: for data that is not [n, F], a log_joint of another shape, or settings that are
            not allowed.
        FloatingPointError: if training diverges.
    """
    rows = np.asarray(data, np.float32)
    if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all():
        raise ValueError(f"data had shape {rows.shape}; allowed is [n, F], finite numbers")
    check_settings(settings)
    check_shape(partial(log_joint, jnp.asarray(rows[0])), dim)
    mean, spread = rows.mean(axis=0, keepdims=True), rows.std(axis=0, keepdims=True)
    scale = np.where(spread > 0.0, spread, np.float32(1.0))
    of_row = partial(_row_density, log_joint, dim)
    model = _build(of_row, lambda x: (x - mean) / scale, dim, rows.shape[1], settings)
    batch = min(ROWS, len(rows))
    draws = max(16, 3 * dim, settings.num_samples // batch)
    config = step_config(
        dim, dim + EXTRA_NOISE, settings, batch_size=batch, num_samples=draws, decoder_samples=draws
    )
    keys = jax.random.split(key, 4)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(keys[0])))
    order = np.stack([rng.permutation(len(rows))[:batch] for _ in range(settings.num_steps)])
    params, elbo = train_on(model, config, keys[1], lambda at: rows[order[at]], progress)
    step_size = jnp.ones([])
    if settings.transitions:
        step_size = jax.jit(partial(_tune, model, of_row, settings.leapfrog))(
            params, keys[2], rows[:TUNED_ROWS]
        )
    transitions = Transitions(step_size, settings.transitions, settings.leapfrog)
    return AmortizedPosterior(model, params, of_row, transitions, elbo)


def _tune(
    model: Model, of_row: Callable, leapfrog: int, params: Params, key: Key, x: Array
) -> Array:
    """The step size that suits the rows on average (geometric)."""
    keys = jax.random.split(key, 3)
    w = model.encode(params, keys[0], x, TUNED_ROWS).z
    moments = row_moments(model, params, keys[1], x)

    def one(x, w, mean, scale_tril, key):
        row = Start(mean, scale_tril)
        return tune(row.in_units(partial(of_row, x)), row.locate(w), key, leapfrog)[1]

    sizes = jax.vmap(one, (0, 1, 0, 0, 0))(x, w, *moments, jax.random.split(keys[2], len(x)))
    return jnp.exp(jnp.mean(jnp.log(sizes)))
