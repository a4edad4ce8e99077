"""The pages' tables and figures are those of the files under results/."""

import json
import math
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


def test_four_images_are_within_four_thousandths_of_the_best():
    """Each of ten seeds, by quadrature; the grid's ELBO is between its bounds.

    They are a tenth of a nat apart at most; the fitted critic's estimate is within 0.02.
    """
    best, seeds = -math.log(4.0), set()
    for run in (ROOT / "results").glob("four_images*"):
        seeds.add(json.loads((run / "config.json").read_text())["seed"])
        found = {}
        for entry in json.loads((run / "evaluation.json").read_text()):
            found[entry["name"], entry["kind"], entry["method"]] = entry["value"]
        assert -1.390 <= found["log_likelihood", "exact", "quadrature"] < best, run
        elbo = found["elbo", "exact", "quadrature"]
        assert abs(found["elbo", "estimate", "fitted critic"] - elbo) < 0.02, run
        lower = found["elbo", "lower bound", "semi-implicit"]
        assert lower < elbo < found["elbo", "upper bound", "fitted critic"] < lower + 0.1, run
    assert seeds == set(range(10))


def test_critics_are_as_right_as_the_page_says():
    """By what `best` takes; two random flows and two moons are less so, above D = 8."""
    rows = (ROOT / "results" / "critic_accuracy" / "critic_accuracy.jsonl").read_text()
    most = {1: 0.02, 2: 0.062, 4: 0.08, 8: 0.143, 16: 0.121, 32: 0.138}
    given_x, seen = {2: 0.083, 4: 0.144, 8: 0.152}, set()
    above = {("coupling", 16): 0.241, ("coupling", 32): 0.456, ("two-moons", 32): 0.321}
    above |= {("autoregressive", 16): 0.303, ("autoregressive", 32): 0.644}
    for row in map(json.loads, rows.splitlines()):
        if row["loss"] == "exp_as_written":
            let_go = (row["sampler"], row["dim"]) == ("coupling", 8) and row["kl_estimate"] == 0.0
            assert row["rmse"] > 2.0 or let_go, row
        elif row["contrast"] == "best":
            seen.add((row["sampler"], row["dim"], row["conditional"]))
            hard = above.get((row["sampler"], row["dim"]))
            bound = (given_x if row["conditional"] else most)[row["dim"]]
            assert round(row["rmse"], 3) <= (hard or bound), row
            assert hard or abs(row["kl_estimate"] - row["kl"]) < 0.02, row
    assert len(seen) == 8 * 6 + 8 * 3  # q(z), and q(z|x)


def test_the_ablation_is_told_as_it_was_measured():
    """Each case has a row of its own, with what training said of it."""
    page = (ROOT / "docs" / "results.md").read_text()
    rows = page.split("## Where the gain over a Gaussian comes from")[1].split("\n## ")[0]
    for line in (ROOT / "results" / "ablation" / "mnist-d8.jsonl").read_text().splitlines():
        case = json.loads(line)
        values = case["log_likelihood"]["value"], case["last_500_steps"]["elbo_estimate"]
        cells = " | ".join(f"{value:.2f}".replace("-", "−") for value in values)
        assert f"| {cells}" in rows, case["case"]


def test_what_does_not_exist_is_named(results):
    with pytest.raises(ValueError, match="results/nosuch does not exist"):
        results.fill("<!-- runs: nosuch -->\n<!-- end -->")
    with pytest.raises(ValueError, match="results/nosuch.md does not exist"):
        results.fill("<!-- table: nosuch.md -->\n<!-- end -->")
