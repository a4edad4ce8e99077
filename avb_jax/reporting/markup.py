"""A page of HTML as a tree of elements, which escapes every text and closes what it opens."""

import base64
from collections.abc import Container, Mapping, Sequence
from xml.etree.ElementTree import Element, indent, tostring

Child = Element | str

# Plots are drawn on no background, in dark ink: a dark page turns them over, and keeps their hues.
CSS = """
:root { color-scheme: light dark; --ink: #22262b; --faint: #626a74; --rule: #d5d9de;
  --page: #ffffff; --raised: #f5f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --faint: #a2a9b3; --rule: #3a4048; --page: #16181b; --raised: #202327; }
  .plot, .swatch { filter: invert(1) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 76rem; background: var(--page);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-top: .8rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.4rem 0 .5rem; }
p { margin: .4rem 0; max-width: 46rem; }
.faint, figcaption, summary { color: var(--faint); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0; font-size: .9rem; overflow-wrap: normal;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem .3rem 0; text-align: left; white-space: nowrap;
  border-bottom: 1px solid var(--rule); vertical-align: top; }
th { color: var(--faint); font-weight: 500; }
.number { text-align: right; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0; list-style: none; }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .4em;
  border-radius: 2px; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr));
  gap: 1rem; }
.curves img { width: 100%; }
img { display: block; height: auto; max-width: 100%; }
.pictures { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 1rem; }
.wide { max-width: none; width: clamp(40rem, 100%, 54rem); }
.pictures figure { margin: 0; padding: .5rem; width: calc(var(--whole) + 1rem); max-width: 100%;
  border-radius: .4rem; background: #ffffff; }
.pictures img { max-width: none; width: max(min(100%, var(--whole)), var(--whole) / 2); }
details { margin: .6rem 0; padding: .4rem .8rem; border-radius: .4rem; background: var(--raised); }
summary { cursor: pointer; }
@media (max-width: 40rem) {
  table { font-size: .8rem; }
  th, td { padding-right: .5rem; }
}
"""


def element(tag: str, *children: Child, **attributes: str) -> Element:
    """An element of these children, texts and elements in any order; `class_` is its class."""
    made = Element(tag, {name.rstrip("_"): value for name, value in attributes.items()})
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + child
        else:
            made.text = (made.text or "") + child
    return made


def table(columns: Mapping[str, Sequence[str]], numbers: Container[str] = ()) -> Element:
    """A table that scrolls by itself where it is wider than the page.

    Args:
        columns: the cells of each column under its title, from top to bottom.
        numbers: titles of columns that are set to the right.
    """
    right = {title: {"class_": "number"} if title in numbers else {} for title in columns}
    head = element("tr", *(element("th", title, **right[title]) for title in columns))
    rows = [
        element(
            "tr", *(element("td", cell, **right[t]) for t, cell in zip(columns, row, strict=True))
        )
        for row in zip(*columns.values(), strict=True)
    ]
    whole = element("table", element("thead", head), element("tbody", *rows))
    return element("div", whole, class_="scroll")


def image(content: bytes, kind: str, alt: str, **attributes: str) -> Element:
    """An image whose bytes are in the page itself; `kind` as in `image/png`."""
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return element("img", src=source, alt=alt, **attributes)


def document(title: str, *body: Child) -> bytes:
    """The whole page, UTF-8."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", CSS),
    )
    root = element("html", head, element("body", *body), lang="en")
    indent(root, " ")
    return b"<!DOCTYPE html>\n" + tostring(root, encoding="utf-8", method="html") + b"\n"
