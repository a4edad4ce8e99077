"""How fast the fused step is, beside what bounds it and beside other ways to take it.

    pip install -e ".[benchmark]" && python benchmarks/step.py    # some 8 minutes on two idle cores

For each configuration, in one process and in turn, `--repeats` times: the fused AVB step and the
plain VAE's, as training runs them (`fuse_steps`); the arithmetic limit, which is the AVB step's
matrix products and convolutions alone, each an XLA call of its own, once each; the same problem by
two separate updates; the same step in PyTorch, eager and by `torch.compile`; and what trains
nothing: binarisation, batching, metrics. Medians, as JSON and tables, are left in --output. Leave
the machine alone meanwhile.

XLA's flags are tried by

    XLA_FLAGS=... python benchmarks/step.py --cases=mnist-mlp --notorch --output=results/flags/NAME

and `--tables=DIR1,DIR2,...` prints what such runs found, one below another.
"""

import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
from absl import flags
from arithmetic import flops_of, one_by_one, products_of
from cases import CASES, Case, Problem
from measured import in_turns, ratio, table_of, write_results
from tqdm import tqdm
from two_updates import make_two_updates

import avb_jax as avb
from avb_jax import data, experiment
from avb_jax.step import Step

flags.DEFINE_string("output", "results/step", "directory of what was measured")
flags.DEFINE_list("cases", list(CASES), "configurations to measure")
flags.DEFINE_integer("repeats", 7, "turns of each kind", lower_bound=1)
flags.DEFINE_integer("threads", 2, "of XLA and of PyTorch", lower_bound=1)
flags.DEFINE_bool("torch", True, "whether PyTorch is measured too")
flags.DEFINE_list("tables", None, "print what is in these directories, and measure nothing")
EAGER, COMPILED = "torch, eager", "torch.compile"
TARGETS = {  # what the fused step is to be, in times of the other
    "limit": "at most 1.35",
    "VAE": "at most 2",
    "two updates": "at most 0.8",
    EAGER: "at most 0.33, 0.67 but for mnist-mlp",
    COMPILED: "at most 0.4, 0.67 but for mnist-mlp",
}


class Compiled:
    """K steps in one device call, and what compiling them took; the state is carried on."""

    def __init__(self, problem: Problem, batches: np.ndarray, make: Callable[..., Step]):
        optimizers = avb.build_optimizers(problem.config)
        step = make(problem.model, optimizers, problem.config)
        self.state = avb.init_state(problem.model, optimizers, jax.random.key(0))
        self._batches = jax.device_put(batches)
        began = time.perf_counter()
        fused = jax.jit(avb.fuse_steps(step), donate_argnums=0)
        self._run = fused.lower(self.state, self._batches).compile()
        self.compile_seconds = time.perf_counter() - began

    def __call__(self) -> None:
        self.state, metrics = self._run(self.state, self._batches)
        jax.block_until_ready((self.state, metrics))


def without_metrics(model, optimizers, config) -> Step:
    step = avb.make_train_step(model, optimizers, config)
    return lambda state, batch: (step(state, batch)[0], {})


def torch_runs(name: str, case: Case) -> dict[str, Callable[[], None]]:
    import torch
    import torch_avb

    torch.set_num_threads(flags.FLAGS.threads)
    config, model = case.avb
    params = model.init(jax.random.key(0))
    log_joint = torch_avb.eight_schools if name == "posterior" else None
    batches = torch.from_numpy(case.data.copy())

    def run(trainer) -> None:
        for batch in batches:
            trainer.step(batch)

    def trainer(compiled: bool):
        losses = torch_avb.build(config, model, params, log_joint)
        return torch_avb.Trainer(config, losses, compiled)

    return {EAGER: partial(run, trainer(False)), COMPILED: partial(run, trainer(True))}


def overheads(case: Case) -> dict[str, Callable[[], None]]:
    """What a step does beside training, each K times: binarisation and batching."""
    keys = jax.random.split(jax.random.key(0), case.steps)
    binarize = jax.jit(
        lambda keys, x: jax.lax.map(lambda kx: data.binarize(*kx, "dynamic").sum(), (keys, x))
    )
    on_device = jax.device_put(case.data)
    images = np.tile(case.data.reshape(-1, *case.data.shape[2:]), (10, 1, 1, 1))
    batches = data.Batches(images, case.avb.config.batch_size, 0)
    return {
        "binarisation": lambda: jax.block_until_ready(binarize(keys, on_device)),
        "batching": lambda: jax.block_until_ready(jax.device_put(batches.take(0, case.steps))),
    }


