"""A new kind of prompt is one class: sessions, journals, pictures and the widget know no kind by name."""

import json
from dataclasses import dataclass
from typing import ClassVar

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pytest
from conftest import oblique
from threshold_network import ThresholdNetwork

from seganypet.errors import ClickError, JournalError
from seganypet.pet.plots import show_slices
from seganypet.pet.views import ijk_to_ras
from seganypet.pet.volume import Volume
from seganypet.prompting.prompts import PROMPTS, Click, Mark, Prompt, read_prompt, write_prompt
from seganypet.prompting.random_walker import RandomWalkerSession
from seganypet.prompting.session import Session
from seganypet.prompting.thresholds import ThresholdSession
from seganypet.widgets.click import ClickWidget

AFFINE = oblique((4.07, 3.1, 5.0), left_handed=True)
SHAPE = (30, 26, 18)
LEFT, RIGHT = (6, 12, 9), (22, 12, 9)
BESIDE_RIGHT = (20, 14, 9)  # still in the island


@dataclass(frozen=True)
class Bar(Prompt):
    """All voxels from one to another along the first axis."""

    kind: ClassVar[str] = "bar"

    start: tuple[int, int, int]
    length: int
    foreground: bool = True

    @property
    def voxels(self):
        return np.array(self.start) + np.arange(self.length)[:, None] * (1, 0, 0)

    @property
    def marks(self):
        return (Mark((self.start, tuple(self.voxels[-1].tolist())), self.foreground),)

    def to_json(self, affine=None):
        return {"start": list(self.start), "length": self.length, "foreground": self.foreground}

    @classmethod
    def from_json(cls, entry, affine=None):
        if set(entry) - {"kind", "object"} != {"start", "length", "foreground"}:
            raise ClickError(f"{entry} is no bar; expected start, length and foreground.")
        return cls(tuple(entry["start"]), entry["length"], entry["foreground"])


BAR = Bar(LEFT, RIGHT[0] - LEFT[0] + 1)  # from one island to the other


class BarThresholdSession(ThresholdSession):
    accepts = frozenset({"click", "bar"})


@pytest.fixture(autouse=True)
def _known(monkeypatch):
    monkeypatch.setitem(PROMPTS, Bar.kind, Bar)


@pytest.fixture
def volume() -> Volume:
    """Two hot islands in a cold scan."""
    data = np.full(SHAPE, 0.5)
    for i, j, k in (LEFT, RIGHT):
        data[i - 2 : i + 3, j - 2 : j + 3, k - 2 : k + 3] = 8.0
    return Volume(data, AFFINE, "SUVbw", source="islands")


@pytest.fixture
def session(volume) -> BarThresholdSession:
    return BarThresholdSession(volume, "SUV>=4")


def test_a_prompt_of_another_kind_is_segmented_by_its_voxels_and_undone(session, volume):
    empty = session.mask
    mask = session.add(BAR)
    expected = volume.data > 4
    expected[tuple(BAR.voxels.T)] = True  # each of its voxels was said to belong
    np.testing.assert_array_equal(mask, expected)
    fewer = session.add(Bar(BESIDE_RIGHT, 5, foreground=False))
    assert mask[BESIDE_RIGHT] and not fewer[BESIDE_RIGHT] and fewer[LEFT] and fewer[RIGHT]
    assert session.prompts == (BAR, Bar(BESIDE_RIGHT, 5, False)) and session.clicks == ()
    np.testing.assert_array_equal(session.undo(), mask)
    np.testing.assert_array_equal(session.undo(), empty)
    np.testing.assert_array_equal(session.redo(), mask)


def test_the_first_prompt_of_whatever_kind_must_be_foreground_and_lie_in_the_volume(session):
    with pytest.raises(ClickError, match="the first bar on an object must be foreground"):
        session.add(Bar(LEFT, 2, foreground=False))
    with pytest.raises(ClickError, match=r"\(30.0, 12.0, 9.0\) lies outside volume shape"):
        session.add(Bar(RIGHT, 9))
    with pytest.raises(ClickError, match="bar without any voxel"):
        session.add(Bar(RIGHT, 0))
    assert session.objects == ()


def test_a_click_is_what_add_makes_of_a_click(session):
    clicked = BarThresholdSession(session.volume, "SUV>=4").click(ijk=LEFT)
    np.testing.assert_array_equal(clicked, session.add(Click(LEFT)))
    assert session.clicks == session.clicks_of("object 1") == (Click(LEFT),)


@pytest.mark.parametrize("prompt", [BAR, (6, 12, 9), "click"], ids=["another kind", "a voxel", "a word"])
def test_a_session_refuses_what_its_network_does_not_take_and_says_what_it_takes(volume, prompt):
    sessions = Session(ThresholdNetwork(), volume), ThresholdSession(volume, "SUV>=4"), RandomWalkerSession(volume)
    for session in sessions:
        with pytest.raises(ClickError, match=r"takes prompts of kind .*click.*; got ('bar'|tuple|str)\."):
            session.add(prompt)
        assert session.prompts == ()


