"""What a system refuses, what killed processes leave, and what messages quote."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from seganypet import _files
from seganypet._files import read_json, read_text, replace_atomically, temporary_folder, writing
from seganypet.errors import JournalError, ReadError, SegAnyPETError, WriteError, printable, shown

WRITER = """
import sys
from seganypet._files import replace_atomically, temporary_folder
with replace_atomically(sys.argv[1]) as path, temporary_folder() as folder:
    path.write_text("half")
    (folder / "upload.nii.gz").write_text("half")
    print(path, folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """The system's folder for temporary files, and a process that has swept nothing yet."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(_files, "_SWEPT", set())
    return tmp_path / "temporary"


@pytest.mark.skipif(_files.fcntl is None, reason="only there files are locked")
def test_the_next_writer_removes_what_dead_ones_left_and_nothing_of_the_living(tmp_path, temporary):
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "table.csv"
    target.write_text("whole")
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, target], stdin=-1, stdout=-1, text=True)  # -1: a pipe
        for _ in range(2)
    ]
    (dead_file, dead_folder), (file, folder) = (map(Path, writer.stdout.readline().split()) for writer in writers)
    writers[0].kill()
    writers[0].wait()
    assert dead_file.exists() and dead_folder.exists()
    (tmp_path / "out" / ".unfinished-case").mkdir()  # without a lock: of a conversion, which resumes it
    os.symlink(tmp_path, temporary / "seganypet-temporary-link")
    (temporary / "seganypet-data").mkdir()  # somebody's
    with replace_atomically(target) as path, temporary_folder():
        path.write_text("new")
    assert target.read_text() == "new"
    assert not dead_file.exists() and not dead_folder.exists()
    assert (temporary / "seganypet-data").exists()
    assert file.exists() and (folder / "upload.nii.gz").exists() and (tmp_path / "out" / ".unfinished-case").exists()
    writers[1].communicate("")
    assert target.read_text() == "half" and not file.exists() and not folder.exists()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not name open files in /proc")
@pytest.mark.parametrize("moment", ["before it is opened", "before it is locked", "while it is locked"])
def test_a_sweeper_that_comes_before_a_new_file_is_locked_costs_nothing(tmp_path, temporary, monkeypatch, moment):
    swept = []

    def sweep(name: str) -> None:
        if not swept:
            swept.append(name)
            os.rmdir(name) if os.path.isdir(name) else os.unlink(name)

    def mkdtemp(make=tempfile.mkdtemp, **options: str) -> str:
        name = make(**options)
        sweep(name)
        return name

    def flock(handle: int, how: int, lock=_files.fcntl.flock) -> None:
        name = os.readlink(f"/proc/self/fd/{handle}")
        if moment == "while it is locked" and not swept:
            swept.append(name)  # it is removed later
            raise BlockingIOError(11, "Resource temporarily unavailable")
        sweep(name)
        lock(handle, how)

    monkeypatch.setattr(_files.fcntl, "flock", flock)
    if moment == "before it is opened":
        monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    with temporary_folder() as folder:
        (folder / "upload").write_text("whole")
        assert str(folder) not in swept
    swept.clear()
    with replace_atomically(tmp_path / "table.csv") as path:
        path.write_text("whole")
        assert str(path) not in swept
    assert (tmp_path / "table.csv").read_text() == "whole"


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "mask.nii.gz"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), replace_atomically(target) as path:
        path.write_text("new")
        1 / 0  # noqa: B018
    with pytest.raises(WriteError, match="No space left on device. Make room"), writing(target):
        raise OSError(28, "No space left on device")
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["mask.nii.gz"]


def test_a_name_as_long_as_the_system_allows_can_be_written(tmp_path):
    target = tmp_path / ("x" * 248 + ".nii.gz")
    with replace_atomically(target) as path:
        assert path.name.endswith(".nii.gz")
        path.write_text("whole")
    assert target.read_text() == "whole"
    with pytest.raises(WriteError, match="File name too long. Choose a shorter name"):  # noqa: SIM117
        with replace_atomically(tmp_path / ("x" * 300)) as path:
            path.write_text("whole")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable JSON file"),
        (b"[" * 100_000, "not a readable JSON file"),
        (b"1" * 5000, "not a readable JSON file"),
        (b"\xff\xfe{}", "not a text in UTF-8"),
        (b" " * 20_000_001, "more than 20 MB"),
    ],
)
def test_a_text_that_is_no_json_is_refused_in_the_words_of_whoever_reads_it(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(JournalError, match=message):
        read_json(tmp_path / "a.json", JournalError)


def test_what_cannot_be_read_says_why(tmp_path):
    with pytest.raises(ReadError, match="No such file or directory. Was it moved or deleted"):
        read_text(tmp_path / "none")
    with pytest.raises(ReadError, match="Is a directory"):
        read_text(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ReadError, match="circle"):
        read_text(tmp_path / "loop")
    (tmp_path / "mark.json").write_bytes(b"\xef\xbb\xbf[1]")  # as Windows writes it
    assert read_json(tmp_path / "mark.json") == [1]


def test_what_a_file_brings_into_a_message_moves_no_cursor_and_fills_no_screen(tmp_path):
    hostile = "\x1b[2J\x07\r\u202e\x9b31m\ud800 caf\u00e9 \u6f22"
    text = str(SegAnyPETError(f"{hostile} says no"))
    assert text.endswith(" caf\u00e9 \u6f22 says no") and text.replace("\n", "").isprintable()
    assert len(str(SegAnyPETError("a" * 10**7))) < 5000
    assert str(WriteError(hostile)).isprintable()
    assert printable("two\nlines") == "two\nlines"
    (tmp_path / "clicks\x1b[31m.json").write_text("{")
    with pytest.raises(ReadError) as caught:
        read_json(tmp_path / "clicks\x1b[31m.json")
    assert "\x1b" not in str(caught.value)


def test_a_value_in_a_message_is_short_however_it_nests_or_repeats():
    bomb: list = ["lol"]
    for _ in range(60):
        bomb = [bomb] * 10
    assert len(shown(bomb)) < 2000
    assert len(shown({"a" * 10**6: list(range(10**6))})) < 200
    assert shown(10**5000) and shown(json.loads("[" * 100 + "]" * 100))


UMLAUTS = r"""
import sys, numpy as np, seganypet as sap
from pathlib import Path
from seganypet.training.config import TrainConfig

assert sys.flags.utf8_mode == 0
data = np.ones((12, 12, 12), np.float32); data[4:8, 4:8, 4:8] = 9
volume = sap.Volume(data, np.diag([4.0, 4.0, 4.0, 1.0]), "SUVbw")
sap.save_volume("pet.nii.gz", volume)
session = sap.ThresholdSession(volume)
session.select("L\u00e4sion \u6f22")
session.click(ijk=(5, 5, 5))
session.save_journal("clicks.json")
again = sap.ThresholdSession(volume)
again.load_journal("clicks.json")
assert again.objects == session.objects
session.save("mask.nii.gz")
session.save("mask.seg.nrrd")
assert list(sap.load_masks("mask.seg.nrrd", volume)) == ["L\u00e4sion \u6f22"]
Path("c.yaml").write_text("name: short  # f\u00fcr \u6f22\n", encoding="utf-8")
assert TrainConfig.from_yaml("c.yaml").name == "short"
sap.save_mask("lesions.nii.gz", data > 5, like=volume)
case = sap.Case("K\u00e4se", "\u6f22", Path("pet.nii.gz"), "SUVbw", lesions=Path("lesions.nii.gz"))
sap.Cohort([case]).to_csv("cohort.csv")
options = {"rules": ["41% SUVmax"], "output": "table.csv", "progress": False}
for _ in range(2):
    table = sap.evaluate(sap.Cohort.from_path("cohort.csv"), None, 1, **options)
assert set(table["case"]) == {"K\u00e4se"}
"""


def test_texts_are_utf8_whatever_the_locale(tmp_path):
    where = {**os.environ, "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    where["PYTHONPATH"] = str(Path(__file__).parents[1])
    run = subprocess.run([sys.executable, "-c", UMLAUTS], cwd=tmp_path, env=where, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
