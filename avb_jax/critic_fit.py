"""`fit_critic`: log q(z|x) of any sampler, learned to convergence from its draws alone."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from avb_jax import objectives
from avb_jax.choices import CRITIC_LOSSES
from avb_jax.fitting import Pace, Problem, descend
from avb_jax.networks.critics import ResidualCritic
from avb_jax.reference import TRUNK_WIDTH, Draws, Reference, build_references, source
from avb_jax.types import Array, Key

FIT_CONTRASTS = ("prior", "moments", "learned", "mixture", "flow", "best")
WITHOUT_X, WITH_X = ("moments", "mixture"), ("learned",)  # of those, where alone they apply
CLEARLY = 1e-3  # nats of held-out likelihood that a flow must gain on a mixture
CERTAINLY = 2.0  # standard errors of held-out loss that a critic must gain on none
HELD_OUT_BATCHES = 16  # behind the decision to stop, that to keep s, and the calibration
# First learning rates, of matrices and of all else.
CONTRAST_RATES, CONTRAST_RATES_GIVEN_X, CRITIC_RATES = (1e-2, 3e-3), (4e-3, 3e-3), (1e-3, 3e-4)
CONTRAST_PATIENCE, CRITIC_PATIENCE = 8, 2  # rounds
KEYS = ("r", "s", "init", "pool", "stop", "test", "mixture", "keep")  # of what a fit draws
# What `Problem.ratios` returns, of batches of draws, and the rows of their x.
Fresh = tuple[tuple[Array, Array, Array], Array | None]


class Calibration(NamedTuple):
    """How far a fitted critic is to be trusted, on draws it was neither fitted nor stopped by.

    Attributes:
        kl: E_q[s], an estimate of KL(q‖r), nats; biased low by what the critic misses, and 0 where
            none was found to be better than s = 0.
        kl_stderr: standard error of `kl`, over the draws, or over the x where there are several.
        kl_lower_bound: E_q[s] + 1 − E_r[exp s], a lower bound of KL(q‖r) in expectation
            whatever s is (Nguyen, Wainwright and Jordan 2010, equation 7).
        reference_mean_ratio: E_r[exp s], 1 for a normalised q̂.
        reference_mean_ratio_stderr: its standard error, as that of `kl`.
        balance: E_q[σ(−s)] − E_r[σ(s)], 0 for a critic that is right.
        held_out_loss: the critic's loss.
        steps: steps taken, by the contrast and by the critic.
        n: draws of q, and of r.
    """

    kl: float
    kl_stderr: float
    kl_lower_bound: float
    reference_mean_ratio: float
    reference_mean_ratio_stderr: float
    balance: float
    held_out_loss: float
    steps: tuple[int, int]
    n: int


class CriticFit(NamedTuple):
    """What `fit_critic` returns.

    Attributes:
        log_density: log q̂ = s + log r, nats: z [n, D] -> [n], or (x [B, ...], z [B, D]) -> [B].
        log_ratio: s alone, of the same arguments.
        calibration: see `Calibration`.
    """

    log_density: Callable[..., Array]
    log_ratio: Callable[..., Array]
    calibration: Calibration


def _check(sample, dim: int, x, contrast: str, loss: str, batch_size: int, max_steps: int):
    other = WITH_X if x is None else WITHOUT_X
    allowed = [name for name in FIT_CONTRASTS if name not in other]
    if contrast not in allowed:
        case = "without x" if x is None else "with x"
        raise ValueError(f"contrast was {contrast!r}; allowed {case} are {', '.join(allowed)}")
    if loss not in CRITIC_LOSSES:
        raise ValueError(f"loss was {loss!r}; allowed are {', '.join(CRITIC_LOSSES)}")
    if batch_size < 8:
        raise ValueError(f"batch_size was {batch_size}; allowed is 8 or more")
    if max_steps < 2:
        raise ValueError(f"max_steps was {max_steps}; allowed is 2 or more")
    given = (batch_size if x is None else x[:8], (batch_size if x is None else len(x[:8]), dim))
    shape = jax.eval_shape(lambda key: sample(key, given[0]), jax.random.key(0)).shape
    if shape != given[1]:
        raise ValueError(f"sample returned an array of shape {shape}; allowed is {given[1]}")


def fit_critic(
    key: Key,
    sample: Callable,
    dim: int,
    *,
    x: Array | None = None,
    held_out: Callable | None = None,
    context: Callable[[Array], Array] | None = None,
    contrast: str = "best",
    loss: str = "logistic",
    batch_size: int = 1024,
    max_steps: int = 18000,
    width: int = 128,
    depth: int = 3,
    progress: bool = False,
) -> CriticFit:
    """Learns log q(z) or log q(z|x) from draws, to convergence, whatever draws them.

    First the contrast r is fitted by maximum likelihood, then the critic s is trained against
    it in coordinates in which r is N(0, I), or a mixture of unit covariance. Both descend on fresh
    draws until the loss on held-out draws no longer falls, and keep the parameters of its least
    value; a mixture is fitted by expectation-maximisation. A critic whose loss on further draws is
    not below that of none, by two standard errors, is let go: s is 0 then, and q̂ is r.

    Args:
        key: the same key gives the same fit.
        sample: (key, n) -> z [n, D]; with `x`, (key, x [B, ...]) -> z [B, D], one for each x.
            Fit for `jax.jit` and `jax.vmap`.
        dim: D.
        x: [n, ...], the data points of a conditional q.
        held_out: as `sample`, of the draws that decide when to stop, and that calibrate; `sample`
            itself where it makes fresh draws. For a sampler that draws from a finite pool.
        context: x [B, ...] -> [B, F], what the critic is to see of x; x itself if not given.
        contrast: `prior` (N(0, I)), `moments` (of q, without x), `learned` (a Gaussian that x
            moves), `mixture` (of at most 8 Gaussians, without x), `flow` (a `ContrastFlow`,
            after moments, and a `learned` one with x), `best` (without x the mixture, unless the
            flow is clearly likelier on held-out draws; with x the flow).
        loss: the critic's, one of `CRITIC_LOSSES`.
        batch_size: draws of q, and of r, for each step.
        max_steps: at most two thirds of them for the contrast where that is fitted, the others
            for the critic, in rounds of 250.
        width: units of each layer of the critic.
        depth: layers of the critic.
        progress: whether to show a bar.

    Raises:
        ValueError: for an unknown contrast or loss, `moments` or `mixture` with x, `learned`
            without, a count too small, or a sampler whose draws are not [n, D].
        FloatingPointError: if the draws are not finite, or lie in less than D dimensions.
    """
    x = None if x is None else jnp.asarray(x)
    _check(sample, dim, x, contrast, loss, batch_size, max_steps)
    objectives.warn_if_as_written(loss)
    context = context or (lambda x: x)
    keys = dict(zip(KEYS, jax.random.split(key, len(KEYS)), strict=True))
    draw, other = (source(f, x, context, batch_size) for f in (sample, held_out or sample))
    references = build_references(contrast, dim, draw, other, keys, x is not None)
    critic = ResidualCritic(width, depth, TRUNK_WIDTH, 2, conditional=x is not None)
    with tqdm(total=max_steps, unit="step", disable=not progress) as bar:
        problem, alpha, psi, steps = _train(references, critic, loss, draw, other, keys, bar)
    fresh = jax.jit(partial(_fresh, problem, other))
    if not _gains(problem, fresh(psi, alpha, keys["keep"])):
        psi = jax.tree.map(jnp.zeros_like, psi)  # s = 0
    calibration = _calibrate(problem, fresh(psi, alpha, keys["test"]), steps)
    return CriticFit(*_evaluators(problem, psi, alpha, context), calibration)


def _train(
    references: list[Reference], critic: ResidualCritic, loss: str, draw: Callable, other: Callable,
    keys: dict[str, Key], bar: tqdm,
):  # fmt: skip
    """The likeliest contrast and its parameters, then the critic's, and the steps of both.

    They descend on draws by `draw`, and stop by draws by `other`.
    """
    example = jax.jit(draw)(keys["init"])
    batches = jax.random.split(keys["stop"], HELD_OUT_BATCHES)
    stop = (jax.jit(partial(jax.lax.map, other))(batches), batches)
    rates = CONTRAST_RATES_GIVEN_X if critic.conditional else CONTRAST_RATES
    fitted, most = [], 0
    for reference in references:
        alpha, steps = jax.jit(reference.init)(keys["init"], example), 0
        if alpha:
            most, of_r = bar.total * 2 // 3, reference.likelihood_loss
            pace = Pace(*rates, most, CONTRAST_PATIENCE)
            alpha, steps = descend(keys["r"], alpha, of_r, draw, stop, pace, bar)
        fitted.append((reference, alpha, steps))
    if len(fitted) > 1:  # one alone needs no look at its loss, which has to be compiled
        fitted.sort(key=partial(_shortfall, stop))
    reference, alpha, of_contrast = fitted[0]
    problem = Problem(reference, critic, loss)
    psi = jax.jit(critic.init)(keys["init"], example.context, example.z[:1])
    pace = Pace(*CRITIC_RATES, bar.total - most, CRITIC_PATIENCE)
    of_s = partial(problem.critic_loss, alpha)
    psi, of_critic = descend(keys["s"], psi, of_s, draw, stop, pace, bar)
    return problem, alpha, psi, (of_contrast, of_critic)


def _shortfall(stop, fitted) -> float:
    """Held-out loss, and what is expected of a contrast that chose its parameters by it."""
    reference, alpha, _ = fitted
    loss = jax.jit(partial(reference.likelihood_loss, alpha))
    least = CLEARLY if alpha else 0.0
    return least + float(jnp.mean(jax.lax.map(lambda batch: loss(*batch), stop)))


def _evaluators(problem: Problem, psi, alpha, context: Callable) -> tuple[Callable, Callable]:
    """log q̂ and s, as functions of z or of (x, z)."""

    def evaluate(of_q: bool, *arguments: Array) -> Array:
        *given, z = (jnp.asarray(a) for a in arguments)
        draws = Draws(context(given[0]), z[None]) if given else Draws(None, z[:, None])
        u, log_r = problem.reference.coordinates(alpha, draws)
        s = problem.critic.apply(psi, draws.context, u)
        return jnp.ravel(s + log_r if of_q else s)

    return jax.jit(partial(evaluate, True)), jax.jit(partial(evaluate, False))


def _fresh(problem: Problem, draw: Callable, psi, alpha, key: Key) -> Fresh:
    """As many draws as were held out."""

    def one(key):
        key_draw, key_r = jax.random.split(key)
        draws = draw(key_draw)
        return problem.ratios(psi, alpha, draws, key_r), draws.rows

    return jax.lax.map(one, jax.random.split(key, HELD_OUT_BATCHES))


def _gains(problem: Problem, fresh: Fresh) -> bool:
    """Whether the critic is better than s = 0, beyond the noise of these draws."""
    (s_q, s_r, log_q), rows = fresh
    without = problem.losses(jnp.zeros_like(s_q), jnp.zeros_like(s_r), log_q - s_q)
    gain, stderr = _mean(without - problem.losses(s_q, s_r, log_q), rows)
    return gain > CERTAINLY * stderr


def _calibrate(problem: Problem, fresh: Fresh, steps: tuple[int, int]) -> Calibration:
    """By draws that nothing was decided by."""
    (s_q, s_r, log_q), rows = fresh
    losses = problem.losses(s_q, s_r, log_q)
    ratio, ratio_stderr = _mean(np.exp(np.asarray(s_r, np.float64)), rows)
    kl, kl_stderr = _mean(s_q, rows)
    return Calibration(
        kl=kl,
        kl_stderr=kl_stderr,
        kl_lower_bound=kl + 1.0 - ratio,
        reference_mean_ratio=ratio,
        reference_mean_ratio_stderr=ratio_stderr,
        balance=float(objectives.balance(s_q, s_r)),
        held_out_loss=float(jnp.mean(losses)),
        steps=steps,
        n=s_q.size,
    )


def _mean(values: Array | np.ndarray, rows: Array | np.ndarray | None) -> tuple[float, float]:
    """Mean of values [batches, S, B], and its standard error.

    Draws that share an x, whose number is in rows [batches, B], are not independent, in whatever
    batches they are: what counts is how many x there are. Draws of one x alone are.
    """
    values = np.asarray(values, np.float64)
    mean = values.mean()
    of_x = np.zeros(1, int) if rows is None else np.unique(rows, return_inverse=True)[1].ravel()
    count = int(of_x.max()) + 1
    if count == 1:
        return float(mean), float(values.std() / values.size**0.5)
    excess = np.bincount(of_x, (values - mean).sum(axis=1).ravel())
    few = count / (count - 1.0)  # for the mean is that of these very x
    return float(mean), float((few * np.sum(excess**2)) ** 0.5 / values.size)
