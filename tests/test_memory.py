"""What saves memory: microbatches, bfloat16, rematerialisation and sharded optimiser states."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import avb_jax as avb
from avb_jax.optimizers import Optimizers
from avb_jax.parallel import compile_step

SHAPE = (4, 4, 1)
SMALL = {
    "latent_dim": 2,
    "width": 8,
    "depth": 1,
    "refinements": 1,
    "head_width": 8,
    "head_depth": 1,
    "num_bases": 3,
    "critic_width": 8,
    "critic_depth": 1,
    "critic_trunk_width": 8,
    "critic_trunk_depth": 1,
    "batch_size": 16,
    "binarization": "none",
}
SIGMAS = 4.0  # tolerated standard errors of each of some hundred entries, at fixed seeds
KEEP = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda gradient, state, params=None: (jax.tree.map(jnp.zeros_like, gradient), gradient),
)
X = np.random.default_rng(0).uniform(size=(16, *SHAPE)).astype(np.float32)


def built(**options) -> tuple[avb.Config, avb.Model]:
    config = avb.Config(**{**SMALL, **options})
    return config, avb.build_model(config, SHAPE)


def step_of(config: avb.Config, model: avb.Model, x=X):
    """A step that keeps its gradients as its optimisers' states, and a state to start from."""
    optimizers = Optimizers(KEEP, KEEP)
    state = avb.init_state(model, optimizers, jax.random.key(0))
    return avb.make_train_step(model, optimizers, config), state


def gradients(config: avb.Config, model: avb.Model, num_keys: int = 1) -> np.ndarray:
    """Those of both players for that many keys, flat: [num_keys, P]."""
    step, state = step_of(config, model)

    def of_key(key):
        return jax.flatten_util.ravel_pytree(step(state._replace(key=key), X)[0].opt_state)[0]

    keys = jax.random.split(jax.random.key(1), num_keys)
    return np.asarray(jax.jit(lambda keys: jax.lax.map(of_key, keys))(keys))


def temporary_bytes(config: avb.Config, x) -> int:
    step, state = step_of(config, avb.build_model(config, x.shape[1:]))
    return jax.jit(step).lower(state, x).compile().memory_analysis().temp_size_in_bytes


def noiseless(config: avb.Config) -> avb.Model:
    model = avb.build_model(config, SHAPE)

    def encode(params, key, x, num_samples):
        density = model.encode(params, key, x, 1).density
        z = jnp.broadcast_to(density.mean, (num_samples, *density.mean.shape))
        return avb.Encoding(z, density=density)

    return model._replace(encode=encode)


def test_microbatches_without_noise_are_the_batch():
    """Every gradient, to 1e-5 of the largest, float32."""
    config = avb.Config(**{**SMALL, "encoder": "gaussian"})
    parted = dataclasses.replace(config, microbatches=4)
    whole, parts = gradients(config, noiseless(config)), gradients(parted, noiseless(parted))
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-5 * np.abs(whole).max())


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["basis", "noise-mlp"])
def test_microbatches_have_the_gradient_of_the_batch_on_average(encoder):
    """Within 4 standard errors in every entry, over 1,000 keys; and as noisy within a quarter."""
    config, model = built(encoder=encoder)
    parted = dataclasses.replace(config, microbatches=4)
    one, other = (gradients(c, model, 1000) for c in (config, parted))
    error = np.sqrt((one.var(0) + other.var(0)) / 1000)
    assert np.all(np.abs(one.mean(0) - other.mean(0)) < SIGMAS * error + 1e-6)
    assert 0.75 < np.sqrt(other.var(0).sum() / one.var(0).sum()) < 1.25


@pytest.mark.slow
def test_microbatches_on_four_devices_agree_with_one():
    config, model = built(microbatches=2)
    step, state = step_of(config, model)
    alone, metrics = jax.jit(step)(state, X)
    state = avb.init_state(model, Optimizers(KEEP, KEEP), jax.random.key(0))
    split, metrics_split = compile_step(step)(state, X)
    chex.assert_trees_all_close(alone.opt_state, split.opt_state, rtol=1e-3, atol=1e-5)
    chex.assert_trees_all_close(metrics, metrics_split, rtol=1e-4, atol=1e-5)


def test_microbatches_take_less_memory():
    """A quarter of the batch at a time: less than half of the temporary memory."""
    config = avb.Config(batch_size=512, num_bases=4, binarization="none")
    x = np.zeros((512, 28, 28, 1), np.float32)
    parted = dataclasses.replace(config, microbatches=4)
    assert temporary_bytes(parted, x) < 0.5 * temporary_bytes(config, x)


