"""Sample cases: real scans (`fetch`, `listed`) and phantoms (`python -m seganypet.cohort.samples data_samples`)."""

import argparse
import hashlib
import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from seganypet._files import cache_folder
from seganypet.cohort.cohort import Case, Cohort
from seganypet.errors import SampleError
from seganypet.phantom import make_phantom
from seganypet.phantom.files import CT, LESIONS, ORGAN_LABELS, PET, write_phantom

if TYPE_CHECKING:
    import pandas

# Seeds below 10,000: training starts there.
SAMPLES = (("internal", 9000, True), ("internal", 9005, False), ("external", 9001, True))

GITHUB = "https://raw.githubusercontent.com"


@dataclass(frozen=True)
class RemoteFile:
    """One file of a sample.

    Args:
        name: Its name in the sample's folder.
        source: Where it lies below `GITHUB`: owner/repository/commit/path. A full commit never changes.
        sha256: Of its bytes.
        size: In bytes.
    """

    name: str
    source: str
    sha256: str
    size: int

    @property
    def url(self) -> str:
        return f"{GITHUB}/{quote(self.source)}"


@dataclass(frozen=True)
class Series:
    """A DICOM series that its user downloads: we know of no fixed address for its files.

    Args:
        uid: Its SeriesInstanceUID.
        slices: How many files it has.
        size: Of all files, in bytes; about.
        pixels_sha256: Of the stored values of all slices, from foot to head, as little-endian int16.
        where: How to get it.
    """

    uid: str
    slices: int
    size: int
    pixels_sha256: str
    where: str


@dataclass(frozen=True)
class Sample:
    """Public data of one folder: either `files` to fetch, or a `series` to download by hand."""

    what: str
    licence: str
    citation: str
    files: tuple[RemoteFile, ...] = ()
    series: Series | None = None

    @property
    def size(self) -> int:
        """In bytes."""
        return self.series.size if self.series else sum(file.size for file in self.files)


def _files(source: str, table: str) -> tuple[RemoteFile, ...]:
    """Read lines of SHA-256, bytes and path below `source`."""
    files = []
    for line in table.strip().splitlines():
        sha256, size, path = line.split(maxsplit=2)
        # One header set has a name that Windows refuses.
        name = path.rpartition("/")[2].replace(" + ", "_").replace("<", "lessThan")
        files.append(RemoteFile(name, f"{source}/{path}", sha256, int(size)))
    return tuple(files)


