"""The pages' tables and figures are those of the files under results/."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "experiments")
    import results

    return results


def test_every_page_agrees_with_the_files(results):
    for name, content in results.contents().items():
        stands = (ROOT / name).read_bytes()
        assert stands == content, f"{name}: run python experiments/results.py"


def test_a_number_that_was_changed_is_put_right(results):
    text = (ROOT / "README.md").read_text()
    changed = text.replace("| `mnist-basis` | 3 | −9", "| `mnist-basis` | 3 | −8")
    assert changed != text and results.fill(changed) == text


def test_seeds_of_one_run_are_averaged(results):
    """By hand, from the evaluations of the three seeds of MNIST with D = 2."""
    line = results.of_runs("mnist-d2-basis").splitlines()[2]
    assert "| `mnist-d2-basis` | 3 |" in line and "−130.042 ± 0.050" in line


def test_what_does_not_exist_is_named(results):
    with pytest.raises(ValueError, match="results/nosuch does not exist"):
        results.fill("<!-- runs: nosuch -->\n<!-- end -->")
    with pytest.raises(ValueError, match="results/nosuch.md does not exist"):
        results.fill("<!-- table: nosuch.md -->\n<!-- end -->")
