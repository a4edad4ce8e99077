"""How right is a critic? Fits critics to samplers of known density and measures log q̂ − log q.

    python experiments/critic_accuracy.py                      # the default settings
    python experiments/critic_accuracy.py --contrasts=moments,flow --losses=logistic,exp

writes critic_accuracy.jsonl (one fit a line; a fit that is there is not made again), .md and
.png into --workdir. On one core a fit takes one to three minutes without x, in which a second core
is of no use, under four for `autoregressive` with D = 32, and three to four given x. By default the
RMSE of log q̂ is at most 0.08 nats with D = 1 to 4 and 0.143 with D = 8; with D = 16 and 32 it is
at most 0.121 and 0.321 for six of eight samplers, 0.3 and 0.64 for two random flows; given x 0.083
with D = 2, 0.144 with D = 4 and 0.152 with D = 8: docs/results.md, "How right is a critic?".
"""

import itertools
import time
from pathlib import Path

import jax
import numpy as np
from absl import flags
from known_samplers import SAMPLERS, X_DIM, conditional

import avb_jax as avb
from avb_jax import experiment, reporting
from avb_jax.cases import measure_cases
from avb_jax.choices import CRITIC_LOSSES
from avb_jax.critic_fit import FIT_CONTRASTS, WITH_X, WITHOUT_X
from avb_jax.files import write_atomically

DRAWS = 20_000  # fresh draws of q behind each number, one for each of as many fresh x
DATA = 200_000  # x that a fit is given: of 20,000 too few are as far out as some of the fresh ones
IDENTITY = ("sampler", "conditional", "dim", "contrast", "loss", "seed")

flags.DEFINE_list("samplers", list(SAMPLERS), f"of {', '.join(SAMPLERS)}")
flags.DEFINE_list("dims", ["1", "2", "4", "8", "16", "32"], "D, dimensions of z")
flags.DEFINE_list("contrasts", ["best"], f"of {', '.join(FIT_CONTRASTS)}; each where it applies")
flags.DEFINE_list("losses", ["logistic"], f"of {', '.join(CRITIC_LOSSES)}")
flags.DEFINE_enum("given", "both", ["nothing", "x", "both"], "q(z), q(z|x), or both")
flags.DEFINE_integer("seed", 0, "of samplers and fits", lower_bound=0, upper_bound=2**32 - 1)
flags.DEFINE_string("workdir", "runs/critic_accuracy", "where the table goes")


def measure(case: dict) -> dict:
    """One fit, and its errors on fresh draws, nats."""
    dim, given_x = case["dim"], case["conditional"]
    rng = np.random.default_rng([case["seed"], dim])
    known = SAMPLERS[case["sampler"]](rng, dim)
    key_fit, key_x, key_z = jax.random.split(jax.random.key(case["seed"]), 3)
    x = jax.random.normal(key_x, (DATA + DRAWS, X_DIM)) if given_x else None
    known = conditional(known, rng, dim) if given_x else known
    start = time.perf_counter()
    fit = avb.fit_critic(
        key_fit,
        known.sample,
        dim,
        x=x[:DATA] if given_x else None,
        contrast=case["contrast"],
        loss=case["loss"],
    )
    seconds = time.perf_counter() - start
    given = (x[DATA:],) if given_x else ()
    z = known.sample(key_z, *(given or (DRAWS,)))
    truth = known.log_density(*given, z)
    error = np.asarray(fit.log_density(*given, z) - truth, np.float64)
    log_ratio = np.asarray(fit.log_ratio(*given, z), np.float64)
    return {
        **case,
        "bias": error.mean(),
        "stderr": error.std() / DRAWS**0.5,
        "rmse": np.sqrt(np.square(error).mean()),
        "contrast_bias": (error - log_ratio).mean(),
        "contrast_rmse": np.sqrt(np.square(error - log_ratio).mean()),
        "kl": np.mean(log_ratio - error),
        "kl_estimate": fit.calibration.kl,
        "seconds": round(seconds, 1),
        "calibration": fit.calibration._asdict(),
    }


def cases() -> list[dict]:
    values = flags.FLAGS
    given = {"nothing": [False], "x": [True], "both": [False, True]}[values.given]
    if not all(dim.isdigit() and int(dim) > 0 for dim in values.dims):
        raise ValueError(f"dims was {','.join(values.dims)}; allowed are whole numbers above 0")
    if unknown := set(values.samplers) - set(SAMPLERS):
        raise ValueError(f"samplers were {', '.join(unknown)}; allowed are {', '.join(SAMPLERS)}")
    dims = [int(dim) for dim in values.dims]
    found = []
    for dim, sampler, with_x, contrast, loss in itertools.product(
        dims, values.samplers, given, values.contrasts, values.losses
    ):
        if contrast not in (WITHOUT_X if with_x else WITH_X):
            row = (sampler, with_x, dim, contrast, loss, values.seed)
            found.append(dict(zip(IDENTITY, row, strict=True)))
    if not found:
        raise ValueError(
            "samplers, dims, contrasts and losses left nothing to fit; allowed is one of each at "
            "least, and moments or mixture without x, learned with it"
        )
    return found


def main() -> None:
    workdir = Path(flags.FLAGS.workdir)
    path = workdir / "critic_accuracy.jsonl"
    rows = measure_cases(path, cases(), measure, reporting.accuracy_line)
    table = reporting.accuracy_table(rows)
    write_atomically(workdir / "critic_accuracy.md", table.encode())
    print(table)
    print(f"figure: {reporting.draw_accuracy(rows, workdir / 'critic_accuracy.png')}")


if __name__ == "__main__":
    experiment.run_command(main)
