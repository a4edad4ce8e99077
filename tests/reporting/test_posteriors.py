"""Kept draws of posteriors, and the figures of them, on draws whose densities are known."""

import numpy as np
import pytest

from avb_jax.reporting import draw_joint, draw_posteriors, read_draws, save_draws
from avb_jax.reporting.posteriors import _histogram, _joint_histogram, _limits
from avb_jax.reporting.style import Page

N = 2000


@pytest.fixture
def pages(monkeypatch):
    """The pages that are saved."""
    saved, save = [], Page.save

    def keep(page, path):
        saved.append(page)
        return save(page, path)

    monkeypatch.setattr(Page, "save", keep)
    return saved


def test_draws_are_kept_with_their_names(tmp_path):
    draws = np.arange(50.0).reshape(25, 2)
    names, kept = read_draws(save_draws(tmp_path / "new" / "a.npz", draws, ["mu", "τ"], most=5))
    assert names == ["mu", "τ"]
    np.testing.assert_array_equal(kept, draws[::6])
    np.testing.assert_array_equal(read_draws(save_draws(tmp_path / "b.npz", draws, "ab"))[1], draws)


@pytest.mark.parametrize("content", [None, b"PK\x03\x04 cut short", b""])
def test_draws_that_cannot_be_read_are_one_sentence(tmp_path, content):
    path = tmp_path / "a.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="a.npz are missing or damaged"):
        read_draws(path)


def test_histograms_count_draws_beyond_their_limits():
    """Of uniform draws on 0 … 2, half are within 0 … 1, where their density is ½."""
    z = (np.arange(40_000) + 0.5) / 20_000
    density, edges = _histogram(z, (0.0, 1.0))
    np.testing.assert_allclose(density, 0.5, rtol=0.01)
    assert np.sum(density * np.diff(edges)) == pytest.approx(0.5)
    joint = _joint_histogram(np.stack([z, z], axis=1), [(0.0, 1.0), (0.0, 2.0)])
    assert joint.sum() == pytest.approx(0.5) and np.count_nonzero(joint[0]) == 1


@pytest.mark.parametrize(("dim", "methods"), [(2, 1), (9, 7)])
def test_marginals_and_pairs_of_every_method(tmp_path, pages, dim, methods):
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(N, dim))
    ours = {f"method {i}": rng.normal(size=(N, dim)) + i for i in range(methods)}
    names = [f"z[{i}]" for i in range(dim)]
    path = draw_posteriors("a target", names, reference, ours, tmp_path / "a.png")
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 400_000
    axes = pages[0].figure.axes
    marginals, pairs = axes[: min(dim, 6)], axes[min(dim, 6) :]
    assert [a.get_xlabel() for a in marginals] == names[:6]
    assert [a.get_title("left") for a in pairs] == ["reference", *ours]
    legend = [text.get_text() for text in marginals[-1].get_legend().get_texts()]
    assert legend == ["reference", *ours]
    for panel, draws in zip(pairs, (reference, *ours.values()), strict=True):
        np.testing.assert_array_equal(panel.collections[0].get_offsets(), draws[:, :2])
        assert panel.get_xlim() == _limits(reference[:, 0])
    for i, panel in enumerate(marginals):
        for patch, draws in zip(panel.patches, (reference, *ours.values()), strict=True):
            expected, _ = _histogram(draws[:, i], _limits(reference[:, i]))
            np.testing.assert_array_equal(patch.get_data().values, expected)


def test_joint_densities_share_their_axes_and_shades(tmp_path, pages):
    rng = np.random.default_rng(0)
    truth, narrow = rng.normal(size=(N, 2)), 0.1 * rng.normal(size=(N, 2))
    planes = [(("μ", "τ"), {"nuts": truth, "narrow": narrow}), (("μ", "η"), {"nuts": narrow})]
    draw_joint("a target", planes, tmp_path / "a.png")
    first, second, below = pages[0].figure.axes
    assert first.get_xlim() == second.get_xlim() == _limits(truth[:, 0])
    assert first.images[0].get_clim() == second.images[0].get_clim()
    assert below.get_xlim() == _limits(narrow[:, 0]) and below.get_ylabel() == "η"
    assert second.get_title("left") == "narrow" and second.images[0].get_array().sum() > 0.99
