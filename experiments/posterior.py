"""How near are posteriors to known ones? AVB beside NumPyro's guides and NUTS.

    python experiments/posterior.py --target=banana
    python experiments/posterior.py --target=all --posteriordb=DIR

writes posterior.jsonl (one fit a line; one that is there is not made again) and posterior.md into
--workdir. Errors are the largest over parameters, in standard deviations of the reference: exact
draws, or posteriordb's. C2ST is 0.5 where a classifier cannot tell draws from the reference. AVB is
given twice: with the Hamiltonian transitions that end its sampler, and without.
"""

import os
import time
from pathlib import Path

# XLA's thread pool is as large as the machine has cores. A batched solve waits in it for parts of
# itself, and on two cores two solves at once wait for ever. Read when JAX starts its backend.
os.environ.setdefault("NPROC", "8")

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from absl import flags
from numpyro.distributions import constraints
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO, autoguide
from posteriors.reference_models import REFERENCES, flatten, load
from posteriors.shapes import SHAPES, kl_on_grid

from avb_jax import experiment, posterior, reporting
from avb_jax.reporting.files import write_atomically

TARGETS = (*SHAPES, *REFERENCES)
GUIDES = {
    "mean-field": autoguide.AutoNormal,
    "full-rank": autoguide.AutoMultivariateNormal,
    "iaf": autoguide.AutoIAFNormal,
    "bnaf": autoguide.AutoBNAFNormal,
}
METHODS = ("avb", "avb-sampler", *GUIDES, "nuts")
GUIDE_STEPS, GUIDE_RATE = 5000, 5e-3
GRID_DRAWS = 100_000  # behind a KL on a grid

flags.DEFINE_string("target", "banana", f"one of {', '.join(TARGETS)}, or all")
flags.DEFINE_list("methods", list(METHODS), f"of {', '.join(METHODS)}")
flags.DEFINE_string("posteriordb", "posteriordb", "directory of posteriordb's zipped files")
flags.DEFINE_integer("seeds", 1, "fits of each, with seeds from 0 on", lower_bound=1)
flags.DEFINE_integer("num_draws", 4000, "of each fit", lower_bound=100)
flags.DEFINE_integer("num_steps", posterior.Settings().num_steps, "of AVB", lower_bound=1)
flags.DEFINE_string("workdir", "runs/posterior", "where the table goes")


def problem(target: str, rng: np.random.Generator):
    """(NumPyro model, its arguments, the sites compared, reference draws [n, D])."""
    if target in SHAPES:
        shape = SHAPES[target]

        def model():
            flat = dist.ImproperUniform(constraints.real, (), (shape.dim,))
            numpyro.factor("density", shape.log_density(numpyro.sample("z", flat)))

        return model, {}, ("z",), shape.draw(rng, 20_000)
    reference = REFERENCES[target]
    data, draws = load(target, flags.FLAGS.posteriordb)
    names = [k for site in reference.parameters for k in draws if k.split("[")[0] == site]
    return reference.model, data, reference.parameters, np.stack([draws[k] for k in names], axis=1)


def draw(method: str, model, data: dict, key: jax.Array, count: int) -> dict:
    """Draws of the method's posterior, {site: [n, ...]}."""
    fit_key, key = jax.random.split(key)
    if method.startswith("avb"):
        settings = posterior.Settings(num_steps=flags.FLAGS.num_steps)
        if method == "avb-sampler":
            settings = settings._replace(transitions=0)
        fit = posterior.fit_numpyro(model, key=fit_key, settings=settings, progress=True, **data)
        return fit.sample(key, count)
    if method == "nuts":
        chains = MCMC(NUTS(model), num_warmup=1000, num_samples=count, progress_bar=True)
        chains.run(fit_key, **data)
        return chains.get_samples()
    guide = GUIDES[method](model)
    svi = SVI(model, guide, optax.adam(GUIDE_RATE), Trace_ELBO(num_particles=8))
    found = svi.run(fit_key, GUIDE_STEPS, progress_bar=True, **data)
    return guide.sample_posterior(key, found.params, sample_shape=(count,))


def measure(case: dict) -> dict:
    """One fit: its errors against the reference, C2ST, a KL on a grid where D = 2, seconds."""
    rng, start = np.random.default_rng(case["seed"]), time.perf_counter()
    model, data, sites, reference = problem(case["target"], rng)
    shape = SHAPES.get(case["target"])
    on_grid = shape is not None and shape.dim == 2
    count = GRID_DRAWS if on_grid and case["method"] != "nuts" else flags.FLAGS.num_draws
    draws = draw(case["method"], model, data, jax.random.key(case["seed"]), count)
    seconds = time.perf_counter() - start
    ours = np.stack(list(flatten(draws, sites).values()), axis=1)
    some, scale = ours[: flags.FLAGS.num_draws], reference.std(axis=0)
    low, high = (
        np.max(np.abs(np.quantile(some, q, axis=0) - np.quantile(reference, q, axis=0)) / scale)
        for q in (0.05, 0.95)
    )
    row = {
        **case,
        "mean": np.max(np.abs(some.mean(axis=0) - reference.mean(axis=0)) / scale),
        "spread": np.max(np.abs(some.std(axis=0) / scale - 1.0)),
        "quantiles": max(low, high),
        "c2st": posterior.classifier_two_sample_test(some, reference, seed=case["seed"]),
        "seconds": round(seconds, 1),
    }
    if on_grid and count == GRID_DRAWS:
        row["kl"] = kl_on_grid(shape, ours, rng)
    return row


def cases() -> list[dict]:
    values = flags.FLAGS
    targets = TARGETS if values.target == "all" else (values.target,)
    for name, given, allowed in (
        ("target", targets, TARGETS), ("methods", values.methods, METHODS)
    ):  # fmt: skip
        if unknown := set(given) - set(allowed):
            raise ValueError(
                f"{name} had {', '.join(sorted(unknown))}; allowed are {', '.join(allowed)}"
            )
    return [
        {"target": target, "method": method, "seed": seed}
        for target in targets
        for seed in range(values.seeds)
        for method in values.methods
    ]


def main() -> None:
    workdir = Path(flags.FLAGS.workdir)
    rows = experiment.measure_cases(
        workdir / "posterior.jsonl", cases(), measure, reporting.posterior_line
    )
    table = reporting.posterior_table(rows)
    write_atomically(workdir / "posterior.md", table.encode())
    print(table)


if __name__ == "__main__":
    experiment.run_command(main)
