"""The interactive look: what it computes, and the page in a browser that runs no other program."""

import re
import shutil
import socket
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avb_jax as avb
from avb_jax.explorer.draws import NUM_DRAWS, Explorer, gaussian_like

ROOT = Path(__file__).resolve().parent.parent
TINY = avb.Config(
    dataset="four_images", latent_dim=2, width=8, depth=1, critic_width=8, critic_depth=1,
    critic_trunk_width=8, critic_trunk_depth=1, batch_size=4, num_steps=10, steps_per_call=5,
)  # fmt: skip


def test_draws_are_the_models_own(key):
    model = avb.build_model(TINY, (2, 2, 1))
    run = avb.Run(TINY, model, model.init(key), step=0)
    explorer, x = Explorer(run), np.eye(4, dtype=np.float32)[0].reshape(2, 2, 1)
    drawn = explorer.posterior(x, seed=3)
    z = model.sample_posterior(run.params, jax.random.key(3), x[None], NUM_DRAWS)
    np.testing.assert_allclose(drawn.z, z[:, 0], atol=1e-6)
    images = model.decode_mean(run.params, z)[:10, 0]
    np.testing.assert_allclose(drawn.images, images, atol=1e-6)
    np.testing.assert_allclose(explorer.decode(np.asarray(z[:10, 0])), images, atol=1e-6)
    expected = float(jnp.mean(model.log_joint(run.params, jnp.asarray(x[None]), z)))
    assert drawn.log_joint == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("dim", [1, 3])
def test_the_gaussian_has_the_moments_of_the_draws(dim):
    rng = np.random.default_rng(0)
    z = np.exp(rng.normal(size=(4000, dim))) @ rng.normal(size=(dim, dim)) + 2.0
    like = gaussian_like(z, seed=1)
    # Five standard errors at a fixed seed: sd / √n of a mean, sd² √(2/n) of a (co)variance.
    scale = z.std(axis=0)
    assert (np.abs(like.mean(axis=0) - z.mean(axis=0)) < 5 * scale / 4000**0.5).all()
    error = np.atleast_2d(np.cov(like.T)) - np.atleast_2d(np.cov(z.T))
    assert (np.abs(error) < 5 * np.outer(scale, scale) * (2 / 4000) ** 0.5).all()
    # Of a Gaussian whatever the draws are: no skewness, within five √(6/n).
    skewness = np.mean(((like - like.mean(axis=0)) / like.std(axis=0)) ** 3, axis=0)
    assert (np.abs(skewness) < 5 * (6 / 4000) ** 0.5).all()


def test_a_posterior_that_is_a_point_has_its_gaussian_there():
    point = np.tile(np.array([[1.0, -2.0]]), (50, 1))
    np.testing.assert_array_equal(gaussian_like(point, seed=0), point)


COMMAND = """
import runpy, sys
sys.argv = sys.argv[1:]
sys.modules.update(dict.fromkeys(["panel"]) if "--without" in sys.argv else {})
sys.argv = [flag for flag in sys.argv if flag != "--without"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start_exploring(start_process, *arguments):
    script = ROOT / "experiments" / "explore.py"
    return start_process(COMMAND, script, *arguments)


def test_without_panel_there_is_a_sentence(start_process, tmp_path):
    process = start_exploring(start_process, f"--workdir={tmp_path}", "--without")
    _, complaint = process.communicate(timeout=120)
    assert process.returncode == 2 and "pip install -e '.[explore]'" in complaint
    assert len(complaint.strip().splitlines()) == 1


@pytest.fixture
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    pytest.importorskip("panel", reason="needs panel, the extra `explore`")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium on the path")
    quiet = (
        "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync"
    ).split()
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=quiet)
        yield opened
        opened.close()


@pytest.fixture
def served(start_process, tmp_path):
    """The address of the page about a run of D = 2 with a VAE beside it."""
    avb.train(TINY, tmp_path / "run")
    vae = {**TINY.__dict__, "encoder": "gaussian"}
    avb.train(avb.Config(**vae), tmp_path / "run" / "gaussian")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start_exploring(start_process, f"--workdir={tmp_path / 'run'}", f"--port={port}")
    address = process.stdout.readline().split()[0]
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.2)
    yield address
    process.terminate()
    process.communicate(timeout=60)


@pytest.mark.slow
def test_the_page_in_a_browser(browser, served):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(served, timeout=120_000)
    page.get_by_text("the run in gaussian/").wait_for(timeout=120_000)
    here = re.compile(r"(http|ws)://127\.0\.0\.1:|data:|blob:")
    assert all(here.match(url) for url in asked) and not complaints

    decoded = page.get_by_alt_text("decoded at z")
    before = decoded.get_attribute("src")
    page.get_by_text("Draw from the prior").click()
    moved = changed(page, decoded, before)
    page.get_by_text("z = 0").click()
    assert changed(page, decoded, moved) == before
    # A click in the plane, right of its middle and above it, moves both sliders up.
    plane = page.locator(".bk-Figure").first.bounding_box()
    page.mouse.click(plane["x"] + 0.75 * plane["width"], plane["y"] + 0.25 * plane["height"])
    changed(page, decoded, before)
    titles = [page.get_by_text(re.compile(rf"^z{d}: ")).inner_text() for d in (1, 2)]
    assert all(0.5 < float(title.split(":")[1]) < 3.5 for title in titles)

    drawn = page.get_by_alt_text("q(z|x)")
    before = drawn.get_attribute("src")
    page.get_by_text("Draw again").click()
    changed(page, drawn, before)
    page.get_by_text("Move z to the mean of q(z|x)").click()
    page.set_viewport_size({"width": 390, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not complaints


def changed(page, image, before: str) -> str:
    """The source of an image once it is another."""
    deadline = time.monotonic() + 30
    while (source := image.get_attribute("src")) == before:
        assert time.monotonic() < deadline, "the picture stayed as it was"
        page.wait_for_timeout(100)
    return source
