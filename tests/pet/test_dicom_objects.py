"""Multi-frame PET and CT objects, written from the standard and by highdicom, give what their classic slices give."""

import warnings

import numpy as np
import pydicom
import pytest
from conftest import oblique
from make_dicom import FACTOR, write_series
from make_multiframe import INJECTED, REFERENCE, item, real_world_values, stamp, write_enhanced
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, RLELossless, SecondaryCaptureImageStorage, generate_uid
from test_dicom import same_in_patient

from seganypet.errors import DicomError, SUVError, UnitError
from seganypet.pet.dicom import list_series, load_dicom

VOLUMES = np.random.default_rng(5).integers(0, 9000, (3, 7, 5, 6))  # times, columns, rows, slices
SLOPES = np.random.default_rng(6).uniform(0.2, 3.0, (3, 6))
TIMES = {"starts_s": (0.0, 60.0, 180.0), "durations_s": (60.0, 120.0, 300.0)}


@pytest.mark.parametrize("scale_by", ["rescale", "real world"])
@pytest.mark.parametrize("left_handed", [False, True])
def test_each_frame_of_an_enhanced_dynamic_pet_lies_where_its_groups_say(tmp_path, scale_by, left_handed):
    affine = oblique((4.07, 2.5, 3.0), left_handed)
    path = write_enhanced(tmp_path / "scan", VOLUMES, affine, slopes=SLOPES, scale_by=scale_by, **TIMES)
    for t in range(3):
        volume = load_dicom(path, frame=t + 1)
        assert volume.unit == "SUVbw"
        same_in_patient(volume, VOLUMES[t] * SLOPES[t] * FACTOR, affine)
        assert volume.metadata["frame_start_s"] == TIMES["starts_s"][t]
        assert volume.metadata["frame_duration_s"] == TIMES["durations_s"][t]
        assert volume.metadata["decay_reference"] == "decay correction time"
        assert volume.metadata["decay_s"] == 3600.0
    with pytest.raises(DicomError, match=r"(?s)holds 3 volumes.*frame=2: starts after 60 s, lasts 120 s, 6 slices"):
        load_dicom(tmp_path)
    row = list_series(tmp_path).iloc[0]
    assert (row.files, row.frames) == (1, 3)
    assert (row.frame_start_s, row.frame_duration_s) == ([0.0, 60.0, 180.0], [60.0, 120.0, 300.0])


def test_frames_of_an_enhanced_pet_without_correction_of_decay_have_factors_of_their_own(tmp_path):
    affine = oblique((4.07, 2.5, 3.0))
    path = write_enhanced(tmp_path / "scan", VOLUMES, affine, change=_uncorrected("DecayCorrected"), **TIMES)
    for t in range(3):
        volume = load_dicom(path, frame=t + 1)
        x = np.log(2) * TIMES["durations_s"][t] / 6586.2
        average_s = np.log(x / (1 - np.exp(-x))) * 6586.2 / np.log(2)
        later = 2 ** ((TIMES["starts_s"][t] + average_s) / 6586.2)
        same_in_patient(volume, VOLUMES[t] * FACTOR * later, affine)
        assert volume.metadata["decay_reference"] == "frame"


@pytest.mark.parametrize("scale_by", ["rescale", "real world"])
def test_an_enhanced_ct_is_in_hounsfield_units(tmp_path, scale_by):
    affine = oblique((0.9, 0.8, 5.0))
    write_enhanced(tmp_path / "ct.dcm", VOLUMES[:1], affine, "CT", SLOPES, intercept=-1024, scale_by=scale_by)
    volume = load_dicom(tmp_path)
    assert volume.unit == "HU"
    same_in_patient(volume, VOLUMES[0] * SLOPES[0] - 1024, affine)


