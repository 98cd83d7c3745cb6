"""Public samples are fetched once, checked always, and refused with a way out."""

import hashlib
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pooch
import pytest

import seganypet as sap
from seganypet.cohort import samples
from seganypet.errors import SampleError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SCAN, MASK = b"a PET scan" * 1000, b"a mask"


class Host(ThreadingHTTPServer):
    """Stands in for GitHub: serves `content` by path, notes requests, breaks off after `cut` bytes."""

    daemon_threads = True

    def __init__(self):
        self.content: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.cut: int | None = None
        self.announce_length = True
        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        path = unquote(self.path).lstrip("/")
        self.server.requests.append(path)
        content = self.server.content.get(path)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        if self.server.announce_length:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: self.server.cut])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    with Host() as server:
        monkeypatch.setattr(samples, "GITHUB", server.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def tiny(host: Host, monkeypatch: pytest.MonkeyPatch) -> samples.Sample:
    """A sample of two files that the host holds."""
    files = []
    for name, content in (("PET <1>.nii.gz", SCAN), ("mask.nii.gz", MASK)):
        source = f"owner/data/{COMMIT}/a folder/{name}"
        host.content[source] = content
        local = name.replace(" <1>", "")
        files.append(samples.RemoteFile(local, source, hashlib.sha256(content).hexdigest(), len(content)))
    sample = samples.Sample("a tiny thing", "CC0", "nobody 2020", tuple(files))
    monkeypatch.setitem(samples.REGISTRY, "tiny", sample)
    return sample


def failure(folder: Path, name: str = "tiny") -> str:
    with pytest.raises(SampleError) as caught:
        samples.fetch(name, folder)
    return str(caught.value)


def assert_names_the_way_by_hand(message: str, folder: Path, *files: samples.RemoteFile) -> None:
    assert str(folder) in message and "By hand" in message
    for file in files:
        assert file.name in message and file.url in message and file.sha256 in message


# ---- download

def test_fetch_downloads_all_files_of_a_sample(host: Host, tiny: samples.Sample, tmp_path: Path):
    folder = samples.fetch("tiny", tmp_path)
    assert folder == tmp_path / "tiny"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"PET.nii.gz": SCAN, "mask.nii.gz": MASK}


def test_a_second_call_asks_no_host(host: Host, tiny: samples.Sample, tmp_path: Path):
    samples.fetch("tiny", tmp_path)
    assert len(host.requests) == 2
    samples.fetch("tiny", tmp_path)
    assert len(host.requests) == 2


def test_licence_and_citation_are_printed_once_a_call(
    tiny: samples.Sample, tmp_path: Path, capsys: pytest.CaptureFixture
):
    for _ in range(2):
        samples.fetch("tiny", tmp_path)
        printed = capsys.readouterr().out
        assert printed.count("CC0") == printed.count("nobody 2020") == 1