def measure(name: str, case: Case) -> dict:
    step = avb.make_train_step
    jitted = {
        "AVB": Compiled(case.avb, case.data, step),
        "VAE": Compiled(case.vae, case.data, step),
        "two updates": Compiled(case.avb, case.data, make_two_updates),
        "without metrics": Compiled(case.avb, case.data, without_metrics),
    }
    optimizers = avb.build_optimizers(case.avb.config)
    of_step = step(case.avb.model, optimizers, case.avb.config)
    arguments = jitted["AVB"].state, case.data[0]
    products = products_of(of_step, *arguments)
    cost = jax.jit(of_step).lower(*arguments).compile().cost_analysis()
    limit, empty = one_by_one(products), jax.jit(lambda x: x)
    idle = jax.device_put(np.zeros(1, np.float32))

    def repeated(run) -> None:
        for _ in range(case.steps):
            run()

    runs = {
        **jitted,
        "limit": partial(repeated, limit),
        "calls": partial(repeated, lambda: [empty(idle).block_until_ready() for _ in products]),
        **(overheads(case) if case.data.dtype == np.uint8 else {}),
        **(torch_runs(name, case) if case.in_torch and flags.FLAGS.torch else {}),
    }
    began = {run: in_turns({run: call}, 1)[run][0] for run, call in runs.items()}  # and warm
    taken = in_turns(runs, flags.FLAGS.repeats)
    seconds = {run: float(np.median(taken[run])) / case.steps for run in runs}
    batch = case.avb.config.batch_size * (case.avb.config.samples if name == "posterior" else 1)
    compile_seconds = {run: call.compile_seconds for run, call in jitted.items()}
    if COMPILED in runs:
        compile_seconds[COMPILED] = began[COMPILED] - case.steps * seconds[COMPILED]
    return {
        "case": name,
        "ms": {run: 1e3 * value for run, value in seconds.items()},
        "all_ms": {run: [1e3 * s / case.steps for s in all] for run, all in taken.items()},
        "ratios": {run: ratio(taken, "AVB", run) for run in TARGETS if run in runs},
        "steps_per_second": 1.0 / seconds["AVB"],
        "examples_per_second": batch / seconds["AVB"],
        "compile_seconds": compile_seconds,
        "xla_flops": cost["flops"],
        "xla_bytes": cost["bytes accessed"],
        "products": len(products),
        "product_flops": flops_of(products),
        "beside_training": _beside_training(taken),
    }


def _beside_training(taken: dict[str, list[float]]) -> float:
    """The share of a step that binarisation, batching and metrics take; medians over the turns."""
    metrics = np.subtract(taken["AVB"], taken["without metrics"])
    extra = np.maximum(np.median(metrics), 0.0)
    extra += sum(np.median(taken.get(part, 0.0)) for part in ("binarisation", "batching"))
    return float(extra / np.median(taken["AVB"]))


COLUMNS = (
    "case",
    "steps/s",
    "examples/s",
    "ms",
    "VAE, ms",
    "compile, s",
    "GFLOP",
    "beside training",
)


def tables(rows: list[dict]) -> list[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    """The columns and lines of both tables: what a step takes, and its times of the others."""
    of_steps = [
        (
            row["case"], f"{row['steps_per_second']:.1f}", f"{row['examples_per_second']:,.0f}",
            f"{row['ms']['AVB']:.2f}", f"{row['ms']['VAE']:.2f}",
            f"{row['compile_seconds']['AVB']:.1f}", f"{row['product_flops'] / 1e9:.2f}",
            f"{100 * row['beside_training']:.1f}%",
        )
        for row in rows
    ]  # fmt: skip
    of_ratios = [
        (row["case"], *(f"{row['ratios'][t]:.2f}" if t in row["ratios"] else "" for t in TARGETS))
        for row in rows
    ]
    expected = ("expected", *TARGETS.values())
    return [(COLUMNS, of_steps), (("AVB in times of", *TARGETS), [*of_ratios, expected])]


def text_of(rows: list[dict]) -> str:
    return "\n".join(table_of(*table) for table in tables(rows))


def main() -> None:
    values = flags.FLAGS
    for folder in map(Path, values.tables or ()):
        print(f"{folder}\n\n{text_of(json.loads((folder / 'step.json').read_text())['rows'])}")
    if values.tables:
        return
    unknown = set(values.cases) - set(CASES)
    if unknown:
        raise ValueError(f"cases was {', '.join(unknown)}; allowed are {'; '.join(CASES)}")
    os.environ["NPROC"] = str(values.threads)  # before the backend starts: its thread pool
    jax.config.update("jax_enable_compilation_cache", False)
    rows = []
    for name in tqdm(values.cases, unit="case"):
        rows.append(measure(name, CASES[name]()))
    write_results("step", rows, text_of(rows))


if __name__ == "__main__":
    experiment.run_command(main)
