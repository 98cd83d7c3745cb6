"""NRRD and MetaImage give the voxels and the places that SimpleITK gives, and say what SimpleITK passes over."""

import gzip
import itertools
import warnings
import zlib

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from conftest import oblique

from seganypet.errors import GeometryError, SegAnyPETError, VolumeError
from seganypet.pet.volume import Volume, load_labels, load_volume, open_image, save_mask

GRIDS = {
    "oblique": oblique((4.07, 4.07, 3.0)),
    "oblique, left-handed": oblique((4.07, 4.07, 3.0), left_handed=True),
    "axes swapped, thick slices": oblique((2.0, 2.5, 8.0), left_handed=True)[:, [2, 0, 1, 3]],
    "straight": np.diag([-4.0, 4.0, 3.0, 1.0]),
}
SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")
SHAPE = (3, 4, 5)
STORED = np.arange(60, dtype="<i2").reshape(SHAPE, order="F")
CONTENT = STORED.tobytes(order="F")
LPS = np.array([[4.0, 0, 0], [0, 3, 0], [0, 0, 2]])


@pytest.fixture(params=GRIDS)
def affine(request):
    return GRIDS[request.param]


def itk_image(data, affine):
    """The image as SimpleITK holds it: LPS millimetres, arrays (k, j, i)."""
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(data.T))
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(sizes.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / sizes).ravel().tolist())
    return image


def quietly(path, unit="HU"):  # such values are a CT's at least
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_volume(path, unit=unit)


# ---- as SimpleITK writes and reads them


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".NRRD", ".MHA"])
@pytest.mark.parametrize("packed", [False, True])
def test_what_simpleitk_writes_is_read_at_its_place(tmp_path, affine, suffix, packed):
    for dtype in TYPES:
        data = (np.random.default_rng(0).random((5, 6, 7)) * 100).astype(dtype)
        image = itk_image(data, affine)
        written = tmp_path / f"pet{suffix.lower()}"
        SimpleITK.WriteImage(image, str(written), packed)
        path = written.rename(tmp_path / f"pet{suffix}")
        volume = quietly(path)
        np.testing.assert_array_equal(volume.data, data.astype(np.float32))
        np.testing.assert_allclose(volume.affine, affine, atol=1e-9)
        for ijk in ((0, 0, 0), (4, 5, 6), (1, 3, 2)):
            x, y, z = image.TransformIndexToPhysicalPoint(ijk)
            np.testing.assert_allclose(volume.to_mm(ijk), (-x, -y, z), atol=1e-9)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_mask_of_such_a_scan_lies_on_its_grid_in_nifti(tmp_path, affine, suffix):
    data = np.random.default_rng(0).random((5, 6, 7)).astype(np.float32)
    SimpleITK.WriteImage(itk_image(data, affine), str(tmp_path / f"pet{suffix}"), True)
    volume = quietly(tmp_path / f"pet{suffix}")
    save_mask(tmp_path / "mask.nii.gz", data > 0.5, volume)
    np.testing.assert_allclose(nib.load(tmp_path / "mask.nii.gz").affine, affine, atol=1e-4)
    there = SimpleITK.ReadImage(str(tmp_path / "mask.nii.gz"))
    for ijk in ((0, 0, 0), (4, 5, 6), (1, 3, 2)):
        x, y, z = there.TransformIndexToPhysicalPoint(ijk)
        np.testing.assert_allclose(volume.to_mm(ijk), (-x, -y, z), atol=1e-3)
    assert np.array_equal(load_labels(tmp_path / "mask.nii.gz", like=volume), data > 0.5)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_labels_in_these_formats_lie_on_a_scan_in_nifti(tmp_path, affine, suffix):
    like = Volume(np.zeros((5, 6, 7)), affine.astype(np.float32), "SUVbw")
    drawn = np.random.default_rng(0).integers(0, 118, (5, 6, 7)).astype(np.uint8)
    SimpleITK.WriteImage(itk_image(drawn, affine), str(tmp_path / f"seg{suffix}"), True)
    np.testing.assert_array_equal(load_labels(tmp_path / f"seg{suffix}", like=like), drawn)
    turned = SimpleITK.DICOMOrient(itk_image(drawn, affine), "RAS")  # axes and directions as others store them
    SimpleITK.WriteImage(turned, str(tmp_path / f"turned{suffix}"), True)
    np.testing.assert_array_equal(load_labels(tmp_path / f"turned{suffix}", like=like), drawn)


# ---- headers of other programs