@pytest.mark.parametrize("modality", ["PT", "CT"])
def test_a_legacy_converted_object_of_highdicom_equals_the_series_it_was_made_from(tmp_path, modality):
    from highdicom.legacy import LegacyConvertedEnhancedCTImage, LegacyConvertedEnhancedPETImage

    def complete(header, k):
        header.StudyInstanceUID, header.FrameOfReferenceUID = "1.2.3", "1.2.4"
        header.StudyDate, header.StudyTime, header.AccessionNumber, header.StudyID = "20210304", "11", "", ""
        header.ReferringPhysicianName = header.PatientBirthDate = header.Manufacturer = ""
        header.PatientName = header.PatientID = "anonymous"
        header.PatientSex, header.InstanceNumber, header.SliceThickness = "F", k + 1, "4"
        header.PositionReferenceIndicator, header.ImageType = "", ["ORIGINAL", "PRIMARY"]
        header.BurnedInAnnotation, header.SeriesNumber = "NO", 1
        header.RescaleType = "US" if modality == "PT" else "HU"

    affine, stored = oblique((2.0, 3.0, 4.0), left_handed=True), VOLUMES[0]
    paths = write_series(tmp_path / "classic", stored, affine, modality, slopes=SLOPES[0], change=complete)
    converter = LegacyConvertedEnhancedPETImage if modality == "PT" else LegacyConvertedEnhancedCTImage
    with warnings.catch_warnings(action="ignore"):
        converted = converter([pydicom.dcmread(path) for path in paths], generate_uid(), 7, generate_uid(), 1)
        (tmp_path / "legacy").mkdir()
        converted.save_as(tmp_path / "legacy" / "all.dcm")
    classic, legacy = load_dicom(tmp_path / "classic"), load_dicom(tmp_path / "legacy")
    assert np.array_equal(legacy.data, classic.data)
    assert legacy.unit == classic.unit
    np.testing.assert_allclose(legacy.affine, classic.affine, atol=1e-9)
    if modality == "PT":
        assert legacy.metadata["suv_per_stored_unit"] == classic.metadata["suv_per_stored_unit"]


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless])
def test_compressed_frames_have_the_slope_of_their_own(tmp_path, syntax):
    import SimpleITK

    volumes = np.random.default_rng(7).integers(-3000, 6000, (1, 70, 64, 3))

    def compress(header):
        if syntax == RLELossless:
            header.compress(RLELossless)
            return
        frames = []
        stored = np.frombuffer(header.PixelData, "<i2").reshape(-1, 64, 70)
        for one in stored:
            writer = SimpleITK.ImageFileWriter()
            writer.SetFileName(str(tmp_path / "one.dcm"))
            writer.SetUseCompression(True)
            writer.SetCompressor("JPEG2000")
            writer.Execute(SimpleITK.GetImageFromArray(one[None]))
            frames.append(next(pydicom.encaps.generate_frames(pydicom.dcmread(tmp_path / "one.dcm").PixelData)))
        (tmp_path / "one.dcm").unlink()
        header.PixelData = pydicom.encaps.encapsulate(frames)
        header["PixelData"].is_undefined_length = True
        header.file_meta.TransferSyntaxUID = JPEG2000Lossless

    affine = oblique((2.0, 3.0, 4.0))
    write_enhanced(tmp_path / "scan.dcm", volumes, affine, slopes=SLOPES[:, :3], change=compress)
    same_in_patient(load_dicom(tmp_path), volumes[0] * SLOPES[0, :3] * FACTOR, affine)


def test_an_enhanced_object_in_two_files_is_one_scan(tmp_path):
    affine = oblique((2.0, 3.0, 4.0))

    def part(header):
        header.SeriesInstanceUID = "1.2.3"

    beside = affine.copy()
    beside[:3, 3] += 6 * affine[:3, 2]
    write_enhanced(tmp_path / "1", VOLUMES[:1], affine, slopes=SLOPES, change=part)
    write_enhanced(tmp_path / "2", VOLUMES[1:2], beside, slopes=SLOPES[1:], change=part)
    whole = np.concatenate([VOLUMES[0] * SLOPES[0], VOLUMES[1] * SLOPES[1]], axis=2)
    same_in_patient(load_dicom(tmp_path), whole * FACTOR, affine)


def test_stacks_of_different_directions_are_frames_of_their_own(tmp_path):
    affine, other = oblique((2.0, 3.0, 4.0)), np.diag([4.0, 4.0, 5.0, 1.0])

    def one_series(stack):
        def change(header):
            header.SeriesInstanceUID = "1.2.3"
            for group in header.PerFrameFunctionalGroupsSequence:
                group.FrameContentSequence[0].StackID = stack

        return change

    write_enhanced(tmp_path / "1", VOLUMES[:1], affine, "CT", change=one_series("AX"))
    write_enhanced(tmp_path / "2", VOLUMES[1:2], other, "CT", change=one_series("COR"))
    assert list_series(tmp_path).frames_by.item() == "StackID"
    same_in_patient(load_dicom(tmp_path, frame=1), VOLUMES[0], affine)
    same_in_patient(load_dicom(tmp_path, frame=2), VOLUMES[1], other)


