"""What streaming costs: steps/s beside images in memory, and memory over a very long stream.

    python benchmarks/streaming.py --what=speed    # some 10 minutes on two cores
    python benchmarks/streaming.py --what=memory   # some 10 minutes on two cores

`speed` trains the model of `avb.Config()` on MNIST, its images in memory and streamed, in turn, and
prints the ratio of the medians; above 0.9 is expected. `memory` trains a small model for one epoch
of two million images that are made on the fly, and draws the resident memory of all its processes:
flat, after the start. Results are left in --output, as JSON and a figure.
"""

import json
import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from absl import flags

import avb_jax as avb
from avb_jax import data, experiment
from avb_jax.files import write_atomically
from avb_jax.reporting.style import ACCENT, Page, style

flags.DEFINE_enum("what", "speed", ["speed", "memory"], "to measure")
flags.DEFINE_string("output", "results/streaming", "directory of what was measured")
flags.DEFINE_string("data_dir", None, "directory of prepared TFDS data sets (unset: TFDS's own)")
flags.DEFINE_integer("repeats", 5, "runs of either kind", lower_bound=1)
flags.DEFINE_integer("stream_length", 2_000_000, "images made on the fly", lower_bound=1000)
flags.DEFINE_integer("data_workers", 0, "processes that read ahead; 0: threads", lower_bound=0)
CALLS = 4  # device calls that are timed in each run, after the first two


def seconds_of_calls(config: avb.Config, dataset: data.Dataset) -> list[float]:
    """Of each device call but the first two, compilation and the readers' start among them."""
    ends = []
    with tempfile.TemporaryDirectory() as folder:
        avb.train(
            config, Path(folder) / "run", dataset=dataset,
            on_interval=lambda _: ends.append(time.monotonic()),
        )  # fmt: skip
    return np.diff(ends)[1:].tolist()


def measure_speed() -> dict:
    values = flags.FLAGS
    found = {"memory": [], "stream": []}
    for _ in range(values.repeats):
        for loading, rates in found.items():
            config = avb.Config(
                dataset="mnist", data_dir=values.data_dir, data_loading=loading, seed=len(rates),
                data_workers=values.data_workers, figure_interval=1e-6, checkpoint_interval=1e6,
                num_steps=100 * (CALLS + 3),
            )  # fmt: skip
            dataset = data.load_for(config)
            rates += [config.steps_per_call / s for s in seconds_of_calls(config, dataset)]
            print(f"{loading}: {np.median(rates):.2f} steps/s so far", flush=True)
    medians = {f"{name}_steps_per_second": float(np.median(rates)) for name, rates in found.items()}
    ratio = medians["stream_steps_per_second"] / medians["memory_steps_per_second"]
    return {**medians, "ratio": ratio, "all": found, "workers": values.data_workers}


class MadeImages:
    """Items of a source of that many images: their seeds."""

    def __init__(self, count: int):
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> int:
        return index


def make_image(seed: int) -> np.ndarray:
    """A blurred blob, another one for each seed: [28, 28, 1]."""
    row, column, width = np.random.default_rng(seed).uniform(6, 22, 3)
    rows, columns = np.ogrid[:28, :28]
    distance = (rows - row) ** 2 + (columns - column) ** 2
    return np.uint8(255 * np.exp(-distance / width))[..., None]


def resident_megabytes() -> float:
    """Of this process and those below it; what they share is counted once."""
    waiting, kilobytes = [os.getpid()], 0
    while waiting:
        process = Path("/proc") / str(waiting.pop())
        try:
            rollup = (process / "smaps_rollup").read_text()
            for children in process.glob("task/*/children"):
                waiting += children.read_text().split()
        except OSError:  # it has ended meanwhile
            continue
        kilobytes += int(rollup.split("Pss:")[1].split()[0])
    return kilobytes / 1024


def measure_memory() -> dict:
    values = flags.FLAGS
    stream = data.Stream(MadeImages(values.stream_length), make_image)
    few = data.Split(np.stack([make_image(seed) for seed in range(100)]))
    dataset = data.Dataset("made on the fly", data.Split(stream), few, few)
    config = avb.Config(
        encoder="gaussian", width=64, depth=1, latent_dim=2, steps_per_call=100,
        num_steps=values.stream_length // 128, data_workers=values.data_workers,
    )  # fmt: skip
    samples, ended = [], threading.Event()

    def watch():
        began = time.monotonic()
        while not ended.wait(1.0):
            samples.append((time.monotonic() - began, resident_megabytes()))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            avb.train(config, Path(folder) / "run", dataset=dataset)
    finally:
        ended.set()
        watching.join()
    seconds, megabytes = np.transpose(samples)
    half, end = len(megabytes) // 2, max(1, len(megabytes) // 20)
    return {
        "images": values.stream_length,
        "stream_megabytes": stream.nbytes / 2**20,
        "seconds": seconds.round(1).tolist(),
        "resident_megabytes": megabytes.round(1).tolist(),
        "growth_in_second_half_megabytes": float(
            np.median(megabytes[-end:]) - np.median(megabytes[half : half + end])
        ),
    }


def draw_memory(found: dict, path: Path) -> Path:
    with style():
        of_all = found["stream_megabytes"]
        page = Page(
            5.6, 2.4, f"Resident memory over a stream of {found['images']:,} images",
            f"megabytes of all processes; the images together would be {of_all:,.0f}", "",
        )  # fmt: skip
        axes = page.axes(0.55, 0.1, 5.0, 1.8)
        axes.plot(found["seconds"], found["resident_megabytes"], color=ACCENT, linewidth=1.4)
        axes.set(ylim=(0, None), xlabel="seconds", ylabel="megabytes")
        return page.save(path)


def main() -> None:
    output, what = Path(flags.FLAGS.output), flags.FLAGS.what
    output.mkdir(parents=True, exist_ok=True)
    found = measure_speed() if what == "speed" else measure_memory()
    write_atomically(output / f"{what}.json", (json.dumps(found) + "\n").encode())
    if what == "memory":
        print(draw_memory(found, output / "memory.png"))
    lists = ("all", "seconds", "resident_megabytes")
    print({name: value for name, value in found.items() if name not in lists})


if __name__ == "__main__":
    experiment.run_command(main)
