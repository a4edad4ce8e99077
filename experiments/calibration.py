"""Is the amortised posterior calibrated? Simulation-based calibration on a hierarchical model.

    python experiments/calibration.py

fits one network to simulated data sets of eight groups (posteriors/groups.py), then ranks the
parameters behind 500 fresh ones among draws of their posteriors. Where posteriors are right the
ranks are uniform (Talts et al., arXiv 1804.06788). Exact draws are ranked too: of ten parameters
even they leave a band of 95% now and then.

Writes calibration.json (ranks, the band that 95% of uniform ranks' ECDFs stay wholly within,
whether each parameter's does), .md and .png into --workdir. Two minutes on two cores; with seed 0
all ten parameters must be within the band, as exact draws are.
"""

import json
import time
from pathlib import Path

import jax
import numpy as np
from absl import flags
from posteriors.groups import NAMES, draw_exact, log_joint, simulate

from avb_jax import experiment, posterior, reporting
from avb_jax.files import plain, write_atomically
from avb_jax.posterior.amortized import AMORTIZED

BLOCK = 50  # data sets whose posteriors are drawn from at once

flags.DEFINE_integer("num_simulations", 500, "data sets that are ranked", lower_bound=1)
flags.DEFINE_integer("num_draws", 100, "L, of each posterior", lower_bound=1)
flags.DEFINE_integer("num_rows", 20_000, "data sets that the network is fitted to", lower_bound=1)
flags.DEFINE_integer("num_steps", posterior.Settings().num_steps, "of AVB", lower_bound=1)
flags.DEFINE_integer("transitions", AMORTIZED.transitions, "Hamiltonian; 0: none", lower_bound=0)
flags.DEFINE_integer("seed", 0, "of data and fit", lower_bound=0, upper_bound=2**32 - 1)
flags.DEFINE_string("workdir", "runs/calibration", "where the ranks go")


def measure() -> dict:
    """The ranks, the band, and what they say."""
    values, start = flags.FLAGS, time.perf_counter()
    settings = posterior.Settings(num_steps=values.num_steps, transitions=values.transitions)
    fitted_rng, ranked_rng = (np.random.default_rng([values.seed, part]) for part in (0, 1))
    keys = jax.random.split(jax.random.key(values.seed))
    _, rows = simulate(fitted_rng, values.num_rows)
    fit = posterior.fit_amortized(
        log_joint, rows, len(NAMES), keys[0], settings=settings, progress=True
    )
    fitted = time.perf_counter()
    truth, data = simulate(ranked_rng, values.num_simulations)
    draws = [
        fit.sample(
            jax.random.fold_in(keys[1], first), data[first : first + BLOCK], values.num_draws
        )
        for first in range(0, len(data), BLOCK)
    ]
    ranks = posterior.rank_statistics(np.concatenate(draws, axis=1), truth)
    exact = posterior.rank_statistics(draw_exact(ranked_rng, data, values.num_draws), truth)
    band = posterior.ecdf_band(values.num_simulations, values.num_draws)
    limits = dict(zip(("fractions", "lower", "upper"), band, strict=True))
    names = ("num_simulations", "num_draws", "num_rows", "num_steps", "transitions", "seed")
    return {
        **{name: getattr(values, name) for name in names},
        "seconds": {"fit": fitted - start, "draws": time.perf_counter() - fitted},
        "band": limits,
        "parameters": verdicts(ranks, limits),
        "exact": verdicts(exact, limits),
    }


def verdicts(ranks: np.ndarray, band: dict) -> dict[str, dict]:
    """Of each parameter's ranks [n, D], with them."""
    return {
        name: {**reporting.band_verdict(of, band), "ranks": of}
        for name, of in zip(NAMES, ranks.T, strict=True)
    }


def main() -> None:
    workdir, found = Path(flags.FLAGS.workdir), plain(measure())
    table = reporting.calibration_table(found)
    write_atomically(workdir / "calibration.json", (json.dumps(found) + "\n").encode())
    write_atomically(workdir / "calibration.md", table.encode())
    print(table)
    print(f"{found['seconds']['fit']:.0f} s to fit, {found['seconds']['draws']:.0f} s to draw")
    print(f"figure: {reporting.draw_calibration(found, workdir / 'calibration.png')}")


if __name__ == "__main__":
    experiment.run_command(main)