def test_the_cache_is_where_the_environment_says(
    tiny: samples.Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SEGANYPET_CACHE", str(tmp_path / "cache"))
    folder = samples.fetch("tiny")
    assert folder.is_relative_to(tmp_path / "cache") and (folder / "PET.nii.gz").read_bytes() == SCAN


def test_a_file_damaged_later_is_fetched_again(host: Host, tiny: samples.Sample, tmp_path: Path):
    scan = samples.fetch("tiny", tmp_path) / "PET.nii.gz"
    scan.write_bytes(SCAN[:-1])
    samples.fetch("tiny", tmp_path)
    assert scan.read_bytes() == SCAN
    assert len(host.requests) == 3  # the mask was right


# ---- what goes wrong

def test_an_unknown_name_is_answered_with_near_ones(tmp_path: Path):
    message = failure(tmp_path, "sts_0002")
    assert "Do you mean" in message and "STS_002" in message and "list_samples()" in message
    assert "Do you mean" not in failure(tmp_path, "quite other")


def test_404_says_so_and_leaves_nothing(host: Host, tiny: samples.Sample, tmp_path: Path):
    host.content.clear()
    message = failure(tmp_path)
    assert "404" in message
    assert_names_the_way_by_hand(message, tmp_path / "tiny", *tiny.files)
    assert not list((tmp_path / "tiny").iterdir())


def test_without_a_network_the_message_tells_the_way_by_hand(
    tiny: samples.Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with socket.socket() as nobody:  # bound, never listening
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setattr(samples, "GITHUB", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        message = failure(tmp_path)
    assert "no network" in message
    assert_names_the_way_by_hand(message, tmp_path / "tiny", *tiny.files)
    assert not list((tmp_path / "tiny").iterdir())


def test_other_bytes_than_pinned_are_refused(host: Host, tiny: samples.Sample, tmp_path: Path):
    host.content[tiny.files[1].source] = b"another mask"
    message = failure(tmp_path)
    assert "another SHA-256" in message
    # The first file arrived and is right; only the second is still wanted.
    assert_names_the_way_by_hand(message, tmp_path / "tiny", tiny.files[1])
    assert tiny.files[0].url not in message
    assert [path.name for path in (tmp_path / "tiny").iterdir()] == ["PET.nii.gz"]


@pytest.mark.parametrize("announce_length", [True, False])
def test_a_download_that_breaks_off_leaves_nothing(
    host: Host, tiny: samples.Sample, tmp_path: Path, announce_length: bool
):
    host.cut, host.announce_length = len(SCAN) // 2, announce_length
    assert_names_the_way_by_hand(failure(tmp_path), tmp_path / "tiny", *tiny.files)
    assert not list((tmp_path / "tiny").iterdir())
    host.cut = None
    assert (samples.fetch("tiny", tmp_path) / "PET.nii.gz").read_bytes() == SCAN


def test_an_interrupted_program_leaves_nothing(tiny: samples.Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(self: object, url: str, output_file: str, *args: object, **kwargs: object) -> None:
        Path(output_file).write_bytes(SCAN[:10])
        raise KeyboardInterrupt

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        samples.fetch("tiny", tmp_path)
    assert not list((tmp_path / "tiny").iterdir())


def test_a_place_that_cannot_be_written_is_named(tiny: samples.Sample, tmp_path: Path):
    (tmp_path / "tiny").write_text("a file where the folder should be")
    message = failure(tmp_path)
    assert "cannot write there" in message and "SEGANYPET_CACHE" in message and str(tmp_path / "tiny") in message
    assert "cannot write there" in failure(tmp_path / "tiny")


def test_a_folder_that_may_not_be_written_is_named(
    tiny: samples.Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refused(*args: object, **kwargs: object) -> None:  # chmod would not stop root
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.makedirs", refused)
    assert "cannot write there" in failure(tmp_path)


def test_files_placed_by_hand_are_taken_without_a_network(host: Host, tiny: samples.Sample, tmp_path: Path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "PET.nii.gz").write_bytes(SCAN)
    (tmp_path / "tiny" / "mask.nii.gz").write_bytes(MASK)
    samples.fetch("tiny", tmp_path)
    assert not host.requests


# ---- the registry

def test_the_registry_is_pinned_by_full_commits_and_hashes():
    for name, sample in samples.REGISTRY.items():
        assert bool(sample.files) != bool(sample.series), name
        assert len({file.name for file in sample.files}) == len(sample.files), name
        for file in sample.files:
            assert re.fullmatch(r"[\w-]+/[\w-]+/[0-9a-f]{40}/.+", file.source), file.source
            assert re.fullmatch(r"[0-9a-f]{64}", file.sha256) and file.size > 0, file.source
            assert re.fullmatch(r"https://raw\.githubusercontent\.com/[\w%./-]+", file.url), file.url
            assert re.fullmatch(r"[\w.-]+", file.name), file.name  # a name that every system takes


def test_list_samples_says_what_there_is_under_which_licence():
    table = sap.samples.list_samples()
    assert table.equals(sap.samples.listed())  # its older name
    assert list(table.columns) == ["name", "files", "size_mb", "how", "licence", "citation", "what"]
    assert list(table["name"]) == [*(f"STS_{n:03d}" for n in range(2, 14)), "pet_headers", "flt_slices", "acrin042"]
    assert list(table.query("how == 'by hand'")["name"]) == ["acrin042"]
    assert table[["licence", "citation", "what"]].map(len).min().min() > 2
    assert (table["size_mb"] > 0).all()


def test_samples_is_reached_from_the_package_and_is_the_module():
    assert sap.samples is samples
    assert "samples" in dir(sap) and "samples" in sap.__all__


# ---- a series by hand

def test_acrin042_explains_the_way_by_hand(tmp_path: Path):
    message = failure(tmp_path, "acrin042")
    uid = samples.REGISTRY["acrin042"].series.uid
    for part in ("0 of 135", "10.7937/tcia.2019.30ilqfcl", uid, "NBIA", str(tmp_path / "acrin042")):
        assert part in message


def test_acrin042_refuses_what_is_no_dicom(tmp_path: Path):
    (tmp_path / "acrin042").mkdir()
    (tmp_path / "acrin042" / "1-001.dcm").write_bytes(b"cut short")
    assert "damaged" in failure(tmp_path, "acrin042")


def test_acrin042_is_checked_where_its_user_put_it(real_data: Path, tmp_path: Path):
    deep = tmp_path / "acrin042" / "manifest" / "PET AC"
    shutil.copytree(real_data / "acrin042" / "PET_AC", deep)
    shutil.copy(next((real_data / "acrin042" / "CT").glob("*.dcm")), deep.parent)  # another series beside it
    assert samples.fetch("acrin042", tmp_path) == tmp_path / "acrin042"

    slices = sorted(deep.iterdir())
    slices[0].chmod(0o644)
    content = slices[0].read_bytes()
    slices[0].write_bytes(content[:-2] + bytes([content[-2] ^ 1, content[-1]]))  # one bit of the last voxel
    assert "other pixels" in failure(tmp_path, "acrin042")
    slices[0].unlink()
    assert "134 of 135" in failure(tmp_path, "acrin042")


# ---- real files

def local_file(real_data: Path, name: str, file: samples.RemoteFile) -> Path:
    if name.startswith("STS_"):
        return real_data / "sts" / name / file.name
    return real_data / "pet_headers" / {"pet_headers": "json", "flt_slices": "slices"}[name] / file.name


def test_every_pinned_hash_is_that_of_the_real_file(real_data: Path):
    for name, sample in samples.REGISTRY.items():
        for file in sample.files:
            content = local_file(real_data, name, file).read_bytes()
            assert (hashlib.sha256(content).hexdigest(), len(content)) == (file.sha256, file.size), file.source


def test_real_samples_come_from_their_upstream_layout(host: Host, real_data: Path, tmp_path: Path):
    for name, sample in samples.REGISTRY.items():
        for file in sample.files:
            host.content[file.source] = local_file(real_data, name, file).read_bytes()
    for name, sample in samples.REGISTRY.items():
        if sample.files:
            folder = samples.fetch(name, tmp_path)
            assert {path.name for path in folder.iterdir()} == {file.name for file in sample.files}

    pet = sap.load_volume(tmp_path / "STS_002" / "PET_image.nii.gz", unit="SUVbw")
    mask = sap.load_labels(tmp_path / "STS_002" / "PET_mask.nii.gz", like=pet)
    assert np.asarray(mask).any()
