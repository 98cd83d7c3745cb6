"""Networks that are known by name: those that come with the package, and those on the Hugging Face hub.

A network gets a name by one line in `NETWORKS`.
"""

from pathlib import Path
from typing import NamedTuple

from seganypet.errors import CheckpointError

WEIGHTS = Path(__file__).parents[1] / "weights"
SAM_FILES = ("config.json", "model.safetensors")  # a 2D SAM, as transformers saves it


class Source(NamedTuple):
    """Where the files of a network are.

    Attributes:
        dimensions: 3, or 2 for a network that works slice by slice.
        repository: Repository on the Hugging Face hub; None: the file comes with the package.
        files: Files in that repository.
    """

    dimensions: int
    repository: str | None = None
    files: tuple[str, ...] = ()


NETWORKS = {
    "tiny-base": Source(3),
    "tiny": Source(3),
    "tiny-organs": Source(3),
    "tiny-2d": Source(2),
    "tiny-2d-organs": Source(2),
    "seganypet-v1": Source(3, "YichiZhang98/SegAnyPET", ("seganypet_v1.pth",)),
    "seganypet-v2": Source(3, "YichiZhang98/SegAnyPET", ("seganypet_v2.pth",)),
    "seganypet-lesion": Source(3, "YichiZhang98/SegAnyPET", ("seganypet_lesion.pth",)),
    "sam-med3d": Source(3, "blueyo0/SAM-Med3D", ("sam_med3d.pth",)),
    "sam-med3d-turbo": Source(3, "blueyo0/SAM-Med3D", ("sam_med3d_turbo.pth",)),
    "sam-vit-b": Source(2, "facebook/sam-vit-base", SAM_FILES),
    "sam-vit-l": Source(2, "facebook/sam-vit-large", SAM_FILES),
    "sam-vit-h": Source(2, "facebook/sam-vit-huge", SAM_FILES),
    "medsam-vit-b": Source(2, "wanglab/medsam-vit-base", SAM_FILES),
}


def locate(name: str) -> Path:
    """Path of a named network's file, or of the folder of its files; downloaded if the hub's cache lacks any.

    Raises:
        CheckpointError: It cannot be downloaded; the message says how to get it by hand.
    """
    source = NETWORKS[name]
    if source.repository is None:
        return WEIGHTS / f"{name}.safetensors"
    paths = _fetch(name, source.repository, source.files)
    return paths[0] if len(paths) == 1 else paths[0].parent


def _fetch(name: str, repository: str, files: tuple[str, ...]) -> list[Path]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    what = " and ".join(files)
    try:
        return [Path(hf_hub_download(repository, file, local_files_only=True)) for file in files]
    except LocalEntryNotFoundError:
        print(
            f"Downloading {what} from https://huggingface.co/{repository}. These weights are their owners': "
            "read the licence on that page before you use them."
        )
    try:
        return [Path(hf_hub_download(repository, file)) for file in files]
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        if len(files) == 1:
            by_hand = f"get the file on another machine and open it by path: load_model({files[0]!r})"
        else:
            folder = repository.split("/")[1]
            by_hand = (
                "get these files on another machine, put them into one folder and open that by path: "
                f"load_model({folder!r})"
            )
        raise CheckpointError(
            f"{name}: cannot download {what} from {repository} ({type(error).__name__}). Without a network, {by_hand}."
        ) from error