def test_a_last_digit_of_the_direction_makes_no_stack(tmp_path):
    def digits(header):
        for number, group in enumerate(header.PerFrameFunctionalGroupsSequence):
            orientation = ["0.985", "0.17255434", "0", "0.17255434", "-0.985", "0"]
            orientation[0] = f"{0.985 + 1e-5 * (number % 2 - 0.5):.7f}"
            group.PlaneOrientationSequence = item(ImageOrientationPatient=orientation)

    path = write_enhanced(tmp_path / "scan", VOLUMES[:1], np.diag([2.0, 3.0, 4.0, 1.0]), "CT", change=digits)
    assert list_series(path).frames.item() == 1


def test_values_that_are_suv_already_are_taken_as_such_and_other_suvs_are_named(tmp_path):
    def suv(code):
        def change(header):
            for group in header.PerFrameFunctionalGroupsSequence:
                group.RealWorldValueMappingSequence = Sequence([real_world_values(0.01, 0.0, code)])

        return change

    arguments = {"affine": oblique((2.0, 3.0, 4.0)), "scale_by": "real world"}
    write_enhanced(tmp_path / "bw", VOLUMES[:1], change=suv("{SUVbw}g/ml"), **arguments)
    volume = load_dicom(tmp_path / "bw")
    same_in_patient(volume, VOLUMES[0] * 0.01, arguments["affine"])
    write_enhanced(tmp_path / "odd", VOLUMES[:1], change=suv("kg"), **arguments)
    with pytest.raises(DicomError, match="RescaleSlope .* is missing"):
        load_dicom(tmp_path / "odd")


def test_a_rescaled_value_without_unit_yields_to_the_mapping_that_has_one(tmp_path):
    """RescaleType US says nothing; RealWorldValueSlope counts from stored values."""

    def change(header):
        for group in header.PerFrameFunctionalGroupsSequence:
            group.RealWorldValueMappingSequence = Sequence(
                [real_world_values(9.0, 0.0, "g/ml{SUVlbm}"), real_world_values(2.5, 0.0, "Bq/ml")]
            )

    affine = oblique((2.0, 3.0, 4.0))
    write_enhanced(tmp_path / "scan", VOLUMES[:1], affine, slopes=SLOPES, change=change)
    same_in_patient(load_dicom(tmp_path), VOLUMES[0] * 2.5 * FACTOR, affine)


def test_time_zones_of_an_enhanced_object_are_respected(tmp_path):
    """Injected at 11:00 in UTC+1, decay corrected to 10:30 UTC: half an hour, not minus half an hour."""

    def zones(header):
        header.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartDateTime = stamp(INJECTED) + "+0100"
        header.DecayCorrectionDateTime = "20210304103000+0000"

    path = write_enhanced(tmp_path / "scan", VOLUMES[:1], oblique((2.0, 3.0, 4.0)), change=zones)
    assert load_dicom(path).metadata["decay_s"] == 1800.0


def test_correction_to_an_unknown_time_gives_no_suv_but_activity(tmp_path):
    def unknown(header):
        del header.DecayCorrectionDateTime

    affine = oblique((2.0, 3.0, 4.0))
    path = write_enhanced(tmp_path / "scan", VOLUMES[:1], affine, slopes=SLOPES, change=unknown)
    with pytest.raises(SUVError, match="DecayCorrectionDateTime .* is missing"):
        load_dicom(path)
    same_in_patient(load_dicom(path, unit="Bq/mL"), VOLUMES[0] * SLOPES[0], affine)


def test_kilobecquerels_are_thousands(tmp_path):
    def kilo(header):
        for group in header.PerFrameFunctionalGroupsSequence:
            group.RealWorldValueMappingSequence = Sequence([real_world_values(0.002, 0.0, "kBq/ml")])

    affine = oblique((2.0, 3.0, 4.0))
    write_enhanced(tmp_path / "scan", VOLUMES[:1], affine, change=kilo, scale_by="real world")
    same_in_patient(load_dicom(tmp_path, unit="Bq/mL"), VOLUMES[0] * 2.0, affine)


