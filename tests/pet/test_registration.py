from functools import cache

import numpy as np
import pytest
from conftest import oblique
from scipy.spatial.transform import Rotation

from seganypet.errors import GeometryError, UnitError
from seganypet.pet.registration import apply_transform, register_rigid
from seganypet.pet.resampling import resample_to
from seganypet.pet.volume import Volume
from seganypet.phantom import make_phantom

SHIFT_MM = np.array([6.0, -9.0, 12.0])


@cache
def scans() -> tuple[Volume, Volume]:
    """PET and CT of a phantom's trunk, voxels averaged in pairs: 8.14 x 8.14 x 6 mm."""
    case = make_phantom(300)
    return halved(case.pet), halved(case.ct)


def halved(volume: Volume) -> Volume:
    i, j, k = (size // 2 for size in volume.shape)
    data = volume.data[: 2 * i, : 2 * j, : 2 * k].reshape(i, 2, j, 2, k, 2).mean(axis=(1, 3, 5))
    affine = volume.affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = volume.to_mm((0.5, 0.5, 0.5))
    return Volume(data, affine, volume.unit, volume.source)


def turned(centre_mm: np.ndarray, degrees: float = 3.0, shift_mm: np.ndarray = SHIFT_MM) -> np.ndarray:
    """A rotation about (1, 2, 3) through a point, then a shift; carries PET points to CT points."""
    axis = np.array([1.0, 2.0, 3.0]) / np.sqrt(14.0)
    transform = np.eye(4)
    transform[:3, :3] = Rotation.from_rotvec(np.deg2rad(degrees) * axis).as_matrix()
    transform[:3, 3] = centre_mm + shift_mm - transform[:3, :3] @ centre_mm
    return transform


def centre_mm(volume: Volume) -> np.ndarray:
    return volume.to_mm((np.array(volume.shape) - 1) / 2)


def errors(found: np.ndarray, true: np.ndarray, pet: Volume) -> tuple[float, float]:
    """How far the PET's centre is carried amiss, in mm, and the angle between both rotations, in degrees."""
    off_mm = np.linalg.norm((found - true)[:3] @ (*centre_mm(pet), 1.0))
    angle = Rotation.from_matrix(found[:3, :3] @ true[:3, :3].T).magnitude()
    return float(off_mm), float(np.rad2deg(angle))


def test_a_known_shift_and_rotation_are_recovered_with_the_same_bits_every_time():
    pet, ct = scans()
    true = turned(centre_mm(pet))
    displaced = apply_transform(ct, np.linalg.inv(true))
    found = register_rigid(displaced, pet)
    off_mm, degrees = errors(found, true, pet)
    assert off_mm < 1.5 and degrees < 1.0
    assert np.array_equal(found, register_rigid(displaced, pet))
    assert np.allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3)) and np.linalg.det(found[:3, :3]) > 0


def test_scans_that_fit_stay_where_they_are():
    pet, ct = scans()
    off_mm, degrees = errors(register_rigid(ct, pet), np.eye(4), pet)
    assert off_mm < 1.5 and degrees < 1.0


def test_a_left_handed_oblique_ct_on_a_finer_grid_is_laid_over_the_pet():
    # The CT is drawn anew on an awkward grid about the PET's centre, and the PET's frame is turned as a whole.
    pet, ct = scans()
    affine = oblique(spacing=(5.0, 6.0, 7.0), left_handed=True)
    shape = (100, 70, 150)
    affine[:3, 3] += centre_mm(pet) - (affine @ [*(np.array(shape) - 1) / 2, 1.0])[:3]
    awkward = resample_to(ct, Volume(np.zeros(shape), affine, "HU"))
    frame = turned(np.zeros(3), 25.0, np.array([100.0, -300.0, 50.0]))  # both scans lie obliquely in the scanner
    pet, awkward = apply_transform(pet, frame), apply_transform(awkward, frame)
    true = turned(centre_mm(pet))
    off_mm, degrees = errors(register_rigid(apply_transform(awkward, np.linalg.inv(true)), pet), true, pet)
    assert off_mm < 1.5 and degrees < 1.0


def test_activity_instead_of_suv_gives_the_same_transform():
    pet, ct = scans()
    activity = Volume(pet.data * 4096, pet.affine, "Bq/mL")  # a power of two changes no mantissa
    assert np.allclose(register_rigid(ct, activity), register_rigid(ct, pet), atol=1e-6)


def test_moved_lays_a_ct_on_the_pet_by_one_interpolation_of_its_own_voxels():
    # A ramp of HU along x; the CT shows at x what the PET shows at x - 6.
    affine = oblique(spacing=(4.0, 3.0, 5.0), left_handed=True)
    grid = Volume(np.zeros((12, 14, 10)), affine, "SUVbw")
    x, _, z = np.moveaxis(grid.to_mm(np.moveaxis(np.indices(grid.shape), 0, -1)), -1, 0)
    ct = Volume(10 * x + z, affine, "HU", source="ramp", metadata={"modality": "CT"})
    transform = np.eye(4)
    transform[:3, 3] = (6, 0, -2)
    there = apply_transform(ct, transform)
    assert there.data is ct.data and there.metadata == ct.metadata and there.source == "ramp"
    inner = (slice(4, 8), slice(4, 10), slice(3, 7))
    on_pet = resample_to(there, grid).data[inner]
    assert np.allclose(on_pet, (10 * (x + 6) + (z - 2))[inner], atol=0.01)


def test_a_transform_and_its_inverse_cancel(oblique_affine):
    volume = Volume(np.zeros((4, 5, 6)), oblique_affine, "HU")
    transform = turned(np.array([10.0, 20.0, 30.0]), 40.0)
    there = apply_transform(volume, transform)
    assert np.allclose(apply_transform(there, np.linalg.inv(transform)).affine, volume.affine)
    # The same tissue: what the moved volume shows at p, the original shows at transform @ p.
    point = np.array([3.0, -2.0, 7.0, 1.0])
    assert np.allclose(there.to_ijk(point[:3]), volume.to_ijk((transform @ point)[:3]))


def test_scans_in_the_wrong_unit_or_order_are_refused():
    pet, ct = scans()
    for moving, fixed in ((pet, ct), (pet, pet), (ct, ct)):
        with pytest.raises(UnitError, match="expected a moving CT in HU and a fixed PET"):
            register_rigid(moving, fixed)


def test_scans_that_do_not_overlap_or_show_nothing_are_refused():
    pet, ct = scans()
    far = np.eye(4)
    far[0, 3] = 2000.0
    with pytest.raises(GeometryError, match="overlap by 0% of the smaller one.*apply_transform"):
        register_rigid(apply_transform(ct, far), pet)
    with pytest.raises(GeometryError, match="every voxel is 0.0"):
        register_rigid(ct, Volume(np.zeros(pet.shape), pet.affine, "SUVbw"))
    with pytest.raises(GeometryError, match="transform: affine must be a finite 4 x 4 matrix"):
        apply_transform(ct, np.eye(3))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [300, 302])
def test_a_large_displacement_is_recovered_on_whole_scans(seed):
    case = make_phantom(seed)
    true = turned(centre_mm(case.pet), 8.0, np.array([-20.0, 25.0, 30.0]))
    off_mm, degrees = errors(register_rigid(apply_transform(case.ct, np.linalg.inv(true)), case.pet), true, case.pet)
    assert off_mm < 1.5 and degrees < 0.5
