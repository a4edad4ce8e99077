"""Inverse autoregressive flows: explicit posteriors of any shape, in arrays alone.

Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling, "Improving Variational Inference with
Inverse Autoregressive Flow", NIPS 2016. A step turns u around and maps each u_d to
μ_d(u_<d) + σ_d(u_<d) u_d, so that log |∂u′/∂u| = Σ log σ_d; the networks of μ and σ are masked
(Germain, Gregor, Murray and Larochelle, "MADE", ICML 2015).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from avb_jax.densities import log_prior
from avb_jax.types import Array, Autoregression, Flow

MAX_LOG_SCALE = 2.0  # of one step: no step of the optimiser overflows


def masks(dim: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Which weights an output d may use that sees u_<d alone: [D, H] and [H, 2 D], of 0 and 1.

    Hidden units take turns to see the first 1, …, D − 1 coordinates.
    """
    seen = np.arange(width) % max(dim - 1, 1) + 1
    coordinate = np.arange(1, dim + 1)
    into = (coordinate[:, None] <= seen[None]).astype(np.float32)
    out = (seen[:, None] < coordinate[None]).astype(np.float32)
    return into, np.concatenate([out, out], axis=1)


def _shift_and_log_scale(step: Autoregression, u: Array) -> tuple[Array, Array]:
    """μ and log σ, [S, B, D] each, of coordinates before each one."""
    into, out = (jnp.asarray(m, u.dtype) for m in masks(u.shape[-1], step.context.shape[-1]))
    hidden = jax.nn.gelu(u @ (step.into * into) + step.context[None])
    shift, raw = jnp.split(hidden @ (step.out * out) + step.bias[None], 2, axis=-1)
    return shift, MAX_LOG_SCALE * jnp.tanh(raw / MAX_LOG_SCALE)


def _log_scale(flow: Flow) -> Array:
    diagonal = jnp.diagonal(flow.base.scale_tril, axis1=-2, axis2=-1)
    return jnp.sum(jnp.log(diagonal), axis=-1)


def draw(flow: Flow, noise: Array) -> tuple[Array, Array]:
    """z ~ q(z|x), made of ε ~ N(0, I), and log q(z|x) in nats: [S, B, D] -> [S, B, D], [S, B]."""
    u, log_q = noise, log_prior(noise) - _log_scale(flow)[None]
    for step in flow.steps:
        u = u[..., ::-1]
        shift, log_scale = _shift_and_log_scale(step, u)
        u, log_q = shift + jnp.exp(log_scale) * u, log_q - jnp.sum(log_scale, axis=-1)
    return flow.base.mean[None] + jnp.einsum("bde,sbe->sbd", flow.base.scale_tril, u), log_q


def log_density(z: Array, flow: Flow) -> Array:
    """log q(z|x) in nats at any z: [S, B, D] -> [S, B].

    A step is undone by D passes, each of which settles one coordinate more.
    """
    centred = jnp.moveaxis(z - flow.base.mean[None], 0, -1)
    u = lax.linalg.triangular_solve(flow.base.scale_tril, centred, left_side=True, lower=True)
    u, log_q = jnp.moveaxis(u, -1, 0), -_log_scale(flow)[None]
    for step in flow.steps[::-1]:

        def settle(_, v, u=u, step=step):
            shift, log_scale = _shift_and_log_scale(step, v)
            return (u - shift) * jnp.exp(-log_scale)

        v = lax.fori_loop(0, z.shape[-1], settle, u)
        log_q = log_q - jnp.sum(_shift_and_log_scale(step, v)[1], axis=-1)
        u = v[..., ::-1]
    return log_prior(u) + log_q
