"""Mutated files of every kind through all that reads them.

`python tools/fuzz.py --count 5000`, `--minutes 10`, or `make fuzz`: each case spoils a small scan, mask, journal,
table, configuration or file of weights (bytes, tags, header fields, values, whole files) and reads it. It passes if a
result or an error of the package comes, within 20 s and with bounded memory; and where one bit was flipped in a file
that has checksums, if that is noticed or changed nothing. Cases run in a process of their own, which is replaced when
one hangs or kills it; a case is made again by its number: `--first 4711 --count 1`.
"""

import argparse
import contextlib
import gzip
import io
import logging
import multiprocessing
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.uid import RLELossless

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from conftest import oblique
from fuzz_records import CHECKED, READERS, make_records, spoiler
from make_dicom import write_dicomdir, write_dynamic, write_series, zip_folder
from make_multiframe import write_enhanced

from seganypet.errors import SegAnyPETError
from seganypet.pet.dicom import list_series, load_dicom
from seganypet.pet.volume import Volume, load_labels, load_volume, save_volume

CASES_AT_ONCE = 250
FLIPPED = (*CHECKED, "image_gz", "labels_gz", "zip")  # files with checksums
IMAGES = (".nii", ".nii.gz", ".nrrd", ".mha")
LIMIT_S = 20.0
# Above what a process has after the unspoilt scans, whose files are a few kilobytes.
LIMIT_MB = 512.0
AFFINE = oblique((4.07, 3.9, 3.0), left_handed=True)

# name of a file below its folder, and its bytes
Files = dict[str, bytes]
EXTREMES = [
    b"", b"0", b"-1", b"1e308", b"-1e308", b"nan", b"inf", b"1\\2", b"1\\2\\3\\4", b"one", b"4,07", b"\0\0",
    b"99999999999999999999", b"20210304", b"20210304120000+9900", b"250000", b"00000000", b"PT", b"CT", b"BQML",
    b"HU", b"\\", b" ", b"0.0000000000000001", b"65535",
    b"\xff\xff", b"\x00\x00\x00\x80", b"\xff\xff\xff\x7f", b"\x00\x00\xc0\x7f",
]  # fmt: skip
VRS = ["DS", "IS", "US", "UL", "LO", "UI", "TM", "DA", "DT", "CS", "FD", "FL", "OB", "OW", "UN", "AT", "SV", "ST"]


