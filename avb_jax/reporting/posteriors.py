"""How near posteriors are to known ones: the table of experiments/posterior.py."""

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
COLUMNS = ("target", "method", "seed", "mean", "spread", "quantiles", "C2ST", "KL, nats", "s")


def _cells(row: Row) -> list[str]:
    errors = [f"{row[name]:.3f}" for name in ("mean", "spread", "quantiles", "c2st")]
    kl = f"{row['kl']:.3f}" if "kl" in row else ""
    return [row["target"], row["method"], str(row["seed"]), *errors, kl, f"{row['seconds']:.0f}"]


def posterior_line(row: Row) -> str:
    """One fit in a line of text."""
    target, method, seed, mean, spread, quantiles, c2st, kl, seconds = _cells(row)
    of_grid = f", KL {kl} nats" if kl else ""
    return (
        f"{target}, {method}, seed {seed}: errors of means {mean}, spreads {spread}, quantiles "
        f"{quantiles}; C2ST {c2st}{of_grid}; {seconds} s"
    )


def posterior_table(rows: Sequence[Row]) -> str:
    """All fits as a Markdown table, target by target, nearest first (by C2ST)."""
    order = list(dict.fromkeys(row["target"] for row in rows))
    nearest = sorted(rows, key=lambda row: (order.index(row["target"]), row["c2st"]))
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(_cells(row)) + " |" for row in nearest)]) + "\n"
