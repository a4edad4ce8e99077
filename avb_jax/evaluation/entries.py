"""What each way of evaluating says, as entries of `evaluation.json`: numbers with their kind."""

import jax
import numpy as np

from avb_jax.evaluation.ais import bidirectional, evaluate_ais
from avb_jax.evaluation.annealing import AISSettings
from avb_jax.evaluation.batches import in_batches
from avb_jax.evaluation.elbo import Entry, summarise
from avb_jax.evaluation.importance import NUM_REFITS, evaluate_log_likelihood
from avb_jax.evaluation.iwae import evaluate_iwae, is_explicit
from avb_jax.evaluation.latent import (
    ACTIVE,
    aggregate_kl,
    can_be_probed,
    describe_posteriors,
    linear_probe_accuracy,
    unit_activities,
)
from avb_jax.evaluation.quadrature import quadrature_log_likelihood

QUADRATURE_BATCH = 1000  # the grid is decoded once for each batch
LEAST_DRAWS = 2000  # of q(z), behind its divergence from the prior, where there are few x
UNRELIABLE_K = 0.7  # k̂ above which importance sampling is not to be trusted


def by_importance(model, params, key, images, num_samples: int, options, kept) -> list[Entry]:
    """log p(x) from below, by a Student t that draws of q start."""
    found = evaluate_log_likelihood(
        model, params, key, images, num_samples=num_samples, kept=kept, **options
    )
    entry = {
        "name": "log_likelihood",
        "kind": "lower bound",
        **summarise(found["log_likelihood"]),
        "effective_sample_size": float(np.mean(found["effective_sample_size"])),
        "unreliable_share": float(np.mean(found["pareto_k"] > UNRELIABLE_K)),
        "pareto_k": float(np.median(found["pareto_k"])),
        "method": "importance",
        "proposal": f"Student t fitted to draws of q, and {NUM_REFITS} times to its own",
        "num_samples": num_samples,
    }
    return [entry]


def by_quadrature(model, params, images, kept) -> list[Entry]:
    """log p(x) on a grid over z, D <= 2."""

    def exact(_, x):
        return {"exact": quadrature_log_likelihood(model, params, x)}

    found = in_batches(exact, images, QUADRATURE_BATCH, kept=kept)
    entry = {"name": "log_likelihood", "kind": "exact", "method": "quadrature"}
    return [{**entry, **summarise(found["exact"])}]


def by_iwae(model, params, key, images, num_samples: int, options, kept) -> list[Entry]:
    """log p(x) from below, by the importance-weighted bound of this K."""
    found = evaluate_iwae(model, params, key, images, num_samples=num_samples, kept=kept, **options)
    entry = {
        "name": "log_likelihood",
        "kind": "lower bound",
        **summarise(found["log_likelihood"]),
        "effective_sample_size": float(np.mean(found["effective_sample_size"])),
        "method": f"IWAE, K = {num_samples}",
        "proposal": "q itself" if is_explicit(model) else "Student t fitted to draws of q",
        "num_samples": num_samples,
    }
    return [entry]


def by_ais(model, params, key, images, ais: AISSettings, options, kept) -> list[Entry]:
    """log p(x) from below, by annealed importance sampling."""
    found = evaluate_ais(model, params, key, images, settings=ais, kept=kept, **options)
    entry = {
        "name": "log_likelihood",
        "kind": "lower bound",
        **summarise(found["log_likelihood"]),
        "effective_sample_size": float(np.mean(found["effective_sample_size"])),
        "acceptance": float(np.mean(found["acceptance"])),
        "method": "AIS",
        "ais": ais._asdict(),
    }
    return [entry]


def by_bdmc(model, params, key, count: int, ais: AISSettings, options, kept) -> list[Entry]:
    """log p(x) from below and from above, of x that the model made: bidirectional Monte Carlo."""
    found = bidirectional(model, params, key, count, settings=ais, kept=kept, **options)
    common = {
        "name": "log_likelihood of simulated x",
        "method": "AIS, both ways",
        "acceptance": float(np.mean(found["acceptance"])),
        "gap": summarise(found["upper"] - found["lower"]),
        "ais": ais._asdict(),
    }
    sides = (("lower bound", "lower"), ("upper bound", "upper"))
    return [{**common, "kind": kind, **summarise(found[side])} for kind, side in sides]


def of_latents(model, params, key, images, labels, fit_steps: int, options, kept) -> list[Entry]:
    """What `evaluation.latent` tells of q(z|x), of q(z), and of a linear probe of labels."""
    key_draws, key_fit, key_few = jax.random.split(key, 3)
    found = describe_posteriors(model, params, key_draws, images, **options)
    n, dim = found["draw"].shape
    active = float(np.sum(unit_activities(found["means"]) > ACTIVE)) if n > 1 else float("nan")
    entries = [
        {"name": "rate", **summarise(found["rate"])},
        {"name": "distortion", **summarise(found["distortion"])},
        {"name": "active_units", "value": active, "unit": f"of {dim}", "n": n},
    ]
    if fit_steps:
        x, draws = images[np.arange(n)], found["draw"]
        if n < LEAST_DRAWS:  # as many of each x as make a steady mean
            draws = model.sample_posterior(params, key_few, x, -(-LEAST_DRAWS // n))
            draws = draws.reshape(-1, dim)
        ratio = aggregate_kl(
            model, params, key_fit, x, draws, max_steps=fit_steps, progress=options["progress"]
        )
        ratio = ratio.reshape(-1, n).mean(axis=0)  # draws of one x are not independent
        entries.append({"name": "aggregate_kl", **summarise(ratio)})
        entries.append({"name": "mutual_information", **summarise(found["rate"] - ratio)})
    if labels is not None and can_be_probed(labels[:n]):
        accuracy = linear_probe_accuracy(found["means"].mean(axis=1), labels[:n])
        error = (accuracy * (1.0 - accuracy) / n) ** 0.5
        entry = {"name": "probe_accuracy", "value": accuracy, "stderr": error, "n": n}
        entries.append({**entry, "unit": "of 1"})
    return [{**entry, "kind": "estimate", "method": "latent"} for entry in entries]
