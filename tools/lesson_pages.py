"""Write the lessons as pages to read: `python tools/lesson_pages.py out/lessons`, or `make lessons`.

Each lesson is run with its own parameters and becomes one HTML file that needs no internet: pictures are inside, and
formulas are drawn here. Beside them lie the glossary, the other pages of `notebooks/`, an index, and a search that runs
in the browser.
"""

import base64
import io
import json
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
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
from student_edition import LINK, NOTEBOOKS, has_tag, lessons, relinked

PICTURES = {".gif", ".jpg", ".png", ".svg"}
TEXTS = ("how_pet_works", "glossary", "teaching")  # pages of `notebooks/` that are no lessons
# The page without the scripts that it would fetch (require.js, MathJax, mermaid), and with ways to the others.
TEMPLATE = """
{%- extends "lab/index.html.j2" -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block body_header -%}
{{ super() }}
<nav aria-label="all pages" style="padding: 8px 0 0 80px; font: 14px/1.8 sans-serif">NAVIGATION</nav>
{%- endblock -%}
"""
SEARCH = """
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Search the lessons</title>
<style>
body { font: 15px/1.5 sans-serif; max-width: 46em; margin: 1em auto; padding: 0 1em; }
input { font: inherit; width: 100%; padding: 6px; box-sizing: border-box; }
li { margin: 10px 0; }
</style></head><body>
<nav aria-label="all pages">NAVIGATION</nav>
<h1>Search the lessons</h1>
<label>Words, all of which must occur: <input id="words" type="search" autofocus></label>
<p id="count" role="status"></p><ol id="found"></ol>
<script>
const sections = SECTIONS;
const words = document.getElementById("words");
function show() {
  const wanted = words.value.toLowerCase().split(/\\s+/).filter((word) => word.length > 1);
  const holds = ({ text }) => wanted.length && wanted.every((word) => text.toLowerCase().includes(word));
  const hits = sections.filter(holds);
  document.getElementById("count").textContent = wanted.length ? `${hits.length} sections` : "";
  document.getElementById("found").replaceChildren(...hits.slice(0, 50).map(({ href, title, text }) => {
    const at = Math.max(text.toLowerCase().indexOf(wanted[0]) - 60, 0);
    const item = document.createElement("li");
    const link = Object.assign(document.createElement("a"), { href, textContent: title });
    item.append(link, document.createElement("br"), `${at ? "... " : ""}${text.slice(at, at + 200)} ...`);
    return item;
  }));
}
words.addEventListener("input", show);
words.value = decodeURIComponent(location.hash.slice(1));
show();
</script></body></html>
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
    exporter = PageExporter(raw_template=TEMPLATE.replace("NAVIGATION", navigation(pages)))
    return exporter.from_notebook_node(nbformat.v4.new_notebook(cells=cells, metadata=metadata))[0]


def to_page(path: str, pages: set[str]) -> str | None:
    """Where a relative link leads among pages: `06_training.ipynb` is `06_training.html`."""
    target = Path(path)
    if not path or target.suffix in PICTURES:
        return path
    return f"{target.stem}.html" if "/" not in path and target.stem in pages else None


def navigation(pages: Iterable[str]) -> str:
    """Links to all pages: lessons by their numbers, others by their names."""
    links = [("index", "Lessons")]
    links += [(name, name[:2].lstrip("0") or "0") for name in sorted(pages) if name[:2].isdigit()]
    links += [(name, name.replace("_", " ").capitalize().replace("pet", "PET")) for name in TEXTS if name in pages]
    return " &middot;\n".join(f'<a href="{name}.html">{word}</a>' for name, word in [*links, ("search", "Search")])


def sections(name: str, notebook: NotebookNode) -> Iterator[dict[str, str]]:
    """What the search finds of a page: each section's address, title and words."""
    title, href, words = "", f"{name}.html", []
    for line in "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown").splitlines():
        if heading := re.match(r"#{1,4} (.+)", line):
            if words:
                yield {"href": href, "title": title, "text": " ".join(words)}
            plain = re.sub(r"<[^>]+>|[*`]", "", LINK.sub(r"\g<text>", heading[1]))
            anchor = re.search(r'<a id="([^"]+)"', heading[1])
            title, words = plain if not title else f"{title.split(': ')[0]}: {plain}", [plain]
            href = f"{name}.html#{anchor[1] if anchor else plain.replace(' ', '-')}"
        else:
            words.append(re.sub(r"<[^>]+>|[*`|]", "", LINK.sub(r"\g<text>", line)))
    yield {"href": href, "title": title, "text": " ".join(words)}


def search_page(found: Iterable[dict[str, str]], pages: Iterable[str]) -> str:
    """A page that searches sections in the browser and asks no host."""
    data = json.dumps(list(found)).replace("</", "<\\/")
    return SEARCH.strip().replace("NAVIGATION", navigation(pages)).replace("SECTIONS", data)


def index(first_cells: dict[str, str]) -> str:
    """Markdown of the index: title, aims and time of each lesson, by its name, from its first cell."""
    parts = [
        "# Lessons of seganypet, to read",
        "Each page is a lesson that was run from top to bottom; its numbers and pictures are that run's. Pages need no "
        "internet, and what asks for a mouse shows a picture instead. To click and to change something, run the "
        "notebooks: the README says how. Before the first lesson: [how PET works](how_pet_works.md). Words of the "
        "field are in the [glossary](glossary.md); there is a [page for teachers](teaching.md).",
    ]
    for name, text in first_cells.items():
        parts.append(f"## [{title_of(text)}]({name}.ipynb)")
        paragraphs = text.split("\n\n")
        aims = paragraphs.index("**You will be able to**")
        parts += paragraphs[aims : aims + 2] + [one for one in paragraphs if one.startswith("**Time:**")]
    return "\n\n".join([*parts, "*For research and teaching. Not a medical device, not for clinical use.*"])


def title_of(markdown: str) -> str:
    return re.match(r"# (.+)", markdown)[1]


def write_pages(folder: Path) -> None:
    """Run all lessons and write their pages, the other texts, the index and the search."""
    folder.mkdir(parents=True, exist_ok=True)
    scripts = lessons()
    pages = {*TEXTS, *(script.stem for script in scripts)}
    first_cells = {script.stem: jupytext.read(script).cells[0].source for script in scripts}
    texts = {name: (NOTEBOOKS / f"{name}.md").read_text() for name in TEXTS} | {"index": index(first_cells)}
    found = []
    for name, text in texts.items():
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
        (folder / f"{name}.html").write_text(page(notebook, title_of(text), pages))
        found += [] if name == "index" else sections(name, notebook)
    for script in scripts:
        with tempfile.TemporaryDirectory() as results:  # a lesson's own files are of no use to a reader
            executed = nbformat.read(run_notebook(script, Path(results), {"output_dir": results}), as_version=4)
        (folder / f"{script.stem}.html").write_text(page(executed, title_of(first_cells[script.stem]), pages))
        found += sections(script.stem, executed)
    (folder / "search.html").write_text(search_page(found, pages))


if __name__ == "__main__":
    destination = Path(sys.argv[1])
    write_pages(destination)
    print(f"Open {destination / 'index.html'}.")
