"""API pages hold every module and ask no host for anything."""

import re
from pathlib import Path

import pytest
from api_pages import modules, write_pages


def test_pages_show_signatures_and_docstrings_and_fetch_nothing(tmp_path: Path):
    write_pages(tmp_path, "seganypet.errors", "seganypet.metrics")
    page = (tmp_path / "seganypet" / "metrics.html").read_text()
    assert 'id="dice"' in page and "Arguments:" in page and "Raises:" in page  # sections of Google style
    assert (tmp_path / "seganypet" / "errors.html").is_file() and (tmp_path / "index.html").is_file()
    fetched = r"""<(?:script|img|iframe|link)\b[^>]*(?:src|href)=["']?https?:|@import|url\(\s*["']?https?:"""
    for path in tmp_path.rglob("*.*"):
        assert not re.search(fetched, path.read_text()), path.name


def test_every_module_can_be_documented():
    import pdoc

    names = modules()
    assert {"seganypet", "seganypet.pet.suv", "seganypet.cli", "seganypet.widgets.click"} <= {*names}
    for name in names:
        module = pdoc.doc.Module.from_name(name)
        assert module.docstring, f"{name} says nothing of itself"


def test_a_module_that_cannot_be_imported_is_an_error(tmp_path: Path):
    with pytest.raises((RuntimeError, UserWarning), match="seganypet.nowhere"):
        write_pages(tmp_path, "seganypet.nowhere")
