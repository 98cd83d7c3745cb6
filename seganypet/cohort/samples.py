"""Public sample scans: `list_samples` says which there are, `fetch` downloads one and checks it."""

import hashlib
import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import dacite
import yaml

from seganypet._files import as_path, cache_folder
from seganypet.errors import SampleError

if TYPE_CHECKING:
    import pandas

GITHUB = "https://raw.githubusercontent.com"


@dataclass(frozen=True)
class RemoteFile:
    """One file of a sample.

    Attributes:
        name: File name in the sample's folder.
        source: Location below `GITHUB`: owner/repository/commit/path. A full commit never changes.
        sha256: SHA-256 of its bytes.
        size: Size in bytes.
    """

    name: str
    source: str
    sha256: str
    size: int

    @property
    def url(self) -> str:
        """Where it is downloaded from."""
        return f"{GITHUB}/{quote(self.source)}"


@dataclass(frozen=True)
class Series:
    """A DICOM series that users download themselves, because its files have no permanent address.

    Attributes:
        uid: SeriesInstanceUID.
        slices: Number of files.
        size: Approximate size of all files, in bytes.
        pixels_sha256: SHA-256 of the stored values of all slices, from foot to head, as little-endian int16.
        where: How to get it.
    """

    uid: str
    slices: int
    size: int
    pixels_sha256: str
    where: str


@dataclass(frozen=True)
class Sample:
    """Public data in one folder: either `files` to fetch, or a `series` to download by hand."""

    what: str
    licence: str
    citation: str
    files: tuple[RemoteFile, ...] = ()
    series: Series | None = None

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.series.size if self.series else sum(file.size for file in self.files)


REGISTRY = {
    name: dacite.from_dict(Sample, entry, dacite.Config(cast=[tuple], strict=True))
    for name, entry in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")).items()
}


def list_samples() -> "pandas.DataFrame":
    """The samples that `fetch` knows, one row each.

    Returns:
        Columns name, files (their number), size_mb, how ("download", or "by hand": fetch explains how, and checks the
        result), licence, citation, what.

    >>> list_samples().query("name == 'acrin042'")["how"].item()
    'by hand'
    """
    import pandas

    return pandas.DataFrame(
        {
            "name": name,
            "files": sample.series.slices if sample.series else len(sample.files),
            "size_mb": round(sample.size / 1e6, 2),
            "how": "by hand" if sample.series else "download",
            "licence": sample.licence,
            "citation": sample.citation,
            "what": sample.what,
        }
        for name, sample in REGISTRY.items()
    )


listed = list_samples  # its name in older notebooks


def fetch(name: str, folder: str | os.PathLike | None = None) -> Path:
    """Download a public sample once, and check it against pinned SHA-256 on every call.

    Prints licence and citation. Correct files that are already there are used without a request, also if they were
    put there by hand; a damaged one is fetched again.

    Args:
        name: One of `list_samples()`, such as "STS_002".
        folder: Parent of the samples' folders; default: `$SEGANYPET_CACHE`, else the user's cache folder.

    Returns:
        The sample's folder, `folder/name`. Those of STS_... hold PET_image.nii.gz and PET_mask.nii.gz.

    Raises:
        SampleError: The name is unknown; the download failed, or gave other bytes than expected, or cannot be written
            (the message has URLs, SHA-256 and folder for a download by hand); a sample that is downloaded by hand is
            absent, incomplete, or has other pixels.

    Source: the third-party repositories named in `list_samples()`, each at one full commit.
    """
    if name not in REGISTRY:
        near = get_close_matches(str(name).casefold(), [known.casefold() for known in REGISTRY])
        meant = " or ".join(known for known in REGISTRY if known.casefold() in near)
        raise SampleError(
            f"no sample {name!r}. {f'Do you mean {meant}? ' if meant else ''}"
            f"There are {', '.join(REGISTRY)}; sap.samples.list_samples() describes them."
        )
    sample = REGISTRY[name]
    destination = (cache_folder() / "samples" if folder is None else as_path(folder)).expanduser() / name
    print(f"{name}: {sample.what}. Licence {sample.licence}. Cite: {sample.citation}.")
    if sample.series:
        _check_series(name, sample.series, destination)
    for file in sample.files:
        _download(name, sample, file, destination)
    return destination


def _download(name: str, sample: Sample, file: RemoteFile, destination: Path) -> None:
    import pooch

    try:
        # pooch writes a temporary file and renames it only if its hash is right; a file that is right stays untouched.
        pooch.retrieve(file.url, f"sha256:{file.sha256}", file.name, destination)
    except (OSError, ValueError) as error:
        wanted = [each for each in sample.files if not _is_right(destination / each.name, each.sha256)]
        raise SampleError(
            f"{name}: cannot fetch {file.name}: {_reason(error)}. By hand: download with a browser, save under these "
            f"names in {destination}, and call fetch again; it then checks the files and needs no network.\n"
            + "\n".join(f"  {each.name}: {each.url} (SHA-256 {each.sha256})" for each in wanted)
        ) from error


def _is_right(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def _reason(error: OSError | ValueError) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answered {response.status_code}"
    if not isinstance(error, OSError):
        return "what arrived has another SHA-256; it was cut short, or changed at its source"
    if error.errno or isinstance(error, PermissionError):  # pooch raises the latter without errno; requests has none
        why = error.strerror or "permission denied"
        return f"cannot write there ({why}); choose another folder with folder= or $SEGANYPET_CACHE"
    return f"no network, or the host does not answer, or it broke off ({type(error).__name__})"


def _check_series(name: str, series: Series, destination: Path) -> None:
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    by_hand = (
        f"This sample is downloaded by hand: {series.where}. Put the files, or the folder that it creates, into "
        f"{destination} and call fetch again. SeriesInstanceUID {series.uid}, {series.slices} slices, SHA-256 of their "
        f"pixels {series.pixels_sha256}."
    )
    slices = []
    for path in sorted(destination.rglob("*.dcm")):
        try:
            header = dcmread(path)
            if header.get("SeriesInstanceUID") == series.uid:
                slices.append((float(header.ImagePositionPatient[2]), header.pixel_array.astype("<i2").tobytes()))
        except (InvalidDicomError, AttributeError, ValueError, TypeError, RuntimeError, OSError, EOFError) as error:
            raise SampleError(f"{name}: {path} is damaged ({error}). {by_hand}") from error
    if len(slices) != series.slices:
        raise SampleError(f"{name}: {len(slices)} of {series.slices} slices are in {destination}. {by_hand}")
    digest = hashlib.sha256(b"".join(pixels for _, pixels in sorted(slices))).hexdigest()
    if digest != series.pixels_sha256:
        raise SampleError(
            f"{name}: other pixels than those that this package was tested with: SHA-256 {digest}. {by_hand} If you "
            f"trust them as they are, open them with load_dicom({str(destination)!r})."
        )
