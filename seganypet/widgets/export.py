"""What leaves a ClickWidget: files, and a picture for pages without a browser behind them."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from seganypet._files import replace_atomically
from seganypet.errors import ClickError, SegAnyPETError
from seganypet.pet.plots import show_slices
from seganypet.pet.quantification import quantify
from seganypet.prompting.base import PromptSession
from seganypet.prompting.prompts import since_start
from seganypet.regions import overlaps
from seganypet.study.report import write_report

FILES = {
    "mask": "mask.nii.gz",  # a label map
    "layers": "mask.seg.nrrd",  # the same with overlaps
    "seg": "mask.dcm",
    "rtstruct": "rtstruct.dcm",
    "journal": "clicks.json",
    "table": "table.csv",
    "report": "report.html",
}


def file_name(what: str, case: str = "", number: int = 1) -> str:
    """Name of one of the `FILES`, after the case if it has a name, and with a number from the second one on."""
    if what not in FILES:
        raise SegAnyPETError(f"file {what!r}; there are {', '.join(FILES)}.")
    stem, ending = FILES[what].split(".", 1)
    if what == "rtstruct" and case:
        return f"rtstruct_{case}{f'_{number}' * (number > 1)}.{ending}"  # the kind of a .dcm is told by its beginning
    return f"{f'{case}_' * bool(case)}{stem}{f'_{number}' * (number > 1)}.{ending}"


def has_overlaps(session: PromptSession) -> bool:
    """Whether objects share voxels, so that a label map cannot hold them all."""
    return overlaps(map(session.mask_of, session.objects))


def write(session: PromptSession, what: str, path: Path, case: str = "") -> None:
    """Write one of the `FILES` of all objects, a report under the name of the case; whole or not at all.

    Raises:
        ClickError: Nothing was clicked yet.
        UnitError: A table of a volume that is not in SUVbw.
        SegAnyPETError: The file cannot be written.
    """
    if not session.objects:
        raise ClickError(f"nothing to write to {path.name}: no object was clicked yet.")
    if what == "journal":
        session.save_journal(path)
    elif what == "report":
        write_report(path, session, title=case or None)
    elif what == "table":
        table = quantify(session.volume, session.masks)
        with replace_atomically(path) as temporary:
            table.to_csv(temporary, index=False)
    else:
        session.save(path)


def picture(session: PromptSession, shown: Sequence[str], at_ijk: tuple[int, int, int], vmax: float) -> bytes:
    """PNG of the slices through a voxel, with the masks and prompts of some objects."""
    import matplotlib.pyplot as plt

    masks = {name: session.mask_of(name) for name in shown}
    prompts = [prompt for name in shown for prompt in since_start(session.prompts_of(name))]
    axes = show_slices(session.volume, masks or None, at_ijk=at_ijk, clicks=prompts, vmax=vmax)
    content = BytesIO()
    axes[0].figure.savefig(content, format="png", dpi=80)
    plt.close(axes[0].figure)
    return content.getvalue()
