"""A patient drawn and scanned: `make_phantom` ties together who is scanned, what is painted and how it is imaged."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType

import numpy as np

from seganypet import __version__
from seganypet.errors import SegAnyPETError
from seganypet.organs import ORGANS
from seganypet.pet.volume import Volume
from seganypet.phantom.abdomen import paint_soft_organs
from seganypet.phantom.anatomy import Painter
from seganypet.phantom.canvas import Canvas
from seganypet.phantom.donors import Donor, Lending
from seganypet.phantom.imaging import acquire, ct_map, draw_imaging
from seganypet.phantom.lesions import KINDS, draw_kind, paint_lesions
from seganypet.phantom.patient import TISSUES, Patient, draw_patient, organs_of
from seganypet.phantom.uptake import uptake_map

DOMAINS = {"internal": (4.07, 4.07, 3.0), "external": (2.04, 2.04, 3.0)}  # spacing, mm


@dataclass(frozen=True, eq=False)
class PhantomCase:
    """A synthetic case; all arrays lie on the PET's grid, shape (I, J, K).

    Attributes:
        pet: The scan, in SUVbw.
        ct: CT-like map in HU on the same grid, without breathing.
        organs: Label map of the twelve organs, 1 to 12 in the order of ORGANS, uint8.
        organ_names: Name of each label in `organs`.
        lesions: Label map of lesion instances, 1 to n, uint8; all 0 if the patient has none.
        anatomy: Label map of every painted tissue, uint8; under a lesion, the tissue that it replaced.
        anatomy_names: Name of each label in `anatomy`.
        seed: Seed that the patient was drawn with.
        domain: Scanner and field of view, a key of DOMAINS.
        sex: "M" or "F"; only men have a prostate.
    """

    pet: Volume
    ct: Volume
    organs: np.ndarray
    organ_names: Mapping[int, str]
    lesions: np.ndarray
    anatomy: np.ndarray
    anatomy_names: Mapping[int, str]
    seed: int
    domain: str
    sex: str


def make_phantom(
    seed: int = 7, domain: str = "internal", lesions: bool | str = True, donors: Sequence[Donor] = ()
) -> PhantomCase:
    """Draw a patient and scan them.

    Args:
        seed: Seed of all draws. The same seed and domain give the same bits; one seed gives different patients in
            different domains.
        domain: Scanner: "internal" (4.07 x 4.07 x 3 mm) or "external" (2.04 x 2.04 x 3 mm, sharper, noisier, another
            field of view).
        lesions: Whether the patient has lesions. True: three in four patients do, of any kind but the last; False:
            none does; or the kind itself: "lymphoma", "lung", "melanoma", "bulky" (one mass of 60 to 2000 mL, often
            with a cold core), "infiltrating" (through muscle and fat, without an edge) or "disseminated" (20 to 45
            lesions).
        donors: Bodies that lend half of the organs they have, see `phantom.donors`; the metadata name them.

    Returns:
        The scan and its truth.

    Raises:
        SegAnyPETError: An unknown domain or kind of lesion, or a seed that is not an integer of at least 0.
    """
    if domain not in DOMAINS:
        raise SegAnyPETError(f"make_phantom: domain={domain!r}; expected one of {', '.join(map(repr, DOMAINS))}.")
    if not isinstance(lesions, bool) and lesions not in KINDS:
        raise SegAnyPETError(f"make_phantom: lesions={lesions!r}; expected True, False or one of {', '.join(KINDS)}.")
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise SegAnyPETError(f"make_phantom: seed={seed!r}; expected an integer of at least 0.")
    return _draw(int(seed), domain, lesions, donors=donors)


def _draw(
    seed: int,
    domain: str,
    lesions: bool | str,
    spacing: tuple[float, float, float] | None = None,
    whole_body: bool = False,
    donors: Sequence[Donor] = (),
) -> PhantomCase:
    """As make_phantom, on a grid of another spacing if given, or from vertex to thigh in any case."""
    # One stream per stage, so that a change in one leaves the draws of the others alone.
    streams = np.random.SeedSequence((seed, list(DOMAINS).index(domain))).spawn(8)
    generators = map(np.random.default_rng, streams)
    who, shape, texture, tumour, scanner, view, tomography, lender = generators
    patient = draw_patient(who)
    imaging = draw_imaging(scanner, domain)
    spacing = spacing or DOMAINS[domain]
    canvas, affine, flips = _grid(patient, domain, spacing, view, whole_body)
    lending = Lending(donors, lender)
    painter = Painter(canvas, patient, shape, lending)
    painter.paint_frame()
    paint_soft_organs(painter)
    activity = uptake_map(painter, texture)

    kind = lesions if isinstance(lesions, str) else "none"
    if lesions is True:
        kind = draw_kind(tumour)
    instances = np.zeros_like(canvas.labels)
    if kind != "none":
        instances = paint_lesions(canvas, activity, patient, kind, tumour)
    hu = ct_map(canvas, instances, spacing, tomography)
    pet = acquire(activity, canvas, spacing, imaging, patient.suv["liver"], scanner)

    def stored(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array[tuple(slice(None, None, step) for step in flips)])

    metadata = {
        "seed": seed, "domain": domain, "lesion_kind": kind, "seganypet_version": __version__,
        "sex": patient.sex, "height_m": patient.height_cm / 100, "weight_kg": patient.weight_kg,
        "arms_up": patient.arms_up,
        "suv_drawn": dict(patient.suv), "organ_volumes_drawn_ml": dict(patient.volumes_ml),
        "imaging": asdict(imaging), **({"lent": lending.lent} if donors else {}),
    }  # fmt: skip
    name = f"phantom {domain} {seed}"
    anatomy = stored(canvas.labels)
    return PhantomCase(
        pet=Volume(stored(pet), affine, "SUVbw", source=f"{name} PET", metadata=metadata),
        ct=Volume(stored(hu), affine, "HU", source=f"{name} CT", metadata=metadata),
        organs=organs_of(anatomy),
        organ_names=MappingProxyType(dict(enumerate(ORGANS, start=1))),
        lesions=stored(instances),
        anatomy=anatomy,
        anatomy_names=MappingProxyType(dict(enumerate(TISSUES))),
        seed=seed,
        domain=domain,
        sex=patient.sex,
    )


def _grid(
    patient: Patient, domain: str, spacing: tuple[float, float, float], rng: np.random.Generator, whole_body: bool
) -> tuple[Canvas, np.ndarray, tuple[int, int, int]]:
    """Grid around the patient: a canvas in patient coordinates, the stored file's affine, and its axis flips.

    Files store x and y in either direction; half of ours are left-handed.
    """
    from_vertex = rng.random() < (0.25 if domain == "internal" else 0.5)
    top = 462 if from_vertex else rng.uniform(285, 345)  # or from the skull base
    bottom = rng.uniform(-640, -520)
    part = rng.random()
    if whole_body:
        top, bottom = 462, -520
    elif part < 0.08:  # chest and abdomen only
        top, bottom = rng.uniform(180, 240), rng.uniform(-330, -260)
    elif part < 0.14:  # abdomen and pelvis only
        top, bottom = rng.uniform(40, 110), rng.uniform(-600, -480)
    half_width = 205 * max(patient.torso_scale, 0.9) + (0 if patient.arms_up else 80)
    # The bed, not the patient, is centred: a few mm off.
    offset = rng.normal(0, 6, 3)
    counts = [16 * int(np.ceil(2 * min(half, 290) / size / 16)) for half, size in
              zip((max(half_width, 245), max(half_width, 245)), spacing[:2], strict=True)]  # fmt: skip
    counts.append(int((top - bottom) * patient.scale[2] / spacing[2]))
    start = [-(counts[0] - 1) / 2 * spacing[0] + offset[0], 40 - (counts[1] - 1) / 2 * spacing[1] + offset[1],
             bottom * patient.scale[2]]  # fmt: skip
    axes = [low + size * np.arange(count) for low, size, count in zip(start, spacing, counts, strict=True)]
    flips = ((1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, -1, 1))[int(rng.integers(4))]
    world = np.array((0.0, -40.0, 0.0)) + rng.uniform(-900, -300) * np.array((0, 0, 1.0))
    affine = np.diag([*(np.array(spacing) * flips), 1.0])
    affine[:3, 3] = [axis[0 if step > 0 else -1] for axis, step in zip(axes, flips, strict=True)] + world
    return Canvas(*axes), affine, flips