SARCOMAS = _files(
    "theibsi/data_sets/6da96021bc91faf4c0cb7fd7fa56a4225d2064a8/ibsi_validation/nifti",
    """
d0e070f1e88c48f3ffdefa5ec7a91a3df72c62d6d84e2a32a8575ea2f94ebbbb  120400 STS_002/PET_image.nii.gz
c3faaa8c7490d858e3dd8f7180749f3334ac55985c035be8ed04bcf70625526d     331 STS_002/PET_mask.nii.gz
d1c28ce396df16302dc2ce4591362e01c639d4390d9289794d02b89d3a5a8be2  150683 STS_003/PET_image.nii.gz
495f698cfd7815e189ade87c03c910067c9a2f22da1e2430bc20cce1a2ce326b     381 STS_003/PET_mask.nii.gz
85d8a9665414f6a358657d7382c5f92427aa9e4a218c14b293306dc16ba1c6e7  519917 STS_004/PET_image.nii.gz
5be93d012c7f4ae624847b5f5dc0fe7e6c2c8c2f5919c7f7a137bf6bba3f6d3f    1129 STS_004/PET_mask.nii.gz
f05ccf002bdb2e258cb24e49b52591fae2161cf660267c424ed3dfe33378635a  350862 STS_005/PET_image.nii.gz
17047c1cbed936726981d2eda0fc1b9fbf9d8c7ec821b603370759d040dc5701    1109 STS_005/PET_mask.nii.gz
2cb4b877d469637fc06854e20d2f85ef5d3035408c4e9d41a5edc73a055aa731  352612 STS_006/PET_image.nii.gz
5f7e66232cd575225d5d6ced0b532e196c1dff33faca8122796e06fb527901d6    1064 STS_006/PET_mask.nii.gz
649b4f1b8d972555036ae3b5a78e589bb3bf6914cee882d5e7ad15e141ebbab9  510189 STS_007/PET_image.nii.gz
f341dfb501dae08f3220713c457c9954ac62b3748ccecf05887ce119e8b0ef32    1399 STS_007/PET_mask.nii.gz
03a91e31a419b4781cb1c7aee827895937e0fe4d20e2d8369169eb878548edac  138739 STS_008/PET_image.nii.gz
be398293998af6b239bb2969c3d02ec3f474a777126b846ab28bc24128b2eae9     329 STS_008/PET_mask.nii.gz
77ba09c728f5950c0b538cd94e9fb8f5a72509dd1bb9227cf499beed2fe6b2c6  470030 STS_009/PET_image.nii.gz
287e5ef843944c2a0d6ba7d46a7973f7ce23b7c867b977ad08a769eb116b4bd7    2296 STS_009/PET_mask.nii.gz
d9dd3d28a3d6591c138a13125ed03bf6fac0bca24d32144a1ac3b4505ad4bd5d  192162 STS_010/PET_image.nii.gz
3534aec86ef2f5a8f7a24b42af3d2383ecd3a86a1b5bdaa2d3e858170b89a42c     561 STS_010/PET_mask.nii.gz
25f6627ba4be3f20ebdb1c1e35b0a7e1c60c2222aedaa5efaba167db73a4148b  373755 STS_011/PET_image.nii.gz
2336ae053a0a89c588c134823250698407a44b671de0bc2545fa68666d29e1b0    1357 STS_011/PET_mask.nii.gz
d25e80035d3c5302feb920772701499dbcc5a0475441aa7fdd71f27eac937d75  155442 STS_012/PET_image.nii.gz
2ca06b2e6ab006ce969539f08861a66d249a9bbdd8bfb86618d43244cd895b3d     410 STS_012/PET_mask.nii.gz
d84454fadfa70107d979bab65e2a9ae090de5b1bda55931610ffcca9480648e7 1065499 STS_013/PET_image.nii.gz
fb44f6cc77e1d5d79d435c0badfc4e2cf81ca07140c526e829a44a7754060ac9    4877 STS_013/PET_mask.nii.gz
    """,
)
HEADERS = _files(
    "cornerstonejs/calculate-suv/f5c982b8e6a939ad596ced237c2ebe513b1474d6/test/metadata",
    """
5c7523bd59561236cd45e7210ace6269e2b950f2cefcee53530f130cf024a348 1811 BQML_AC_DT_<_S_DT + SIEMENS-instances.json
fa4da388e30e2da5362ad1a4965e58335f7065969922fd1c299f21778ebefe93 1769 CPS_AND_BQML_AC_DT_-_S_DT-instances.json
db8271e88d5d4632d2b4f18e3389aeb850d9561108f9c1cae375eeaa477aebbb 2363 PHILIPS_BQML-instances.json
08391798c9cd637c2d85379dd49f2352a23e7d31d722f5bd59759638fd3bf228 2042 PHILIPS_CNTS_AND_BQML_SUV-instances.json
84cb1e6393f68276609107e6ef2b1984b10fd951f0a3580a3ca4ff7cf434a8d4 1817 RADIOPHARM_DATETIME_UNDEFINED-instances.json
b9fecc157e92b9c555899a0829783e99d6d8f68eb44d433c37f95e79b6b35ac6 2027 SIEMENS-instances.json
    """,
) + _files(
    "cornerstonejs/calculate-suv/b8465d83cf70fb1e60510b340e7dc3e932527686/test/metadata",
    """
bdc920ac4e992ec23e059830012b9b8fd5aab4768fa85bff36874fc5ae43057c 2102 GE_MEDICAL_AND_BQML-instances.json
90de6f92a039b7574c964ebd67c3921ec61f27f8102b214f5f6b6267d412915f 1880 PHILIPS_CNTS_AND_SUV-instances.json
    """,
)
FLT_SLICES = _files(
    "suyashkumar/dicom/a898e2e9922457978dc7ab8f9287f05ce734be14/testfiles",
    "58c2ded1e063ff7acf5b88f21dd68dc721ea15bb1fee537048d3e050724847ee 65274 1.dcm",
) + _files(
    "suyashkumar/dicom/f363527c7f358a47df533e514b79bf0e7d42e105/testfiles",
    "a95c4d3da788c344edb24f4e1be3454f3e8d09af4f08d417fe0670d413f978ae 65132 2.dcm",
)
ACRIN_042 = Series(
    uid="1.3.6.1.4.1.14519.5.2.1.7009.2403.879445243400782656317561081015",
    slices=135,
    size=5_300_000,
    pixels_sha256="df7bdf0b2a9d4fd652220b405a30c04a4e5bc31f541fe1d13c666d7f7de12436",
    where=(
        "series 'PET AC' of patient ACRIN-NSCLC-FDG-PET-042, collection ACRIN-NSCLC-FDG-PET of The Cancer Imaging "
        "Archive, https://doi.org/10.7937/tcia.2019.30ilqfcl; find it by its SeriesInstanceUID at "
        "https://nbia.cancerimagingarchive.net and download it with the NBIA Data Retriever"
    ),
)

