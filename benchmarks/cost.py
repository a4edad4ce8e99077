"""How time and memory of a step grow with what it is given.

    python benchmarks/cost.py    # some 6 minutes on two idle cores

From one MNIST configuration, each of batch, latent dimension, draws, critic steps, width and
devices is varied alone. Time is the median of `--repeats` calls, taken in turn; memory is XLA's own
count of the compiled step, on each device: what is given, what comes out of it, and what it works
in. The exponents are fitted to all sizes. Devices are several on the host's cores, so that their
times say what dividing a batch costs, not what it gains. Besides, the peak resident memory of
training `avb.Config()` on images of MNIST's size, in a process of its own. JSON, a table and a
figure are left in --output.
"""

import multiprocessing
import os
import resource
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jax
import numpy as np
from absl import flags
from cases import PLAIN, images
from measured import in_turns, table_of, write_results
from tqdm import tqdm

import avb_jax as avb
from avb_jax import data, experiment
from avb_jax.reporting.style import ACCENT, FAINT, Page, style

flags.DEFINE_string("output", "results/cost", "directory of what was measured")
flags.DEFINE_integer("repeats", 5, "calls of each kind", lower_bound=1)
DEVICES = 4
BATCH = 128
SIDE, GAP = 1.6, 0.55  # of the figure's panels, inches
SHAPE = (28, 28, 1)
BASE = {**PLAIN, "width": 256, "batch_size": BATCH}
AXES = {
    "batch": ("batch_size", (32, 64, 128, 256, 512)),
    "latent dimension": ("latent_dim", (2, 4, 8, 16, 32)),
    "draws": ("num_samples", (1, 2, 4, 8, 16)),
    "critic steps": ("critic_steps", (1, 2, 4, 8)),
    "width": ("width", (128, 256, 512, 1024)),
    "devices": (None, (1, 2, 4)),
}


def options_of(axis: str, size: int) -> dict:
    """Of a config; all the draws are decoded."""
    name, _ = AXES[axis]
    given = {} if name is None else {name: size}
    return {**BASE, **given, **({"decoder_samples": size} if name == "num_samples" else {})}


def compiled_step(axis: str, size: int):
    """A call of one step, and its megabytes on each device."""
    config = avb.Config(**options_of(axis, size))
    model, optimizers = avb.build_model(config, SHAPE), avb.build_optimizers(config)
    step = avb.compile_step(
        avb.make_train_step(model, optimizers, config),
        devices=jax.devices()[: size if axis == "devices" else 1],
    )
    state = [step.place(avb.init_state(model, optimizers, jax.random.key(0)))]
    batch = step.put(images(config, SHAPE, 1)[0])
    of = step._compiled.lower(state[0], batch).compile().memory_analysis()
    parts = (of.argument_size_in_bytes, of.output_size_in_bytes, of.temp_size_in_bytes)

    def run() -> None:
        state[0], metrics = step(state[0], batch)
        jax.block_until_ready((state[0], metrics))

    run()
    return run, (sum(parts) - of.alias_size_in_bytes) / 1e6


def measure(axis: str) -> dict:
    sizes = AXES[axis][1]
    steps = {size: compiled_step(axis, size) for size in sizes}
    taken = in_turns({size: run for size, (run, _) in steps.items()}, flags.FLAGS.repeats)
    ms = [1e3 * float(np.median(taken[size])) for size in sizes]
    megabytes = [megabytes for _, megabytes in steps.values()]
    return {
        "axis": axis,
        "sizes": sizes,
        "ms": ms,
        "megabytes": megabytes,
        "exponent_of_time": exponent(sizes, ms),
        "exponent_of_memory": exponent(sizes, megabytes),
    }


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """b of the least squares fit of log values = a + b log sizes."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def resident_megabytes() -> float:
    """The peak of this process, once it has trained a few hundred steps of the defaults."""
    config = avb.Config(num_steps=300)
    rng = np.random.default_rng(0)
    train, few = (data.Split(rng.integers(0, 256, (n, *SHAPE), np.uint8)) for n in (50_000, 100))
    with tempfile.TemporaryDirectory() as folder:
        avb.train(config, Path(folder) / "run", dataset=data.Dataset("made up", train, few, few))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def draw(rows: list[dict], path: Path) -> Path:
    """Milliseconds above, megabytes below, an axis in each column; both scales are logarithmic."""
    with style():
        page = Page(
            len(rows) * (SIDE + GAP), 2 * (SIDE + GAP) + 0.1, "What a step costs",
            f"MNIST; batch {BATCH}, D = 8, one draw, one critic step, width 256, one device, "
            "but for what varies", "",
        )  # fmt: skip
        for j, (unit, what) in enumerate({"ms": "time", "megabytes": "memory"}.items()):
            values = np.concatenate([row[unit] for row in rows])
            limits = (0.7 * values.min(), 2.0 * values.max())
            for i, row in enumerate(rows):
                place = (0.45 + i * (SIDE + GAP), 0.2 + j * (SIDE + GAP))
                axes = page.axes(*place, SIDE, SIDE)
                axes.set(ylim=limits, title=row["axis"] if j == 0 else "")
                axes.set_ylabel(unit if i == 0 else "")
                _draw_panel(axes, row["sizes"], row[unit], row[f"exponent_of_{what}"])
        return page.save(path)


def _draw_panel(axes, sizes: Sequence[int], values: Sequence[float], power: float) -> None:
    axes.loglog(sizes, values, "o-", color=ACCENT, markersize=4, linewidth=1.2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.tick_params(which="minor", bottom=False, labelbottom=False)
    axes.text(0.05, 0.9, f"$n^{{{power:.2f}}}$", transform=axes.transAxes, color=FAINT)


def main() -> None:
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as pool:
        resident = pool.submit(resident_megabytes).result()
    # Before the backend starts, here.
    more = f" --xla_force_host_platform_device_count={DEVICES}"
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + more
    rows = [measure(axis) for axis in tqdm(AXES, unit="axis")]
    table = [
        (
            row["axis"], ", ".join(map(str, row["sizes"])),
            ", ".join(f"{value:.1f}" for value in row["ms"]), f"{row['exponent_of_time']:.2f}",
            ", ".join(f"{value:.0f}" for value in row["megabytes"]),
            f"{row['exponent_of_memory']:.2f}",
        )
        for row in rows
    ]  # fmt: skip
    columns = ("varied", "sizes", "ms", "exponent", "megabytes", "exponent")
    peak = f"\nPeak resident memory of training MNIST by the defaults: {resident:,.0f} MB.\n"
    rows.append({"axis": "resident memory of training", "megabytes": resident})
    write_results("cost", rows, table_of(columns, table) + peak)
    print(draw(rows[:-1], Path(flags.FLAGS.output) / "cost.png"))


if __name__ == "__main__":
    experiment.run_command(main)
