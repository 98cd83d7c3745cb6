"""What leaves a ClickWidget: files, and a picture for pages without a browser behind them."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from seganypet._files import replace_atomically
from seganypet.errors import ClickError
from seganypet.pet.plots import show_slices
from seganypet.pet.quantification import quantify
from seganypet.prompting.base import PromptSession
from seganypet.prompting.prompts import since_start

MASK_FILE, JOURNAL_FILE, TABLE_FILE = "mask.nii.gz", "clicks.json", "table.csv"


def write(session: PromptSession, path: Path) -> None:
    """Write the mask, the journal or the table of all objects, as the file's name says; whole or not at all.

    Raises:
        ClickError: Nothing was clicked yet.
        UnitError: A table of a volume that is not in SUVbw.
        SegAnyPETError: The file cannot be written.
    """
    if not session.objects:
        raise ClickError(f"nothing to write to {path.name}: no object was clicked yet.")
    if path.name == MASK_FILE:
        session.save(path)
    elif path.name == JOURNAL_FILE:
        session.save_journal(path)
    else:
        table = quantify(session.volume, session.masks)
        with replace_atomically(path) as temporary:
            table.to_csv(temporary, index=False)


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
