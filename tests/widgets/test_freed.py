"""What is closed or replaced is freed with its scan: a day of work ends in no dead kernel."""

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
from conftest import oblique
from threshold_network import ThresholdNetwork

from seganypet.cohort.annotation import Annotation
from seganypet.cohort.case import Case
from seganypet.cohort.cohort import Cohort
from seganypet.errors import ClickError
from seganypet.pet.volume import Volume, save_volume
from seganypet.prompting import state
from seganypet.prompting.session import Session
from seganypet.prompting.state import held_bytes
from seganypet.prompting.thresholds import ThresholdSession
from seganypet.widgets.annotate import AnnotationWidget
from seganypet.widgets.app import UploadWidget
from seganypet.widgets.click import ClickWidget
from seganypet.widgets.rendering import view3d

AFFINE, SHAPE, CENTRE_IJK = oblique((4.07, 3.1, 6.0), left_handed=True), (24, 26, 16), (11, 12, 8)


@pytest.fixture
def volume() -> Volume:
    data = np.full(SHAPE, 0.5, np.float32)
    data[6:17, 6:19, 4:13] = 8.0
    return Volume(data, AFFINE, "SUVbw")


def alive(*references: weakref.ref) -> int:
    gc.collect()
    return sum(reference() is not None for reference in references)


def test_the_case_before_is_freed_whether_finished_or_left(volume, tmp_path):
    save_volume(tmp_path / "pet.nii", volume)
    cohort = Cohort([Case(name, name, tmp_path / "pet.nii", "SUVbw") for name in "abcd"])
    work = Annotation(cohort, ThresholdNetwork(), tmp_path / "work", annotator="A. B.", targets=["liver"])
    widget = AnnotationWidget(work)
    for leave in (widget.finish, widget.skip, widget.finish):
        widget.select("liver")
        widget.click_widget.click(ijk=CENTRE_IJK)
        session = widget.click_widget.session
        before = [weakref.ref(one) for one in (widget.click_widget, session, session.volume)]
        del session
        leave()
        assert alive(*before) == 0


def test_a_closed_turning_projection_and_upload_are_freed(volume):
    projection, upload = view3d(volume), UploadWidget(lambda path, name, unit: None)
    known = [weakref.ref(projection), weakref.ref(upload)]
    projection.close()
    upload.close()
    del projection, upload
    assert alive(*known) == 0


def test_a_closed_widget_that_a_notebook_still_holds_keeps_no_copy_of_scan_and_ct(volume):
    ct = Volume(np.zeros(SHAPE, np.float32), AFFINE, "HU")
    widget = ClickWidget(ThresholdSession(volume, "SUV>=4"), ct=ct)
    copies = [weakref.ref(one) for one in (ct, *widget._pieces.values())]
    del ct
    widget.close()
    assert alive(*copies) == 0 and widget.session.click(ijk=CENTRE_IJK).any()
    widget._handle_custom_msg({"call": "piece", "layer": "pet", "number": 0}, [])  # of a page that is late


def test_undo_keeps_as_many_steps_as_fit_into_memory(volume, monkeypatch):
    session = Session(ThresholdNetwork(), volume)
    session.click(ijk=CENTRE_IJK)
    session.click(ijk=(12, 12, 8))
    assert session._state.bytes > 1000
    monkeypatch.setattr(state, "MAX_UNDO_BYTES", 4 * session._state.bytes)
    for number in range(20):
        session.click(ijk=(10 + number % 3, 12, 8))
    kept = len(session._past)
    assert 2 <= kept < 8 and sum(step.bytes for step in session._past) <= state.MAX_UNDO_BYTES
    for _ in range(kept):
        session.undo()
    assert not session.can_undo and len(session.prompts) == 22 - kept
    with pytest.raises(ClickError, match="too long ago"):
        session.undo()


def test_a_session_of_a_threshold_keeps_no_mask_of_each_step(volume):
    session = ThresholdSession(volume)
    for number in range(50):
        session.click(ijk=(8 + number % 6, 12, 8))
    assert held_bytes(session._past) < 50 * volume.data.nbytes


def test_what_a_value_holds_is_counted_in_dataclasses_and_sequences(tmp_path):
    array = np.zeros(1000, np.float32)
    assert held_bytes((array, {"a": [array]}, Path("a"), None)) >= 8000
    assert held_bytes("text") == 4