def test_energies_of_a_spectral_ct_are_volumes_of_their_own(tmp_path):
    def energies(header):
        for group in header.PerFrameFunctionalGroupsSequence:
            kind = f"VMI_{group.FrameContentSequence[0].TemporalPositionIndex}"
            group.CTImageFrameTypeSequence = item(FrameType=["ORIGINAL", "PRIMARY", "AXIAL", kind])
            del group.FrameContentSequence[0].TemporalPositionIndex
            del group.FrameContentSequence[0].FrameAcquisitionDateTime

    affine = oblique((2.0, 3.0, 4.0))
    write_enhanced(tmp_path / "scan", VOLUMES, affine, "CT", slopes=SLOPES, change=energies, **TIMES)
    for number in range(3):
        same_in_patient(load_dicom(tmp_path, frame=number + 1), VOLUMES[number] * SLOPES[number], affine)


def test_correction_to_the_injection_needs_no_decay(tmp_path):
    def to_injection(header):
        header.DecayCorrectionDateTime = stamp(INJECTED)

    path = write_enhanced(tmp_path / "scan", VOLUMES[:1], oblique((2.0, 3.0, 4.0)), change=to_injection)
    volume = load_dicom(path)
    assert volume.metadata["decay_s"] == 0.0
    assert volume.metadata["suv_per_stored_unit"] == pytest.approx(70e3 / 350e6)


def test_correction_to_a_time_within_the_scan_is_taken_as_written(tmp_path):
    """The last frame begins 180 s after the first; the reference lies between."""
    affine = oblique((2.0, 3.0, 4.0))
    starts = {"starts_s": (-120.0, -60.0, 60.0), "durations_s": (60.0, 120.0, 300.0)}
    path = write_enhanced(tmp_path / "scan", VOLUMES, affine, **starts)
    volume = load_dicom(path, frame=3)
    assert volume.metadata["decay_s"] == (REFERENCE - INJECTED).total_seconds()
    assert list_series(path).frame_start_s.item() == [0.0, 60.0, 180.0]


def _uncorrected(keyword):
    return lambda header: setattr(header, keyword, "NO")


def _of_single_slices(**tags):
    def change(header):
        header.DecayCorrected = header.AttenuationCorrected = "YES"
        for keyword, value in tags.items():
            setattr(header, keyword, value)

    return change


def _one_group_less(header):
    del header.PerFrameFunctionalGroupsSequence[-1]


def _no_groups(header):
    del header.PerFrameFunctionalGroupsSequence


def _no_positions(header):
    for group in header.PerFrameFunctionalGroupsSequence:
        del group.PlanePositionSequence


def _scales_disagree(header):
    header.Units = "BQML"
    for group in header.PerFrameFunctionalGroupsSequence:
        group.RealWorldValueMappingSequence[0].RealWorldValueSlope = 3.0


def _no_unit(header):
    for group in header.PerFrameFunctionalGroupsSequence:
        del group.RealWorldValueMappingSequence


def _two_drugs(header):
    header.RadiopharmaceuticalInformationSequence.append(header.RadiopharmaceuticalInformationSequence[0])


def _odd_time(header):
    header.DecayCorrectionDateTime = "2021"


def _cut(header):
    header.PixelData = header.PixelData[:-40]


def _many_frames(header):
    header.NumberOfFrames = 2000000000


