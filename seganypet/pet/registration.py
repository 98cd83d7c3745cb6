"""Rigid registration of a CT to a PET by mutual information, and transforms applied to an affine.

PET and CT of a hybrid scanner share one frame, but the patient moves between the two; scans from different days share
only a rough pose. Register, then resample once:

    transform = register_rigid(ct, pet)
    ct_on_pet = resample_to(apply_transform(ct, transform), pet)

Frames. A transform here is a 4 x 4 matrix in RAS+ mm that maps a point of the fixed scan (PET) to the point of the
moving scan (CT) that shows the same tissue. SimpleITK works in LPS+: x and y change sign on the way in and out.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from seganypet.errors import GeometryError, UnitError
from seganypet.pet.grids import LPS_TO_RAS, check_affine
from seganypet.pet.volume import Volume

if TYPE_CHECKING:
    import SimpleITK

HU_RANGE = (-1000.0, 400.0)  # air to dense bone; a hip implant's 3000 HU would leave one histogram bin for all tissue
GRID_MM = 4.0  # both scans are averaged to voxels of about this size: a PET holds no finer detail
LEVELS = ((4, 12.0), (2, 6.0), (1, 0.0))  # shrink factor, and sigma of smoothing in mm
BINS = 48
SAMPLES = 50_000  # points compared at each resolution
SEED = 1  # of their choice; SimpleITK seeds 0 from the clock
MIN_OVERLAP = 0.1


def register_rigid(moving: Volume, fixed: Volume) -> np.ndarray:
    """Find the rotation and translation that align a CT with a PET.

    Gradient descent on Mattes' mutual information over three resolutions, starting from the pose in the files. It
    corrects a few centimetres and about ten degrees; it does not find a scan that lies elsewhere or upside down.
    Breathing and bent arms are not rigid motion: expect the bulk of the body to fit, not the dome of the liver.

    Args:
        moving: CT, in HU, on any grid.
        fixed: PET, in SUVbw or Bq/mL, on any grid.

    Returns:
        Rotation and translation that map points of `fixed` to points of `moving`, shape (4, 4), RAS+ mm. The same
        input gives the same bits on one machine: it runs on one thread.

    Raises:
        UnitError: `moving` is not in HU, or `fixed` is.
        GeometryError: A scan is constant; the scans overlap by less than a tenth of the smaller one; or no transform
            was found that keeps them overlapping.

    Source: D. Mattes et al., PET-CT image registration in the chest using free-form deformations, IEEE TMI 22
    (2003) 120-128, for the measure; the registration framework of ITK.
    """
    import SimpleITK as sitk

    _check(moving, fixed)
    pet, ct = _image(fixed, _pet_contrast(fixed)), _image(moving, np.clip(moving.data, *HU_RANGE))
    pose = sitk.Euler3DTransform()
    centre_mm = fixed.to_mm((np.array(fixed.shape) - 1) / 2)
    pose.SetCenter((LPS_TO_RAS[:3, :3] @ centre_mm).tolist())
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    # The order of sums, and with it their last bits, depends on the number of threads; the metric asks the global one.
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        _method(pet, pose).Execute(pet, ct)
    except RuntimeError as error:
        raise GeometryError(
            f"{moving.source} could not be registered to {fixed.source}: {str(error).strip().splitlines()[-1]} Do both "
            "show the same part of the same patient? If they lie far apart, align them roughly first: "
            "apply_transform(ct, transform)."
        ) from error
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    lps = np.eye(4)
    lps[:3, :3] = np.array(pose.GetMatrix()).reshape(3, 3)
    lps[:3, 3] = pose.TransformPoint((0.0, 0.0, 0.0))
    return LPS_TO_RAS @ lps @ LPS_TO_RAS


def apply_transform(volume: Volume, transform: np.ndarray) -> Volume:
    """Move a volume by changing its affine; its voxels stay as they are, so nothing is interpolated.

    Args:
        volume: Volume to move, such as the CT of `register_rigid`.
        transform: Map from points of the new position to points of the old, shape (4, 4), RAS+ mm, as `register_rigid`
            returns it. For the opposite direction (a PET, or its grid, to where a CT was drawn), its inverse.

    Returns:
        The same voxels with the affine inv(transform) @ affine.

    Raises:
        GeometryError: `transform` is not an invertible affine.

    >>> far = np.eye(4); far[0, 3] = 10.0  # x = 0 mm in the fixed scan shows the tissue at x = 10 mm in the moving one
    >>> apply_transform(Volume(np.zeros((2, 2, 2)), np.eye(4), "HU"), far).affine[0, 3].item()
    -10.0
    """
    transform = check_affine(transform, "transform")
    return replace(volume, affine=np.linalg.inv(transform) @ volume.affine)


moved = apply_transform  # its name in older notebooks


def _method(fixed: "SimpleITK.Image", pose: "SimpleITK.Euler3DTransform") -> "SimpleITK.ImageRegistrationMethod":
    import SimpleITK as sitk

    method = sitk.ImageRegistrationMethod()
    method.SetInitialTransform(pose, inPlace=True)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    voxels = fixed.GetNumberOfPixels()
    fractions = [min(1.0, SAMPLES * factor**3 / voxels) for factor, _ in LEVELS]
    method.SetMetricSamplingPercentagePerLevel(fractions, SEED)
    method.MetricUseMovingImageGradientFilterOff()  # gradients at the points compared, not everywhere
    method.SetShrinkFactorsPerLevel([factor for factor, _ in LEVELS])
    method.SetSmoothingSigmasPerLevel([sigma_mm for _, sigma_mm in LEVELS])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetOptimizerScalesFromPhysicalShift()  # so that a step is in mm, for rotations too
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=4.0, minStep=0.02, numberOfIterations=60, relaxationFactor=0.5, gradientMagnitudeTolerance=1e-6
    )
    return method


def _check(moving: Volume, fixed: Volume) -> None:
    if moving.unit != "HU" or fixed.unit == "HU":
        raise UnitError(
            f"expected a moving CT in HU and a fixed PET in SUVbw or Bq/mL; got {moving.source} in {moving.unit} and "
            f"{fixed.source} in {fixed.unit}. Were they swapped?"
        )
    for volume in (moving, fixed):
        if np.ptp(volume.data) == 0:
            raise GeometryError(f"{volume.source}: every voxel is {volume.data.flat[0]}; there is nothing to register.")
    if not (fixed.data > 0).any():
        raise GeometryError(f"{fixed.source}: no voxel is above 0; expected a PET with activity.")
    overlap = _overlap(moving, fixed)
    if overlap < MIN_OVERLAP:
        raise GeometryError(
            f"{moving.source} and {fixed.source} overlap by {overlap:.0%} of the smaller one; expected at least "
            f"{MIN_OVERLAP:.0%}. Do both show the same part of the same patient? If only their frames differ, align "
            "them roughly first: apply_transform(ct, transform)."
        )


def _overlap(one: Volume, other: Volume) -> float:
    """Fraction of the smaller scan that both share, 0 to 1, estimated from a lattice of 24^3 points in each."""
    fractions = []
    for inner, outer in ((one, other), (other, one)):
        steps = [(np.arange(24) + 0.5) / 24 * size - 0.5 for size in inner.shape]
        ijk = outer.to_ijk(inner.to_mm(np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1)))
        fractions.append(float(np.mean(np.all((ijk >= -0.5) & (ijk < np.array(outer.shape) - 0.5), axis=-1))))
    return max(fractions)


def _pet_contrast(pet: Volume) -> np.ndarray:
    """log(1 + value / mean), so that brain and bladder leave part of the histogram to soft tissue; for any unit."""
    positive = np.maximum(pet.data, 0)
    return np.log1p(positive / positive.mean(dtype=float)).astype(np.float32)


def _image(volume: Volume, data: np.ndarray) -> "SimpleITK.Image":
    """`data` on the grid of `volume` as a SimpleITK image, LPS+, averaged to voxels of about GRID_MM."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T, np.float32))  # (i, j, k) -> (k, j, i)
    lps = LPS_TO_RAS @ volume.affine
    image.SetSpacing(volume.spacing)
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / volume.spacing).ravel().tolist())
    factors = [max(1, min(round(GRID_MM / mm), size)) for mm, size in zip(volume.spacing, volume.shape, strict=True)]
    return sitk.BinShrink(image, factors)
