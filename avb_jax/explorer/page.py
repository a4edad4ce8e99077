"""The page itself, by Panel: sliders over z, and q(z|x) of a test image beside Gaussians."""

from collections.abc import Mapping

import numpy as np
import panel as pn
from bokeh.models import ColumnDataSource
from bokeh.plotting import figure

from avb_jax.explorer.draws import Draws, Explorer, gaussian_like
from avb_jax.reporting.images import encode_png, image_grid, resize
from avb_jax.reporting.latents import principal_axes
from avb_jax.reporting.style import PALETTE, RULE

REACH = 3.5  # of sliders and planes, in standard deviations of the prior
OF_Q, OF_GAUSSIAN, OF_VAE = "q(z|x)", "the Gaussian of the same moments", "the run in gaussian/"
_LARGE, _SMALL = 224, 40  # pixels of a picture's side
_ABOUT = (
    "Mean of log p(x, z) over 500 draws, nats: how much of each density lies where p(x, z) does. "
    "It is no ELBO, for the densities' entropies differ."
)


class LatentPage:
    """One z that sliders move, or, for D = 2, a click in the plane; and what it decodes to."""

    def __init__(self, explorer: Explorer):
        self._explorer, self._seed, self._moving = explorer, 0, False
        self.sliders = [
            pn.widgets.FloatSlider(
                name=f"z{d + 1}", start=-REACH, end=REACH, value=0.0, step=0.05, width=240
            )
            for d in range(explorer.latent_dim)
        ]
        self._image = pn.pane.PNG(width=_LARGE, alt_text="decoded at z")
        self._here = ColumnDataSource({"x": [0.0], "y": [0.0]})
        for slider in self.sliders:
            slider.param.watch(lambda _: self._show(), "value")
        self._show()

    def move(self, z: np.ndarray) -> None:
        """Sets the sliders to z [D], as far as they reach."""
        self._moving = True  # one picture of where it arrives, not one for each slider
        for slider, value in zip(self.sliders, np.clip(z, -REACH, REACH), strict=True):
            slider.value = float(value)
        self._moving = False
        self._show()

    def view(self) -> pn.Column:
        draw, centre = (
            pn.widgets.Button(name="Draw from the prior"),
            pn.widgets.Button(name="z = 0"),
        )
        draw.on_click(lambda _: self._draw())
        centre.on_click(lambda _: self.move(np.zeros(len(self.sliders))))
        # As many sliders in a row as there is room for beside the picture.
        room = {"styles": {"flex": "1 1 17rem"}, "max_width": 540}
        parts = [self._image, pn.Column(pn.FlexBox(*self.sliders), pn.Row(draw, centre), **room)]
        if len(self.sliders) == 2:
            parts.append(self._plane())
        return pn.Column("## The latent space", pn.FlexBox(*parts))

    def _show(self) -> None:
        if self._moving:
            return
        z = np.array([slider.value for slider in self.sliders])
        self._image.object = _png(self._explorer.decode(z[None]), 1, _LARGE)
        self._here.data = {"x": z[:1], "y": z[1:2] if len(z) > 1 else [0.0]}

    def _draw(self) -> None:
        self._seed += 1
        self.move(np.random.default_rng(self._seed).normal(size=len(self.sliders)))

    def _plane(self) -> pn.pane.Bokeh:
        plot = _plot("click to move", "z1", "z2", tools="tap")
        plot.x_range.update(start=-REACH, end=REACH)
        plot.y_range.update(start=-REACH, end=REACH)
        for radius in (1, 2, 3):
            plot.circle(0, 0, radius=radius, fill_alpha=0, line_color=RULE)
        plot.scatter("x", "y", source=self._here, size=12, color=PALETTE[2])
        plot.on_event("tap", lambda event: self.move(np.array([event.x, event.y])))
        return pn.pane.Bokeh(plot)


