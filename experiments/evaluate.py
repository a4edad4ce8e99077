"""Evaluates a trained run: everything but the flags here is read from its directory.

    python experiments/evaluate.py --workdir=runs/digits
    python experiments/evaluate.py --workdir=runs/digits --methods=ais
    python experiments/evaluate.py --workdir=runs/mnist --protocol=mescheder2017
    python experiments/evaluate.py --compare runs/digits runs/digits/gaussian

prints what is known of the test images' log-likelihood and of the latent space, each bound in the
column of its direction, and writes evaluation.json. Killed and started again, it goes on. The last
prints what evaluated runs say, here those of train.py --compare, side by side, and draws it into
the first run's figures.
"""

import dataclasses
from pathlib import Path

from absl import flags

import avb_jax as avb
from avb_jax import data, experiment, reporting
from avb_jax.evaluation import MESCHEDER2017, METHODS, AISSettings
from avb_jax.evaluation.annealing import DEFAULTS, PRIOR_SHARE, SCHEDULES

PROTOCOLS = {"mescheder2017": (MESCHEDER2017, 2560, "dynamic")}  # settings, images, binarisation

flags.DEFINE_string("workdir", None, "directory of the run")
flags.DEFINE_bool("compare", False, "print the evaluated runs whose directories follow")
flags.DEFINE_enum("split", "test", ["train", "validation", "test"], "images to evaluate")
flags.DEFINE_string("data_dir", None, "directory of prepared TFDS data sets (unset: the run's)")
flags.DEFINE_list(
    "methods",
    [name for name in METHODS if name != "ais"],
    f"of {', '.join(METHODS)}; --protocol has its own",
)
flags.DEFINE_enum(
    "protocol", None, list(PROTOCOLS), "annealed importance sampling as in the paper's tables"
)
flags.DEFINE_list("iwae_samples", ["50"], "K of each importance-weighted bound")
flags.DEFINE_integer("ais_images", None, "the first so many; 0: all", lower_bound=0)
flags.DEFINE_integer("ais_temperatures", None, "steps from the start to the posterior")
flags.DEFINE_integer("ais_chains", None, "for each image")
flags.DEFINE_integer("ais_leapfrog", None, "steps of each Hamiltonian move")
flags.DEFINE_enum("ais_schedule", None, list(SCHEDULES), "of the temperatures")
flags.DEFINE_enum("ais_start", None, list(PRIOR_SHARE), "density that chains start from")
flags.DEFINE_integer(
    "simulated_images", 100, "annealed both ways, as AIS's certificate", lower_bound=0
)
flags.DEFINE_integer("batch_size", 100, "images at a time: memory", lower_bound=1)
experiment.define_evaluation_flags()


def ais_settings(base: AISSettings) -> AISSettings:
    given = {
        name: getattr(flags.FLAGS, f"ais_{name.removeprefix('num_')}")
        for name in ("num_temperatures", "num_chains", "num_leapfrog", "schedule", "start")
    }
    return base._replace(**{name: value for name, value in given.items() if value is not None})


def settings_of_flags(config: avb.Config):
    values = flags.FLAGS
    methods, (ais, images, binarization) = tuple(values.methods), (DEFAULTS, 0, None)
    if values.protocol:
        methods, (ais, images, binarization) = ("ais",), PROTOCOLS[values.protocol]
    if binarization not in (None, config.binarization):
        raise ValueError(
            f"protocol was {values.protocol} with a run whose binarization is "
            f"{config.binarization}; allowed is {binarization}"
        )
    if bad := [k for k in values.iwae_samples if not k.isdecimal() or int(k) < 1]:
        raise ValueError(f"iwae_samples had {', '.join(bad)}; allowed are whole numbers above 0")
    return experiment.evaluation_settings(
        methods=methods,
        iwae_samples=tuple(int(k) for k in values.iwae_samples),
        ais=ais_settings(ais),
        ais_images=images if values.ais_images is None else values.ais_images,
        simulated_images=values.simulated_images,
        batch_size=values.batch_size,
    )


def compare(workdirs: list[str]) -> None:
    if len(workdirs) < 2:
        raise ValueError(
            f"compare was given {len(workdirs)} directories; allowed are two or more of runs"
        )
    runs = {
        name: reporting.read_evaluation(path / "evaluation.json")
        for name, path in reporting.run_names(workdirs).items()
    }
    print(reporting.comparison_table(runs))
    path = Path(workdirs[0]) / "figures" / "comparison.png"
    print(f"figure: {reporting.draw_comparison(runs, path)}")


def main(*arguments: str) -> None:
    if flags.FLAGS.compare:
        return compare(list(arguments))
    if not flags.FLAGS.workdir or arguments:
        raise ValueError(
            f"workdir was {flags.FLAGS.workdir}, and {len(arguments)} arguments followed; allowed "
            "is --workdir=DIR, or --compare and directories"
        )
    workdir = Path(flags.FLAGS.workdir)
    run = avb.load(workdir)
    settings = settings_of_flags(run.config)
    data_dir = flags.FLAGS.data_dir or run.config.data_dir
    dataset = data.load_for(dataclasses.replace(run.config, data_dir=data_dir))
    entries = experiment.evaluate(run, dataset, workdir, settings, flags.FLAGS.split)
    figures = experiment.draw(run, dataset, workdir)
    print(f"\n{run.config.dataset}, {flags.FLAGS.split} split, step {run.step}")
    print(reporting.evaluation_table(entries))
    for line in reporting.remarks(entries, run.config.explicit):
        print(line)
    print(f"figures: {figures[0].parent}")


if __name__ == "__main__":
    experiment.run_command(main, arguments=True)