SAMPLES_TO_FETCH = {
    **{
        f"STS_{number:03d}": Sample(
            what="FDG-PET (SUVbw, NIfTI) cropped around a soft-tissue sarcoma, and the expert's mask GTV_Mass",
            licence="CC BY 3.0",
            citation=(
                "Vallières et al. 2015, The Cancer Imaging Archive, doi:10.7937/K9/TCIA.2015.7GO2GSKS, and Phys Med "
                "Biol, doi:10.1088/0031-9155/60/14/5471; prepared by Zwanenburg for the Image Biomarker "
                "Standardisation Initiative, https://github.com/theibsi/data_sets"
            ),
            files=tuple(file for file in SARCOMAS if f"/STS_{number:03d}/" in file.source),
        )
        for number in range(2, 14)
    },
    "pet_headers": Sample(
        what="eight PET header sets without pixels (JSON): Siemens, GE and Philips, in BQML and CNTS",
        licence="MIT",
        citation="the authors of calculate-suv, https://github.com/cornerstonejs/calculate-suv",
        files=HEADERS,
    ),
    "flt_slices": Sample(
        what="two FLT-PET slices of a Siemens scanner (DICOM) with all that an SUV needs",
        licence="CC BY 3.0",
        citation=(
            "Kinahan et al. 2017, Data from ACRIN-FLT-Breast, The Cancer Imaging Archive, "
            "doi:10.7937/K9/TCIA.2017.ol20zmxg; by way of https://github.com/suyashkumar/dicom"
        ),
        files=FLT_SLICES,
    ),
    "acrin042": Sample(
        what="FDG-PET from neck to kidneys (DICOM, GE Discovery ST) with a hot lung mass",
        licence="CC BY 3.0",
        citation=(
            "Kinahan et al. 2019, Data from the ACRIN 6668 Trial NSCLC-FDG-PET (Version 2), The Cancer Imaging "
            "Archive, doi:10.7937/tcia.2019.30ilqfcl"
        ),
        series=ACRIN_042,
    ),
}


