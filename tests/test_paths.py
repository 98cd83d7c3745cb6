"""Every reader and writer, given a path that is no file, says so in own words: it neither waits nor destroys."""

import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from evaluation_cases import memory_case
from make_dicom import write_series
from threshold_network import ThresholdNetwork

import seganypet as sap
from seganypet._files import as_path, replace_atomically
from seganypet.model.checkpoints import load_locator
from seganypet.prompting.autopet_clicks import AutoPETClicks, read_autopet_clicks, write_autopet_clicks
from seganypet.study.paper_tables import read_results, write_table
from seganypet.training.bookkeeping import load_checkpoint

CASE = memory_case()
PET = CASE.pet
MASK = CASE.lesions > 0
COHORT = sap.Cohort([sap.Case("a", "a", Path("pet.nii"), "SUVbw")])
STUDY = {"rules": ["41% SUVmax"], "progress": False}
# name of a function, the ending of its files, and a call
Calls = dict[str, tuple[str, Callable]]
READERS: Calls = {
    "load_volume": (".nii.gz", lambda path: sap.load_volume(path, unit="SUVbw")),
    "load_volume, NRRD": (".nrrd", lambda path: sap.load_volume(path, unit="SUVbw")),
    "load_labels": (".nii", lambda path: sap.load_labels(path, PET)),
    "load_masks": (".seg.nrrd", lambda path: sap.load_masks(path, PET)),
    "load_masks, DICOM": (".dcm", lambda path: sap.load_masks(path, PET)),
    "load_dicom": (".zip", sap.load_dicom),
    "list_series": ("", sap.list_series),
    "read_totalsegmentator": (".nii.gz", lambda path: sap.read_totalsegmentator(path, PET)),
    "read_autopet_clicks": (".json", lambda path: read_autopet_clicks(path, PET)),
    "load_journal": (".json", lambda path: sap.ThresholdSession(PET).load_journal(path)),
    "load_model": (".pth", sap.load_model),
    "load_model, safetensors": (".safetensors", sap.load_model),
    "load_locator": (".safetensors", load_locator),
    "load_checkpoint": (".ckpt", lambda path: load_checkpoint(as_path(path), {})),
    "from_path": ("", sap.Cohort.from_path),
    "from_csv": (".csv", sap.Cohort.from_csv),
    "from_autopet": ("", sap.Cohort.from_autopet),
    "from_nnunet": ("", sap.Cohort.from_nnunet),
    "read_results": (".csv", read_results),
    "from_yaml": (".yaml", sap.TrainConfig.from_yaml),
    "convert": ("", lambda path: sap.convert(path, "converted", progress=False)),
    "refine": (
        "",
        lambda path: sap.Annotation(COHORT, ThresholdNetwork(), "work", annotator="A. B.", refine=path),
    ),
}


def _clicked() -> sap.ThresholdSession:
    session = sap.ThresholdSession(PET)
    session.click(ijk=(4, 4, 4))
    return session


WRITERS: Calls = {
    "save_volume": (".nii.gz", lambda path: sap.save_volume(path, PET)),
    "save_mask": (".nii.gz", lambda path: sap.save_mask(path, MASK, PET)),
    "save_masks": (".seg.nrrd", lambda path: sap.save_masks(path, {"lesion": MASK}, PET)),
    "session.save": (".stl", lambda path: _clicked().save(path)),
    "save_journal": (".json", lambda path: _clicked().save_journal(path)),
    "write_autopet_clicks": (".json", lambda path: write_autopet_clicks(path, AutoPETClicks(((1, 1, 1),), ()))),
    "save_model": (".safetensors", lambda path: sap.save_model(path, sap.load_model("tiny", "cpu"), "copy")),
    "to_csv": (".csv", COHORT.to_csv),
    "write_table": (".tex", lambda path: write_table(path, "table" * 99)),
    "write_report": (".html", lambda path: sap.write_report(path, _clicked())),
    "evaluate": (".csv", lambda path: sap.evaluate([CASE], None, 1, output=path, **STUDY)),
    "quantify_cohort": (".csv", lambda path: sap.quantify_cohort([CASE], output=path, progress=False)),
    "convert": ("", lambda path: sap.convert("dicom", path, progress=False)),
}
NO_PATHS = (7, 1.5, b"scan.nii", ["scan.nii"], "", "a\0b.nii", "a\ud800.nii")


