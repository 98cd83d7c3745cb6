"""The page of a case: self-contained, whole or absent, and every number on it that of the tables."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from conftest import oblique
from test_lesion_clicks import CubesByName

import seganypet as sap
from seganypet.errors import ClickError, GeometryError, SegAnyPETError
from seganypet.pet.volume import Volume
from seganypet.study.report import DISCLAIMER, MAX_PICTURES, write_report

SHAPE = (40, 36, 44)
AFFINE = oblique(spacing=(4.07, 3.0, 2.5), left_handed=True)
HOSTILE = "<img src=x onerror=alert(1)> & \"liver\""  # fmt: skip


class Page(HTMLParser):
    """Tags with their attributes, tables as rows of text, and all text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.tables, self.text, self.open = [], [], "", []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if "style" not in self.open:
            self.text += data


@pytest.fixture
def session() -> CubesByName:
    """Two objects, the second with two clicks and a name that no page may run."""
    data = np.random.default_rng(1).uniform(0.5, 6.0, SHAPE).astype(np.float32)
    session = CubesByName(Volume(data, AFFINE, "SUVbw", source="scan 12"))
    session.select("lesion_01")
    session.click(ijk=(10, 10, 10))
    session.select(HOSTILE)
    session.click(ijk=(30, 20, 30))
    session.click(ijk=(33, 20, 30), foreground=False)
    return session


def test_the_page_asks_no_host_runs_no_script_and_describes_its_pictures(session, tmp_path):
    page = Page(write_report(tmp_path / "page.html", session, title=HOSTILE, notes=[HOSTILE]))
    assert not page.open  # every tag is closed
    assert {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "form"} == set()
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 3  # the projection, and each object
    assert all(one["src"].startswith("data:image/png;base64,") and len(one["alt"]) > 20 for one in pictures)
    assert not [name for _, attributes in page.tags for name in attributes if name in ("href", "onerror", "srcset")]
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page.source) and "url(" not in page.source
    assert page.text.count(HOSTILE) >= 3 and "lesion_01" in page.text
    assert page.text.count(DISCLAIMER) == 2


def test_numbers_on_the_page_are_those_of_quantify_and_sums_are_sums(session, tmp_path):
    page = Page(write_report(tmp_path / "page.html", session))
    heads, *rows, total = page.tables[0]
    measured = sap.quantify(session.volume, session.masks)
    wide = measured.pivot(index="object", columns="quantity", values="value")
    assert [row[0] for row in rows] == ["lesion_01", HOSTILE] and total[0] == "sum"
    assert [row[1] for row in rows] == ["1", "2"] and total[1] == "3"
    for column, head in enumerate(heads[2:], start=2):
        quantity = head.split(" (")[0]
        values = [float(row[column]) for row in rows]
        np.testing.assert_allclose(values, wide.loc[["lesion_01", HOSTILE], quantity], atol=0.051)
        if quantity in ("MTV", "TLG"):
            assert float(total[column]) == pytest.approx(wide[quantity].sum(), abs=0.051)
        else:
            assert total[column] == ""  # a maximum or a mean has no sum
    assert measured["definition"].iloc[0] in page.text


def test_every_click_stands_in_its_place_and_millimetres(session, tmp_path):
    page = Page(write_report(tmp_path / "page.html", session))
    rows = page.tables[-1][1:]
    expected = [
        ("lesion_01", "foreground", (10, 10, 10)),
        (HOSTILE, "foreground", (30, 20, 30)),
        (HOSTILE, "background", (33, 20, 30)),
    ]
    for row, (name, label, ijk) in zip(rows, expected, strict=True):
        assert row[:2] == [name, label] and tuple(map(int, row[2:5])) == ijk
        np.testing.assert_allclose([float(cell) for cell in row[5:]], session.volume.to_mm(ijk), atol=0.051)


def test_what_made_it_is_told(session, tmp_path):
    page = Page(write_report(tmp_path / "page.html", session))
    journal = session.journal()
    assert journal.volume["fingerprint"] in page.text and "40 x 36 x 44 voxels of 4.07 x 3.00 x 2.50 mm" in page.text
    assert journal.model["name"] in page.text and sap.__version__ in page.text
    assert all(package in page.text for package in journal.versions)


def test_with_a_truth_scores_are_told_and_with_tables_these(session, tmp_path):
    truth = session.mask_of("lesion_01")
    table = pd.DataFrame({"rule": ["41 %"], "mtv_ml": [12.3456]})
    page = Page(write_report(tmp_path / "page.html", session, truth=truth, tables={"By rule": table}))
    everything = truth | session.mask_of(HOSTILE)
    assert f"DSC {sap.dice(everything, truth):.2f}" in page.text and "detection F1 0.67" in page.text
    assert page.tables[1] == [["rule", "mtv_ml"], ["41 %", "12.35"]]
    with pytest.raises(GeometryError):
        write_report(tmp_path / "other.html", session, truth=truth[1:])
    assert not (tmp_path / "other.html").exists()


def test_a_scan_in_becquerel_gets_no_suv(session, tmp_path):
    other = CubesByName(replace(session.volume, unit="Bq/mL"))
    other.click(ijk=(10, 10, 10))
    page = Page(write_report(tmp_path / "page.html", other))
    assert "No SUV: the scan is in Bq/mL" in page.text and len(page.tables) == 1


def test_many_objects_make_a_long_table_but_few_pictures(session, tmp_path):
    for number in range(30):
        session.select(f"lesion {number}")
        session.click(ijk=(5 + number, 18, 22))
    path = write_report(tmp_path / "page.html", session)
    page = Page(path)
    assert len(page.tables[0]) == 1 + 32 + 1
    assert sum(tag == "img" for tag, _ in page.tags) == 1 + MAX_PICTURES
    assert "Smaller objects, not shown: 26." in page.text and path.stat().st_size < 3e6


def test_an_object_that_was_clicked_away_has_a_row_and_no_picture(session, tmp_path):
    session.select("gone")
    session.click(ijk=(20, 20, 20))
    session.click(ijk=(20, 20, 20), foreground=False)
    page = Page(write_report(tmp_path / "page.html", session))
    row = next(row for row in page.tables[0] if row[0] == "gone")
    assert "none" in row and sum(tag == "img" for tag, _ in page.tags) == 3


def test_nothing_clicked_is_nothing_to_report_and_a_bad_place_leaves_nothing(session, tmp_path):
    with pytest.raises(ClickError, match="scan 12: no object was clicked yet"):
        write_report(tmp_path / "page.html", CubesByName(session.volume))
    with pytest.raises(SegAnyPETError, match="does not exist"):
        write_report(tmp_path / "nowhere" / "page.html", session)
    assert list(tmp_path.iterdir()) == []
