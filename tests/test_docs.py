"""The documentation builds without a warning, its examples run, and what it names exists."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from avb_jax.config import Config

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def test_the_site_builds_without_a_warning(command_environment, tmp_path):
    for name in ("mkdocs", "material", "mkdocstrings", "latex2mathml"):
        pytest.importorskip(name, reason="needs the extra `docs`")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path]
    environment = command_environment | {"NO_MKDOCS_2_WARNING": "1", "no_proxy": "*"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "WARNING" not in result.stderr
    paths = {path.parent.relative_to(tmp_path): path for path in tmp_path.rglob("index.html")}
    pages = {str(folder): path.read_text() for folder, path in paths.items()}
    assert pages["mathematics"].count("<math") > 50 and "$" not in text_of(pages["mathematics"])
    assert 'id="avb_jax.evaluation.elbo_bracket"' in pages["reference/evaluation"]
    assert all(f"<code>{field.name}</code>" in pages["reference/config"] for field in fields())
    assert "Four images, D = 2" in pages["results"]
    fetched = re.compile(r'<(script|link rel="stylesheet"|img)[^>]*(src|href)="(https?:)?//')
    for page in pages.values():  # fonts, scripts and styles are the site's own
        assert not fetched.search(page)


def text_of(page: str) -> str:
    """The article's text, without tags and code."""
    article = re.search(r"<article.*?</article>", page, flags=re.DOTALL)[0]
    return re.sub(r"<code.*?</code>|<[^>]*>", "", article, flags=re.DOTALL)


def fields():
    return dataclasses.fields(Config)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_its_python_runs(path):
    code = re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL)
    exec("\n".join(code), {})


def test_every_flag_is_one():
    folders = ("experiments", "benchmarks")
    sources = [path for name in folders for path in (ROOT / name).glob("*.py")]
    sources += [ROOT / "avb_jax" / name for name in ("experiment.py", "sweep.py")]
    text = "".join(path.read_text() for path in sources)
    flags = set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', text)) | {field.name for field in fields()}
    named = {flag for path in PAGES for flag in re.findall(r"--(\w+)", path.read_text())}
    named = {flag for flag in named if not flag.startswith("xla_")}  # those are XLA's
    assert named and named <= flags | {"noresume", "notorch", "help"}


def test_one_name_of_the_repository():
    name = re.search(r'url="https://github.com/(.*)"', (ROOT / "setup.py").read_text())[1]
    for path in ("mkdocs.yml", "CITATION.cff", "docs/results.md"):
        assert set(re.findall(r"github\.com/([\w-]+/[\w-]+)", (ROOT / path).read_text())) == {name}
