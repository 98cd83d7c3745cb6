"""Pages to read: links lead to pages, formulas are drawn, and nothing is fetched."""

import re

import jupytext
import pytest
from lesson_pages import TEXTS, drawn, index, navigation, page, search_page, sections
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from student_edition import lessons

FIRST = """# Quick {name}

Why.

**You will be able to**

- to look;
- to [measure](glossary.md#suv).

**Before you start:** nothing.

**Time:** 2 minutes; 1 GB of memory.

*Not for clinical use.*"""
WIDGET = {"application/vnd.jupyter.widget-view+json": {"model_id": "0"}, "image/png": "iVBORw0KGgo=", "text/plain": "W"}


def html_of(*markdown: str, code: list | None = None) -> str:
    notebook = new_notebook(cells=[*map(new_markdown_cell, markdown), *(code or [])])
    return page(notebook, "A title", {"00_quick", "glossary"})


def test_links_between_pages_lead_to_pages_and_dead_ones_are_text():
    html = html_of(
        "[a](glossary.md#suv) [b](00_quick.ipynb) [c](00_quick.py) [d](../README.md) [e](#here) [f](https://example.org/f.md)"
    )
    links = dict((text, target) for target, text in re.findall(r'<a href="([^"]*)"[^>]*>([a-f])</a>', html))
    assert links == {
        "a": "glossary.html#suv", "b": "00_quick.html", "c": "00_quick.html", "e": "#here", "f": "https://example.org/f.md",
    }  # fmt: skip
    assert " d " in html


def test_a_page_fetches_nothing():
    html = html_of(r"# Title" "\n\n" r"$\lambda \leq 1$", code=[new_code_cell("1")])
    assert "<script" not in html
    assert not re.search(r'(src="|@import |url\()["\']?https?:', html)
    assert "<title>A title</title>" in html


def test_a_widget_shows_its_picture_and_parameters_of_the_run_are_left_out():
    shown = new_code_cell("widget", outputs=[new_output("display_data", WIDGET)])
    injected = new_code_cell("output_dir = 'elsewhere'", metadata={"tags": ["injected-parameters"]})
    html = html_of("text", code=[injected, shown])
    assert "data:image/png;base64,iVBORw0KGgo=" in html
    assert "elsewhere" not in html


def test_a_formula_becomes_a_picture_that_says_its_tex():
    html = html_of(r"As $a < b$ says:" "\n\n" r"$$\frac{a}{b}$$" "\n\n" r"`$HOME` costs \$5.")
    assert html.count('src="data:image/svg+xml') == 2
    assert re.search(r'alt="a (<|&lt;) b"', html)
    assert "<code>$HOME</code>" in html


def test_a_formula_that_cannot_be_drawn_is_an_error():
    with pytest.raises(ValueError, match="environment"):
        drawn(r"\environment")


def test_every_formula_of_the_lessons_can_be_drawn():
    for script in lessons():
        texts = [cell.source for cell in jupytext.read(script).cells if cell.cell_type == "markdown"]
        html_of(*(text for text in texts if "$" in text))


def test_anchors_of_the_glossary_arrive():
    assert re.search(r'<h3[^>]*><a id="suvbw"></a>SUVbw', html_of('### <a id="suvbw"></a>SUVbw'))


def test_the_index_says_title_aims_and_time_of_each_lesson():
    text = index({"00_quick": FIRST.format(name="start"), "01_data": FIRST.format(name="data")})
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == ["[Quick start](00_quick.ipynb)", "[Quick data](01_data.ipynb)"]
    assert text.count("- to look;\n- to [measure](glossary.md#suv).") == 2
    assert text.count("**Time:** 2 minutes; 1 GB of memory.") == 2
    assert "Before you start" not in text and "Why." not in text
    assert '<a href="00_quick.html">Quick start</a>' in html_of(text)


def test_every_page_leads_to_all_others_in_order():
    links = re.findall(r'href="([^"]+)\.html">([^<]+)<', navigation({"01_data", "00_quick", *TEXTS}))
    assert links == [
        ("index", "Lessons"), ("00_quick", "0"), ("01_data", "1"), ("how_pet_works", "How PET works"),
        ("glossary", "Glossary"), ("teaching", "Teaching"), ("search", "Search"),
    ]  # fmt: skip


def test_the_search_finds_sections_by_their_words_and_their_addresses():
    cells = [new_markdown_cell('# Quick start\n\nWhy.\n\n## Load, and look\n\nA [MIP](glossary.md#mip) of `pet`.')]
    cells += [new_markdown_cell('### <a id="suv"></a>SUV\n\nUptake.')]
    found = list(sections("00_quick", new_notebook(cells=cells)))
    assert [(one["href"], one["title"]) for one in found] == [
        ("00_quick.html#Quick-start", "Quick start"),
        ("00_quick.html#Load,-and-look", "Quick start: Load, and look"),
        ("00_quick.html#suv", "Quick start: SUV"),
    ]
    assert "A MIP of pet." in found[1]["text"]
    html = search_page(found, {"00_quick"})
    assert '"title": "Quick start: SUV"' in html and not re.search(r'(src|href)="https?:', html)


def test_a_text_cannot_end_the_script_of_the_search():
    assert html_of_search("</script><b>").count("</script>") == 1


def html_of_search(text: str) -> str:
    return search_page([{"href": "a.html", "title": "A", "text": text}], {"a"})
