"""The page about runs: its parts, that it loads nothing, and that what it quotes is escaped."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

import avb_jax as avb
from avb_jax.reporting import MetricsWriter, save_png, write_evaluation, write_report

CALIBRATION = {
    "kl": 0.03, "kl_stderr": 0.002, "reference_mean_ratio": 0.99,
    "reference_mean_ratio_stderr": 0.004, "balance": -0.001,
}  # fmt: skip
FITTED = {"name": "elbo", "method": "fitted critic", "split": "test", "calibration": CALIBRATION}
ENTRIES = [
    {"name": "log_likelihood", "kind": "lower bound", "method": "importance", "value": -22.5,
     "stderr": 0.1, "n": 40, "split": "test", "seconds": 12.0},
    {**FITTED, "kind": "estimate", "value": -23.1, "stderr": 0.1, "seconds": 30.0},
    {**FITTED, "kind": "upper bound", "value": -23.0, "stderr": 0.1, "seconds": 30.0},
    {"name": "elbo", "kind": "lower bound", "method": "semi-implicit", "value": -23.4,
     "stderr": 0.1, "split": "test", "seconds": 4.0},
]  # fmt: skip
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Reader(HTMLParser):
    """Collects texts, headings and cells, and complains of what is opened and not closed."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.references: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                self.references.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and text.strip():
            self.texts.setdefault(self.open[-1], []).append(text.strip())


def make_run(workdir, entries=ENTRIES, metrics=("elbo_estimate", "log_ratio", "critic_loss"), **of):
    workdir.mkdir()
    (workdir / "config.json").write_text(avb.Config(**of).to_json())
    with MetricsWriter(workdir / "metrics.jsonl") as writer:
        for step in range(10, 210, 10):
            values = dict.fromkeys(metrics, -1.0 / step)
            rate = 1.0 if step == 10 else 20.0
            writer.write(step, {**values, "reference_mean_ratio": 1.02, "steps_per_second": rate})
    if entries:
        write_evaluation(workdir / "evaluation.json", entries)
    return workdir


def read(path):
    page = path.read_text()
    return page, Reader(page)


def test_the_page_of_a_run_has_its_parts_and_loads_nothing(tmp_path):
    run = make_run(tmp_path / "run", num_steps=200, latent_dim=3)
    picture = np.random.default_rng(0).random((30, 400, 1))
    save_png(run / "figures" / "samples.png", picture)
    page, reader = read(write_report([run], tmp_path / "new" / "page.html"))
    assert reader.texts["h2"] == [
        "Evaluation", "Curves", "Pictures", "The critic's calibration", "Timings", "Configuration",
    ]  # fmt: skip
    assert "http" not in page and "url(" not in page
    assert all(reference.startswith("data:image/") for reference in reader.references)
    # Three metrics have a curve; the picture is there as it was.
    assert sum(reference.startswith("data:image/svg+xml") for reference in reader.references) == 3
    (inlined,) = re.findall(r"data:image/png;base64,([^\"]*)", page)
    assert base64.b64decode(inlined) == (run / "figures" / "samples.png").read_bytes()
    assert "--whole: 320px" in page
    titles, cells = reader.texts["th"], reader.texts["td"]
    assert {"is at least", "is about", "is at most"} < set(titles)
    assert {"-22.50 ± 0.10", "1.0200", "0.9900 ± 0.0040", "0.0300 ± 0.0020"} <= set(cells)
    # 20 steps a second of 128 images; ten steps in ten seconds, and 190 more at that pace.
    assert {"20.0", "2,560", "10.0", "19.5"} <= set(cells)
    assert "importance 12, fitted critic 30, semi-implicit 4" in cells
    assert "elbo between -23.400 and -23.000 nats, a gap of 0.400" in reader.texts["p"]
    # What differs from the defaults stands before all settings.
    settings = page[page.index("Configuration") :]
    before, folded = settings.split("<details>")
    assert re.findall("<td>([a-z_]+)</td>", before) == ["latent_dim", "num_steps"]
    assert "learning_rate" in folded


def test_several_runs_stand_side_by_side(tmp_path):
    first = make_run(tmp_path / "a")
    second = make_run(tmp_path / "b", entries=ENTRIES[:1], encoder="gaussian")
    _, reader = read(write_report([first, second], tmp_path / "page.html"))
    assert reader.texts["h1"] == ["Runs side by side"]
    assert reader.texts["li"] == ["a", "b"] and "run" in reader.texts["th"]
    assert reader.texts["td"].count("b") >= 2
    assert "basis" in reader.texts["td"] and "gaussian" in reader.texts["td"]
    assert "data:image/svg+xml" in reader.references[0]


def test_what_a_run_has_not_yet_is_said(tmp_path):
    run = make_run(tmp_path / "run", entries=None, metrics=())
    (run / "metrics.jsonl").unlink()
    _, reader = read(write_report([run], tmp_path / "page.html"))
    said = reader.texts["p"]
    assert "run was not evaluated yet." in said and "Nothing was trained yet." in said
    assert "Every setting has its default." in said


def test_what_is_quoted_is_escaped(tmp_path):
    run = make_run(tmp_path / "<b>&", dataset="<script>alert(1)</script>.npz")
    page, reader = read(write_report([run], tmp_path / "page.html"))
    assert "<script" not in page and "<b>" not in page
    assert reader.texts["h1"] == ["Run <b>&"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: (run / "config.json").unlink(), "config.json does not exist"),
        (lambda run: (run / "evaluation.json").write_text("{"), "evaluation.json is damaged"),
        (lambda run: (run / "metrics.jsonl").write_text("?\n{}\n"), "line 1 of the metrics file"),
    ],
)
def test_a_directory_that_is_no_run_is_refused(tmp_path, damage, said):
    run = make_run(tmp_path / "run")
    damage(run)
    with pytest.raises(ValueError, match=said):
        write_report([run], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
