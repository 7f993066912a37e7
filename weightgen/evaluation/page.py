"""One HTML file that holds all it shows: it opens without a network, on a phone too, light or dark."""

import base64
import hashlib
import io
import os
import platform
import re
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import timm
import torch
from matplotlib.figure import Figure
from PIL import Image

import weightgen
from weightgen.files import write_text

FILE = "report.html"
_SIDE = 112  # pixels of a small image
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --line: #d0d7de; --mark: #9a3412; --heat: #0072b2 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --paper: #0d1117; --line: #3d444d; --mark: #ffa657; --heat: #58a6ff }
}
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 64rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.5rem }
h2 { font-size: 1.2rem; margin-top: 2rem; border-top: 1px solid var(--line); padding-top: 1rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
svg, img { max-width: 100%; height: auto } svg text { fill: currentColor }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: .75rem }
.images figure { margin: 0; font-size: .8rem } .images img { width: 100% } .doubt { color: var(--mark) }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .1rem 1rem } dd { margin: 0 }
"""


def write_page(folder: Path, title: str, sections: Sequence[str]) -> None:
    """Write `report.html` with these sections, each HTML as the functions below make it."""
    head = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
    )
    body = "\n".join([f"<h1>{escape(title)}</h1>", *sections])
    write_text(folder / FILE, f"{head}<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n")


def section(title: str, *parts: str) -> str:
    """A heading and what stands below it."""
    return "\n".join([f"<section>\n<h2>{escape(title)}</h2>", *parts, "</section>"])


def text(*sentences: str) -> str:
    """Sentences, each a paragraph."""
    return "\n".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row are its titles; where it is wider than the screen it scrolls by itself."""
    lines = ["".join(f'<th scope="col">{escape(cell)}</th>' for cell in rows[0])]
    lines += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows[1:]]
    return f'<div class="wide" tabindex="0"><table>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def heat_table(counts: Sequence[Sequence[int]], names: Sequence[str], *, rows: str, columns: str) -> str:
    """A square of counts whose cells are the darker the larger their share of the row."""
    titles = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    lines = [f"<tr><th>{escape(rows)} \\ {escape(columns)}</th>{titles}</tr>"]
    for name, row in zip(names, counts, strict=True):
        shares = [round(60 * count / max(1, sum(row))) for count in row]
        cells = "".join(
            f'<td style="background:color-mix(in srgb, var(--heat) {share}%, transparent)">{count or ""}</td>'
            for count, share in zip(row, shares, strict=True)
        )
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    return f'<div class="wide" tabindex="0"><table>{"".join(lines)}</table></div>'


def picture(figure: Figure, alternative: str) -> str:
    """A drawing as inline SVG, its black as the text's colour.

    alternative: what it shows, for those who cannot see it.
    """
    stream, prefix = io.StringIO(), hashlib.sha256(alternative.encode()).hexdigest()[:8]
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # text stays text, and a browser has other fonts
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    drawn = stream.getvalue()
    drawn = re.sub(r' xmlns(:xlink)?="[^"]*"', "", drawn[drawn.index("<svg") :])
    drawn = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", drawn)  # several drawings share a page
    drawn = drawn.replace("#000000", "currentColor").replace("fill: #ffffff", "fill: none")
    return drawn.replace("<svg", f'<svg role="img" aria-label="{escape(alternative)}"', 1)


def small_images(entries: Sequence[tuple[Image.Image | None, str, str, bool]]) -> str:
    """A grid of small images.

    entries: the image (None for features), its name, what is said of it, and whether it is in doubt.
    """
    figures = []
    for image, name, said, doubtful in entries:
        shown = "" if image is None else f'<img src="{_data(image)}" alt="{escape(name)}" loading="lazy">'
        kind = ' class="doubt"' if doubtful else ""
        caption = f"{escape(name)}<br><span{kind}>{escape(said)}</span>"
        figures.append(f"<figure>{shown}<figcaption>{caption}</figcaption></figure>")
    return f'<div class="images">{"".join(figures)}</div>'


def facts(values: Mapping[str, Any]) -> str:
    """Names and values."""
    return (
        f"<dl>{''.join(f'<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>' for key, value in values.items())}</dl>"
    )


def listing(content: str) -> str:
    """Text as it is, folded away until it is asked for."""
    return f'<details><summary>show</summary><pre class="wide">{escape(content)}</pre></details>'


def environment() -> str:
    """A section on what a report was made with."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
    versions = {module.__name__: module.__version__ for module in (weightgen, torch, timm)}
    where = {"Python": platform.python_version(), "system": platform.platform(), "device": device}
    return section("Environment", facts({**versions, **where}))


def _data(image: Image.Image) -> str:
    small = image.convert("RGB")
    small.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    small.save(stream, format="JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
