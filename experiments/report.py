"""Writes one page of HTML about a run, or about several side by side, that needs no network.

    python experiments/report.py --workdir=runs/digits
    python experiments/report.py --workdir=runs/digits runs/digits/gaussian

writes report.html into the first run's directory: evaluation, curves, pictures, the critic's
calibration, timings and configuration, as far as the runs' files tell of them.
"""

from pathlib import Path

from absl import flags

from avb_jax import experiment, reporting

flags.DEFINE_string("workdir", None, "directory of the run; those of others may follow")
flags.DEFINE_string("output", None, "path of the page (unset: WORKDIR/report.html)")


def main(*others: str) -> None:
    first = flags.FLAGS.workdir
    if not first:
        raise ValueError("workdir was not given; allowed is --workdir=DIR, and more directories")
    path = Path(flags.FLAGS.output or Path(first) / "report.html")
    print(f"report: {reporting.write_report([first, *others], path)}")


if __name__ == "__main__":
    experiment.run_command(main, arguments=True)
