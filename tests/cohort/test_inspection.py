"""Every way in which a cohort's table or files are wrong is one row of one table, and nothing is raised."""

import gzip
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import oblique

from seganypet.cohort.case import Case
from seganypet.cohort.cohort import Cohort
from seganypet.cohort.inspection import Inspection, inspect_case
from seganypet.errors import CohortError
from seganypet.organs import ORGANS
from seganypet.pet.volume import Volume, save_mask, save_volume

SHAPE = (24, 20, 30)
AFFINE = oblique(spacing=(8.1, 8.1, 9.0), left_handed=True)  # 194 x 162 x 270 mm
HEADER = "case,patient,pet,pet_unit,ct,organs,organ_convention,lesions,quality,split,tracer"
ROW = "a,p1,pet.nii.gz,SUVbw,ct.nii.gz,organs.nii.gz,seganypet,lesions.nii.gz,HQ,train,FDG"
PART = {"pet.nii.gz": "pet", "ct.nii.gz": "ct", "organs.nii.gz": "organs", "lesions.nii.gz": "lesions"}


def block(label: int, at_mm: tuple[float, float, float], organs: np.ndarray) -> None:
    """Label 2 x 2 x 2 voxels at a place given in RAS+ mm from the grid's middle."""
    middle = AFFINE @ np.append((np.array(SHAPE) - 1) / 2, 1)
    ijk = np.rint(nib.affines.apply_affine(np.linalg.inv(AFFINE), middle[:3] + at_mm)).astype(int)
    organs[tuple(slice(index, index + 2) for index in ijk)] = label


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A folder with one case without a fault: PET, CT, organs in their places, two lesions."""
    folder = tmp_path_factory.mktemp("sound")
    rng = np.random.default_rng(0)
    pet = Volume(rng.gamma(2.0, 0.5, SHAPE), AFFINE, "SUVbw")
    ct = Volume(rng.uniform(-1000, 200, SHAPE), AFFINE, "HU")
    organs, lesions = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    places = {"liver": (45, 0, 0), "kidney_left": (-40, 0, -30), "kidney_right": (40, 0, -35), "heart": (-20, 0, 60),
              "spleen": (-50, 0, 0), "prostate": (0, 0, -90)}  # fmt: skip
    for name, at_mm in places.items():
        block(ORGANS.index(name) + 1, at_mm, organs)
    lesions[3, 3, 3] = lesions[10, 10, 10:12] = 1
    save_volume(folder / "pet.nii.gz", pet)
    save_volume(folder / "ct.nii.gz", ct)
    save_mask(folder / "organs.nii.gz", organs, like=pet)
    save_mask(folder / "lesions.nii.gz", lesions, like=pet)
    (folder / "cohort.csv").write_text(f"{HEADER}\n{ROW}\n")
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound, tmp_path / "cohort")


def problems(folder: Path, **options):
    return Cohort.validate_csv(folder / "cohort.csv", progress=False, **options)


def rewrite(path: Path, change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> None:
    """Write the file again with other voxels or another affine."""
    image = nib.load(path)
    data, affine = change(np.asanyarray(image.dataobj), image.affine.copy())
    nib.save(nib.Nifti1Image(data, affine), path)


def test_a_sound_case_has_no_problem_and_its_facts_are_right(folder):
    report = Cohort.from_csv(folder / "cohort.csv").report(progress=False)
    assert report.problems.empty
    facts = report.cases.iloc[0]
    assert facts["shape"] == SHAPE and facts["spacing_mm"] == (8.1, 8.1, 9.0)
    assert facts["field_of_view_mm"] == (194, 162, 270) and facts["oblique_deg"] == pytest.approx(20, abs=3)
    assert (facts["organs"], facts["organ_convention"], facts["lesions"]) == (6, "seganypet", 2)
    assert facts["lesions_ml"] == pytest.approx(3 * 8.1 * 8.1 * 9.0 / 1000, abs=0.01)
    assert facts["pet_min"] >= 0 and facts["pet_p99"] < facts["pet_max"]


# ---- the table: what is written into cohort.csv, and the kind of problem that comes of it

TABLES = {
    "semicolons": ("case;patient;pet;pet_unit\na;p1;pet.nii.gz;SUVbw\n", "columns"),
    "a column too many": ("case,patient,pet,pet_unit,note\na,p1,pet.nii.gz,SUVbw,x\n", "columns"),
    "a column twice": ("case,patient,pet,pet_unit,pet\na,p1,pet.nii.gz,SUVbw,x\n", "columns"),
    "a quote that never ends": ('case,patient,pet,pet_unit\na,"p1,pet.nii.gz,SUVbw\n', "not_a_table"),
    "latin-1": ("case,patient,pet,pet_unit\na,Bj\u00f6rk,pet.nii.gz,SUVbw\n".encode("latin-1"), "not_a_table"),
    "a spreadsheet's own format": (b"PK\x03\x04\x14\x00\x06\x00\x08\x00\x00\x00!\x00\xff\xfe", "not_a_table"),
    "nothing below the header": (f"{HEADER}\n\n", "no_cases"),
    "an empty file": ("", "columns"),
    "a cell too few": (f"{HEADER}\n{ROW.rsplit(',', 1)[0]}\n", "row_length"),
    "no patient": (f"{HEADER}\n{ROW.replace('p1', ' ')}\n", "blank"),
    "an unknown unit": (f"{HEADER}\n{ROW.replace('SUVbw', 'SUV')}\n", "bad_value"),
    "an unknown quality": (f"{HEADER}\n{ROW.replace('HQ', 'good')}\n", "bad_value"),
    "an unknown convention": (f"{HEADER}\n{ROW.replace('seganypet', 'mine')}\n", "bad_value"),
    "a path that leads nowhere": (f"{HEADER}\n{ROW.replace('pet.nii.gz', 'PET2.nii.gz')}\n", "missing"),
    "a case twice": (f"{HEADER}\n{ROW}\n{ROW}\n", "case_twice"),
    "a patient in two splits": (f"{HEADER}\n{ROW}\n{ROW.replace('a,', 'b,', 1).replace('train', 'test')}\n",
                                "patient_in_two_splits"),
    "a patient spelt in two ways": (f"{HEADER}\n{ROW}\n{ROW.replace('a,p1', 'b,P 1', 1)}\n", "patient_spelling"),
    "a split for one of two": (f"{HEADER}\n{ROW}\n{ROW.replace('a,p1', 'b,p2').replace('train', '')}\n", "split_blank"),
    "one scan under two names": (f"{HEADER}\n{ROW}\n{ROW.replace('a,p1', 'b,p2', 1)}\n", "same_scan"),
}  # fmt: skip


@pytest.mark.parametrize("content, kind", TABLES.values(), ids=TABLES)
def test_each_fault_of_a_table_is_a_row(folder, content, kind):
    (folder / "cohort.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    found = problems(folder)
    assert kind in set(found["problem"]), found.to_string()
    row = found[found["problem"] == kind].iloc[0]
    assert len(row["message"]) > 30 and str(folder) in row["message"]


# ---- files: which one is changed, how, and the kind of problem that comes of it


def set_header(path: Path, **fields) -> None:
    raw = bytearray(gzip.decompress(path.read_bytes()))
    header = nib.Nifti1Header(bytes(raw[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    raw[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(raw)))


def scaled(factor: float, offset: float = 0.0):
    return lambda path: rewrite(path, lambda data, affine: ((data * factor + offset).astype(np.float32), affine))


def with_voxel(value: float):
    def change(data, affine):
        data = np.array(data, np.float32)
        data[5, 6, 7] = value
        return data, affine

    return lambda path: rewrite(path, change)


def relabelled(**label_of: int):
    """Give organs other labels, all at once."""

    def change(data, affine):
        new = np.zeros_like(data)
        for organ, label in {**{organ: n for n, organ in enumerate(ORGANS, 1)}, **label_of}.items():
            new[data == ORGANS.index(organ) + 1] = label
        return new, affine

    return lambda path: rewrite(path, change)


def mirrored(axis: int):
    def change(data, affine):
        flip = np.eye(4)
        flip[axis, axis] = -1
        return data, flip @ affine

    def apply(path: Path) -> None:  # all files alike, so that only the places of organs tell
        for one in path.parent.glob("*.nii.gz"):
            rewrite(one, change)

    return apply


def shifted(mm: float):
    def change(data, affine):
        affine[0, 3] += mm
        return data, affine

    return lambda path: rewrite(path, change)


def resized(path: Path) -> None:
    for one in path.parent.glob("*.nii.gz"):
        rewrite(one, lambda data, affine: (data, np.diag([1000, 1000, 1000, 1]) @ affine))


def filled(label: int):
    return lambda path: rewrite(path, lambda data, affine: (np.full_like(data, label), affine))


FILES = {
    "no bytes": ("pet.nii.gz", lambda path: path.write_bytes(b""), "unreadable"),
    "not gzip": ("pet.nii.gz", lambda path: path.write_bytes(b"hello" * 100), "unreadable"),
    "cut short": ("pet.nii.gz", lambda path: path.write_bytes(path.read_bytes()[:20_000]), "unreadable"),
    "cut short inside the header": ("ct.nii.gz", lambda path: path.write_bytes(path.read_bytes()[:60]), "unreadable"),
    "two frames": ("pet.nii.gz", lambda path: rewrite(path, lambda d, a: (np.stack([d, d], -1), a)), "unreadable"),
    "complex numbers": ("ct.nii.gz", lambda path: rewrite(path, lambda d, a: (d + 1j, a)), "unreadable"),
    "a singular affine": ("pet.nii.gz", lambda path: set_header(path, srow_x=0, srow_y=0, srow_z=0), "unreadable"),
    "a folder": ("lesions.nii.gz", lambda path: (path.unlink(), path.mkdir()), "missing"),
    "one slice more": ("organs.nii.gz", lambda path: rewrite(path, lambda d, a: (d[..., 1:], a)), "other_grid"),
    "half a voxel aside": ("lesions.nii.gz", shifted(4.0), "other_grid"),
    "a header that claims terabytes": ("pet.nii.gz", lambda path: set_header(path, dim=[3, *[9999] * 3, *[1] * 4]),
                                       "unreadable"),
    "no affine at all": ("pet.nii.gz", lambda path: set_header(path, qform_code=0, sform_code=0), "no_affine"),
    "NaN": ("pet.nii.gz", with_voxel(np.nan), "nan"),
    "beyond float32": ("pet.nii.gz", lambda path: rewrite(path, lambda d, a: (d.astype(float) * 1e39, a)), "nan"),
    "infinity": ("ct.nii.gz", with_voxel(np.inf), "nan"),
    "the same everywhere": ("pet.nii.gz", scaled(0.0), "empty"),
    "Bq/mL called SUVbw": ("pet.nii.gz", scaled(5000.0), "unit_range"),
    "0 to 1 called SUVbw": ("pet.nii.gz", lambda path: rewrite(path, lambda d, a: (d / d.max(), a)), "unit_range"),
    "z-scores": ("pet.nii.gz", scaled(1.0, -1.0), "negative"),
    "a CT without its intercept": ("ct.nii.gz", scaled(1.0, 1024.0), "unit_range"),
    "a CT of another patient": ("ct.nii.gz", shifted(900.0), "ct_elsewhere"),
    "two affines": ("pet.nii.gz", lambda path: set_header(path, qform_code=1, qoffset_x=500), "qform_sform"),
    "an sform without voxel size": (
        "pet.nii.gz", lambda path: set_header(path, qform_code=1, srow_x=[1, 0, 0, 0]), "geometry"
    ),
    "metres as millimetres": ("pet.nii.gz", resized, "voxel_size"),
    "a body of 200 m": ("pet.nii.gz", resized, "field_of_view"),
    "no organ": ("organs.nii.gz", filled(0), "empty"),
    "fractions": ("organs.nii.gz", scaled(0.5), "not_labels"),
    "negative labels": ("lesions.nii.gz", scaled(-1.0), "not_labels"),
    "NaN among labels": ("lesions.nii.gz", with_voxel(np.nan), "not_labels"),
    "a label of no organ": ("organs.nii.gz", relabelled(prostate=13), "label_ids"),
    "kidneys exchanged": ("organs.nii.gz", relabelled(kidney_left=3, kidney_right=2), "sides"),
    "a mirrored affine": ("organs.nii.gz", mirrored(0), "sides"),
    "upside down": ("organs.nii.gz", mirrored(2), "upside_down"),
    "one organ everywhere": ("organs.nii.gz", filled(7), "organ_size"),
    "a prostate like a lobe": ("organs.nii.gz", filled(7), "convention_doubtful"),
    "lesion and background exchanged": ("lesions.nii.gz", lambda path: rewrite(path, lambda d, a: (1 - d, a)),
                                        "lesions_everywhere"),
}  # fmt: skip


@pytest.mark.parametrize("name, damage, kind", FILES.values(), ids=FILES)
def test_each_fault_of_a_file_is_a_row(folder, name, damage, kind):
    damage(folder / name)
    found = problems(folder)
    rows = found[(found["problem"] == kind) & (found["part"] == PART[name])]
    assert len(rows) == 1, found.to_string()
    row = rows.iloc[0]
    assert (row["case"], row["patient"]) == ("a", "p1")
    assert str(folder / name) in row["message"] and len(row["message"]) > len(str(folder / name)) + 20


@pytest.mark.parametrize(
    "change, kind, word",
    [
        (("seganypet", ""), "convention_detected", "'seganypet'"),
        (("seganypet,lesions.nii.gz", "seganypet,organs.nii.gz"), "same_file", "this case's organs"),
        (("SUVbw", "Bq/mL"), "unit_range", "already SUVbw"),
    ],
)
def test_what_the_table_says_is_compared_with_the_files(folder, change, kind, word):
    (folder / "cohort.csv").write_text(f"{HEADER}\n{ROW.replace(*change)}\n")
    found = problems(folder)
    assert found["problem"].tolist() == [kind] and word in found["message"][0]


def test_labels_that_fit_two_conventions_are_unclear(folder):
    rewrite(folder / "organs.nii.gz", lambda data, affine: (np.where(data == 7, 8, data), affine))
    (folder / "cohort.csv").write_text(f"{HEADER}\n{ROW.replace('seganypet', '')}\n")
    found = problems(folder)
    assert found["problem"].tolist() == ["convention_unclear"] and "could follow seganypet or" in found["message"][0]


def test_twenty_faults_are_said_at_once_and_the_sound_case_among_them_is_silent(folder):
    rows = [ROW, *(ROW.replace("a,p1,pet", f"case{n},patient{n},gone{n}") for n in range(20))]
    (folder / "cohort.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    with pytest.warns(UserWarning, match=r"20 of 21 cases lack files \(case case0: .*gone0.*; and 15 more\)"):
        assert len(Cohort.from_csv(folder / "cohort.csv")) == 21
    (folder / "gone.csv").write_text("\n".join([HEADER, *rows[1:]]) + "\n")
    with pytest.raises(CohortError, match=r"line 2 .*gone0.* 19 more fault\(s\). Cohort.validate_csv lists all"):
        Cohort.from_csv(folder / "gone.csv")
    found = problems(folder, workers=4)
    assert found["problem"].tolist() == ["missing"] * 20 and "a" not in set(found["case"])
    assert all(f"line {n}" in message for n, message in enumerate(found["message"], 3))


def test_headers_alone_show_what_headers_can(folder):
    rewrite(folder / "pet.nii.gz", lambda data, affine: (data * np.nan, affine))
    rewrite(folder / "organs.nii.gz", lambda data, affine: (data[1:], affine))
    assert problems(folder, voxels=False)["problem"].tolist() == ["other_grid"]
    facts = Cohort.from_csv(folder / "cohort.csv").report(voxels=False, progress=False).cases
    assert "pet_max" not in facts and facts["shape"][0] == SHAPE


def test_a_file_that_goes_after_the_cohort_was_made_is_a_row(folder):
    cohort = Cohort.from_csv(folder / "cohort.csv")
    (folder / "pet.nii.gz").unlink()
    found = cohort.validate(progress=False)
    assert found[["part", "problem"]].to_numpy().tolist() == [["pet", "missing"]]


def test_the_same_voxels_under_another_file_name_are_found(folder):
    shutil.copy(folder / "pet.nii.gz", folder / "copy.nii.gz")
    again = "b,p2,copy.nii.gz,SUVbw,,,,,,test,"
    (folder / "cohort.csv").write_text(f"{HEADER}\n{ROW}\n{again}\n")
    found = problems(folder)
    assert found[["case", "problem", "severity"]].to_numpy().tolist() == [["b", "same_scan", "error"]]
    assert "case a (patient p1, split train)" in found["message"][0]


def test_two_volumes_at_most_are_in_memory(tmp_path, monkeypatch):
    # Two workers, each with one file at a time: the peak of 6 cases is that of 2.
    monkeypatch.setattr("seganypet.cohort.inspection._SAMPLED", 10_000)
    size = (64, 64, 128)
    pet = Volume(np.random.default_rng(0).gamma(2, 0.5, size), np.diag([4, 4, 4, 1.0]), "SUVbw")
    for part in ("pet", "ct", "lesions"):
        save_volume(tmp_path / f"{part}.nii.gz", pet)
    case = Case("c0", "p0", tmp_path / "pet.nii.gz", "SUVbw", ct=tmp_path / "ct.nii.gz")

    def peak_volumes(n: int) -> float:
        cohort = Cohort(Case(f"c{m}", f"p{m}", case.pet, "SUVbw", ct=case.ct) for m in range(n))
        cohort.validate(progress=False)  # whatever is imported on the way is there now
        tracemalloc.start()
        cohort.validate(progress=False)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak / pet.data.nbytes

    # Unpacking a file holds its bytes beside the array for a moment.
    assert peak_volumes(6) < peak_volumes(2) + 0.5 < 5


def test_an_inspection_of_nothing_is_one_problem(tmp_path):
    found = inspect_case(Case("a", "p", tmp_path / "none.nii.gz", "SUVbw"))
    assert isinstance(found, Inspection) and [problem.problem for problem in found.problems] == ["missing"]
    assert found.row == {}


def test_workers_must_be_a_number(folder):
    with pytest.raises(CohortError, match="workers=0"):
        Cohort.from_csv(folder / "cohort.csv").validate(workers=0)