def listed() -> "pandas.DataFrame":
    """What `fetch` knows, one row per sample.

    Returns:
        Columns name, files (how many), size_mb, how ("download", or "by hand": fetch says how and checks what you
        got), licence, citation, what.

    >>> listed().query("name == 'acrin042'")["how"].item()
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
        for name, sample in SAMPLES_TO_FETCH.items()
    )


def fetch(name: str, folder: str | os.PathLike | None = None) -> Path:
    """Download a public sample once, and check it against pinned SHA-256 on every call.

    Prints licence and citation. Files that are already in place and right are taken without a request, also if they
    came there by hand; a damaged one is fetched again.

    Args:
        name: One of `listed()`, such as "STS_002".
        folder: Where the samples' folders go; by default in `$SEGANYPET_CACHE`, else in the user's cache folder.

    Returns:
        The sample's folder, `folder/name`. STS_...: PET_image.nii.gz and PET_mask.nii.gz.

    Raises:
        SampleError: Unknown name; no network, a refusing host, other bytes than expected, no place to write to: with
            URLs, SHA-256 and folder for a download by hand. For samples by hand: not there yet, incomplete, or
            other pixels.

    Source: the third-party repositories named in `listed()`, each at one full commit.
    """
    if name not in SAMPLES_TO_FETCH:
        near = get_close_matches(str(name).casefold(), [known.casefold() for known in SAMPLES_TO_FETCH])
        meant = " or ".join(known for known in SAMPLES_TO_FETCH if known.casefold() in near)
        raise SampleError(
            f"no sample {name!r}. {f'Do you mean {meant}? ' if meant else ''}"
            f"There are {', '.join(SAMPLES_TO_FETCH)}; sap.samples.listed() says what they are."
        )
    sample = SAMPLES_TO_FETCH[name]
    place = (cache_folder() / "samples" if folder is None else Path(folder)).expanduser() / name
    print(f"{name}: {sample.what}. Licence {sample.licence}. Cite: {sample.citation}.")
    if sample.series:
        _check_series(name, sample.series, place)
        return place
    for file in sample.files:
        _download(name, sample, file, place)
    return place


def _download(name: str, sample: Sample, file: RemoteFile, place: Path) -> None:
    import pooch

    try:
        # Into a temporary file, which takes the name only if its hash is right. A right file stays as it is.
        pooch.retrieve(file.url, f"sha256:{file.sha256}", file.name, place)
    except (OSError, ValueError) as error:
        wanted = [each for each in sample.files if not _is_right(place / each.name, each.sha256)]
        raise SampleError(
            f"{name}: cannot fetch {file.name}: {_reason(error)}. By hand: download with a browser, save under these "
            f"names in {place}, and call fetch again; it then checks the files and needs no network.\n"
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
        return f"cannot write there ({why}); choose another place with folder= or $SEGANYPET_CACHE"
    return f"no network, or the host does not answer, or it broke off ({type(error).__name__})"


def _check_series(name: str, series: Series, place: Path) -> None:
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    by_hand = (
        f"This sample is downloaded by hand: {series.where}. Put the files, or the folder that it makes, into {place} "
        f"and call fetch again. SeriesInstanceUID {series.uid}, {series.slices} slices, SHA-256 of their pixels "
        f"{series.pixels_sha256}."
    )
    slices = []
    for path in sorted(place.rglob("*.dcm")):
        try:
            header = dcmread(path)
            if header.get("SeriesInstanceUID") == series.uid:
                slices.append((float(header.ImagePositionPatient[2]), header.pixel_array.astype("<i2").tobytes()))
        except (InvalidDicomError, AttributeError, ValueError, TypeError, RuntimeError, OSError, EOFError) as error:
            raise SampleError(f"{name}: {path} is damaged ({error}). {by_hand}") from error
    if len(slices) != series.slices:
        raise SampleError(f"{name}: {len(slices)} of {series.slices} slices are in {place}. {by_hand}")
    digest = hashlib.sha256(b"".join(pixels for _, pixels in sorted(slices))).hexdigest()
    if digest != series.pixels_sha256:
        raise SampleError(
            f"{name}: other pixels than those that this package was tested with: SHA-256 {digest}. {by_hand} If you "
            f"trust them as they are, open them with load_dicom({str(place)!r})."
        )


def write_samples(folder: Path) -> None:
    """Write the sample cases and their cohort table into `folder`; the same bytes every time."""
    cases = []
    for domain, seed, lesions in SAMPLES:
        name = f"phantom_{domain}_{seed}"
        write_phantom(make_phantom(seed, domain, lesions), folder / name)
        cases.append(
            Case(
                name=name, patient=name, pet=folder / name / PET, pet_unit="SUVbw", ct=folder / name / CT,
                organs=folder / name / ORGAN_LABELS, organ_convention="seganypet", lesions=folder / name / LESIONS,
                quality="HQ", split="test", tracer="FDG",
            )
        )  # fmt: skip
    Cohort(cases).to_csv(folder / "cohort.csv")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m seganypet.cohort.samples", description="Write the sample cases.")
    parser.add_argument("folder", type=Path, help="where the case folders and cohort.csv go, such as data_samples")
    options = parser.parse_args()
    if options.folder.is_file():
        parser.error(f"{options.folder} is a file; give a folder.")
    write_samples(options.folder)
