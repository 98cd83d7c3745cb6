"""What draws the mask of a prompt in a ClickWidget: its session, or a threshold beside it.

A threshold's mask enters the session as a mask to start from, so it is undone, journalled and replayed like any prompt,
and the next prompt may be the network's again.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from seganypet.errors import ClickError
from seganypet.pet.percist import liver_sphere
from seganypet.pet.threshold_rules import ThresholdRule
from seganypet.pet.volume import Volume
from seganypet.prompting.initial_mask import InitialMask
from seganypet.prompting.prompts import Prompt
from seganypet.prompting.thresholds import ThresholdSession

SESSION = "session"  # the method that is the session's own
FIXED = ("41% SUVmax", "SUV>=2.5", "SUV>=4")
# Of the SUVbw in a sphere of 3 cm in the liver: how often the mean, how often the SD. PERCIST's is one of SUL; lean
# body mass is on both sides of it and cancels out, so that it holds for SUVbw, whatever the patient weighs.
OF_LIVER = {"PERCIST": (1.5, 2.0), "liver mean + 2 SD": (1.0, 2.0)}
METHODS = [SESSION, *FIXED, *OF_LIVER]


class Liver(NamedTuple):
    """The liver that a threshold refers to.

    Attributes:
        mask: Bool, shape of the volume.
        drawn_by: What drew it, in words.
    """

    mask: np.ndarray
    drawn_by: str


class Drawn(NamedTuple):
    """What a threshold makes of a prompt.

    Attributes:
        mask: The object with it, bool, shape of the volume.
        drawn_by: The threshold, in words.
    """

    mask: np.ndarray
    drawn_by: str


def drawn(volume: Volume, method: str, prompt: Prompt, before: np.ndarray, find_liver: Callable[[], Liver]) -> Drawn:
    """The mask of an object after a prompt that a threshold answers.

    A positive click or scribble adds what the rule finds there. A negative one, a box or a lasso corrects the mask as
    in a `ThresholdSession` that starts from it.

    Args:
        volume: PET in SUVbw, shape (I, J, K).
        method: One of `METHODS`, but not `SESSION`.
        prompt: The prompt, checked.
        before: The object so far, bool, shape (I, J, K).
        find_liver: Called for a threshold that refers to the liver.

    Raises:
        ClickError: Nothing is found at the prompt.
        VolumeError: The liver holds no sphere of 3 cm.
    """
    rule, words = (method, method) if method in FIXED else _of_liver(volume, method, find_liver())
    session = ThresholdSession(volume, rule)
    adds = prompt.foreground and prompt.binds_voxels
    if before.any() and not adds:
        session.add(InitialMask.pack(before))
    mask = session.add(prompt)
    if not mask.any():
        raise ClickError(session.notice or f"{words}: nothing would be left.")
    return Drawn(mask | before if adds else mask, words)


def _of_liver(volume: Volume, method: str, liver: Liver) -> tuple[ThresholdRule, str]:
    _, sphere, _ = liver_sphere(volume, liver.mask)
    suv = volume.data[sphere].astype(float)
    (times, sds), mean, sd = OF_LIVER[method], float(suv.mean()), float(suv.std(ddof=1))
    rule = ThresholdRule(suvbw=round(times * mean + sds * sd, 4))
    words = f"SUV>={rule.suvbw:.3g} = {times:g} x mean {mean:.3g} + {sds:g} x SD {sd:.3g} of 3 cm of liver"
    return rule, f"{method}: {words}, {liver.drawn_by}"
