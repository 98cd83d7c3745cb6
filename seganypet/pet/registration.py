"""A CT laid over a PET: rigid registration by mutual information, and a transform put into an affine.

A hybrid scanner's PET and CT share one frame, yet the patient moves between the two; scans of different days share
nothing but a rough pose. Register, then resample once:

    transform = register_rigid(ct, pet)
    ct_on_pet = resample_to(moved(ct, transform), pet)

Frames. A transform here is a 4 x 4 matrix in RAS+ mm that carries a point of the fixed scan (PET) to the point of the
moving one (CT) that shows the same tissue. SimpleITK counts in LPS+: x and y change sign on the way in and out.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from seganypet.errors import GeometryError, SegAnyPETError, UnitError
from seganypet.pet.volume import Volume, check_affine

if TYPE_CHECKING:
    import SimpleITK

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
HU_RANGE = (-1000.0, 400.0)  # air to dense bone; a hip implant's 3000 HU would leave one histogram bin for all tissue
GRID_MM = 4.0  # both scans are averaged to voxels of about this size: a PET holds no finer detail
LEVELS = ((4, 12.0), (2, 6.0), (1, 0.0))  # shrink factor, and sigma of smoothing in mm
BINS = 48
SAMPLES = 50_000  # places compared at each resolution
MIN_OVERLAP = 0.1


def register_rigid(moving: Volume, fixed: Volume, *, seed: int = 0) -> np.ndarray:
    """Find the rotation and shift that lay a CT over a PET.

    Gradient descent on Mattes' mutual information over three resolutions, from the pose that the files say. It finds
    what is off by some centimetres and ten degrees or so, not a scan that lies elsewhere or upside down. Breathing and
    bent arms are not rigid: expect the bulk of the body to fit, not the dome of the liver.

    Args:
        moving: A CT, in HU.
        fixed: A PET, in SUVbw or Bq/mL. Its grid may be anything, as the CT's.
        seed: Chooses the voxels at which the two are compared.

    Returns:
        Carries points of `fixed` to points of `moving`, shape (4, 4), RAS+ mm; a rotation and a shift. The same input
        and seed give the same bits on one machine: it runs on one thread.

    Raises:
        UnitError: `moving` is not in HU, or `fixed` is.
        GeometryError: A constant scan; the scans overlap by less than a tenth of the smaller one; or no transform that
            keeps them over each other was found.

    Source: D. Mattes et al., PET-CT image registration in the chest using free-form deformations, IEEE TMI 22
    (2003) 120-128, for the measure; the registration framework of ITK.
    """
    import SimpleITK as sitk

    if seed < 0:
        raise SegAnyPETError(f"register_rigid: seed={seed}; an integer of at least 0 is needed.")
    _check(moving, fixed)
    pet, ct = _image(fixed, _pet_contrast(fixed)), _image(moving, np.clip(moving.data, *HU_RANGE))
    pose = sitk.Euler3DTransform()
    pose.SetCenter((RAS_TO_LPS[:3, :3] @ _centre_mm(fixed)).tolist())
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    # The order of sums, and with it their last bits, depends on the number of threads; the metric asks the global one.
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        _method(pet, pose, seed).Execute(pet, ct)
    except RuntimeError as error:
        raise GeometryError(
            f"{moving.source} could not be laid over {fixed.source}: {str(error).strip().splitlines()[-1]} Do both "
            "show the same part of the same patient? If they lie far apart, bring the CT near by moved(ct, transform)."
        ) from error
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    lps = np.eye(4)
    lps[:3, :3] = np.array(pose.GetMatrix()).reshape(3, 3)
    lps[:3, 3] = pose.TransformPoint((0.0, 0.0, 0.0))
    return RAS_TO_LPS @ lps @ RAS_TO_LPS


def moved(volume: Volume, transform: np.ndarray) -> Volume:
    """The volume in another place: its affine changes, its voxels do not, so nothing is interpolated.

    Args:
        volume: What is moved, as the CT of `register_rigid`.
        transform: Carries points of the new place to points of the old, shape (4, 4), RAS+ mm: the answer of
            `register_rigid`. The other way round (a PET, or its grid, to where a CT was drawn): its inverse.

    Returns:
        The same voxels; the new affine is inv(transform) @ affine.

    Raises:
        GeometryError: `transform` is no invertible affine.

    >>> far = np.eye(4); far[0, 3] = 10.0  # fixed x = 0 mm shows what moving x = 10 mm shows
    >>> moved(Volume(np.zeros((2, 2, 2)), np.eye(4), "HU"), far).affine[0, 3].item()
    -10.0
    """
    transform = check_affine(transform, "transform")
    return replace(volume, affine=np.linalg.inv(transform) @ volume.affine)


def _method(
    fixed: "SimpleITK.Image", pose: "SimpleITK.Euler3DTransform", seed: int
) -> "SimpleITK.ImageRegistrationMethod":
    import SimpleITK as sitk

    method = sitk.ImageRegistrationMethod()
    method.SetInitialTransform(pose, inPlace=True)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    voxels = fixed.GetNumberOfPixels()
    shares = [min(1.0, SAMPLES * factor**3 / voxels) for factor, _ in LEVELS]
    method.SetMetricSamplingPercentagePerLevel(shares, seed + 1)  # SimpleITK takes 0 for "by the clock"
    method.MetricUseMovingImageGradientFilterOff()  # gradients at the places compared, not everywhere
    method.SetShrinkFactorsPerLevel([factor for factor, _ in LEVELS])
    method.SetSmoothingSigmasPerLevel([sigma_mm for _, sigma_mm in LEVELS])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetOptimizerScalesFromPhysicalShift()  # so that a step is in mm, of rotations too
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=4.0, minStep=0.02, numberOfIterations=60, relaxationFactor=0.5, gradientMagnitudeTolerance=1e-6
    )
    return method


def _check(moving: Volume, fixed: Volume) -> None:
    if moving.unit != "HU" or fixed.unit == "HU":
        raise UnitError(
            f"a CT in HU is laid over a PET in SUVbw or Bq/mL; got moving {moving.source} in {moving.unit} and fixed "
            f"{fixed.source} in {fixed.unit}. Are they the other way round?"
        )
    for volume in (moving, fixed):
        if np.ptp(volume.data) == 0:
            raise GeometryError(f"{volume.source}: every voxel is {volume.data.flat[0]}; there is nothing to lay over.")
    if not (fixed.data > 0).any():
        raise GeometryError(f"{fixed.source}: no voxel is above 0; a PET with activity is needed.")
    overlap = _overlap(moving, fixed)
    if overlap < MIN_OVERLAP:
        raise GeometryError(
            f"{moving.source} and {fixed.source} overlap by {overlap:.0%} of the smaller one; expected "
            f"{MIN_OVERLAP:.0%}. Do both show the same part of the same patient? If only their frames differ, bring "
            "the CT near by moved(ct, transform) first."
        )


def _overlap(one: Volume, other: Volume) -> float:
    """Volume that two scans share, as a part of the smaller scan, 0 to 1; from a lattice of 24^3 points in each."""
    shares = []
    for inner, outer in ((one, other), (other, one)):
        steps = [(np.arange(24) + 0.5) / 24 * size - 0.5 for size in inner.shape]
        ijk = outer.to_ijk(inner.to_mm(np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1)))
        shares.append(float(np.mean(np.all((ijk >= -0.5) & (ijk < np.array(outer.shape) - 0.5), axis=-1))))
    return max(shares)


def _pet_contrast(pet: Volume) -> np.ndarray:
    """log(1 + value / mean): soft tissue gets a fair part of the histogram beside brain and bladder, in any unit."""
    positive = np.maximum(pet.data, 0)
    return np.log1p(positive / positive.mean(dtype=float)).astype(np.float32)


def _centre_mm(volume: Volume) -> np.ndarray:
    return volume.to_mm((np.array(volume.shape) - 1) / 2)


def _image(volume: Volume, data: np.ndarray) -> "SimpleITK.Image":
    """`data` on the grid of `volume` as SimpleITK has it, LPS+, averaged to voxels of about GRID_MM."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T, np.float32))  # (i, j, k) -> (k, j, i)
    lps = RAS_TO_LPS @ volume.affine
    image.SetSpacing(volume.spacing)
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / volume.spacing).ravel().tolist())
    factors = [max(1, min(round(GRID_MM / mm), size)) for mm, size in zip(volume.spacing, volume.shape, strict=True)]
    return sitk.BinShrink(image, factors)