def make_scans(folder: Path) -> dict[str, Files]:
    """Small unspoilt scans of every kind that is read, by name."""
    generator = np.random.default_rng(1)
    volumes = generator.integers(0, 9000, (2, 8, 6, 4))
    slopes = generator.uniform(0.5, 2.0, (2, 4))

    def rle(header: pydicom.Dataset, k: int = 0) -> None:
        header.compress(RLELossless)

    def later(header: pydicom.Dataset, t: int, k: int) -> None:
        header.AcquisitionTime, header.FrameReferenceTime = f"12{t:02d}00", str(60000 * t)

    write_series(folder / "pet", volumes[0], AFFINE, slopes=slopes[0])
    write_series(folder / "ct", volumes[0], AFFINE, "CT", intercept=-1024)
    write_series(folder / "rle", volumes[0], AFFINE, slopes=slopes[0], change=rle)
    write_dynamic(folder / "dynamic", volumes, AFFINE, later, slopes)
    write_enhanced(folder / "enhanced" / "a.dcm", volumes, AFFINE, "PT", slopes, 0.0, (0, 60), (60, 60))
    write_enhanced(folder / "enhanced_ct" / "a.dcm", volumes[:1], AFFINE, "CT", scale_by="real world")
    write_enhanced(folder / "enhanced_rle" / "a.dcm", volumes[:1], AFFINE, slopes=slopes, change=rle)
    write_dicomdir(folder / "disc", sorted((folder / "pet").iterdir()))
    (folder / "zip").mkdir()
    zip_folder(folder / "pet", folder / "zip" / "a.zip")
    (folder / "bare").mkdir()
    for path in (folder / "pet").iterdir():  # no preamble, no suffix, implicit
        header = pydicom.dcmread(path)
        header.file_meta = pydicom.dataset.FileMetaDataset()
        header.save_as(folder / "bare" / path.stem, implicit_vr=True, little_endian=True, enforce_file_format=False)
    for name, data in (("image", volumes[0].astype(np.float32)), ("labels", (volumes[0] > 5000).astype(np.uint8))):
        (folder / name).mkdir()
        (folder / f"{name}_gz").mkdir()
        image = nib.Nifti1Image(data, AFFINE)
        image.header.set_xyzt_units("mm")
        nib.save(image, folder / name / "a.nii")
        nib.save(image, folder / f"{name}_gz" / "a.nii.gz")
    sizes = np.linalg.norm(AFFINE[:3, :3], axis=0)
    rows, steps, origin = (AFFINE[:3, :3] / sizes).T, AFFINE[:3, :3].T, AFFINE[:3, 3]
    vectors = " ".join(f"({x:g},{y:g},{z:g})" for x, y, z in steps)
    nrrd = (
        "NRRD0004\ntype: float\ndimension: 3\nspace: right-anterior-superior\nsizes: 8 6 4\nspace directions: "
        f"{vectors}\nspace origin: ({origin[0]:g},{origin[1]:g},{origin[2]:g})\nendian: little\nencoding: raw\n\n"
    )
    meta = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nTransformMatrix = "
        f"{' '.join(f'{v:g}' for v in rows.ravel())}\nOffset = {' '.join(f'{v:g}' for v in origin)}\nElementSpacing = "
        f"{' '.join(f'{v:g}' for v in sizes)}\nDimSize = 8 6 4\nElementType = MET_FLOAT\nElementDataFile = LOCAL\n"
    )
    voxels = volumes[0].astype("<f4").tobytes(order="F")
    for name, header_text in (("nrrd", nrrd), ("mha", meta)):
        (folder / name).mkdir()
        (folder / name / f"a.{name}").write_bytes(header_text.encode() + voxels)
    like = Volume(volumes[0].astype(np.float32), AFFINE, "SUVbw")
    make_records(folder, like)
    (folder / "sidecar").mkdir()
    save_volume(folder / "sidecar" / "a.nii", like)
    (folder / "sidecar" / "a.json").write_text(
        '{"Units": "g/ml", "TracerName": "FDG", "BodyWeight": 70, "BodyWeightUnit": "kg", "InjectedRadioactivity": 250}'
    )
    return {
        scan.name: {str(one.relative_to(scan)): one.read_bytes() for one in sorted(scan.rglob("*")) if one.is_file()}
        for scan in sorted(folder.iterdir())
    }


