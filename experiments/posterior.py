"""How near are posteriors to known ones? AVB beside NumPyro's guides and NUTS.

    python experiments/posterior.py --target=banana
    python experiments/posterior.py --target=all --posteriordb=DIR

DIR holds posteriordb's files of data and of reference draws as NAME.data.json.zip and
NAME.draws.json.zip. The command writes posterior.jsonl (one fit a line; one that is there is not
made again), posterior.md, summary.md (C2ST alone), a figure of each target's marginals and pairs,
and the draws it is made of, into --workdir. Errors are the largest over parameters, in standard
deviations of the reference: exact draws, or posteriordb's. C2ST is 0.5 where a classifier cannot
tell draws from the reference. AVB is given twice: with the Hamiltonian transitions that end its
sampler, and without. A fit of it takes half a minute to two minutes on two cores, all of them half
an hour. Its C2ST must be at most 0.52, its errors on posteriordb's at most 0.1 (means), 0.07
(spreads) and 0.15 (quantiles).
"""

import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from absl import flags
from numpyro.distributions import constraints
from posteriors.methods import METHODS, draw, largest_errors
from posteriors.reference_models import REFERENCES, files, flatten, load
from posteriors.shapes import SHAPES, kl_on_grid

from avb_jax import experiment, posterior, reporting
from avb_jax.cases import measure_cases
from avb_jax.files import write_atomically
from avb_jax.options import check_choices

TARGETS = (*SHAPES, *REFERENCES)
GRID_DRAWS = 100_000  # behind a KL on a grid
REFERENCE = "reference"

flags.DEFINE_string("target", "banana", f"one of {', '.join(TARGETS)}, or all")
flags.DEFINE_list("methods", list(METHODS), f"of {', '.join(METHODS)}")
flags.DEFINE_string("posteriordb", "posteriordb", "directory of posteriordb's zipped files")
flags.DEFINE_integer("seeds", 1, "fits of each, with seeds from 0 on", lower_bound=1)
flags.DEFINE_integer("num_draws", 4000, "of each fit", lower_bound=100)
flags.DEFINE_integer("num_steps", posterior.Settings().num_steps, "of AVB", lower_bound=1)
flags.DEFINE_string("workdir", "runs/posterior", "where the table goes")


def problem(target: str, rng: np.random.Generator):
    """(NumPyro model, its arguments, the sites compared, reference draws {"mu[1]": [n], ...})."""
    if target in SHAPES:
        shape = SHAPES[target]

        def model():
            flat = dist.ImproperUniform(constraints.real, (), (shape.dim,))
            numpyro.factor("density", shape.log_density(numpyro.sample("z", flat)))

        return model, {}, ("z",), flatten({"z": shape.draw(rng, 20_000)}, ("z",))
    reference = REFERENCES[target]
    data, draws = load(target, flags.FLAGS.posteriordb)
    names = [k for site in reference.parameters for k in draws if k.split("[")[0] == site]
    return reference.model, data, reference.parameters, {name: draws[name] for name in names}


def measure(case: dict) -> dict:
    """One fit: its errors against the reference, C2ST, a KL on a grid where D = 2, seconds."""
    values, start = flags.FLAGS, time.perf_counter()
    rng, settings = (
        np.random.default_rng(case["seed"]),
        posterior.Settings(num_steps=values.num_steps),
    )
    model, data, sites, known = problem(case["target"], rng)
    shape = SHAPES.get(case["target"])
    on_grid = shape is not None and shape.dim == 2
    count = GRID_DRAWS if on_grid and case["method"] != "nuts" else values.num_draws
    draws = draw(case["method"], model, data, jax.random.key(case["seed"]), count, settings)
    seconds = time.perf_counter() - start
    ours = np.stack(list(flatten(draws, sites).values()), axis=1)
    reference = np.stack(list(known.values()), axis=1)
    row = {**case, "seconds": round(seconds, 1)}
    if not np.isfinite(ours).all():  # a guide may diverge
        return row
    if case["seed"] == 0:
        for name, some in ((case["method"], ours), (REFERENCE, reference)):
            reporting.save_draws(draws_path(case["target"], name), some, list(known))
    row |= largest_errors(ours[: values.num_draws], reference, case["seed"])
    if on_grid and count == GRID_DRAWS:
        row["kl"] = kl_on_grid(shape, ours, rng)
    return row


def draws_path(target: str, method: str) -> Path:
    return Path(flags.FLAGS.workdir) / "draws" / f"{target}-{method}.npz"


def draw_figure(target: str) -> None:
    """Marginals and pairs of all methods whose draws are there."""
    if not draws_path(target, REFERENCE).exists():
        return
    names, reference = reporting.read_draws(draws_path(target, REFERENCE))
    paths = {method: draws_path(target, method) for method in METHODS}
    ours = {
        method: reporting.read_draws(path)[1] for method, path in paths.items() if path.exists()
    }
    path = Path(flags.FLAGS.workdir) / f"{target}.png"
    print(f"figure: {reporting.draw_posteriors(target, names, reference, ours, path)}")


def targets() -> tuple[str, ...]:
    return TARGETS if flags.FLAGS.target == "all" else (flags.FLAGS.target,)


def cases() -> list[dict]:
    values = flags.FLAGS
    check_choices("target", targets(), TARGETS)
    check_choices("methods", values.methods, METHODS)
    return [
        {"target": target, "method": method, "seed": seed}
        for target in targets()
        for seed in range(values.seeds)
        for method in values.methods
    ]


def check_files(cases: Sequence[dict]) -> None:
    """Raises where those of a target are missing: before hours of the others."""
    for target in {case["target"] for case in cases} & set(REFERENCES):
        files(target, flags.FLAGS.posteriordb)


def main() -> None:
    workdir = Path(flags.FLAGS.workdir)
    rows = measure_cases(
        workdir / "posterior.jsonl",
        cases(),
        measure,
        reporting.posterior_line,
        {"num_steps": flags.FLAGS.num_steps, "num_draws": flags.FLAGS.num_draws},
        check_files,
    )
    summary, table = reporting.posterior_summary(rows), reporting.posterior_table(rows)
    write_atomically(workdir / "summary.md", summary.encode())
    write_atomically(workdir / "posterior.md", table.encode())
    print(f"{table}\n{summary}")
    for target in targets():
        draw_figure(target)


if __name__ == "__main__":
    experiment.run_command(main)
