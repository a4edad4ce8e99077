"""`Run`: a trained model, ready to use, from its directory or from one file of its weights."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from avb_jax.checkpoint import Checkpoints, describe, difference
from avb_jax.config import Config, load_config, parse_config
from avb_jax.files import write_atomically
from avb_jax.model import Model, build_model
from avb_jax.optimizers import Optimizers, build_optimizers
from avb_jax.step import init_state
from avb_jax.types import Params, Tree
from avb_jax.workdir import event_shape_path

SUFFIX = ".safetensors"
_FORMAT = "avb_jax 1"  # the number is raised when an older version could not read it


class Run(NamedTuple):
    """A run, ready to use.

    Attributes:
        config: every choice of it.
        model: pure functions, that compute in float32 whatever the training did.
        params: averaged where the config says so.
        step: steps taken.
    """

    config: Config
    model: Model
    params: Params
    step: int


def load(
    path: str | os.PathLike, *, model: Model | None = None, optimizers: Optimizers | None = None
) -> Run:
    """A run from its directory, or from the `.safetensors` file that `save_weights` made of it.

    Of a directory it takes the config, and the parameters of the newest good checkpoint. `model`
    and `optimizers` are those it was trained with, where not the config's.

    Raises:
        ValueError: if the directory holds no run, or no checkpoint that is whole; if the file is
            damaged; or if either holds the parameters of another model.
    """
    path = Path(path)
    if path.suffix == SUFFIX:
        return _load_weights(path, model)
    config = load_config(path / "config.json")
    if not event_shape_path(path).exists():
        raise ValueError(f"workdir was {path}, which holds no checkpoint yet; train first")
    model = model or build_model(config.evaluated, _shape(event_shape_path(path).read_text()))
    state = init_state(model, optimizers or build_optimizers(config), jax.random.key(config.seed))
    with Checkpoints(path / "checkpoints") as checkpoints:
        restored = checkpoints.restore(state)
    if restored is None:
        raise ValueError(f"workdir was {path}, which holds no checkpoint yet; train first")
    step, state = restored
    return Run(config, model, state.evaluation_params, step)


def save_weights(run: Run, path: str | os.PathLike) -> Path:
    """Writes a run's parameters as one safetensors file, atomically; `load` gives the run back.

    A tensor is called by its path, `decoder.params.Dense_0.kernel`. The metadata hold `config`
    (JSON), `event_shape`, `step`, and a digest of it all.

    Args:
        run: from `load` or `train`.
        path: of the file, which ends in `.safetensors`.

    Raises:
        ValueError: for a path that ends otherwise.
    """
    from safetensors.numpy import save

    if Path(path).suffix != SUFFIX:
        raise ValueError(f"path was {path}; allowed is one that ends in {SUFFIX}")
    leaves = {name: np.asarray(leaf) for name, leaf in _by_name(run.params).items()}
    about = {
        "format": _FORMAT,
        "config": run.config.to_json(),
        "event_shape": " ".join(map(str, run.model.event_shape)),
        "step": str(run.step),
    }
    content = save(leaves, {**about, "sha256": _digest(leaves, about)})
    return write_atomically(path, content)


def _load_weights(path: Path, model: Model | None) -> Run:
    leaves, about = _read(path)
    config = parse_config(about["config"], f"config of the weights {path}")
    model = model or build_model(config.evaluated, _shape(about["event_shape"]))
    target = jax.eval_shape(model.init, jax.random.key(0))
    wanted = _by_name(target)
    fault = difference({name: describe(leaf) for name, leaf in leaves.items()}, wanted)
    if fault:
        raise ValueError(f"the weights {path} are of another model: {fault}")
    params = jax.tree.unflatten(jax.tree.structure(target), [jnp.array(leaves[n]) for n in wanted])
    return Run(config, model, params, int(about["step"]))


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors of a file and its metadata, which `save_weights` wrote, every byte of them."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ValueError(f"the weights {path} do not exist")
    try:
        with safe_open(path, framework="numpy") as file:
            about = dict(file.metadata() or {})
            leaves = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"the weights {path} are no whole safetensors file: {error}") from None
    written = about.get("format")
    if written != _FORMAT:
        raise ValueError(
            f"the weights {path} are of format {written!r}; allowed is {_FORMAT!r}, which "
            "save_weights writes"
        )
    if about.pop("sha256", None) != _digest(leaves, about):
        raise ValueError(f"the weights {path} are damaged: they are not what was written")
    return leaves, about


def _digest(leaves: Mapping[str, np.ndarray], about: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(leaves):
        digest.update(f"{name} {describe(leaves[name])}".encode())
        digest.update(leaves[name].tobytes())
    return digest.hexdigest()


def _by_name(tree: Tree) -> dict[str, jax.Array]:
    """The leaves by their paths, as other software names weights."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _shape(text: str) -> tuple[int, int, int]:
    sides = tuple(int(side) for side in text.split())
    return cast(tuple[int, int, int], sides)  # `build_model` complains of another number