def nrrd(path, *lines, data=CONTENT, **fields):
    """A NRRD file; fields replace those of a usual one, None leaves one out."""
    usual = {
        "type": "short", "dimension": "3", "space": "left-posterior-superior", "sizes": "3 4 5",
        "space directions": "(4,0,0) (0,3,0) (0,0,2)", "endian": "little", "encoding": "raw",
        "space origin": "(10,20,30)",
    }  # fmt: skip
    fields = usual | {name.replace("_", " "): text for name, text in fields.items()}
    text = [f"{name}: {text}" for name, text in fields.items() if text is not None]
    path.write_bytes("\n".join(["NRRD0004", "# comment: nothing", *text, *lines, "", ""]).encode() + data)
    return path


def meta(path, data=CONTENT, **fields):
    """A MetaImage file, as `nrrd`."""
    usual = {
        "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False", "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "10 20 30",
        "ElementSpacing": "4 3 2", "DimSize": "3 4 5", "ElementType": "MET_SHORT",
    }  # fmt: skip
    fields = usual | fields
    last = fields.pop("ElementDataFile", "LOCAL")
    text = [f"{name} = {text}" for name, text in fields.items() if text is not None]
    path.write_bytes("\n".join([*text, f"ElementDataFile = {last}", ""]).encode() + data)
    return path