class PosteriorPage:
    """Draws of q(z|x) for a chosen x, beside those of Gaussians."""

    def __init__(self, explorer: Explorer, images: np.ndarray, vae: Explorer | None = None):
        self._explorer, self._images, self._vae = explorer, images, vae
        self.index = pn.widgets.IntSlider(name="test image", end=max(1, len(images) - 1), width=260)
        self._again = pn.widgets.Button(name="Draw again")
        self._chosen = pn.pane.PNG(width=_LARGE // 2, alt_text="the test image")
        self._rows = pn.Column(sizing_mode="stretch_width", max_width=460)
        self._sources = {name: ColumnDataSource({"x": [], "y": []}) for name in (OF_Q, OF_GAUSSIAN)}
        self._seed = 0
        self.mean = np.zeros(explorer.latent_dim)
        self.index.param.watch(lambda _: self._show(), "value")
        self._again.on_click(lambda _: self._show())
        self._show()

    def view(self, latent: LatentPage) -> pn.Column:
        move = pn.widgets.Button(name="Move z to the mean of q(z|x)")
        move.on_click(lambda _: latent.move(self.mean))
        choose = pn.Column(self.index, self._chosen, pn.Row(self._again, move))
        heading = "## The posterior of a test image"
        return pn.Column(heading, pn.FlexBox(choose, self._plot(), self._rows))

    def _show(self) -> None:
        self._seed += 1
        x = self._images[min(self.index.value or 0, len(self._images) - 1)]
        of_q = self._explorer.posterior(x, self._seed)
        like = self._explorer.seen(x, gaussian_like(of_q.z, self._seed))
        draws = {OF_Q: of_q, OF_GAUSSIAN: like}
        if self._vae:
            draws[OF_VAE] = self._vae.posterior(x, self._seed)
        self.mean = of_q.z.mean(axis=0)
        self._chosen.object = _png(x[None], 1, _LARGE // 2)
        self._rows[:] = _decoded(draws)
        for name, plane in _in_plane(of_q.z, like.z).items():
            self._sources[name].data = {"x": plane[:, 0], "y": plane[:, 1]}

    def _plot(self) -> pn.pane.Bokeh:
        names = {1: ("z1", ""), 2: ("z1", "z2")}.get(
            self._explorer.latent_dim, ("principal component 1 of q", "component 2")
        )
        plot = _plot("500 draws of each", *names, tools="pan,wheel_zoom,reset", below=80)
        plot.match_aspect = True
        for (name, source), colour in zip(self._sources.items(), PALETTE, strict=False):
            plot.scatter(
                "x", "y", source=source, size=4, alpha=0.5, color=colour, legend_label=name
            )
        plot.add_layout(plot.legend[0], "below")
        return pn.pane.Bokeh(plot)


def build_page(
    explorer: Explorer, images: np.ndarray, vae: Explorer | None, title: str
) -> pn.Column:
    """The whole page, with a state of its own.

    Args:
        explorer: of the run.
        images: [n, h, w, c] test images as the model sees them.
        vae: of the run in WORKDIR/gaussian, where there is one.
        title: what run it is.
    """
    latent = LatentPage(explorer)
    posterior = PosteriorPage(explorer, images, vae)
    return pn.Column(f"# {title}", latent.view(), posterior.view(latent))


def _in_plane(of_q: np.ndarray, like: np.ndarray) -> Mapping[str, np.ndarray]:
    """Both draws in two dimensions: D = 1 spread over the other, D > 2 in q's principal ones."""
    dim, both = of_q.shape[1], {OF_Q: of_q, OF_GAUSSIAN: like}
    if dim == 1:
        spread = np.random.default_rng(0).random((len(of_q), 1))
        return {name: np.concatenate([z, spread], axis=1) for name, z in both.items()}
    if dim == 2:
        return both
    directions, _ = principal_axes(of_q)
    return {name: (z - of_q.mean(axis=0)) @ directions for name, z in both.items()}


def _decoded(draws: Mapping[str, Draws]) -> list[pn.viewable.Viewable]:
    rows: list[pn.viewable.Viewable] = []
    for name, drawn in draws.items():
        rows.append(
            pn.pane.Markdown(
                f"**{name}**: log p(x, z) {drawn.log_joint:.2f}", margin=(5, 10, 0, 10)
            )
        )
        png = _png(drawn.images, len(drawn.images), _SMALL)
        rows.append(pn.pane.PNG(png, alt_text=name, sizing_mode="scale_width", max_width=440))
    return [*rows, pn.pane.Markdown(_ABOUT, sizing_mode="stretch_width")]


def _png(images: np.ndarray, columns: int, side: int) -> bytes:
    return encode_png(image_grid(resize(images, side), columns, gap=4))


def _plot(title: str, across: str, up: str, tools: str, below: int = 0) -> figure:
    plot = figure(width=360, height=360 + below, title=title, tools=tools, x_axis_label=across)
    plot.yaxis.axis_label = up
    plot.toolbar.logo = None
    return plot
