"""What mkdocs does to these pages: formulae as MathML, the README's results, a table of choices."""

import dataclasses
import re
from pathlib import Path

from latex2mathml.converter import convert

from avb_jax.config import Config

ROOT = Path(__file__).resolve().parent.parent
CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$]+?)\$", re.DOTALL)
SECTION = re.compile(r"<!-- README: (.+?) -->")
CHOICES = "<!-- Config -->"


def on_page_markdown(markdown: str, page, config, files) -> str:
    """The page as mkdocs goes on with it; browsers draw MathML without a script."""
    repository = config.extra["repository"]
    markdown = SECTION.sub(lambda found: section(found[1], repository), markdown)
    parts = CODE.split(markdown)
    parts[::2] = [FORMULA.sub(_mathml, part) for part in parts[::2]]
    return "".join(parts).replace(CHOICES, choices())


def section(title: str, repository: str) -> str:
    """What README.md says under `## title`, its links made absolute."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.split(r"^## ", readme.split(f"\n## {title}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]
    return re.sub(r"\]\((?!http)", f"]({repository}/blob/main/", text)


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
