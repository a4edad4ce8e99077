"""Eight Schools: AVB beside Gaussian guides, and NUTS as the truth.

    python experiments/eight_schools.py                  # both versions
    python experiments/eight_schools.py --version=authors

The authors' version is that of Mescheder et al. (2017): scaled data and standard normal priors. Its
τ has either sign, and the posterior is the same where τ and η change theirs. The standard one is
that of Gelman et al., "Bayesian Data Analysis", section 5.5, non-centred; τ is compared as log τ.

One to three minutes a fit of AVB on two cores, less for the others. AVB's means must be within 0.03
of NUTS's, in posterior standard deviations, its spreads within 1.7%, its C2ST at most 0.51, for
three seeds and both versions. Hamiltonian transitions end its sampler; --methods=avb-sampler is
without them (C2ST 0.64 and 0.54). The Gaussians see one of the two modes of the authors' version
(0.80 to 0.85) and none of the standard one's neck (0.59 to 0.63).

Writes eight_schools.jsonl (one fit a line; one that is there is not made again), .md, a figure of
the joint density of (μ, τ) for each version, and the draws it is made of, into --workdir.
"""

import time
from pathlib import Path

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from absl import flags
from numpyro.diagnostics import effective_sample_size, gelman_rubin
from posteriors.methods import METHODS, draw, moment_errors, run_nuts
from posteriors.reference_models import eight_schools_noncentered

from avb_jax import experiment, posterior, reporting
from avb_jax.cases import measure_cases
from avb_jax.files import write_atomically
from avb_jax.options import check_choices

AUTHORS_DATA = {
    "y": np.array([2.8, 0.8, -0.3, 0.7, -0.1, 0.1, 1.8, 1.2], np.float32),
    "sigma": np.array([0.8, 0.5, 0.8, 0.6, 0.5, 0.6, 0.5, 0.4], np.float32),
}
STANDARD_DATA = {
    "J": 8,
    "y": np.array([28, 8, -3, 7, -1, 1, 18, 12], np.float32),
    "sigma": np.array([15, 10, 16, 11, 9, 11, 10, 18], np.float32),
}
DRAWS = 20_000  # of each method; of NUTS over CHAINS chains
# Chains of the authors' version are slow to go from one sign of τ to the other.
CHAINS, THINNING, ACCEPTANCE = 32, 8, 0.95
FIGURE_METHODS = ("nuts", *(method for method in METHODS if method != "nuts"))

flags.DEFINE_enum("version", "both", ["authors", "standard", "both"], "whose model")
flags.DEFINE_list("methods", ["nuts", "avb", "mean-field", "full-rank"], f"of {', '.join(METHODS)}")
flags.DEFINE_integer("seeds", 1, "fits of each, with seeds from 0 on; one of NUTS", lower_bound=1)
flags.DEFINE_integer("num_steps", posterior.Settings().num_steps, "of AVB", lower_bound=1)
flags.DEFINE_string("workdir", "runs/eight_schools", "where the table goes")


def authors_model(y, sigma):
    """μ, τ, ηᵢ ~ N(0, 1), τ of either sign; yᵢ ~ N(μ + τ ηᵢ, σᵢ)."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    tau = numpyro.sample("tau", dist.Normal(0.0, 1.0))
    with numpyro.plate("schools", len(y)):
        eta = numpyro.sample("theta_trans", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu + tau * eta, sigma), obs=y)


VERSIONS = {
    "authors": (authors_model, AUTHORS_DATA),
    "standard": (eight_schools_noncentered, STANDARD_DATA),
}


def parameter_names(version: str) -> list[str]:
    tau = "tau" if version == "authors" else "log tau"
    return ["mu", tau, *(f"eta[{i}]" for i in range(1, 9))]


def columns(version: str, draws: dict) -> np.ndarray:
    """Draws {site: [..., n]} as [..., n, 10]: μ, τ or log τ, η."""
    mu, tau, eta = (np.asarray(draws[site], np.float64) for site in ("mu", "tau", "theta_trans"))
    tau = tau if version == "authors" else np.log(tau)
    return np.concatenate([mu[..., None], tau[..., None], eta], axis=-1)


def draws_path(version: str, method: str) -> Path:
    return Path(flags.FLAGS.workdir) / "draws" / f"{version}-{method}.npz"


def keep(version: str, method: str, draws: np.ndarray) -> None:
    path = draws_path(version, method)
    reporting.save_draws(path, draws, parameter_names(version), most=len(draws))


def run_reference(version: str) -> np.ndarray:
    """NUTS's draws, [CHAINS, n, 10], kept in the workdir."""
    model, data = VERSIONS[version]
    found = run_nuts(
        model, data, jax.random.key(1), DRAWS // CHAINS, CHAINS, THINNING,
        target_accept_prob=ACCEPTANCE,
    )  # fmt: skip
    chains = columns(version, found)
    keep(version, "nuts", chains.reshape(DRAWS, -1))
    return chains


