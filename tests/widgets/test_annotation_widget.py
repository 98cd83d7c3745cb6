"""AnnotationWidget: what its buttons do is what the annotation holds, also after a kernel died."""

import numpy as np
import pytest
from conftest import oblique
from threshold_network import ThresholdNetwork

from seganypet.cohort.annotation import Annotation
from seganypet.cohort.case import Case
from seganypet.cohort.cohort import Cohort
from seganypet.pet.volume import Volume, load_labels, save_volume
from seganypet.widgets.annotate import AnnotationWidget

AFFINE, SHAPE, CENTRE_IJK = oblique((4.07, 3.1, 6.0), left_handed=True), (24, 26, 16), (11, 12, 8)


@pytest.fixture
def cohort(tmp_path) -> Cohort:
    """Three scans with one hot block; the second cannot be read, the third has a CT."""
    data = np.full(SHAPE, 0.5)
    data[6:17, 6:19, 4:13] = 8.0
    for name in ("a", "c"):
        save_volume(tmp_path / f"{name}.nii.gz", Volume(data, AFFINE, "SUVbw"))
    (tmp_path / "b.nii.gz").write_text("cut short")
    save_volume(tmp_path / "ct.nii.gz", Volume(np.full(SHAPE, 40.0), AFFINE, "HU"))
    cases = [Case(name, name, tmp_path / f"{name}.nii.gz", "SUVbw") for name in "ab"]
    return Cohort([*cases, Case("c", "c", tmp_path / "c.nii.gz", "SUVbw", ct=tmp_path / "ct.nii.gz")])


def opened(cohort, folder) -> AnnotationWidget:
    targets = ("liver", "spleen", "lesion")
    return AnnotationWidget(Annotation(cohort, ThresholdNetwork(), folder, annotator="A. B.", targets=targets))


def test_a_case_is_clicked_finished_and_the_next_one_shown(cohort, tmp_path):
    widget = opened(cohort, tmp_path / "work")
    assert "<b>a</b>" in widget._heading.value and widget.click_widget.scan["ct"] is None
    widget._targets["liver"].click()
    assert widget._targets["liver"].button_style == "info" and widget._targets["spleen"].button_style == ""
    widget.click_widget.click(ijk=CENTRE_IJK)
    widget._finish.click()
    pet = cohort["a"].load_pet()
    assert (load_labels(tmp_path / "work" / "a" / "mask.nii.gz", like=pet) == 1).sum() > 500
    assert "<b>c</b>" in widget._heading.value and widget.click_widget.scan["ct"]  # b was passed over, and it says why
    assert "b: " in widget._message.value and "not a readable NIfTI" in widget._message.value
    widget.click_widget.click(ijk=CENTRE_IJK)
    assert widget.annotation.progress.set_index("case")["clicks"].to_dict() == {"a": 1, "b": 0, "c": 1}


def test_after_a_killed_kernel_clicks_colours_of_the_clock_and_target_are_back(cohort, tmp_path):
    widget = opened(cohort, tmp_path / "work")
    widget.select("spleen")
    widget.click_widget.click(ijk=CENTRE_IJK)
    widget.annotation.stopwatch.seconds += 120
    mask = widget.click_widget.click(ijk=(12, 12, 8))
    again = opened(cohort, tmp_path / "work")
    np.testing.assert_array_equal(again.annotation.session.mask_of("spleen"), mask)
    assert again._targets["spleen"].button_style == "info" and again.click_widget.effort["clicks"] == 2
    assert again.click_widget.effort["seconds"] >= 120


def test_every_lesion_is_an_object_of_its_own(cohort, tmp_path):
    widget = opened(cohort, tmp_path / "work")
    for _ in range(2):
        widget._targets["lesion"].click()
        widget.click_widget.click(ijk=CENTRE_IJK)
    assert widget.annotation.session.objects == ("lesion 1", "lesion 2")


def test_what_is_refused_is_said_and_the_case_stays_open(cohort, tmp_path):
    widget = opened(cohort, tmp_path / "work")
    widget.annotation.session.select("livre")
    widget.click_widget.click(ijk=CENTRE_IJK)
    widget._finish.click()
    assert "livre" in widget._message.value and "rename it" in widget._message.value
    assert "<b>a</b>" in widget._heading.value and widget.annotation.session.objects == ("livre",)
    widget.click_widget.rename("livre", "liver")
    widget._finish.click()
    assert "<b>c</b>" in widget._heading.value


def test_a_full_disk_is_said_and_the_click_is_seen(cohort, tmp_path, monkeypatch):
    from seganypet.errors import SegAnyPETError

    widget = opened(cohort, tmp_path / "work")

    def full(path):
        raise SegAnyPETError(f"cannot write {path}: no space left on device")

    monkeypatch.setattr("seganypet.cohort.annotation.replace_atomically", full)
    prompt = {"ijk": [*widget.click_widget.cursor_ijk], "foreground": True}
    widget.click_widget._handle_custom_msg({"call": "prompt", "prompt": prompt}, [])
    assert "no space left" in widget.click_widget.error and len(widget.click_widget.marks) == 1


def test_a_case_that_could_not_be_saved_or_shown_is_not_finished_unseen(cohort, tmp_path, monkeypatch):
    widget = opened(Cohort([cohort["a"], cohort["c"]]), tmp_path / "work")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        widget._skip.click()
    assert "No space left" in widget._message.value
    assert widget.annotation.case.name == "a" and "<b>a</b>" in widget._heading.value  # still the case on the page
    with monkeypatch.context() as patch:
        patch.setattr("seganypet.widgets.annotate.ClickWidget", lambda *_, **__: (_ for _ in ()).throw(MemoryError()))
        widget._skip.click()
    assert widget.annotation.case.name == "c" and "<b>c</b>" in widget._heading.value and widget._finish.disabled
    assert widget.annotation.remaining == ("a", "c")


def test_when_all_is_done_it_says_where_the_tables_are(cohort, tmp_path):
    widget = opened(Cohort([cohort["a"]]), tmp_path / "work")
    widget._finish.click()
    assert "All 1 cases are done" in widget._heading.value and str(tmp_path / "work") in widget._heading.value
    assert widget.click_widget is None
    assert "All 1 cases" in opened(Cohort([cohort["a"]]), tmp_path / "work")._heading.value


def test_without_a_front_end_it_shows_the_picture_of_its_case(cohort, tmp_path):
    bundle = opened(cohort, tmp_path / "work")._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG") and "application/vnd.jupyter.widget-view+json" in bundle


def test_a_finished_case_is_opened_again_from_the_list(cohort, tmp_path):
    widget = opened(Cohort([cohort["a"], cohort["c"]]), tmp_path / "work")
    widget.select("liver")
    widget.click_widget.click(ijk=CENTRE_IJK)
    widget._finish.click()
    assert widget._cases.options == (("a (done)", "a"), ("c (open)", "c")) and widget._cases.value == "c"
    widget._cases.value = "a"  # as a mouse chooses
    assert "<b>a</b>" in widget._heading.value and widget.annotation.session.objects == ("liver",)
    assert widget.annotation.remaining == ("a", "c") and widget._cases.options[0] == ("a (open)", "a")
    for _ in range(2):
        widget._finish.click()
    assert widget.click_widget is None and widget._cases.value is None
    widget._cases.value = "c"
    assert "<b>c</b>" in widget._heading.value and widget.click_widget is not None


def test_a_lesion_that_a_model_named_lights_its_button(cohort, tmp_path):
    widget = opened(cohort, tmp_path / "work")
    widget.annotation.session.select("lesion_07")
    assert widget._targets["lesion"].button_style == "info"
