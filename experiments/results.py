"""Brings README.md and the documentation up to date with the files under results/.

    python experiments/results.py            # a second
    python experiments/results.py --check    # exit status 2 where a page says something else

A table stands between <!-- table: FILE.md --> or <!-- runs: NAME, NAME, ... --> and <!-- end -->:
the one is the file as a benchmark or a sweep left it, the other means over the runs results/NAME,
results/NAME-1, results/NAME-2, ..., which differ by their seeds. The documentation's copies of
figures are made anew too.
"""

import re
from pathlib import Path

from absl import flags

from avb_jax import experiment, reporting
from avb_jax.config import load_config
from avb_jax.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/results.md", "docs/performance.md", "docs/scaling.md")
FIGURES = {
    "calibration.png": "calibration/calibration.png",
    "cost.png": "cost/cost.png",
    "critic_accuracy.png": "critic_accuracy/critic_accuracy.png",
    "eight_schools.png": "eight_schools/authors.png",
    "eight_schools_standard.png": "eight_schools/standard.png",
    "four_images.png": "four_images/posteriors.png",
    "funnel.png": "posterior/funnel.png",
    "latent_spaces.png": "toy/latent.png",
    "memory.png": "streaming/memory.png",
    "pace.png": "mnist-d32-conv/pace.png",
    "robustness.png": "robustness/robustness.png",
    "two_modes.png": "mnist-d2-basis/figures/modes.png",
    "two_modes_gaussian.png": "mnist-d2-gaussian-full/figures/modes.png",
}  # of docs/, and what each is a copy of
TABLE = re.compile(r"(<!-- (table|runs): (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)

flags.DEFINE_bool("check", False, "write nothing, and fail where something would be written")


def of_runs(names: str) -> str:
    """The table of runs and their seeds, as of a sweep."""
    rows = []
    for name in names.split(", "):
        found = [path for path in (ROOT / "results").glob(f"{name}*") if _is_seed(path.name, name)]
        if not found:
            raise ValueError(f"results/{name} does not exist; allowed are runs under results/")
        for path in sorted(found):
            rows.append(
                {
                    "run": path.name,
                    "label": f"`{name}`",
                    "seed": load_config(path / "config.json").seed,
                    "seconds": reporting.training_seconds(
                        reporting.read_metrics(path / "metrics.jsonl")
                    ),
                    "evaluation": reporting.read_evaluation(path / "evaluation.json"),
                }
            )
    return reporting.sweep_table(rows)


def _is_seed(directory: str, name: str) -> bool:
    return re.fullmatch(re.escape(name) + r"(-\d+)?", directory) is not None


def of_file(name: str) -> str:
    """A table that a command left."""
    path = ROOT / "results" / name
    if not path.is_file():
        raise ValueError(f"results/{name} does not exist; allowed are tables under results/")
    return path.read_text()


def fill(text: str) -> str:
    """A page with its tables as the files have them."""
    tables = {"runs": of_runs, "table": of_file}
    return TABLE.sub(
        lambda found: f"{found[1]}\n{tables[found[2]](found[3]).strip()}\n\n{found[4]}", text
    )


def contents() -> dict[str, bytes]:
    """What every page and every copied figure should hold."""
    pages = {name: fill((ROOT / name).read_text()).encode() for name in PAGES}
    figures = {f"docs/{name}": (ROOT / "results" / of).read_bytes() for name, of in FIGURES.items()}
    return {**pages, **figures}


def main() -> None:
    for name, new in contents().items():
        path = ROOT / name
        if path.exists() and path.read_bytes() == new:
            continue
        if flags.FLAGS.check:
            raise ValueError(
                f"{name} is not what results/ says; allowed is what python experiments/results.py "
                "writes"
            )
        write_atomically(path, new)
        print(f"written: {name}")


if __name__ == "__main__":
    experiment.run_command(main)