def spoil_bytes(content: bytes, dice: random.Random) -> bytes:
    """Change, insert, repeat or cut bytes, mostly near the start, where headers are."""
    spoilt = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        if not spoilt:
            break
        at = min(int(len(spoilt) * dice.random() ** 2), len(spoilt) - 1)
        kind = dice.randrange(6)
        if kind == 0:
            spoilt[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            value = dice.choice([0, 1, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000])
            spoilt[at : at + 4] = struct.pack("<L", value)
        elif kind == 2:
            spoilt[at : at + dice.randint(1, 40)] = b""
        elif kind == 3:
            spoilt[at:at] = bytes(dice.randrange(256) for _ in range(dice.randint(1, 30)))
        elif kind == 4:
            spoilt[at:at] = spoilt[at : at + dice.randint(8, 200)]
        else:
            del spoilt[at:]
    return bytes(spoilt)


def spoil_tags(content: bytes, dice: random.Random) -> bytes:
    """Remove a tag, or give it a value or a type that it cannot have, in the header or in its sequences."""
    header = pydicom.dcmread(io.BytesIO(content), force=True)
    for _ in range(dice.randint(1, 3)):
        holder = header
        while dice.random() < 0.6:
            inner = [item for element in holder if element.VR == "SQ" for item in element.value]
            if not inner:
                break
            holder = dice.choice(inner)
        tags = [tag for tag in holder.keys() if tag.group != 2]  # noqa: SIM118
        if not tags:
            continue
        tag, kind = dice.choice(tags), dice.randrange(5)
        if kind == 0:
            del holder[tag]
            continue
        value = dice.choice(EXTREMES)
        value += b" " * (len(value) % 2)
        known = dictionary_VR(tag)
        kept = known if known not in ("SQ", "US or SS", "OB or OW") else "LO"
        vr = dice.choice(VRS) if kind == 1 else kept
        if vr in ("US", "FD", "FL") and kind > 2:
            value = {"US": b"\xff\xff", "FD": struct.pack("<d", float("nan")), "FL": b"\xff\xff\x7f\x7f"}[vr]
        holder[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    target = io.BytesIO()
    header.save_as(target, enforce_file_format=False)
    return target.getvalue()


def spoil_nifti(content: bytes, dice: random.Random) -> bytes:
    """Give fields of a NIfTI header values that they cannot have."""
    header = np.frombuffer(content[:348], nib.nifti1.header_dtype).copy()
    for _ in range(dice.randint(1, 3)):
        field = header.dtype.names[dice.randrange(len(header.dtype.names))]
        values = header[field].reshape(-1) if header[field].dtype.kind in "fiu" else None
        if values is None:
            continue
        extremes = [0, 1, -1, 3, 127] + ([np.nan, np.inf, 1e38, -1e38, 1e-38] if values.dtype.kind == "f" else [32767])
        with np.errstate(all="ignore"):
            values[dice.randrange(len(values))] = np.array(dice.choice(extremes)).astype(values.dtype)
        header[field] = values.reshape(header[field].shape)
    return header.tobytes() + content[348:]


def spoil(files: Files, dice: random.Random) -> Files:
    """Spoil one or a few files of a scan."""
    files = dict(files)
    for name in dice.sample(sorted(files), min(len(files), dice.choice([1, 1, 2, 8]))):
        content = files[name]
        is_nifti, is_packed = ".nii" in name, name.endswith(".gz") and dice.random() < 0.8
        if is_packed:
            content = gzip.decompress(content)
        method: Callable[[bytes, random.Random], bytes] = spoil_bytes
        if dice.random() < 0.6 and not name.endswith((".zip", ".nrrd", ".mha")):
            method = spoil_nifti if is_nifti else spoiler(name) or spoil_tags
        try:
            with warnings.catch_warnings(action="ignore"):
                content = method(content, dice)
        except Exception:  # what pydicom will not write; bytes can always be changed
            content = spoil_bytes(content, dice)
        files[name] = gzip.compress(content, mtime=0) if is_packed else content
    if dice.random() < 0.05:
        files[f"copy-{dice.randrange(9)}"] = dice.choice(sorted(files.values()))
    return files


def flip(files: Files, dice: random.Random) -> Files:
    """Flip one bit in one file."""
    name = dice.choice([name for name, content in files.items() if content and not name.endswith((".jsonl", ".csv"))])
    content = bytearray(files[name])
    packed = max(content.find(b"\x1f\x8b"), 0) if name.endswith((".nrrd", ".mha")) else 0  # behind a header of text
    content[dice.randrange(packed, len(content))] ^= 1 << dice.randrange(8)
    return {**files, name: bytes(content)}


def read(folder: Path, like: Path, kind: str = "", values: set | None = None) -> str:
    """Read a folder by all functions that may be given it.

    Args:
        folder: Folder of the files.
        like: PET on whose grid masks and labels lie.
        kind: Name of the scan, which decides for all that is no image.
        values: Takes what was read, as fingerprints.

    Returns:
        "accepted" or "refused".
    """
    outcomes = []

    def attempt(function: Callable, *args: object, **options: object) -> None:
        try:
            value = function(*args, **options)
            outcomes.append("accepted")
            if values is not None:
                values.add(value.fingerprint() if isinstance(value, Volume) else repr(value))
        except SegAnyPETError:
            outcomes.append("refused")

    with warnings.catch_warnings(action="ignore"):
        if kind in READERS:
            scan = load_volume(like, unit="SUVbw")
            attempt(READERS[kind], folder, scan)
            return outcomes[0]
        for path in sorted(path for path in folder.rglob("*") if path.name.endswith(IMAGES)):
            attempt(load_volume, path, unit="SUVbw")
            attempt(lambda path=path: load_labels(path, load_volume(like, unit="SUVbw")))
        if not outcomes:
            sources = [folder, *folder.glob("*.zip"), *folder.glob("DICOMDIR")]
            for source in sources:
                attempt(list_series, source)
                for options in ({}, {"unit": "Bq/mL", "frame": 1}, {"frame": 2}):
                    attempt(load_dicom, source, **options)
    return "accepted" if "accepted" in outcomes[-3:] else "refused"


def peak_mb() -> float:
    """Largest memory of the process since `forget_peak`; where Linux does not tell, since it began."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return float(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024.0
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


def forget_peak() -> None:
    """A process that was forked from a large one has that one's peak, below which nothing would be noticed."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def work(scans: dict[str, Files], seed: int, numbers: range, connection) -> None:
    """Cases of one process; says the number of each before it is read, and the outcome afterwards."""
    logging.disable()  # nibabel's remarks on each header
    with tempfile.TemporaryDirectory() as temporary:
        folder, like = Path(temporary) / "case", Path(temporary) / "like.nii"
        like.write_bytes(scans["image"]["a.nii"])
        whole: dict[str, set] = {}
        for name, files in scans.items():  # so that imports and buffers count for none of the cases
            write(folder, files)
            read(folder, like, name, whole.setdefault(name, set()))
        forget_peak()
        base_mb = peak_mb()
        for number in numbers:
            dice = random.Random(f"{seed}/{number}")
            name = dice.choice(sorted(scans))
            flipped, values = name in FLIPPED and dice.random() < 0.4, set[str]()
            write(folder, (flip if flipped else spoil)(scans[name], dice))
            connection.send((number, name, None))
            try:
                outcome = read(folder, like, name, values)
                if flipped and values - whole[name]:
                    outcome = "unnoticed: other values after one bit was flipped"
            except Exception:
                outcome = "".join(traceback.format_exc().splitlines(keepends=True)[-12:])
                outcome = f"foreign exception\n{outcome}"
            if peak_mb() > base_mb + LIMIT_MB:
                outcome = f"memory: {peak_mb() - base_mb:.0f} MB more than for an unspoilt scan"
                connection.send((number, name, outcome))
                return  # the peak of a process never falls: go on in another
            connection.send((number, name, outcome))
    connection.send((None, "", f"{peak_mb() - base_mb:.0f}"))


def write(folder: Path, files: Files) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def fuzz(count: int, seed: int = 0, first: int = 0) -> tuple[Counter, list[tuple[int, str, str]], float]:
    """Run cases.

    Args:
        count: Number of cases.
        seed: Seed of all cases.
        first: Number of the first one.

    Returns:
        Number of cases by outcome; number, scan and problem of those that failed; most memory that a process took above
        what unspoilt scans take, in MB.
    """
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings(action="ignore"):
        scans = make_scans(Path(temporary))
    outcomes: Counter = Counter()
    problems, most_mb, at, end, current = [], 0.0, first, first + count, ""
    fork = multiprocessing.get_context("fork")
    while at < end:
        receiver, sender = fork.Pipe(duplex=False)
        process = fork.Process(target=work, args=(scans, seed, range(at, end), sender), daemon=True)
        process.start()
        sender.close()
        started = True
        while True:
            problem = ""
            try:
                if receiver.poll(LIMIT_S + (300.0 if started else 0.0)):
                    number, name, outcome = receiver.recv()
                    started = False
                    if number is None:
                        most_mb, at = max(most_mb, float(outcome)), end
                        break
                    at, current = number + 1, name
                    if outcome in ("accepted", "refused"):
                        outcomes[outcome] += 1
                    elif outcome is not None:
                        problem = outcome
                else:
                    problem = f"hangs: more than {LIMIT_S:.0f} s"
            except EOFError:
                process.join()
                if process.exitcode:
                    problem = f"ends the process with code {process.exitcode}"
                else:
                    break  # replaced after a case that took memory
            if problem:
                outcomes["failed"] += 1
                problems.append((at - 1, current, problem))
                if not problem.startswith(("foreign", "memory", "unnoticed")):
                    break
        process.kill()
        process.join()
    return outcomes, problems, most_mb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5000, help="number of cases")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="time after which no more are begun")
    parser.add_argument("--seed", type=int, default=0, help="seed of all cases")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    options = parser.parse_args()
    began, outcomes, most_mb = time.monotonic(), Counter[str](), 0.0
    done = 0
    for first in range(options.first, options.first + options.count, CASES_AT_ONCE):
        if time.monotonic() - began > 60 * options.minutes:
            break
        count = min(CASES_AT_ONCE, options.first + options.count - first)
        counts, problems, mb = fuzz(count, options.seed, first)
        outcomes, most_mb = outcomes + counts, max(most_mb, mb)
        for number, name, problem in problems:
            print(f"case {number} ({name}): {problem}", flush=True)
        done = first + count - options.first
        print(f"{done} of {options.count} cases", file=sys.stderr, flush=True)
    print(
        f"{done} cases from {options.first}, seed {options.seed}: {outcomes['accepted']} accepted, "
        f"{outcomes['refused']} refused with an error of the package, {outcomes['failed']} failed; at most "
        f"{most_mb:.0f} MB more than for unspoilt scans; {time.monotonic() - began:.0f} s"
    )
    sys.exit(bool(outcomes["failed"]))


if __name__ == "__main__":
    main()
