"""Seeded synthetic FDG-PET cases whose truth is known: PET, CT-like map, organs, lesions.

    scan         make_phantom: draws a patient and scans them -> PhantomCase
    patient      who is scanned: sizes, organ volumes, uptake
    canvas       soft shapes into a label map
    anatomy, abdomen   what is painted: outline, bones and chest; the other organs
    donors       organ shapes of real bodies, in place of painted ones
    lesions, tumour    which lesions, of six kinds; how one is painted
    uptake       what each tissue takes up, with its texture
    imaging      breathing, resolution, noise; Hounsfield units
    annotators   people and programs that draw organs wrongly, to a chosen DSC
    files        a phantom on disk, laid out as AutoPET's cases

No patient's data is in it: every number comes from published tables (see each module's sources). What is listed here
is imported when it is first used; `import seganypet.phantom` alone paints nothing and loads no library.
"""

from typing import TYPE_CHECKING

import lazy_loader

from seganypet.organs import ORGANS, SEEN_ORGANS, UNSEEN_ORGANS

if TYPE_CHECKING:
    from seganypet.phantom.scan import DOMAINS, PhantomCase, make_phantom

__all__ = ["DOMAINS", "ORGANS", "SEEN_ORGANS", "UNSEEN_ORGANS", "PhantomCase", "make_phantom"]
__getattr__, _, _ = lazy_loader.attach(__name__, submod_attrs={"scan": ["DOMAINS", "PhantomCase", "make_phantom"]})


def __dir__() -> list[str]:
    return __all__