@pytest.fixture(autouse=True)
def nobody_waits(tmp_path, monkeypatch) -> Iterator[None]:
    """An empty working folder; and whoever waits for a writer of a pipe is woken."""
    monkeypatch.chdir(tmp_path)

    def wake(*_: object) -> None:
        pytest.fail("waits for a writer of the pipe")

    before = signal.signal(signal.SIGALRM, wake)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def refuses(call: Callable, path: object) -> None:
    with pytest.raises(sap.SegAnyPETError) as caught:
        call(path)
    assert str(caught.value).replace("\n", "").isprintable()


@pytest.mark.parametrize("name", READERS)
def test_a_reader_refuses_what_is_no_file(tmp_path, name):
    ending, call = READERS[name]
    pipe, loop = tmp_path / f"pipe{ending}", tmp_path / f"loop{ending}"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    (tmp_path / "file").write_text("")
    none = (tmp_path / f"none\udcff\n\x1b[31m{ending}", tmp_path / ("x" * 300 + ending), tmp_path / "file" / "below")
    for path in (*NO_PATHS, pipe, loop, *none):
        refuses(call, path)


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_refuses_what_is_no_place_for_a_file_and_leaves_it_as_it_was(tmp_path, name):
    ending, call = WRITERS[name]
    write_series(tmp_path / "dicom", np.ones((3, 3, 3)), np.diag([-4.0, 4.0, 4.0, 1.0]))
    pipe, loop, link = (tmp_path / f"{kind}{ending}" for kind in ("pipe", "loop", "link"))
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    link.symlink_to(pipe)
    (tmp_path / "file").write_text("")
    for path in (*NO_PATHS, pipe, link, loop, tmp_path / ("x" * 300 + ending), tmp_path / "file" / f"below{ending}"):
        refuses(call, path)
    assert pipe.is_fifo() and loop.is_symlink() and link.is_symlink()
    assert not list(tmp_path.rglob(".unfinished-*"))


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """A disk that is full, for this process: no file grows beyond some bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_whose_disk_is_full_says_so_and_leaves_nothing_half_written(tmp_path, name):
    ending, call = WRITERS[name]
    write_series(tmp_path / "dicom", np.ones((9, 9, 9)), np.diag([-4.0, 4.0, 4.0, 1.0]))
    out = tmp_path / f"out{ending}"
    for _ in range(2):  # what the first try leaves keeps no other from beginning
        with files_end_at(16):
            if name == "convert":  # the study fails, and its table cannot be written
                refuses(call, out)
            else:
                with pytest.raises(sap.SegAnyPETError, match="File too large|disk") as refused:
                    call(out)
                assert ".unfinished-" not in str(refused.value)
        assert not out.is_file() or name in ("evaluate", "quantify_cohort")
    call(out)
    assert out.exists() and not list(tmp_path.rglob(".unfinished-*"))


def test_a_full_disk_names_the_file_that_an_object_was_to_have(tmp_path):
    with files_end_at(16), pytest.raises(sap.SegAnyPETError, match="lesion.nii.gz: File too large") as refused:
        sap.save_masks(tmp_path, {"lesion": MASK}, PET)
    assert ".unfinished-" not in str(refused.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [name for name, (ending, _) in WRITERS.items() if ending])
def test_a_writer_follows_a_link_whose_target_is_called_otherwise(tmp_path, name):
    # Stores that name files after their content put such links in their place.
    ending, call = WRITERS[name]
    (tmp_path / "store").mkdir()
    stored, link = tmp_path / "store" / "0a1b", tmp_path / f"name{ending}"
    link.symlink_to(stored)
    call(link)
    assert link.is_symlink() and stored.stat().st_size > 0
    assert os.listdir(tmp_path / "store") == ["0a1b"]


def test_a_name_in_another_encoding_ends_no_process(tmp_path):
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9"))  # Latin-1, as old disks have it
    folder.mkdir()
    sap.save_volume(folder / "pet.nii.gz", PET)
    assert np.array_equal(sap.load_volume(folder / "pet.nii.gz", unit="SUVbw").data, PET.data)
    for call in (WRITERS["save_masks"][1], READERS["load_masks"][1]):
        (folder / "mask.seg.nrrd").touch()
        with pytest.raises(sap.SegAnyPETError, match="not in UTF-8; rename"):
            call(folder / "mask.seg.nrrd")


def test_a_link_to_a_missing_folder_is_refused(tmp_path):
    (tmp_path / "link.csv").symlink_to(tmp_path / "none" / "table.csv")
    with pytest.raises(sap.SegAnyPETError, match="folder .*none does not exist"), replace_atomically("link.csv"):
        pass
