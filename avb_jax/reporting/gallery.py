"""The latent spaces of several runs side by side, as the paper's figure 5 shows two."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avb_jax.reporting.latents import prior_plane, scatter_latents
from avb_jax.reporting.snapshot import read_snapshot
from avb_jax.reporting.style import Page, style

_COLUMNS, _SIDE, _GUTTER, _HEAD = 4, 2.6, 0.6, 0.35


def draw_latent_spaces(rows: Sequence[Mapping[str, Any]], workdir: Path, path: Path) -> Path:
    """A panel for each label's first finite run: a draw of q(z|x) for each image, by its label.

    Args:
        rows: of a sweep, with `label` and `run`, whose `figures/snapshot.npz` is shown; D = 2.
        workdir: of the sweep.
        path: of the PNG.

    Raises:
        ValueError: where a snapshot is damaged, or its D is not 2.
    """
    runs: dict[str, str] = {}
    for row in rows:
        if "diverged" not in row:
            runs.setdefault(row["label"], row["run"])
    snapshots = {
        name: read_snapshot(workdir / run / "figures" / "snapshot.npz")
        for name, run in runs.items()
    }
    for name, snapshot in snapshots.items():
        if snapshot["latents"].shape[1] != 2:
            raise ValueError(f"{name} had D = {snapshot['latents'].shape[1]}; allowed is 2")
    columns = min(_COLUMNS, len(runs))
    lines = -(-len(runs) // columns)
    with style():
        page = Page(
            max(columns * (_GUTTER + _SIDE), 5.0) + 0.5,
            lines * (_HEAD + _SIDE + 0.45),
            "Latent spaces",
            "a draw of q(z|x) for each image; circles: 1, 2 and 3 s.d. of the prior",
            "",
        )
        for i, (name, snapshot) in enumerate(snapshots.items()):
            left = i % columns * (_GUTTER + _SIDE) + _GUTTER - 0.05
            top = i // columns * (_HEAD + _SIDE + 0.45) + _HEAD
            axes = page.axes(left, top, _SIDE, _SIDE)
            latents, last = snapshot["latents"], (i + 1) % columns == 0 or i + 1 == len(runs)
            scatter_latents(axes, latents, snapshot.get("labels"), legend=last and i < columns)
            prior_plane(axes, latents, ["z₁", "z₂"])
            axes.set_title(name)
        return page.save(Path(path))
