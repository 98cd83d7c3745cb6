"""Write the lessons as pages to read: `python tools/lesson_pages.py out/lessons`, or `make lessons`.

Each lesson is run with its own parameters and becomes one HTML file that needs no internet: pictures are inside, and
formulas are drawn here. Beside them lie the glossary and an index.
"""

import base64
import io
import re
import sys
import tempfile
from html import escape
from pathlib import Path

import jupytext
import nbformat
from jinja2 import pass_context
from matplotlib import rc_context
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import math_to_image
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from run_notebook import run_notebook
from student_edition import NOTEBOOKS, has_tag, lessons, relinked

PICTURES = {".gif", ".jpg", ".png", ".svg"}
# The page without the scripts that it would fetch (require.js, MathJax, mermaid), and with a way back.
TEMPLATE = """
{%- extends "lab/index.html.j2" -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block body_header -%}
{{ super() }}
<nav style="padding: 8px 0 0 80px; font: 14px sans-serif">
<a href="index.html">Lessons</a> &middot; <a href="glossary.html">Glossary</a></nav>
{%- endblock -%}
"""


class Renderer(IPythonRenderer):
    """Markdown to HTML with formulas as pictures."""

    def inline_math(self, body: str) -> str:
        return drawn(body)

    def block_math(self, body: str) -> str:
        large = drawn(body.replace(r"\frac", r"\dfrac"), size_pt=12.5)
        return f'<span style="display: block; text-align: center">{large}</span>'


class PageExporter(HTMLExporter):
    """A notebook as a page that asks nobody for anything."""

    @pass_context
    def markdown2html(self, context: dict, source: str) -> str:
        renderer = Renderer(escape=False, embed_images=True, path=str(NOTEBOOKS))
        return MarkdownWithMath(renderer=renderer).render(source)


def drawn(tex: str, size_pt: float = 11) -> str:
    """A formula as an image element; who cannot see it is read its TeX.

    Raises:
        ValueError: TeX beyond what matplotlib's mathtext knows, such as an environment.
    """
    formula, svg = " ".join(tex.split()), io.BytesIO()
    with rc_context({"mathtext.fontset": "cm", "svg.fonttype": "path", "savefig.transparent": True}):
        depth = math_to_image(f"${formula}$", svg, prop=FontProperties(size=size_pt), format="svg")
    data = base64.b64encode(svg.getvalue()).decode()
    style = f"display: inline; vertical-align: -{depth:.1f}pt"  # its baseline on the text's
    return f'<img alt="{escape(formula)}" style="{style}" src="data:image/svg+xml;base64,{data}">'


def page(notebook: NotebookNode, title: str, pages: set[str]) -> str:
    """HTML of an executed notebook.

    Args:
        notebook: Stays as it is.
        title: For the browser's tab.
        pages: Names, without suffix, of all that becomes a page: links between them lead to pages, and other
            relative links, which would lead nowhere, become text.
    """
    cells = [cell.copy() for cell in notebook.cells if not has_tag(cell, "injected-parameters")]
    for cell in cells:
        if cell.cell_type == "markdown":
            cell.source = relinked(cell.source, lambda path: to_page(path, pages))
    metadata = {**notebook.metadata, "title": title}
    exporter = PageExporter(raw_template=TEMPLATE)
    return exporter.from_notebook_node(nbformat.v4.new_notebook(cells=cells, metadata=metadata))[0]


def to_page(path: str, pages: set[str]) -> str | None:
    """Where a relative link leads among pages: `02_training.ipynb` is `02_training.html`."""
    target = Path(path)
    if not path or target.suffix in PICTURES:
        return path
    return f"{target.stem}.html" if "/" not in path and target.stem in pages else None


def index(first_cells: dict[str, str]) -> str:
    """Markdown of the index: title, aims and time of each lesson, by its name, from its first cell."""
    parts = [
        "# Lessons of seganypet, to read",
        "Each page is a lesson that was run from top to bottom; its numbers and pictures are that run's. Pages need no "
        "internet, and what asks for a mouse shows a picture instead. To click and to change something, run the "
        "notebooks: the README says how. Words of the field are in the [glossary](glossary.md).",
    ]
    for name, text in first_cells.items():
        parts.append(f"## [{title_of(text)}]({name}.ipynb)")
        paragraphs = text.split("\n\n")
        aims = paragraphs.index("**You will learn**")
        parts += paragraphs[aims : aims + 2] + [one for one in paragraphs if one.startswith("**Time:**")]
    return "\n\n".join([*parts, "*For research and teaching. Not a medical device, not for clinical use.*"])


def title_of(markdown: str) -> str:
    return re.match(r"# (.+)", markdown)[1]


def write_pages(folder: Path) -> None:
    """Run all lessons and write their pages, the glossary and the index."""
    folder.mkdir(parents=True, exist_ok=True)
    scripts = lessons()
    pages = {"glossary", *(script.stem for script in scripts)}
    first_cells = {script.stem: jupytext.read(script).cells[0].source for script in scripts}
    texts = {"glossary": (NOTEBOOKS / "glossary.md").read_text(), "index": index(first_cells)}
    for name, text in texts.items():
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
        (folder / f"{name}.html").write_text(page(notebook, title_of(text), pages))
    for script in scripts:
        with tempfile.TemporaryDirectory() as results:  # a lesson's own files are of no use to a reader
            executed = nbformat.read(run_notebook(script, Path(results), {"output_dir": results}), as_version=4)
        (folder / f"{script.stem}.html").write_text(page(executed, title_of(first_cells[script.stem]), pages))


if __name__ == "__main__":
    destination = Path(sys.argv[1])
    write_pages(destination)
    print(f"Open {destination / 'index.html'}.")
