"""The constants behind docs/scaling.md: arithmetic and all-reduce volume of a step, and rates here.

    python benchmarks/scaling.py    # some 5 minutes on two cores

By XLA's own count of the compiled step: floating-point operations and bytes for each data point,
and the bytes that eight devices reduce. Measured: the step's rate on this machine, beside that of
one large matrix product. Prints a table, and leaves JSON in --output.
"""

import json
import os
import re
import time
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from absl import flags  # noqa: E402

import avb_jax as avb  # noqa: E402
from avb_jax import experiment  # noqa: E402
from avb_jax.files import write_atomically  # noqa: E402
from avb_jax.parallel import compile_step  # noqa: E402

flags.DEFINE_string("output", "results/scaling", "directory of what was measured")
CONFIGS = {
    "mnist": (avb.Config(), (28, 28, 1)),
    "mnist, noise-mlp": (avb.Config(encoder="noise-mlp"), (28, 28, 1)),
    "mnist, decoder of convolutions, D = 32": (
        avb.Config(decoder="conv", latent_dim=32, decoder_samples=1, refinements=0),
        (28, 28, 1),
    ),
}
BYTES = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "pred": 1}
REPEATS = 5


def started(config: avb.Config, shape: tuple, batch_size: int):
    model, optimizers = avb.build_model(config, shape), avb.build_optimizers(config)
    state = avb.init_state(model, optimizers, jax.random.key(0))
    images = np.random.default_rng(0).integers(0, 256, (batch_size, *shape), np.uint8)
    return avb.make_train_step(model, optimizers, config), state, images


def cost(config: avb.Config, shape: tuple, batch_size: int) -> tuple[float, float]:
    """Floating-point operations and bytes of one step on one device, by XLA's count."""
    step, state, images = started(config, shape, batch_size)
    found = jax.jit(step).lower(state, images).compile().cost_analysis()
    return found["flops"], found["bytes accessed"]


def reduced_bytes(config: avb.Config, shape: tuple) -> int:
    """What eight devices add up in a step: the results of the compiled step's all-reduces."""
    step, state, images = started(config, shape, 64)
    compiled = compile_step(step)
    state = compiled.place(state)
    text = compiled._compiled.lower(state, compiled.put(images)).compile().as_text()
    total = 0
    for line in re.findall(r"= (.*?) all-reduce(?:-start)?\(", text):
        for kind, sides in re.findall(r"(\w+)\[([\d,]*)\]", line):
            total += BYTES[kind] * int(np.prod([int(n) for n in sides.split(",") if n]))
    return total


def seconds(run, *arguments) -> float:
    """Median of several calls, after the first."""
    jax.block_until_ready(run(*arguments))
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(run(*arguments))
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))


def measure(config: avb.Config, shape: tuple) -> dict:
    (flops, traffic), (flops_small, traffic_small) = (cost(config, shape, b) for b in (256, 128))
    step, state, images = started(config, shape, 128)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    taken = seconds(jax.jit(step), state, images)
    return {
        "parameters": parameters,
        "flops_per_image": (flops - flops_small) / 128,
        "flops_fixed": 2 * flops_small - flops,
        "bytes_per_image": (traffic - traffic_small) / 128,
        "bytes_fixed": 2 * traffic_small - traffic,
        "reduced_bytes": reduced_bytes(config, shape),
        "seconds_per_step": taken,
        "gflops_per_second": flops_small / taken / 1e9,
    }


def main() -> None:
    big = jnp.ones((2048, 2048))
    product = 2 * 2048**3 / seconds(jax.jit(jnp.dot), big, big) / 1e9
    found = {}
    for name, given in CONFIGS.items():
        found[name] = measure(*given)
        print(f"{name}: {found[name]['seconds_per_step']:.3f} s a step here", flush=True)
    output = Path(flags.FLAGS.output)
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"matmul_gflops_per_second": product, "steps": found}, indent=1)
    write_atomically(output / "scaling.json", (text + "\n").encode())
    print("| step | parameters | MFLOP an image | kB an image | reduced, MB | GFLOP/s here |")
    print("|---|---|---|---|---|---|")
    for name, row in found.items():
        print(
            f"| {name} | {row['parameters']:,} | {row['flops_per_image'] / 1e6:.1f} | "
            f"{row['bytes_per_image'] / 1e3:.0f} | {row['reduced_bytes'] / 1e6:.2f} | "
            f"{row['gflops_per_second']:.1f} |"
        )
    print(f"One matrix product of 2,048 × 2,048: {product:.1f} GFLOP/s.")


if __name__ == "__main__":
    experiment.run_command(main)
