"""Where to start: a check of log p(z), and the moments of draws that short chains have moved.

The draws are those of Gaussians along quasi-Newton paths, of the curvature there, each path's best
weighed by the exponential of its ELBO, so that they span the modes that count (Zhang, Carpenter,
Gelman and Vehtari, "Pathfinder: Parallel quasi-Newton variational inference", JMLR 2022, with exact
curvature, which few dimensions allow). Hamiltonian transitions then move them, in the
coordinates of their own moments, which are taken anew each round.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from avb_jax.posterior.coordinates import Coordinates, LogDensity, Start
from avb_jax.posterior.transitions import tune
from avb_jax.types import Array, Key

PATHS = 16
RADIUS = 2.0  # paths begin in the cube [−2, 2]^D, as Stan's chains do
CHECKPOINTS, STRIDE = 8, 10  # of each path, with so many steps to the next
PATH_DRAWS, WIDEST = 100, 100.0  # behind each Gaussian's ELBO; its largest standard deviation
POOL, ROUNDS, LEAPFROG = 512, 4, 8  # draws, rounds of chains, steps of each of their moves
FLOOR = 1e-8  # of a variance, in units of its coordinate's
RUNAWAY = 1e3  # times the paths' spread, from which on the density cannot be a proper one


def check_shape(log_joint: LogDensity, dim: int) -> None:
    """Raises ValueError unless log_joint maps [D] to one floating-point number."""
    z = jax.ShapeDtypeStruct((dim,), jnp.float32)
    try:
        out = jax.eval_shape(log_joint, z)
    except (TypeError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"log_joint does not take an array of shape ({dim},), the dim that was given: {reason}"
        ) from error
    shape, dtype = getattr(out, "shape", None), getattr(out, "dtype", None)
    if shape != () or dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"log_joint returned {dtype} of shape {shape}; allowed is one floating-point number"
        )


def check_start(log_joint: LogDensity, dim: int, start: Start, key: Key) -> None:
    """Raises ValueError unless the start is a Gaussian of `dim`, with log_joint finite at draws."""
    check_shape(log_joint, dim)
    shapes = jnp.shape(start.mean), jnp.shape(start.scale_tril)
    if shapes != ((dim,), (dim, dim)):
        raise ValueError(
            f"start had shapes {shapes[0]} and {shapes[1]}; allowed are ({dim},) and ({dim}, {dim})"
        )
    scale_tril = np.asarray(start.scale_tril)
    above, least = np.count_nonzero(np.triu(scale_tril, 1)), np.min(np.diag(scale_tril))
    if above or not least > 0.0:
        raise ValueError(
            f"start's scale_tril had {above} numbers above its diagonal and {least} as the "
            "least on it; allowed is a lower triangular matrix with a positive diagonal"
        )
    _check_finite(log_joint, start.place(jax.random.normal(key, (PATHS, dim))), "draws of start")


def _check_finite(log_joint: LogDensity, z: Array, where: str) -> tuple[Array, Array]:
    """At which points [n, D] log_joint and its gradient are finite, [n], and its gradients."""
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(log_joint)))(z)
    finite = jnp.isfinite(values) & jnp.all(jnp.isfinite(gradients), axis=-1)
    if not bool(jnp.any(finite)):
        bad = "its gradient" if bool(jnp.any(jnp.isfinite(values))) else "log_joint"
        raise ValueError(
            f"{bad} was not finite at any of {len(z)} {where}; allowed is a density that can be "
            "evaluated and differentiated there"
        )
    return finite, gradients


def find_start(log_joint: LogDensity, dim: int, key: Key, paths: int = PATHS) -> Start:
    """The start, after checks of the density.

    Raises:
        ValueError: where log_joint is not finite, has no gradient, or does not fall (an improper
            density).
    """
    check_shape(log_joint, dim)
    keys = jax.random.split(key)
    begin = jax.random.uniform(keys[0], (paths, dim), minval=-RADIUS, maxval=RADIUS)
    box = f"points of [-{RADIUS:g}, {RADIUS:g}]^{dim}"
    finite, gradients = _check_finite(log_joint, begin, box)
    if not bool(jnp.any(gradients[finite])):
        raise ValueError(
            "the gradient of log_joint was zero at all starting points: it is constant there, or "
            "not differentiable; allowed is a smooth density"
        )
    z = _pathfind(log_joint, begin[finite], keys[1])
    move = jax.jit(lambda start, z, key: _move(Coordinates.at(start, log_joint), z, key))
    spread = jnp.std(z, axis=0)
    for number in range(ROUNDS):
        z = move(moments_of(z), z, jax.random.fold_in(keys[1], number))
    growth = float(jnp.max(jnp.std(z, axis=0) / spread))
    if not growth < RUNAWAY:
        raise ValueError(
            f"chains ran away to {growth:.3g} times the width that quasi-Newton paths found: "
            "log_joint is improper, or nearly so; allowed is a density that can be normalised"
        )
    return moments_of(z)


def moments_of(z: Array) -> Start:
    """Mean and scale of draws [n, D]; a floor keeps the scale regular where they coincide."""
    values = np.asarray(z, np.float64)
    spread = values.std(axis=0) + 1e-10
    covariance = np.atleast_2d(np.cov((values / spread).T)) + FLOOR * np.eye(values.shape[1])
    scale_tril = spread[:, None] * np.linalg.cholesky(covariance)
    return Start(
        jnp.asarray(values.mean(axis=0), jnp.float32), jnp.asarray(scale_tril, jnp.float32)
    )


def _move(coordinates: Coordinates, z: Array, key: Key) -> Array:
    """Draws [n, D] after a round of transitions, whose step size is found on the way."""
    w, _ = tune(coordinates.log_density, coordinates.locate(z), key, LEAPFROG)
    return coordinates.place(w)


def _pathfind(log_joint: LogDensity, begin: Array, key: Key) -> Array:
    """Draws of the best Gaussian along each path, [POOL, D], by its ELBO's exponential."""

    def guarded(z):
        value = log_joint(z)
        return jnp.where(jnp.isfinite(value), value, -1e30)

    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    points = _paths(guarded, begin).reshape(-1, begin.shape[1])
    hessians = jax.jit(jax.vmap(jax.hessian(guarded)))(points)
    fine = np.isfinite(np.asarray(points)).all(-1) & np.isfinite(np.asarray(hessians)).all((1, 2))
    if not fine.any():
        raise ValueError(
            "no quasi-Newton path from the starting points led to a density that could be "
            "evaluated; allowed is a log_joint that is finite around its modes"
        )
    # Of the precision -H: its size in each direction, no wider than WIDEST or the point is far.
    curvature, axes = np.linalg.eigh(np.where(fine[:, None, None], hessians, 0.0).astype(float))
    widest = np.maximum(WIDEST, np.abs(np.where(fine[:, None], points, 0.0)).max(axis=1))[:, None]
    widths = np.maximum(np.abs(curvature), widest**-2) ** -0.5
    noise = rng.normal(size=(len(points), PATH_DRAWS, begin.shape[1])) * widths[:, None]
    draws = np.asarray(points, float)[:, None] + np.einsum("pde,pne->pnd", axes, noise)
    evaluate = jax.jit(lambda z: jax.lax.map(jax.vmap(guarded), z))
    log_p = np.asarray(evaluate(jnp.asarray(draws, jnp.float32)), float)
    elbo = log_p.mean(axis=1) + np.log(widths).sum(axis=1)
    elbo = np.where(fine & np.isfinite(elbo), elbo, -np.inf).reshape(CHECKPOINTS, -1)
    best = np.argmax(elbo, axis=0)
    weights = np.exp(elbo.max(axis=0) - elbo.max())
    path = rng.choice(len(weights), POOL, p=weights / weights.sum())
    chosen = draws[best[path] * len(weights) + path, rng.integers(0, PATH_DRAWS, POOL)]
    return jnp.asarray(chosen, jnp.float32)


def _paths(log_density: LogDensity, begin: Array) -> Array:
    """Where L-BFGS is after every STRIDE steps from each start: [CHECKPOINTS, paths, D]."""
    optimizer = optax.lbfgs()

    def loss(z):
        return -log_density(z)

    def one(carry, _):
        z, state = carry
        value, gradient = jax.value_and_grad(loss)(z)
        updates, state = optimizer.update(
            gradient, state, z, value=value, grad=gradient, value_fn=loss
        )
        return (optax.apply_updates(z, updates), state), None

    def stride(carry, _):
        carry, _ = jax.lax.scan(one, carry, length=STRIDE)
        return carry, carry[0]

    def run(z):
        return jax.lax.scan(stride, (z, optimizer.init(z)), length=CHECKPOINTS)[1]

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return jax.jit(jax.vmap(run, out_axes=1))(begin)