def test_a_3d_network_that_takes_the_kind_gets_every_voxel_of_it(volume):
    class BarSession(Session):
        accepts = frozenset({"click", "bar"})

    class BarNetwork(ThresholdNetwork):
        accepts = frozenset({"click", "bar", "text"})

        def decode(self, embedding, points_ijk, labels, previous_logits):
            seen.append((points_ijk[0].numpy(), labels[0].tolist()))
            return super().decode(embedding, points_ijk, labels, previous_logits)

    seen = []
    session = BarSession(BarNetwork(), volume, spacing_mm=8.0)
    assert session.accepts == {"click", "bar"}
    session.click(ijk=LEFT)
    session.add(Bar(LEFT, 3))
    points, labels = seen[-1]
    assert labels == [1] * 4
    steps_mm = np.diff(points[1:], axis=0) * session.spacing_mm
    np.testing.assert_allclose(steps_mm, np.tile(AFFINE[:3, 0], (2, 1)), atol=1e-4)


def test_the_random_walker_walks_from_every_voxel(volume):
    class BarWalker(RandomWalkerSession):
        accepts = frozenset({"bar"})

    mask = BarWalker(volume).add(BAR)
    assert mask[LEFT] and mask[RIGHT]


def test_a_journal_keeps_every_kind_and_repeats_it(session, volume, tmp_path):
    session.add(BAR)
    session.click(ijk=(14, 12, 9), foreground=False)
    session.save_journal(tmp_path / "prompts.json")
    content = json.loads((tmp_path / "prompts.json").read_text())
    assert content["format"] == "seganypet-journal-2" and "clicks" not in content
    bar, click = content["prompts"]
    assert bar == {"object": "object 1", "kind": "bar", "start": [6, 12, 9], "length": 17, "foreground": True}
    assert click["ijk"] == [14, 12, 9] and "mm" in click
    again = BarThresholdSession(volume, "SUV>=4")
    again.load_journal(tmp_path / "prompts.json")
    assert again.journal() == session.journal() and again.prompts == session.prompts
    np.testing.assert_array_equal(again.mask, session.mask)
    with pytest.raises(JournalError, match="cannot be repeated .*takes prompts of kind box, click, .*; got 'bar'"):
        ThresholdSession(volume, "SUV>=4").load_journal(tmp_path / "prompts.json")


def test_clicks_alone_are_written_in_the_format_that_every_version_reads(session, tmp_path):
    session.click(ijk=LEFT)
    session.save_journal(tmp_path / "clicks.json")
    content = json.loads((tmp_path / "clicks.json").read_text())
    mm = nib.affines.apply_affine(AFFINE, LEFT).round(3).tolist()
    assert content["format"] == "seganypet-journal-1" and "prompts" not in content
    assert content["clicks"] == [{"object": "object 1", "ijk": [6, 12, 9], "mm": mm, "foreground": True}]


def test_an_unknown_or_damaged_kind_in_a_journal_is_refused(session, tmp_path, monkeypatch):
    session.add(BAR)
    path = tmp_path / "prompts.json"
    session.save_journal(path)
    damaged = path.read_text().replace('"length"', '"size"')
    (tmp_path / "damaged.json").write_text(damaged)
    with pytest.raises(JournalError, match=r"damaged\.json: prompt 1: .*expected start, length and foreground"):
        session.load_journal(tmp_path / "damaged.json")
    monkeypatch.delitem(PROMPTS, "bar")
    with pytest.raises(JournalError, match=r"prompts\.json: prompt 1: unknown kind of prompt 'bar'; .*knows click"):
        session.load_journal(path)
    assert session.prompts == (BAR,)


@pytest.mark.parametrize("prompt", [Click((1, 2, 3)), Click((1, 2, 3), False), BAR], ids=str)
@pytest.mark.parametrize("affine", [None, AFFINE], ids=["without mm", "with mm"])
def test_prompts_survive_json(prompt, affine):
    entry = json.loads(json.dumps(write_prompt(prompt, affine)))
    assert read_prompt(entry, affine) == prompt


def test_what_stands_for_a_prompt_is_its_middle_voxel():
    assert Click(LEFT).centre_ijk == LEFT and BAR.centre_ijk == (14, 12, 9)
    assert Click(LEFT).marks == (Mark((LEFT,), True),)


def test_pictures_draw_a_line_where_it_lies_in_the_slice_and_a_point_where_it_crosses(session, volume):
    axes = show_slices(volume, clicks=[BAR, Click(BAR.centre_ijk, False)])
    drawn = [[len(line.get_xdata()) for line in ax.lines if line.get_color() in ("#56B4E9", "#E69F00")] for ax in axes]
    across = nib.io_orientation(AFFINE)[0, 0]  # 0: the bar runs from left to right, across the sagittal slice
    assert across == 0 and drawn == [[2, 1], [2, 1], [1]]
    plt.close(axes[0].figure)


def test_the_widget_draws_and_takes_every_kind(session, volume):
    widget = ClickWidget(session)
    widget.prompt(BAR)
    ends = [list(ijk_to_ras(ijk, volume)) for ijk in (LEFT, RIGHT)]
    assert widget.marks == [{"path": ends, "foreground": True, "of": "object 1"}]
    assert "object 1 at voxel (14, 12, 9)" in widget.status and widget.effort["clicks"] == 1
    assert widget.cursor_ijk == BAR.centre_ijk and widget.objects[0]["bits"]
    entry = {"kind": "bar", "start": [*BESIDE_RIGHT], "length": 5, "foreground": False}
    widget._handle_custom_msg({"call": "prompt", "prompt": entry}, [])
    assert widget.error == "" and len(widget.marks) == 2 and not session.mask[BESIDE_RIGHT]
    widget._handle_custom_msg({"call": "undo"}, [])
    assert len(widget.marks) == 1
    assert widget._repr_mimebundle_()[0]["image/png"].startswith(b"\x89PNG")
