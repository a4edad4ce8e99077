"""Every encoder keeps one contract; each one's moments or density are those of its draws."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from avb_jax.choices import ENCODERS, EXPLICIT_ENCODERS
from avb_jax.networks import encoders, flows
from avb_jax.networks.layers import MLP
from avb_jax.networks.trunk import Trunk
from avb_jax.types import Answers, Encoding, Tree

B, D, N = 3, 2, 3
EVENT_SHAPE = (5, 4, 1)
SIGMAS = 4.5  # tolerated standard errors of a Monte Carlo estimate, at a fixed seed


def build(name: str, width: int = 16, depth: int = 2) -> nn.Module:
    full = name != "gaussian"
    trunk = Trunk(D, width, depth, refinements=1, refinement_width=8, full=full)
    return {
        "noise-mlp": lambda: encoders.NoiseMLP(trunk, N, head_width=16, head_depth=1),
        "noise-conv": lambda: encoders.NoiseConv(D, N, width, channels=8),
        "basis": lambda: encoders.Basis(trunk, N, num_bases=4, basis_width=8),
        "gaussian": lambda: encoders.GaussianEncoder(trunk),
        "gaussian-full": lambda: encoders.GaussianEncoder(trunk),
        "iaf": lambda: flows.FlowEncoder(trunk, width=8, num_steps=2),
    }[name]()


def score(z: jax.Array) -> jax.Array:
    """Stands for the decoder's ∇ log p(x, z), of any kind."""
    return 20.0 * jnp.cos(3.0 * z)


ANSWERS = Answers(score)


def applied(encoder: nn.Module):
    """(params, x, key, S) -> Encoding, compiled."""
    return jax.jit(
        lambda params, x, key, num: encoder.apply(params, x, key, num, ANSWERS), static_argnums=3
    )


def images(num: int = B, event_shape: tuple[int, int, int] = EVENT_SHAPE) -> np.ndarray:
    return np.random.default_rng(1).uniform(size=(num, *event_shape)).astype(np.float32)


class Case(NamedTuple):
    """One encoder with parameters none of which is zero."""

    name: str
    params: Tree
    encode: Callable[..., Encoding]


@pytest.fixture(scope="module", params=ENCODERS)
def case(request, random_params) -> Case:
    encoder = build(request.param)
    params = random_params(encoder, images(), jax.random.key(0), 1, ANSWERS)
    return Case(request.param, params, applied(encoder))


@pytest.fixture(scope="module", params=["gaussian", "gaussian-full"])
def gaussian(request, random_params) -> Case:
    encoder = build(request.param)
    params = random_params(encoder, images(), jax.random.key(0), 1, ANSWERS)
    return Case(request.param, params, applied(encoder))


def shapes_and_dtypes(encoding: Encoding) -> dict:
    fields = {k: v for k, v in encoding._asdict().items() if v is not None}
    return jax.tree.map(lambda a: (a.shape, str(a.dtype)), fields)


def test_shapes_and_dtypes_follow_x(case):
    encode = lambda p, x, key: case.encode(p, x, key, 5)  # noqa: E731
    key = jax.random.key(0)
    single = encode(case.params, images(), key)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(single))
    with jax.enable_x64(True):
        params = jax.tree.map(lambda p: p.astype(np.float64), case.params)
        double = jax.eval_shape(encode, params, images().astype(np.float64), key)
    for encoding, dtype in ((single, "float32"), (double, "float64")):
        expected = {"z": ((5, B, D), dtype)}
        gaussian = (((B, D), dtype), ((B, D, D), dtype))
        if case.name == "basis":
            expected["moments"] = (*gaussian, gaussian[1])
        elif case.name == "iaf":
            step = tuple((shape, dtype) for shape in ((B, 8), (D, 8), (8, 2 * D), (B, 2 * D)))
            expected |= {"density": (gaussian, (step, step)), "log_q": ((5, B), dtype)}
        elif case.name in EXPLICIT_ENCODERS:
            expected["density"] = gaussian
        if case.name not in EXPLICIT_ENCODERS:
            kernels = 5 if case.name == "noise-conv" else 1
            expected["kernel"] = (((5, B, D), dtype), ((kernels, B, D, D), dtype))
        if case.name in ("basis", "gaussian", "gaussian-full"):
            expected["mirror"] = expected["z"]
        if case.name in ("noise-mlp", "basis"):
            expected["features"] = ((B, 16 + 8), dtype)
        assert shapes_and_dtypes(encoding) == expected


def test_draws_are_a_function_of_the_key(case):
    x = images()
    x[1] = x[0]
    first, again, other = (
        case.encode(case.params, x, jax.random.key(seed), 5) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.z, again.z)
    assert np.all(first.z != other.z)
    # Noise is drawn for each sample and each data point: equal x have different draws.
    assert len(np.unique(first.z[..., 0])) == 5 * B
    for known in jax.tree.leaves((first.moments, first.density)):
        if len(known) == B:  # not a weight that all x share
            np.testing.assert_allclose(known[0], known[1], rtol=1e-6)