def test_rematerialisation_changes_memory_and_nothing_else():
    config, model = built(decoder="conv", decoder_samples=4, encoder="gaussian")
    again = dataclasses.replace(config, rematerialize="decoder")
    one, other = gradients(config, model), gradients(again, model)
    np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * np.abs(one).max())


@pytest.mark.slow
def test_rematerialisation_takes_less_memory():
    """Of a convolutional decoder of four draws: less than half."""
    config = avb.Config(decoder="conv", width=64, binarization="none", refinements=0)
    x = np.zeros((64, 32, 32, 3), np.float32)
    again = dataclasses.replace(config, rematerialize="decoder")
    assert temporary_bytes(again, x) < 0.5 * temporary_bytes(config, x)


@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [
        ("basis", "mlp"),
        pytest.param("noise-mlp", "mlp", marks=pytest.mark.slow),
        pytest.param("noise-conv", "conv", marks=pytest.mark.slow),
    ],
)
def test_bfloat16_is_near_float32(encoder, decoder):
    """Parameters, gradients, metrics and draws are float32; metrics within 3 per cent."""
    steps = {}
    for dtype in ("float32", "bfloat16"):
        noise_conv = {"refinements": 0} if encoder == "noise-conv" else {}
        config, model = built(encoder=encoder, decoder=decoder, compute_dtype=dtype, **noise_conv)
        step, state = step_of(config, model)
        steps[dtype] = jax.jit(step)(state, X)
        text = jax.jit(step).lower(state, X).as_text()
        assert ("bf16" in text) == (dtype == "bfloat16")
    (exact, metrics), (state, near) = steps["float32"], steps["bfloat16"]
    chex.assert_trees_all_equal_dtypes(exact, state)
    chex.assert_trees_all_close(near, metrics, rtol=0.03, atol=0.03)
    one, other = (np.concatenate([g.ravel() for g in jax.tree.leaves(s.opt_state)])
                  for s in (exact, state))  # fmt: skip
    assert np.linalg.norm(other - one) < 0.05 * np.linalg.norm(one)


@pytest.mark.slow
def test_bfloat16_learns():
    """200 steps: the ELBO estimate within 0.3 nats of the one in float32."""
    ends = []
    for dtype in ("float32", "bfloat16"):
        config, model = built(compute_dtype=dtype, width=32, num_steps=200, learning_rate=1e-2)
        optimizers = avb.build_optimizers(config)
        state = avb.init_state(model, optimizers, jax.random.key(0))
        steps = avb.fuse_steps(avb.make_train_step(model, optimizers, config))
        _, metrics = jax.jit(steps)(
            state, jnp.broadcast_to((X > 0.5).astype(np.float32), (200, *X.shape))
        )
        ends.append(metrics["elbo_estimate"])
    assert np.mean(ends[0][-20:]) > np.mean(ends[0][:20]) + 1.0
    assert abs(np.mean(ends[0][-20:]) - np.mean(ends[1][-20:])) < 0.3


@pytest.mark.slow
def test_a_sharded_optimiser_is_the_same_in_parts():
    """Each device holds a quarter of Adam's moments; parameters agree with the replicated run."""
    config, model = built(schedule="constant")
    optimizers = avb.build_optimizers(config)
    step, ends = avb.make_train_step(model, optimizers, config), []
    for shard in (False, True):
        compiled = compile_step(step, shard_optimizer=shard)
        state = avb.init_state(model, optimizers, jax.random.key(0))
        for _ in range(3):
            state, _ = compiled(state, X)
        ends.append(state)
    chex.assert_trees_all_close(ends[0].params, ends[1].params, rtol=1e-3, atol=1e-5)
    held = [leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(ends[1].opt_state)]
    whole = [leaf.size for leaf in jax.tree.leaves(ends[1].opt_state)]
    assert sum(held) < 0.35 * sum(whole)
    with pytest.raises(ValueError, match="shard_optimizer was given with mode 'pmap'"):
        compile_step(step, "pmap", shard_optimizer=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"microbatches": 3}, "microbatches was 3 with batch_size 16; allowed are its divisors"),
        ({"microbatches": 2, "critic_steps": 2}, "microbatches was 2 with critic_steps 2"),
        ({"microbatches": 2, "update": "alternating"}, "allowed are 1 and 'simultaneous'"),
        ({"compute_dtype": "float16"}, "allowed are float32, bfloat16"),
    ],
)
def test_what_is_not_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        avb.Config(**{**SMALL, **options})
