"""What an SUV is normalised to: body weight, lean body mass, ideal body weight, body surface area."""

from collections.abc import Callable

from seganypet.errors import SUVError

# Of people; scans of animals say so in their header.
WEIGHTS_KG = (0.5, 400.0)
HEIGHTS_M = (0.3, 3.0)


def lean_body_mass(weight_kg: float, height_m: float, sex: str, formula: str = "janmahasatian") -> float:
    """Lean body mass in kg.

    Args:
        weight_kg: Body weight in kg.
        height_m: Body height in m.
        sex: "M" or "F".
        formula: "janmahasatian" (2005, valid for obese patients too) or "james" (1976).

    Raises:
        SUVError: A value is missing, not positive, or unknown.

    Source: Janmahasatian et al., Clin Pharmacokinet 2005; James 1976 as quoted by Sugawara et al.,
        Radiology 1999 (128 for men; some copies misprint 120).

    >>> round(lean_body_mass(91.0, 1.88, "M", "james"), 2)
    70.11
    """
    weight_kg, height_m = checked_weight_and_height(weight_kg, height_m, "lean body mass")
    if sex not in ("M", "F"):
        raise SUVError(f"lean body mass: sex is {sex!r}; expected M or F (0010,0040), for which there are formulas.")
    if formula == "janmahasatian":
        bmi = weight_kg / height_m**2
        return 9270.0 * weight_kg / ((6680.0 + 216.0 * bmi) if sex == "M" else (8780.0 + 244.0 * bmi))
    if formula == "james":
        ratio = weight_kg / (height_m * 100.0)
        lean_kg = 1.10 * weight_kg - 128.0 * ratio**2 if sex == "M" else 1.07 * weight_kg - 148.0 * ratio**2
        if lean_kg <= 0:
            raise SUVError(
                f"lean body mass: James's formula gives {lean_kg:.1f} kg for {weight_kg:g} kg at {height_m:g} m; "
                "it is not valid for such obesity. Use formula='janmahasatian'."
            )
        return lean_kg
    raise SUVError(f"lean body mass: unknown formula {formula!r}; expected 'janmahasatian' or 'james'.")


def sul_per_suvbw(weight_kg: float, height_m: float, sex: str, formula: str = "janmahasatian") -> float:
    """SUL / SUVbw, dimensionless: lean body mass over weight. Arguments and errors as `lean_body_mass`."""
    return lean_body_mass(weight_kg, height_m, sex, formula) / weight_kg


def ideal_body_weight(height_m: float, sex: str) -> float:
    """Ideal body weight in kg; arguments as `lean_body_mass`.

    Raises:
        SUVError: The height is so small that the formula gives no weight, or the sex is unknown.

    Source: Sugawara et al., Radiology 1999.

    >>> round(ideal_body_weight(1.75, "M"), 2)
    72.38
    """
    if sex not in ("M", "F"):
        raise SUVError(f"ideal body weight: sex is {sex!r}; expected M or F (0010,0040), for which there are formulas.")
    above_cm = height_m * 100.0 - 152.0
    ideal_kg = 48.0 + 1.06 * above_cm if sex == "M" else 45.5 + 0.91 * above_cm
    if ideal_kg <= 0:
        raise SUVError(f"ideal body weight: the formula gives {ideal_kg:.1f} kg for {height_m:g} m; it is for adults.")
    return ideal_kg


def body_surface_area(weight_kg: float, height_m: float) -> float:
    """Body surface area in m2; arguments as `lean_body_mass`.

    Source: Du Bois and Du Bois, Arch Intern Med 1916.

    >>> round(body_surface_area(70.0, 1.75), 3)
    1.848
    """
    return 0.007184 * weight_kg**0.425 * (height_m * 100.0) ** 0.725


# By SUVType (0054,1006): mass in kg of a patient of sex M or F. "LBM" alone names no formula.
_MASSES: dict[str, Callable[[float, float, str], float]] = {
    "LBMJANMA": lambda weight_kg, height_m, sex: lean_body_mass(weight_kg, height_m, sex, "janmahasatian"),
    "LBMJAMES128": lambda weight_kg, height_m, sex: lean_body_mass(weight_kg, height_m, sex, "james"),
    "IBW": lambda weight_kg, height_m, sex: ideal_body_weight(height_m, sex),
}
SUV_TYPES = ("BW", "BSA", *_MASSES)


def suvbw_per_suv(suv_type: str, weight_kg: float, height_m: float | None, sex: str | None) -> float:
    """SUVbw in g/mL per unit of another SUV: g/mL, or cm2/mL for "BSA".

    Args:
        suv_type: DICOM's SUVType, one of `SUV_TYPES`.
        weight_kg: Body weight in kg.
        height_m: Body height in m.
        sex: "M", "F", or "O", for which the mean of both formulas counts.

    Raises:
        SUVError: A value that this type needs is missing or cannot be.

    Source: DICOM PS3.3 C.8.9.1 (SUV Type); IBSI manual for SUV computation (sex O).

    >>> round(suvbw_per_suv("BSA", 70.0, 1.75, None), 3)
    3.788
    """
    if suv_type == "BW":
        return 1.0
    weight_kg, height_m = checked_weight_and_height(weight_kg, height_m, f"SUV of type {suv_type}")
    if suv_type == "BSA":
        return weight_kg * 1e3 / (body_surface_area(weight_kg, height_m) * 1e4)
    if sex not in ("M", "F", "O"):
        raise SUVError(f"SUV of type {suv_type}: sex is {sex!r}; expected M, F or O (0010,0040).")
    sexes = ("M", "F") if sex == "O" else (sex,)
    return weight_kg / (sum(_MASSES[suv_type](weight_kg, height_m, one) for one in sexes) / len(sexes))


def checked_weight_and_height(weight_kg: float | None, height_m: float | None, what: str) -> tuple[float, float]:
    """Both, if they are there and in their units; else SUVError."""
    if not weight_kg or not WEIGHTS_KG[0] <= weight_kg <= WEIGHTS_KG[1]:
        raise SUVError(f"{what}: weight_kg is {weight_kg}; expected 0.5 to 400 kilograms (0010,1030).")
    if not height_m or not HEIGHTS_M[0] <= height_m <= HEIGHTS_M[1]:
        raise SUVError(f"{what}: height_m is {height_m}; expected 0.3 to 3 metres, no centimetres (0010,1020).")
    return weight_kg, height_m