def test_each_posterior_depends_on_its_own_x_alone(case):
    x = images()
    changed = x.copy()
    changed[1] = 1.0 - changed[1]
    key = jax.random.key(0)
    before, after = case.encode(case.params, x, key, 5), case.encode(case.params, changed, key, 5)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        if B not in old.shape[:2]:
            continue  # a weight that all x share
        axis = 1 if old.shape[0] in (1, 5) else 0
        old, new = (np.moveaxis(np.asarray(a), axis, 0) for a in (old, new))
        np.testing.assert_allclose(new[[0, 2]], old[[0, 2]], rtol=1e-5, atol=1e-6)
        assert np.max(np.abs(new[1] - old[1])) > 1e-2


def test_permuted_data_have_permuted_posteriors(case):
    """What is known of q moves with x; a draw is a function of its own x and noise."""
    order = np.array([2, 0, 1])
    encode = lambda x: case.encode(case.params, x, jax.random.key(0), 5)  # noqa: E731
    encoding, permuted = encode(images()), encode(images()[order])
    drawn = {"z": None, "kernel": None, "mirror": None, "log_q": None}
    known, moved = (e._replace(**drawn) for e in (encoding, permuted))
    for old, new in zip(jax.tree.leaves(known), jax.tree.leaves(moved), strict=True):
        old = np.asarray(old)[order] if len(old) == B else old
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-6)
    for b in range(B):
        repeated = encode(images()[np.full(B, order[b])])
        np.testing.assert_allclose(permuted.z[:, b], repeated.z[:, b], rtol=1e-5, atol=1e-6)


def test_gradient_reaches_every_parameter(case):
    def total(params):
        return jnp.sum(jnp.sin(case.encode(params, images(), jax.random.key(0), 5).z))

    for leaf in jax.tree.leaves(jax.jit(jax.grad(total))(case.params)):
        assert np.all(np.isfinite(leaf))
        assert np.max(np.abs(leaf)) > 1e-6


@pytest.mark.parametrize("name", ENCODERS)
def test_the_trunk_runs_once_however_many_draws(name, random_params):
    """By XLA's count: 8 draws more cost 8 times what lies beyond the trunk, at most."""
    x, key = images(4, (8, 8, 16)), jax.random.key(0)

    def flops(module: nn.Module, *args) -> float:
        static = tuple(i for i, arg in enumerate(args, 1) if isinstance(arg, (int, Answers)))
        lowered = jax.jit(module.apply, static_argnums=static)
        return lowered.lower(random_params(module, *args), *args).cost_analysis()["flops"]

    encoder = build(name, width=128)
    one, nine = (flops(encoder, x, key, num, ANSWERS) for num in (1, 9))
    if name == "noise-conv":
        trunk = flops(nn.Conv(8, (5, 5)), x)
    else:
        trunk = flops(MLP(128, 2), x.reshape(4, -1))
    assert trunk > 0.05 * one
    assert nine - one < 8.0 * (one - 0.95 * trunk)


def normality(z: np.ndarray) -> float:
    """p-value of the skewness and kurtosis of draws [S, D], whitened by their own moments."""
    whitened = np.linalg.solve(np.linalg.cholesky(np.cov(z.T)), (z - z.mean(0)).T)
    return scipy.stats.normaltest(whitened.ravel()).pvalue


def assert_moments(z: np.ndarray, mean: np.ndarray, covariance: np.ndarray, spread: float) -> None:
    """z [S, B, D] has these moments, within SIGMAS · spread standard errors of each entry."""
    centred = z - np.asarray(mean)
    products = np.einsum("sbd,sbe->sbde", centred, centred)
    for values, expected in ((z, mean), (products, covariance)):
        error = np.abs(values.mean(0) - np.asarray(expected))
        assert np.all(error < SIGMAS * spread * values.std(0) / len(z) ** 0.5)