BROKEN = {
    "attenuation not corrected": (_uncorrected("AttenuationCorrected"), SUVError, "ATTN"),
    "decay corrected and not": (
        _of_single_slices(DecayCorrected="NO", CorrectedImage=["DECY", "ATTN"]), DicomError, "DecayCorrected is NO"
    ),
    "attenuation corrected and not": (
        _of_single_slices(AttenuationCorrected="NO", CorrectedImage=["DECY", "ATTN"]), DicomError, "with ATTN"
    ),
    "decay corrected to no time": (_of_single_slices(DecayCorrection="NONE"), DicomError, "DecayCorrection .* is NONE"),
    "a group less than frames": (_one_group_less, DicomError, "describes 5 frames"),
    "no groups": (_no_groups, DicomError, "describes 0 frames"),
    "absurd number of frames": (_many_frames, DicomError, "describes 6 frames"),
    "no positions": (_no_positions, DicomError, "ImagePositionPatient .* is missing"),
    "two scales": (_scales_disagree, DicomError, "RealWorldValueSlope"),
    "no unit": (_no_unit, SUVError, r"Units \(0054,1001\)"),
    "two injections": (_two_drugs, SUVError, "several injections"),
    "a date without time": (_odd_time, DicomError, "DecayCorrectionDateTime"),
    "cut short": (_cut, DicomError, "pixels cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("cause", BROKEN)
def test_an_enhanced_object_without_what_it_needs_is_refused_with_the_tag(tmp_path, cause):
    change, error_class, message = BROKEN[cause]
    path = write_enhanced(tmp_path / "scan.dcm", VOLUMES[:1], oblique((2.0, 3.0, 4.0)), change=change)
    with pytest.raises(error_class, match=message) as caught, warnings.catch_warnings(action="error"):
        load_dicom(path)
    assert "scan.dcm" in str(caught.value)
    assert list_series(path).files.item() == 1


# What the headers say of PET or CT, and in which unit the values are.


def _classes(sop_class=None, **tags):
    def change(header, k):
        if sop_class:
            header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = sop_class
        for keyword, value in tags.items():
            setattr(header, keyword, value)

    return change


CONTRADICTIONS = {
    "PET written with the CT class": ("PT", _classes("1.2.840.10008.5.1.4.1.1.2")),
    "PET class with modality CT": ("PT", _classes(Modality="CT")),
    "PET class with modality MR": ("PT", _classes(Modality="MR")),
    "CT class and modality, PET's unit": ("PT", _classes("1.2.840.10008.5.1.4.1.1.2", Modality="CT")),
    "CT written with the PET class": ("CT", _classes("1.2.840.10008.5.1.4.1.1.128")),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_series_that_is_pet_by_one_tag_and_ct_by_another_is_not_given_a_unit_in_silence(tmp_path, case):
    modality, change = CONTRADICTIONS[case]
    write_series(tmp_path, VOLUMES[0], oblique((2.0, 3.0, 4.0)), modality, change=change)
    with pytest.raises(DicomError, match="(?s)PET or CT.*SOP class.*Modality.*unit="):
        load_dicom(tmp_path)
    if modality == "PT":
        same_in_patient(load_dicom(tmp_path, unit="SUVbw"), VOLUMES[0] * FACTOR, oblique((2.0, 3.0, 4.0)))
        assert load_dicom(tmp_path, unit="Bq/mL").unit == "Bq/mL"
    else:
        assert load_dicom(tmp_path, unit="HU").unit == "HU"


def test_classes_mixed_within_a_series_are_refused(tmp_path):
    def one_differs(header, k):
        if k == 2:
            _classes("1.2.840.10008.5.1.4.1.1.2")(header, k)

    write_series(tmp_path, VOLUMES[0], oblique((2.0, 3.0, 4.0)), change=one_differs)
    with pytest.raises(DicomError, match="SOPClassUID differs within the series"):
        load_dicom(tmp_path)


def test_a_pet_without_weight_or_dose_opens_in_becquerels(tmp_path):
    def phantom(header, k):
        header.PatientWeight = "0"
        del header.RadiopharmaceuticalInformationSequence

    affine = oblique((2.0, 3.0, 4.0))
    write_series(tmp_path, VOLUMES[0], affine, slopes=SLOPES[0], change=phantom)
    with pytest.raises(SUVError):
        load_dicom(tmp_path)
    volume = load_dicom(tmp_path, unit="Bq/mL")
    assert volume.unit == "Bq/mL"
    same_in_patient(volume, VOLUMES[0] * SLOPES[0], affine)
    assert volume.metadata["units"] == "BQML"
    assert volume.metadata["decay_correction"] == "START"
    assert volume.metadata["corrections"] == "NORM\\ATTN\\SCAT\\DECY"


def test_activity_without_attenuation_correction_is_given_with_a_warning(tmp_path):
    write_series(tmp_path, VOLUMES[0], oblique((2.0, 3.0, 4.0)), change=_classes(CorrectedImage=["DECY"]))
    with pytest.warns(UserWarning, match="without ATTN, attenuation is not corrected"):
        load_dicom(tmp_path, unit="Bq/mL")


def test_counts_of_philips_become_becquerels_by_their_factor_and_others_do_not(tmp_path):
    from make_dicom import add_philips

    def philips(header, k):
        header.Units = "CNTS"
        add_philips(header, activity_factor="2.5")

    affine = oblique((2.0, 3.0, 4.0))
    write_series(tmp_path / "philips", VOLUMES[0], affine, change=philips)
    same_in_patient(load_dicom(tmp_path / "philips", unit="Bq/mL"), VOLUMES[0] * 2.5, affine)
    for units, match in (("CNTS", "7053,1009"), ("GML", "SUV already"), ("PROPCPS", "expected BQML")):
        write_series(tmp_path / units, VOLUMES[0], affine, change=_classes(Units=units))
        with pytest.raises(SUVError, match=match):
            load_dicom(tmp_path / units, unit="Bq/mL")


def test_a_unit_that_the_scan_cannot_have_is_refused(tmp_path):
    write_series(tmp_path / "pet", VOLUMES[0], oblique((2.0, 3.0, 4.0)))
    write_series(tmp_path / "ct", VOLUMES[0], oblique((2.0, 3.0, 4.0)), "CT")
    with pytest.raises(UnitError, match="a PET has no values in HU"):
        load_dicom(tmp_path / "pet", unit="HU")
    with pytest.raises(UnitError, match="a CT has no values in Bq/mL"):
        load_dicom(tmp_path / "ct", unit="Bq/mL")
    with pytest.raises(UnitError, match="unknown unit 'kBq/mL'"):
        load_dicom(tmp_path / "pet", unit="kBq/mL")
    with pytest.raises(UnitError, match="unknown unit 3"):
        load_dicom(tmp_path / "pet", unit=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_classes(SeriesType=["STATIC", "REPROJECTION"]), "rotating projection"),
        (_classes(RescaleSlope="-1"), "RescaleSlope .* is negative"),
        (_classes(PixelSpacing=["4e7", "4e7"]), "millimetres within a scanner"),
    ],
)
def test_a_pet_that_is_no_stack_of_activity_is_refused(tmp_path, change, message):
    write_series(tmp_path, VOLUMES[0], oblique((2.0, 3.0, 4.0)), change=change)
    with pytest.raises(DicomError, match=message):
        load_dicom(tmp_path)


ADVICE = {
    "1.2.840.10008.5.1.4.1.1.481.3": "RT Structure Set Storage.*load_masks",
    "1.2.840.10008.5.1.4.1.1.66.4": "Segmentation Storage.*load_masks",
    "1.2.840.10008.5.1.4.1.1.67": "Real World Value Mapping Storage.*factors for a PET",
    "1.2.840.10008.5.1.4.1.1.20": "Nuclear Medicine Image Storage.*SPECT",
    SecondaryCaptureImageStorage: "Secondary Capture Image Storage.*screenshot",
}


@pytest.mark.parametrize("sop_class", ADVICE)
def test_a_folder_without_a_scan_is_named_as_what_it_is_with_advice(tmp_path, sop_class):
    write_series(tmp_path, VOLUMES[0], oblique((2.0, 3.0, 4.0)), change=_classes(sop_class, Modality="OT"))
    with pytest.raises(DicomError, match=f"(?s)no CT or PET slices, only {ADVICE[sop_class]}"):
        load_dicom(tmp_path)
    assert list_series(tmp_path).frames.item() == 0


def test_sequences_that_are_none_and_values_that_are_lists_are_own_errors(tmp_path):
    def spoil(keyword, vr, value):
        def change(header):
            tag = pydicom.tag.Tag(keyword)
            header[tag] = pydicom.dataelem.RawDataElement(tag, vr, len(value), value, 0, False, True)

        return change

    cases = (
        ("SharedFunctionalGroupsSequence", "LO", b"none"),
        ("PerFrameFunctionalGroupsSequence", "LO", b"none"),
        ("RadiopharmaceuticalInformationSequence", "LO", b"FDG "),
        ("NumberOfFrames", "IS", b"six "),
        ("NumberOfFrames", "IS", b"6\\6 "),
        ("Modality", "CS", b"PT\\CT "),
        ("BitsAllocated", "US", b"\x10\x00\x10\x00"),
        ("PixelRepresentation", "US", b""),
        ("DecayCorrectionDateTime", "DT", b"yesterday at noon "),
    )
    for number, case in enumerate(cases):
        path = tmp_path / f"{number}.dcm"
        with warnings.catch_warnings(action="ignore"):
            write_enhanced(path, VOLUMES[:1], oblique((2.0, 3.0, 4.0)), change=spoil(*case))
        with pytest.raises((DicomError, SUVError)):
            load_dicom(path)


def test_a_dose_of_another_item_is_not_mixed_in(tmp_path):
    """Codes of the functional groups that are not read leave the header's own tags alone."""

    def referenced(header):
        for group in header.PerFrameFunctionalGroupsSequence:
            group.ReferencedImageSequence = item(PatientWeight="7", RescaleSlope="99")

    affine = oblique((2.0, 3.0, 4.0))
    path = write_enhanced(tmp_path / "scan.dcm", VOLUMES[:1], affine, slopes=SLOPES, change=referenced)
    same_in_patient(load_dicom(path), VOLUMES[0] * SLOPES[0] * FACTOR, affine)
