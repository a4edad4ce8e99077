"""What mkdocs does to these pages: formulae as MathML, and a table of choices."""

import dataclasses
import re

from latex2mathml.converter import convert

from avb_jax.config import Config

CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$]+?)\$", re.DOTALL)
CHOICES = "<!-- Config -->"


def on_page_markdown(markdown: str, page, config, files) -> str:
    """The page as mkdocs goes on with it; browsers draw MathML without a script."""
    parts = CODE.split(markdown)
    parts[::2] = [FORMULA.sub(_mathml, part) for part in parts[::2]]
    return "".join(parts).replace(CHOICES, choices())


def choices() -> str:
    """A row for each field of `Config`."""
    rows = ["| field, and flag | unset | what it is |", "|---|---|---|"]
    for field in dataclasses.fields(Config):
        text, allowed = field.metadata["help"], field.metadata["choices"]
        if allowed:
            text += " (" + ", ".join(f"`{name}`" for name in allowed) + ")"
        rows.append(f"| `{field.name}` | `{field.default}` | {text.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def _mathml(found: re.Match) -> str:
    block, inline = found.groups()
    formula = " ".join((block or inline).split())
    formula = re.sub(r"\\log (?!\\left|\|)", r"\\log\\,", formula)  # the converter sets no space
    if block:
        return f'<div class="formula">{convert(formula, display="block")}</div>'
    return f"<span>{convert(formula)}</span>"  # Markdown takes a bare <math> for a block
