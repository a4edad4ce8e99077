"""Samplers whose density is known in closed form, for critics to be measured against.

Each builder takes (rng, dim) and returns a `Known`; what is random in a sampler is drawn once,
from the rng. Where a construction makes some coordinates special, `products` apart, a random
rotation turns it. With D = 1, where a family has no member of its own, a sinh-arcsinh stands for
it, and a mixture of two for the moons.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from avb_jax.densities import LOG_2PI, log_prior

HIDDEN = 16  # units of each random network
X_DIM = 2  # of the x that `conditional` lets move a sampler


class Known(NamedTuple):
    """A density that can be sampled and evaluated.

    Attributes:
        sample: (key, n) -> z [n, D]; conditional: (key, x [B, X_DIM]) -> z [B, D].
        log_density: z [n, D] -> [n], nats; conditional: (x, z [B, D]) -> [B].
    """

    sample: Callable
    log_density: Callable


def _rotated(known: Known, rng, dim: int) -> Known:
    q, r = np.linalg.qr(rng.normal(size=(dim, dim)))
    turn = jnp.asarray(q * np.sign(np.diag(r)), jnp.float32)
    return Known(
        lambda key, n: known.sample(key, n) @ turn.T, lambda z: known.log_density(z @ turn)
    )


def _weights(rng, inputs: int, outputs: int, gain: float) -> tuple[np.ndarray, ...]:
    """w, b and v of a random network tanh(u w + b) v, whose size is about `gain`."""
    shapes = ((inputs, HIDDEN), (1, HIDDEN), (HIDDEN, outputs))
    w, b, v = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    return w / max(inputs, 1) ** 0.5, b, gain * v / HIDDEN**0.5


def _network(rng, inputs: int, outputs: int, gain: float) -> Callable:
    """A fixed random function [n, inputs] -> [n, outputs] of size about `gain`."""
    w, b, v = (jnp.asarray(a) for a in _weights(rng, inputs, outputs, gain))
    return lambda u: jnp.tanh(u @ w + b) @ v


def linear(rng, dim: int) -> Known:
    """z = 1 + A ε."""
    matrix = rng.normal(size=(dim, dim)) / dim**0.5 + np.eye(dim)
    inverse = jnp.asarray(np.linalg.inv(matrix), jnp.float32)
    log_scale, matrix = float(np.linalg.slogdet(matrix)[1]), jnp.asarray(matrix, jnp.float32)
    return Known(
        lambda key, n: 1.0 + jax.random.normal(key, (n, dim)) @ matrix.T,
        lambda z: log_prior((z - 1.0) @ inverse.T) - log_scale,
    )


def sinh_arcsinh(rng, dim: int) -> Known:
    """z_d = sinh((arcsinh ε_d + a_d)/b_d): skewed, with heavy or light tails."""
    skew = jnp.asarray(rng.uniform(-0.5, 0.5, (1, dim)), jnp.float32)
    tail = jnp.asarray(rng.uniform(0.7, 1.2, (1, dim)), jnp.float32)

    def log_density(z):
        inner = tail * jnp.arcsinh(z) - skew
        slope = jnp.log(tail * jnp.cosh(inner)) - 0.5 * jnp.log1p(jnp.square(z))
        return log_prior(jnp.sinh(inner)) + jnp.sum(slope, axis=-1)

    def sample(key, n):
        return jnp.sinh((jnp.arcsinh(jax.random.normal(key, (n, dim))) + skew) / tail)

    return _rotated(Known(sample, log_density), rng, dim)


def coupling(rng, dim: int, layers: int = 3) -> Known:
    """An affine-coupling flow of random networks (Dinh et al. 2017)."""
    if dim == 1:
        return sinh_arcsinh(rng, dim)
    half, flow = dim // 2, []
    for _ in range(layers):
        q, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
        shift = _network(rng, half, dim - half, 0.7)
        flow.append((jnp.asarray(q, jnp.float32), shift, _network(rng, half, dim - half, 0.4)))

    def sample(key, n):
        z = jax.random.normal(key, (n, dim))
        for turn, shift, scale in flow:
            u, v = jnp.split(z @ turn.T, [half], axis=-1)
            z = jnp.concatenate([u, v * jnp.exp(scale(u)) + shift(u)], axis=-1)
        return z

    def log_density(z):
        log_scale = jnp.zeros(len(z))
        for turn, shift, scale in reversed(flow):
            u, v = jnp.split(z, [half], axis=-1)
            log_scale = log_scale + jnp.sum(scale(u), axis=-1)
            z = jnp.concatenate([u, (v - shift(u)) * jnp.exp(-scale(u))], axis=-1) @ turn
        return log_prior(z) - log_scale

    return Known(sample, log_density)


def autoregressive(rng, dim: int) -> Known:
    """z_d = μ_d(z_<d) + exp(a_d(z_<d)) ε_d, with random networks μ and a, then turned."""
    if dim == 1:
        return sinh_arcsinh(rng, dim)
    networks = _of_those_before(rng, dim)

    def moves(z, network):
        """μ_d and a_d, [2, n]: z [D, n]."""
        w, b, v = network
        return v @ jnp.tanh(w @ z + b)

    def sample(key, n):
        def add(z, this):
            d, noise, network = this
            shift, log_scale = moves(z, network)
            return z.at[d].set(shift + jnp.exp(log_scale) * noise), None

        noise = jax.random.normal(key, (n, dim)).T
        return jax.lax.scan(add, jnp.zeros((dim, n)), (jnp.arange(dim), noise, networks))[0].T

    def log_density(z):
        shift, log_scale = jax.lax.map(lambda network: moves(z.T, network), networks).swapaxes(0, 1)
        return log_prior(((z.T - shift) * jnp.exp(-log_scale)).T) - jnp.sum(log_scale, axis=0)

    return _rotated(Known(sample, log_density), rng, dim)


def _of_those_before(rng, dim: int) -> tuple[jax.Array, ...]:
    """Networks of shift and log-scale of each coordinate, side by side: w, b, v, stacked.

    w is [D, units, D], 0 for what is not before the coordinate, b [D, units, 1], v [D, 2, units].
    """
    w, b = np.zeros((dim, 2 * HIDDEN, dim)), np.zeros((dim, 2 * HIDDEN, 1))
    v = np.zeros((dim, 2, 2 * HIDDEN))
    for d in range(1, dim):
        for output, gain in enumerate((0.7, 0.4)):
            units = slice(output * HIDDEN, (output + 1) * HIDDEN)
            into, bias, out = _weights(rng, d, 1, gain)
            w[d, units, :d], b[d, units], v[d, output, units] = into.T, bias.T, out[:, 0]
    return tuple(jnp.asarray(a, jnp.float32) for a in (w, b, v))


def mixture(rng, dim: int, components: int = 4) -> Known:
    """Gaussians of different covariances, their means 2.5 from the origin."""
    means = rng.normal(size=(components, dim))
    means = 2.5 * means / np.linalg.norm(means, axis=1, keepdims=True)
    if dim == 1:
        means = np.linspace(-3.0, 3.0, components)[:, None]
    noise = rng.normal(size=(components, dim, dim)) / dim**0.5
    factors = 0.5 * (np.eye(dim)[None] + 0.6 * noise)
    inverses = jnp.asarray(np.linalg.inv(factors), jnp.float32)
    log_scale = np.linalg.slogdet(factors)[1]
    log_weight = np.log(rng.dirichlet(4.0 * np.ones(components)))
    offset = jnp.asarray(log_weight - log_scale, jnp.float32)
    means, factors = jnp.asarray(means, jnp.float32), jnp.asarray(factors, jnp.float32)

    def sample(key, n):
        key_component, key_noise = jax.random.split(key)
        log_weights = jnp.asarray(log_weight, jnp.float32)
        chosen = jax.random.categorical(key_component, log_weights, shape=(n,))
        noise = jax.random.normal(key_noise, (n, dim))
        return means[chosen] + jnp.einsum("nde,ne->nd", factors[chosen], noise)

    def log_density(z):
        noise = jnp.einsum("kde,nke->nkd", inverses, z[:, None] - means[None])
        return logsumexp(log_prior(noise) + offset[None], axis=-1)

    return Known(sample, log_density)


def banana(rng, dim: int, bend: float = 0.7, width: float = 0.5) -> Known:
    """z₂ = ½ ε₂ + 0.7 (ε₁² − 1), the others standard normal, then turned."""
    if dim == 1:
        return sinh_arcsinh(rng, dim)

    def sample(key, n):
        noise = jax.random.normal(key, (n, dim))
        return noise.at[:, 1].set(width * noise[:, 1] + bend * (jnp.square(noise[:, 0]) - 1.0))

    def log_density(z):
        straight = (z[:, 1] - bend * (jnp.square(z[:, 0]) - 1.0)) / width
        return log_prior(z.at[:, 1].set(straight)) - np.log(width)

    return _rotated(Known(sample, log_density), rng, dim)


def two_moons(rng, dim: int, spread: float = 0.6, width: float = 0.15) -> Known:
    """Two arcs: an angle N(π/2, 0.6²) and a log-radius N(0, 0.15²), one of them turned over."""
    if dim == 1:
        return mixture(rng, dim, components=2)
    centre = jnp.array([[0.5, -0.25]])

    def sample(key, n):
        key_noise, key_side = jax.random.split(key)
        noise = jax.random.normal(key_noise, (n, dim))
        side = jnp.where(jax.random.bernoulli(key_side, 0.5, (n, 1)), 1.0, -1.0)
        angle, radius = np.pi / 2 + spread * noise[:, 0], jnp.exp(width * noise[:, 1])
        arc = radius[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        return noise.at[:, :2].set(side * (arc + centre))

    def log_arc(arc):
        log_radius = 0.5 * jnp.log(jnp.sum(jnp.square(arc), axis=-1) + 1e-12)
        turns = jnp.array([[-2.0, 0.0, 2.0]]) * np.pi
        angle = (jnp.arctan2(arc[:, 1], arc[:, 0])[:, None] + turns - np.pi / 2) / spread
        log_angle = logsumexp(-0.5 * jnp.square(angle), axis=-1)
        log_normal = log_angle - 0.5 * jnp.square(log_radius / width)
        return log_normal - LOG_2PI - np.log(spread * width) - 2.0 * log_radius

    def log_density(z):
        sides = [log_arc(side * z[:, :2] - centre) for side in (1.0, -1.0)]
        rest = log_prior(z[:, 2:]) if dim > 2 else jnp.zeros(len(z))
        return jnp.logaddexp(*sides) - np.log(2.0) + rest

    return _rotated(Known(sample, log_density), rng, dim)


def products(rng, dim: int, components: int = 3) -> Known:
    """Independent coordinates, each a mixture of three Gaussians."""
    means = jnp.asarray(rng.uniform(-2.0, 2.0, (dim, components)), jnp.float32)
    scales = jnp.asarray(rng.uniform(0.3, 0.8, (dim, components)), jnp.float32)
    log_weight = jnp.asarray(np.log(rng.dirichlet(3.0 * np.ones(components), dim)), jnp.float32)

    def sample(key, n):
        key_component, key_noise = jax.random.split(key)
        chosen = jax.random.categorical(key_component, log_weight, shape=(n, dim))
        d = jnp.arange(dim)[None]
        return means[d, chosen] + scales[d, chosen] * jax.random.normal(key_noise, (n, dim))

    def log_density(z):
        squares = jnp.square((z[..., None] - means[None]) / scales[None])
        logs = log_weight[None] - 0.5 * (squares + LOG_2PI) - jnp.log(scales)[None]
        return jnp.sum(logsumexp(logs, axis=-1), axis=-1)

    return Known(sample, log_density)


def conditional(known: Known, rng, dim: int) -> Known:
    """z = m(x) + exp(a(x)) R(x) z₀: x moves, scales and, in the first two coordinates, turns."""
    shift, scale = _network(rng, X_DIM, dim, 1.0), _network(rng, X_DIM, dim, 0.3)

    def turn(x, z, direction):
        if dim == 1:
            return z
        cos, sin = jnp.cos(x[:, 0]), direction * jnp.sin(x[:, 0])
        first = jnp.stack([cos * z[:, 0] - sin * z[:, 1], sin * z[:, 0] + cos * z[:, 1]], -1)
        return z.at[:, :2].set(first)

    def log_density(x, z):
        straight = turn(x, (z - shift(x)) * jnp.exp(-scale(x)), -1.0)
        return known.log_density(straight) - jnp.sum(scale(x), axis=-1)

    def sample(key, x):
        return shift(x) + jnp.exp(scale(x)) * turn(x, known.sample(key, len(x)), 1.0)

    return Known(sample, log_density)


SAMPLERS = {
    "linear": linear,
    "sinh-arcsinh": sinh_arcsinh,
    "coupling": coupling,
    "autoregressive": autoregressive,
    "mixture": mixture,
    "banana": banana,
    "two-moons": two_moons,
    "products": products,
}