def lps_affine(axes=LPS, origin=(10, 20, 30)):
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, origin
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def right(path, affine=None, data=STORED, **options):
    """The volume, whose voxels and grid are those expected."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        volume = load_volume(path, unit="HU", **options)
    np.testing.assert_array_equal(volume.data, data)
    np.testing.assert_allclose(volume.affine, lps_affine() if affine is None else affine, atol=1e-9)
    return True


@pytest.mark.parametrize(
    "space, signs",
    [("left-posterior-superior", (-1, -1, 1)), ("LPS", (-1, -1, 1)), ("right-anterior-superior", (1, 1, 1)),
     ("RAS", (1, 1, 1)), ("left-anterior-superior", (-1, 1, 1)), ("LAS", (-1, 1, 1))],
)  # fmt: skip
def test_each_space_of_a_nrrd_leads_to_the_same_millimetres(tmp_path, space, signs):
    expected = np.diag([*signs, 1.0]) @ np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps_affine()
    path = nrrd(tmp_path / "a.nrrd", space=space)
    assert right(path, expected)
    image = SimpleITK.ReadImage(str(path))
    x, y, z = image.TransformIndexToPhysicalPoint((2, 3, 4))
    np.testing.assert_allclose(quietly(path).to_mm((2, 3, 4)), (-x, -y, z))


def test_directions_of_a_nrrd_may_be_sheared_and_of_a_meta_image_are_the_rows(tmp_path):
    sheared = np.array([[4.0, 0, 0], [1, 3, 0.5], [0, 0, 2]])
    assert right(nrrd(tmp_path / "a.nrrd", space_directions="(4,1,0) (0,3,0) (0,0.5,2)"), lps_affine(sheared))
    cyclic = np.array([[0, 0, 2.0], [4, 0, 0], [0, 3, 0]])
    path = meta(tmp_path / "a.mha", TransformMatrix="0 1 0 0 0 1 1 0 0")
    assert right(path, lps_affine(cyclic))
    assert SimpleITK.ReadImage(str(path)).TransformIndexToPhysicalPoint((0, 1, 0)) == (10, 20, 33)


def test_units_of_length_are_read(tmp_path):
    for unit, factor in (("mm", 1), ("cm", 10), ("m", 1000), ("um", 1e-3), ("\u00b5m", 1e-3), ("micron", 1e-3)):
        vectors = " ".join(str(tuple(np.round(row / factor, 6).tolist())).replace(" ", "") for row in LPS.T)
        origin = tuple(np.round(np.array([10, 20, 30]) / factor, 6).tolist())
        path = nrrd(tmp_path / "a.nrrd", space_directions=vectors, space_origin=str(origin),
                    space_units=" ".join([f'"{unit}"'] * 3))  # fmt: skip
        assert right(path)
    assert right(meta(tmp_path / "a.mha", DistanceUnits="cm", ElementSpacing=".4 .3 .2", Offset="1 2 3"))
    assert right(meta(tmp_path / "a.mha", DistanceUnits="?"))


def test_a_unit_that_cannot_be_is_refused_and_may_be_corrected(tmp_path):
    for path in (nrrd(tmp_path / "a.nrrd", space_units='"m" "m" "m"'), meta(tmp_path / "a.mha", DistanceUnits="m")):
        with pytest.raises(GeometryError, match=r"4000 x 3000 x 2000 mm .*says 'm'.*plausible would be 'mm'"):
            load_volume(path, unit="SUVbw")
        assert right(path, length_unit="mm")
    for units in ('"mm" "mm" "cm"', '"inch" "inch" "inch"'):
        with pytest.raises(GeometryError, match="for lengths; expected one of mm, cm, m, um"):
            load_volume(nrrd(tmp_path / "a.nrrd", space_units=units), unit="SUVbw")


def test_a_slope_of_a_meta_image_is_applied_aloud(tmp_path):
    path = meta(tmp_path / "a.mha", ElementToIntensityFunctionSlope="0.5", ElementToIntensityFunctionOffset="-3")
    with pytest.warns(UserWarning, match="scales stored values by 0.5 and shifts them by -3"):
        volume = load_volume(path, unit="HU")
    assert np.array_equal(volume.data, 0.5 * STORED - 3)
    for text in ("nan", "inf", "much"):
        with pytest.raises(VolumeError, match="slope"):
            load_volume(meta(tmp_path / "a.mha", ElementToIntensityFunctionSlope=text), unit="SUVbw")


def test_names_of_types_and_orders_of_bytes_are_read(tmp_path):
    names = {
        "i1": ["signed char", "int8", "int8_t"], "u1": ["uchar", "unsigned char", "uint8", "uint8_t"],
        "i2": ["short", "short int", "signed short", "signed short int", "int16", "int16_t"],
        "u2": ["ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"],
        "i4": ["int", "signed int", "int32", "int32_t"], "u4": ["uint", "unsigned int", "uint32", "uint32_t"],
        "i8": ["longlong", "long long", "long long int", "signed long long", "int64", "int64_t"],
        "u8": ["ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"],
        "f4": ["float"], "f8": ["double"],
    }  # fmt: skip
    for code, order in itertools.product(names, "<>"):
        data = STORED.astype(np.dtype(code).newbyteorder(order)).tobytes(order="F")
        for name in names[code]:
            endian = "little" if order == "<" else "big"
            path = nrrd(tmp_path / "a.nrrd", type=name, endian=endian, data=data)
            assert right(path) and open_image(path).voxels().dtype.kind == code[0]
    for name, code in (("CHAR", "i1"), ("UCHAR", "u1"), ("USHORT", "u2"), ("LONG", "i4"), ("ULONG_LONG", "u8"),
                       ("DOUBLE", "f8")):  # fmt: skip
        for order in "<>":
            data = STORED.astype(np.dtype(code).newbyteorder(order)).tobytes(order="F")
            path = meta(tmp_path / "a.mha", data, ElementType=f"MET_{name}", BinaryDataByteOrderMSB=str(order == ">"))
            assert right(path)
            np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).T, STORED)


def test_axes_of_one_beside_the_three_of_space_do_not_count(tmp_path):
    assert right(nrrd(tmp_path / "a.nrrd", dimension="4", sizes="1 3 4 5", kinds="list domain domain domain",
                      space_directions="none (4,0,0) (0,3,0) (0,0,2)"))  # fmt: skip
    assert right(nrrd(tmp_path / "a.nrrd", dimension="4", sizes="3 4 5 1", kinds="domain domain domain list",
                      space_directions="(4,0,0) (0,3,0) (0,0,2) none"))  # fmt: skip
    assert right(meta(tmp_path / "a.mha", NDims="4", DimSize="3 4 5 1", ElementSpacing="4 3 2 1", Offset="10 20 30 7",
                      TransformMatrix="1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1"))  # fmt: skip


def test_lines_of_windows_free_text_and_other_spellings_are_read(tmp_path):
    path = nrrd(tmp_path / "a.nrrd", "space:=somewhere", "Segment0_Name:=liver", "type:=double")
    assert right(path)
    head, voxels = path.read_bytes().split(b"\n\n", 1)
    path.write_bytes(head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + voxels)
    assert right(path)
    assert right(meta(tmp_path / "a.mha", Offset=None, Position="10 20 30", TransformMatrix=None,
                      Orientation="1 0 0 0 1 0 0 0 1"))  # fmt: skip
    assert right(meta(tmp_path / "a.mha", ElementSpacing=None, ElementSize="4 3 2"))


def test_voxels_beside_the_header_are_found_and_bytes_before_them_skipped(tmp_path):
    content = STORED.tobytes(order="F")
    (tmp_path / "a.raw").write_bytes(b"ten bytes." + content)
    (tmp_path / "b.raw").write_bytes(content)
    assert right(meta(tmp_path / "a.mhd", b"", ElementDataFile="a.raw", HeaderSize="10"))
    assert right(meta(tmp_path / "a.mhd", b"", ElementDataFile="a.raw", HeaderSize="-1"))
    assert right(meta(tmp_path / "a.mhd", b"", ElementDataFile="b.raw"))
    assert right(nrrd(tmp_path / "a.nhdr", data=b"", data_file="a.raw", byte_skip="10"))
    assert right(nrrd(tmp_path / "a.nhdr", data=b"", data_file="a.raw", byte_skip="-1"))
    with pytest.raises(VolumeError, match="130 bytes of voxels, but its header claims 120"):
        load_volume(meta(tmp_path / "a.mhd", b"", ElementDataFile="a.raw"), unit="SUVbw")


def test_what_a_header_leaves_open_is_said(tmp_path):
    cases = {
        "no orientation.*run to the left, to the back and up": [
            nrrd(tmp_path / "a.nrrd", space=None, space_directions=None, spacings="4 3 2"),
            nrrd(tmp_path / "b.nrrd", space=None, space_dimension="3"),
            meta(tmp_path / "a.mha", TransformMatrix=None),
        ],
        "no origin.*0, 0, 0": [nrrd(tmp_path / "c.nrrd", space_origin=None), meta(tmp_path / "b.mha", Offset=None)],
    }
    for said, paths in cases.items():
        for path in paths:
            with pytest.warns(UserWarning, match=said):
                volume = load_volume(path, unit="SUVbw")
            np.testing.assert_allclose(volume.affine[:3, :3], lps_affine()[:3, :3])


PACKED = zlib.compress(STORED.tobytes(order="F"))
REFUSED = {
    "no voxel size": (nrrd, {"space_directions": None}, GeometryError, "no voxel size"),
    "no voxel size in a MetaImage": (meta, {"ElementSpacing": None}, GeometryError, "no voxel size"),
    "spacings that are none": (nrrd, {"space_directions": None, "spacings": "nan nan nan"}, GeometryError, "no voxel"),
    "a space without left": (nrrd, {"space": "scanner-xyz"}, GeometryError, "does not say where the patient's left is"),
    "a right-handed space": (nrrd, {"space": "3D-right-handed"}, GeometryError, "does not say where"),
    "parallel axes": (nrrd, {"space_directions": "(4,0,0) (4,0,0) (0,0,2)"}, GeometryError, "singular affine"),
    "a spacing of 0": (meta, {"ElementSpacing": "4 0 2"}, GeometryError, "singular affine"),
    "directions that are longer than 1": (meta, {"TransformMatrix": "2 0 0 0 1 0 0 0 1"}, GeometryError, "lengths"),
    "two numbers of three": (nrrd, {"space_origin": "(1,2)"}, VolumeError, "expected 3 numbers"),
    "NaN in a direction": (nrrd, {"space_directions": "(nan,0,0) (0,3,0) (0,0,2)"}, VolumeError, "expected 3"),
    "four directions": (nrrd, {"space_directions": "(4,0,0) (0,3,0) (0,0,2) (0,0,1)"}, VolumeError, "4 space"),
    "half a voxel": (nrrd, {"sizes": "3 4 5.5"}, VolumeError, "expected whole numbers"),
    "more sizes than axes": (nrrd, {"sizes": "3 4 5 1"}, VolumeError, "but dimension '3'"),
    "fewer axes than sizes": (meta, {"NDims": "2"}, VolumeError, "but ndims '2'"),
    "words for sizes": (meta, {"DimSize": "three four five"}, VolumeError, "expected some numbers"),
    "negative sizes": (meta, {"DimSize": "-3 4 5"}, VolumeError, "empty volume"),
    "a picture": (meta, {"NDims": "2", "DimSize": "12 5", "ElementSpacing": "1 1", "Offset": "0 0",
                         "TransformMatrix": "1 0 0 1"}, VolumeError, "2D array"),
    "layers": (nrrd, {"dimension": "4", "sizes": "2 3 2 5",
               "space_directions": "none (4,0,0) (0,3,0) (0,0,2)"}, VolumeError, "2 numbers in"),
    "frames": (nrrd, {"dimension": "4", "sizes": "3 2 5 2",
               "space_directions": "(4,0,0) (0,3,0) (0,0,2) none"}, VolumeError, "2 numbers in"),
    "channels": (meta, {"DimSize": "3 2 5", "ElementNumberOfChannels": "2"}, VolumeError, "2 in each place"),
    "blocks": (nrrd, {"type": "block"}, VolumeError, "voxels of type 'block'"),
    "no order of bytes": (nrrd, {"endian": None}, VolumeError, "endian ''"),
    "text for voxels": (meta, {"BinaryData": "False"}, VolumeError, "BinaryData False"),
    "hexadecimal": (nrrd, {"encoding": "hex"}, VolumeError, "encoding 'hex'"),
    "bzip2": (nrrd, {"encoding": "bzip2"}, VolumeError, "encoding 'bzip2'"),
    "lines to skip": (nrrd, {"line_skip": "2"}, VolumeError, "line skip 2"),
    "bytes to skip in a packed file": (nrrd, {"encoding": "gzip", "byte_skip": "4"}, VolumeError, "4 bytes to be"),
    "voxels cut": (meta, {"data": STORED.tobytes()[:-10]}, VolumeError, "more than the file can hold"),
    "voxels too many": (nrrd, {"data": STORED.tobytes() + b"more"}, VolumeError, "124 bytes of voxels"),
    "gzip cut": (nrrd, {"encoding": "gzip", "data": gzip.compress(STORED.tobytes())[:-20]}, VolumeError, "unpacked"),
    "zlib cut, which SimpleITK reads as noise": (meta, {"CompressedData": "True", "data": PACKED[:-20]}, VolumeError,
                                                 "unpacked, expected 120"),
    "zlib damaged": (meta, {"CompressedData": "True", "data": PACKED[:-1] + b"?"}, VolumeError, "incorrect data check"),
    "a packed stream of more": (meta, {"CompressedData": "True", "data": zlib.compress(bytes(10**7))}, VolumeError,
                                "unpacked, expected 120"),
    "gigabytes claimed": (meta, {"DimSize": "30000 30000 30000"}, VolumeError, "more than the file can hold"),
    "gigabytes claimed and packed": (nrrd, {"sizes": "2000 2000 2000", "encoding": "gzip"}, VolumeError, "more than"),
    "a list of files": (meta, {"ElementDataFile": "LIST"}, VolumeError, "in several files"),
    "numbered files": (nrrd, {"data_file": "slice%03d.raw 1 5 1"}, VolumeError, "in several files"),
    "a file above": (nrrd, {"data_file": "../a.raw"}, VolumeError, "expected a file in its own folder"),
    "a file below and above": (meta, {"ElementDataFile": "a/../../b.raw"}, VolumeError, "in its own folder"),
    "any file": (meta, {"ElementDataFile": "/etc/passwd"}, VolumeError, "expected a file in its own folder"),
    "a file that is missing": (nrrd, {"data_file": "gone.raw"}, VolumeError, "gone.raw, which is missing"),
}  # fmt: skip


@pytest.mark.parametrize("write, fields, error, says", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_rightly_is_refused(tmp_path, write, fields, error, says):
    path = write(tmp_path / ("a.nrrd" if write is nrrd else "a.mha"), **fields)
    with pytest.raises(error, match=says) as caught:
        load_volume(path, unit="SUVbw")
    assert str(caught.value).startswith(str(path))


def test_other_contents_under_these_names_are_refused(tmp_path):
    for suffix, content in itertools.product(SUFFIXES, (b"", b"dear colleague\n" * 99, bytes(5000), b"NRRD0004\n\n")):
        (tmp_path / f"a{suffix}").write_bytes(content)
        with pytest.raises(VolumeError, match="not a readable NRRD or MetaImage file"):
            load_volume(tmp_path / f"a{suffix}", unit="SUVbw")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_files_are_read_or_refused_in_own_words(tmp_path, suffix, packed):
    """Among them are headers on which SimpleITK itself crashes."""
    SimpleITK.WriteImage(itk_image(STORED, GRIDS["oblique"]), str(tmp_path / f"good{suffix}"), packed)
    content = (tmp_path / f"good{suffix}").read_bytes()
    rng = np.random.default_rng(11)
    words = (b"-1", b"99999999999", b"nan", b"0", b"1e400", b"inf", b"x", b"4 4", b"", b"2147483648", b"(", b"none")
    path, refused = tmp_path / f"bad{suffix}", 0
    for _ in range(400):
        raw = bytearray(content)
        for _ in range(rng.integers(1, 6)):
            at = int(rng.integers(len(raw)))
            match rng.integers(4):
                case 0:
                    raw[at] = rng.integers(256)
                case 1:
                    del raw[at : at + int(rng.integers(1, 30))]
                case _:
                    digits = [place for place in range(at, len(raw)) if raw[place : place + 1].isdigit()]
                    place = digits[0] if digits else at
                    raw[place : place + 1] = rng.choice(words)
            raw = raw or bytearray(b"?")
        path.write_bytes(raw)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                load_volume(path, unit="SUVbw")
            except SegAnyPETError:
                refused += 1
    assert refused > 100
