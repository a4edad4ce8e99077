"""Eight Schools: the table of experiments/eight_schools.py."""

from collections.abc import Mapping, Sequence
from typing import Any

from avb_jax.files import markdown_table

Row = Mapping[str, Any]
COLUMNS = ("version", "method", "seed", "mean of μ, τ, η", "spread of μ, τ, η", "μ", "τ", "C2ST",
           "s")  # fmt: skip
REMARK = (
    "Errors are in posterior standard deviations, the largest over η's eight; τ's are those of "
    "log τ in the standard version. NUTS: half of its chains against the others."
)


def _cells(row: Row) -> list[str]:
    means, spreads = zip(*row["errors"].values(), strict=True)
    errors = [", ".join(f"{error:.3f}" for error in of_all) for of_all in (means, spreads)]
    moments = [f"{mean:.2f} ± {spread:.2f}" for mean, spread in row["moments"].values()]
    ends = [f"{row['c2st']:.3f}", f"{row['seconds']:.0f}"]
    return [row["version"], row["method"], str(row["seed"]), *errors, *moments, *ends]


def schools_line(row: Row) -> str:
    """One fit in a line of text."""
    version, method, seed, means, spreads, mu, tau, c2st, seconds = _cells(row)
    truth = ""
    if "r_hat" in row:
        truth = f"; R̂ at most {row['r_hat']:.3f}, at least {row['ess']:.0f} effective draws"
    return (
        f"{version}, {method}, seed {seed}: errors of {', '.join(row['errors'])}: means {means}, "
        f"spreads {spreads}; μ {mu}, τ {tau}; C2ST {c2st}; {seconds} s{truth}"
    )


def schools_table(rows: Sequence[Row]) -> str:
    """All fits as a Markdown table, by version in the order they came in; with what it means."""
    order = list(dict.fromkeys(row["version"] for row in rows))
    by_version = sorted(rows, key=lambda row: order.index(row["version"]))
    return f"{markdown_table(COLUMNS, map(_cells, by_version))}\n{REMARK}\n"