def reference(version: str) -> np.ndarray:
    """NUTS's draws, [DRAWS, 10]: those in the workdir, or new ones."""
    path = draws_path(version, "nuts")
    if path.exists():
        return reporting.read_draws(path)[1]
    return run_reference(version).reshape(DRAWS, -1)


def measure(case: dict) -> dict:
    """One fit: its errors against NUTS, seconds; NUTS's own are those of half of its chains."""
    version, method, seed = case["version"], case["method"], case["seed"]
    if method == "nuts":
        start = time.perf_counter()
        chains = run_reference(version)
        seconds = time.perf_counter() - start
        halves = (chains[first::2].reshape(DRAWS // 2, -1) for first in (0, 1))
        errors = compare(version, *halves, seed)
        about = {"moments": moments(version, chains.reshape(DRAWS, -1)), **health(chains)}
        return {**case, **errors, **about, "seconds": seconds}
    truth, start = reference(version), time.perf_counter()
    settings = posterior.Settings(num_steps=flags.FLAGS.num_steps)
    found = draw(method, *VERSIONS[version], jax.random.key(seed), DRAWS, settings)
    draws, seconds = columns(version, found), time.perf_counter() - start
    if seed == 0:
        keep(version, method, draws)
    return {**case, **compare(version, draws, truth, seed), "seconds": seconds}


def compare(version: str, draws: np.ndarray, truth: np.ndarray, seed: int) -> dict:
    """Of draws [n, 10]: errors of mean and spread, moments, C2ST."""
    means, spreads = moment_errors(draws, truth)
    parts = {"mu": slice(0, 1), parameter_names(version)[1]: slice(1, 2), "eta": slice(2, None)}
    return {
        "errors": {name: (np.max(means[at]), np.max(spreads[at])) for name, at in parts.items()},
        "moments": moments(version, draws),
        "c2st": posterior.classifier_two_sample_test(draws, truth, seed=seed),
    }


def moments(version: str, draws: np.ndarray) -> dict[str, tuple]:
    """Means and standard deviations of μ and τ."""
    plane = zip(("mu", "tau"), natural(version, draws).T, strict=True)
    return {name: (values.mean(), values.std()) for name, values in plane}


def natural(version: str, draws: np.ndarray) -> np.ndarray:
    """(μ, τ) of draws [n, 10]."""
    tau = draws[:, 1] if version == "authors" else np.exp(draws[:, 1])
    return np.stack([draws[:, 0], tau], axis=1)


def health(chains: np.ndarray) -> dict[str, float]:
    """The largest R̂ and the least effective number of draws of chains [C, n, D]."""
    return {
        "r_hat": np.max(gelman_rubin(chains)),
        "ess": np.min(effective_sample_size(chains)),
    }


def cases(versions: list[str]) -> list[dict]:
    check_choices("methods", flags.FLAGS.methods, METHODS)
    return [
        {"version": version, "method": method, "seed": seed}
        for version in versions
        for method in flags.FLAGS.methods
        for seed in range(1 if method == "nuts" else flags.FLAGS.seeds)
    ]


def draw_figure(version: str) -> None:
    """(μ, τ), and (μ, log τ) where τ is positive, of all methods whose draws are there."""
    paths = {method: draws_path(version, method) for method in FIGURE_METHODS}
    found = {
        method: reporting.read_draws(path)[1] for method, path in paths.items() if path.exists()
    }
    if not found:
        return
    planes = [(("μ", "τ"), {method: natural(version, z) for method, z in found.items()})]
    if version == "standard":
        planes.append((("μ", "log τ"), found))
    path = Path(flags.FLAGS.workdir) / f"{version}.png"
    title = f"Eight Schools, {version}: posterior of μ and τ"
    print(f"figure: {reporting.draw_joint(title, planes, path)}")


def main() -> None:
    workdir, version = Path(flags.FLAGS.workdir), flags.FLAGS.version
    versions = list(VERSIONS) if version == "both" else [version]
    rows = measure_cases(
        workdir / "eight_schools.jsonl",
        cases(versions),
        measure,
        reporting.schools_line,
        {"num_steps": flags.FLAGS.num_steps},
    )
    table = reporting.schools_table(rows)
    write_atomically(workdir / "eight_schools.md", table.encode())
    print(table)
    for version in versions:
        draw_figure(version)


if __name__ == "__main__":
    experiment.run_command(main)