def test_moments_of_basis_are_those_of_its_draws(random_params):
    """The moments come from noise of their own: of all the batch, or of `MOMENT_DRAWS`."""
    encoder, x, num = build("basis"), images(2), 20_000
    params = random_params(encoder, x, jax.random.key(0), 1, ANSWERS, gain=1.2)
    encode = applied(encoder)
    drawn = encode(params, x, jax.random.key(0), num)
    z, mirror = (np.asarray(a, np.float64) for a in (drawn.z, drawn.mirror))
    many = encode(params, x, jax.random.key(1), num).moments
    single = encode(params, x, jax.random.key(1), 1).moments
    for draws in (z, mirror):
        assert_moments(draws, many.mean, many.covariance, spread=(1.0 + num / (2.0 * num)) ** 0.5)
    np.testing.assert_allclose(z + mirror, 2.0 * drawn.kernel.mean, rtol=1e-4, atol=1e-4)
    assert_moments(
        z, single.mean, single.covariance, spread=(1.0 + num / encoders.MOMENT_DRAWS) ** 0.5
    )
    assert normality(z[:, 0]) < 1e-6
    covariance = np.asarray(many.covariance)
    scale = np.sqrt(np.diagonal(covariance, 0, 1, 2))
    assert np.all(np.abs(covariance[:, 0, 1] / np.prod(scale, axis=1)) > 0.05)  # it is full
    np.testing.assert_allclose(np.linalg.cholesky(covariance), many.scale_tril, rtol=1e-3)


def test_a_covariance_of_basis_beyond_float32_still_has_its_factor(random_params):
    """Scales of e^±12: the covariance rounds to what has no factor, the encoder's own is finite."""
    encoder, x = build("basis"), images(2)
    params = random_params(encoder, x, jax.random.key(0), 1, ANSWERS)
    bias = params["params"]["trunk"]["TriangularScale_0"]["Dense_0"]["bias"]
    params["params"]["trunk"]["TriangularScale_0"]["Dense_0"]["bias"] = jnp.array([12.0, -12.0])
    assert bias.shape == (D,) == (2,)
    moments = applied(encoder)(params, x, jax.random.key(0), 1).moments
    assert not np.all(np.isfinite(jnp.linalg.cholesky(moments.covariance)))
    assert np.all(np.isfinite(moments.scale_tril))
    assert np.all(np.diagonal(moments.scale_tril, axis1=1, axis2=2) > 0.0)


def test_a_gaussian_density_is_that_of_the_draws(gaussian):
    encoding = gaussian.encode(gaussian.params, images(), jax.random.key(0), 20_000)
    mean, scale_tril = encoding.density
    z = np.asarray(encoding.z, np.float64)
    mirrored = 2.0 * np.asarray(mean)[None] - z
    np.testing.assert_allclose(encoding.mirror, mirrored, rtol=1e-4, atol=1e-4)
    factor = np.asarray(scale_tril, np.float64)
    assert_moments(z, mean, factor @ factor.transpose(0, 2, 1), spread=1.0)
    assert np.all(np.triu(factor, 1) == 0.0) and np.all(np.diagonal(factor, 0, 1, 2) > 0.0)
    assert np.all((factor[:, 1, 0] == 0.0) == (gaussian.name == "gaussian"))
    assert all(normality(z[:, b]) > 0.01 for b in range(B))


@pytest.mark.parametrize("name", ["noise-mlp", "gaussian-full"])
def test_a_fresh_posterior_is_a_gaussian_of_half_the_priors_scale(name):
    """With noise-mlp's blur on top."""
    encoder, x, key = build(name, depth=1), images(1, (2, 2, 1)), jax.random.key(0)
    encode = jax.jit(encoder.init_with_output, static_argnums=(3, 4))
    z = np.asarray(encode(key, x, key, 4000, ANSWERS)[0].z, np.float64)
    blur = encoders.INITIAL_BLUR if name == "noise-mlp" else 0.0
    assert_moments(z, z.mean(0), 0.25 * (1.0 + blur**2) * np.eye(D)[None], spread=1.0)
    assert normality(z[:, 0]) > 0.01


@pytest.mark.parametrize("name", ["noise-mlp", "noise-conv"])
def test_implicit_posteriors_are_not_gaussian(name, random_params):
    encoder, x, key = build(name), images(1, (2, 2, 1)), jax.random.key(0)
    params = random_params(encoder, x, key, 1, ANSWERS, gain=1.2)
    z = applied(encoder)(params, x, key, 4000).z[:, 0]
    assert normality(np.asarray(z)) < 1e-6


@pytest.mark.parametrize(
    "event_shape", [(28, 28, 1), (32, 32, 3), (64, 64, 3), (8, 8, 1), (2, 2, 1), (9, 27, 2)]
)
def test_noise_conv_takes_images_of_any_size(event_shape, random_params):
    encoder, x = build("noise-conv"), images(2, event_shape)
    params = random_params(encoder, x, jax.random.key(0), 1, ANSWERS)
    encode = applied(encoder)
    z = np.asarray(encode(params, x, jax.random.key(0), 3).z)
    assert z.shape == (3, 2, D) and np.all(np.isfinite(z))
    corner = x.copy()
    corner[0, -1, -1, -1] += 1.0  # the last pixel counts: nothing is cropped away
    assert np.all(np.asarray(encode(params, corner, jax.random.key(0), 3).z)[:, 0] != z[:, 0])
