"""Threshold rules of PET and their names: "41% SUVmax", "SUV>=2.5", and those that grow from a click."""

import re
from dataclasses import dataclass
from numbers import Real

import numpy as np

from seganypet.errors import VolumeError

_NUMBER = r"(\d+(?:\.\d+)?)"
_RULE = re.compile(rf"(?:{_NUMBER} ?% ?SUVmax|SUV ?>= ?{_NUMBER})(, from hottest)?")
_OLD_RULE = re.compile(rf"(?:{_NUMBER}(%?)( hottest)?|fixed4)")


@dataclass(frozen=True)
class ThresholdRule:
    """A threshold rule and its name, which is the same in arguments, tables and commands.

        "41% SUVmax"      at least 41 % of SUVmax; or any other percentage
        "SUV>=2.5"        at least this SUVbw, in g/mL; or any other number
        "41% SUVmax, from hottest", "SUV>=2.5, from hottest"   grown from the hottest voxel near a click
        "band"            intensities similar to those at a click

    The last two lines need a click: a `ThresholdSession` takes them, `quantify` does not. Without arguments it is
    "band".

    Attributes:
        percent: Percentage of SUVmax, above 0 and at most 100; None for the other rules.
        suvbw: Lowest SUVbw, in g/mL, above 0; None for the other rules.
        from_hottest: Whether the region grows from the hottest voxel near the click.

    Raises:
        VolumeError: A number out of range, or arguments that belong to different rules.

    >>> ThresholdRule.parse("41% SUVmax, from hottest")
    ThresholdRule(percent=41.0, suvbw=None, from_hottest=True)
    >>> str(ThresholdRule(suvbw=4.0))
    'SUV>=4'
    """

    percent: float | None = None
    suvbw: float | None = None
    from_hottest: bool = False

    def __post_init__(self) -> None:
        if self.percent is not None and self.suvbw is not None:
            raise VolumeError(f"a threshold rule has a percentage ({self.percent:g}) or an SUV ({self.suvbw:g}).")
        if self.is_band and self.from_hottest:
            raise VolumeError("the rule 'band' starts at the click; it cannot start at the hottest voxel.")
        if self.percent is not None and not 0 < self.percent <= 100:
            raise VolumeError(f"threshold rule of {self.percent:g}% SUVmax; expected above 0 and at most 100.")
        if self.suvbw is not None and not 0 < self.suvbw < np.inf:
            raise VolumeError(f"threshold rule of SUV>={self.suvbw:g}; expected a number above 0.")

    @classmethod
    def parse(cls, name: "str | ThresholdRule") -> "ThresholdRule":
        """Read the name of a rule.

        Raises:
            VolumeError: No such rule; for an old name, the message gives the present one.
        """
        if isinstance(name, cls):
            return name
        if name == "band":
            return cls()
        if found := _RULE.fullmatch(str(name)):
            percent, suvbw, from_hottest = found.groups()
            return cls(float(percent) if percent else None, float(suvbw) if suvbw else None, bool(from_hottest))
        if (current := current_rule_name(str(name))) != name:
            raise VolumeError(f"threshold rule {name!r}: expected {current!r}, as it is now written.")
        raise VolumeError(
            f"unknown threshold rule {name!r}; expected a percentage of SUVmax ('41% SUVmax') or an SUV ('SUV>=2.5')."
            " A ThresholdSession also takes either with ', from hottest' after it, and 'band'."
        )

    def __str__(self) -> str:
        if self.is_band:
            return "band"
        condition = f"SUV>={self.suvbw:.15g}" if self.percent is None else f"{self.percent:.15g}% SUVmax"
        return condition + ", from hottest" * self.from_hottest

    @property
    def is_band(self) -> bool:
        """Whether this is the rule "band"."""
        return self.percent is None and self.suvbw is None

    @property
    def definition(self) -> str:
        """What the threshold demands of a voxel, in words."""
        if self.percent is None:
            return f"SUVbw >= {self.suvbw:.15g}"
        return f"at least {self.percent:.15g} % of its SUVmax"

    def lowest(self, suv_max: float) -> float:
        """The lowest intensity that counts where the largest is `suv_max`; VolumeError for "band", which has none."""
        if self.percent is not None:
            return self.percent / 100 * suv_max
        if self.suvbw is not None:
            return self.suvbw
        raise VolumeError("the rule 'band' has no lowest intensity of its own; it depends on the click.")


def current_rule_name(name: str) -> str:
    """The present name of a threshold rule, given an old one ("41%", "2.5", "fixed4", "41% hottest"); others unchanged.

    >>> current_rule_name("4.0 hottest"), current_rule_name("band")
    ('SUV>=4, from hottest', 'band')
    """
    found = _OLD_RULE.fullmatch(name)
    if not found:
        return name
    number, percent, hottest = found.groups()
    condition = f"{float(number):.15g}% SUVmax" if percent else f"SUV>={float(number or 4):.15g}"
    return condition + ", from hottest" * bool(hottest)


@dataclass(frozen=True)
class Threshold:
    """A fixed threshold with the reason for its value, such as PERCIST's.

    Attributes:
        suvbw: Lowest SUVbw that counts, in g/mL.
        meaning: Where the number comes from; part of the definitions in a table.

    Raises:
        VolumeError: `suvbw` is not a finite number, or `meaning` is blank.
    """

    suvbw: float
    meaning: str

    def __post_init__(self) -> None:
        if not isinstance(self.suvbw, Real) or not np.isfinite(self.suvbw):
            raise VolumeError(f"Threshold of SUVbw {self.suvbw!r}; expected a finite number, in g/mL.")
        if not self.meaning.strip():
            raise VolumeError(f"Threshold of SUVbw {self.suvbw:g} without a meaning; say where it comes from.")

    @property
    def definition(self) -> str:
        """What the threshold demands of a voxel, in words."""
        return f"SUVbw >= {self.suvbw:.4g} ({self.meaning})"

    def lowest(self, suv_max: float) -> float:
        """The lowest SUVbw that counts, whatever the largest is."""
        return self.suvbw


Rule = str | ThresholdRule | Threshold
