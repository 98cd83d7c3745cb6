"""Networks that are known by name: those that come with the package, and those on the Hugging Face hub.

A network gets a name by one line in `NETWORKS`.
"""

import time
from pathlib import Path
from typing import NamedTuple

from seganypet.errors import CheckpointError, first_line

WEIGHTS = Path(__file__).parents[1] / "weights"
SAM_FILES = ("config.json", "model.safetensors")  # a 2D SAM, as transformers saves it


PAUSE_S = 60.0  # after the hub could not be reached, which may take ten seconds to find out for each network
_unreachable = {"until": 0.0}


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


# First digits of the SHA-256 of the weights that came with the package so far: journals made with earlier ones hold no
# more than this of them.
EDITIONS = {
    "fcc0c16cc7ec3e50": "tiny-base, first edition",
    "a1dd1a3ae08af92c": "tiny-base, second edition",
    "98f4ccb895183536": "tiny-base, third edition",
    "ebd94cc21ad842eb": "tiny, first edition",
    "2e02d52ff425ff3f": "tiny, second edition",
    "cf2904324be4cf41": "tiny, third edition",
    "8dd53de311188998": "tiny-organs, first edition",
    "3314e99c57c8fc92": "tiny-2d, first edition",
    "4deca32b15c89ba9": "tiny-2d-organs, first edition",
}


def edition(weights_sha256: object) -> str | None:
    """Name and edition of weights that come, or once came, with the package; None of others."""
    return EDITIONS.get(str(weights_sha256)[:16])


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
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    what = " and ".join(files)
    try:
        return [Path(hf_hub_download(repository, file, local_files_only=True)) for file in files]
    except LocalEntryNotFoundError:
        print(
            f"Downloading {what} from https://huggingface.co/{repository}. These weights are their owners': "
            "read the licence on that page before you use them."
        )
    try:
        if time.monotonic() < _unreachable["until"]:
            raise ConnectionError("not tried again, as the hub could not be reached a moment ago")
        _check_reachable(repository, files[0])
        return [Path(hf_hub_download(repository, file)) for file in files]
    except Exception as error:  # whatever the client raises: a proxy, a cut body, SOCKS without its package, no room
        refused = isinstance(error, HfHubHTTPError)
        if not refused and _unreachable["until"] < time.monotonic():
            _unreachable["until"] = time.monotonic() + PAUSE_S
        if len(files) == 1:
            by_hand = f"get the file on another machine and open it by path: load_model({files[0]!r})"
        else:
            folder = repository.split("/")[1]
            by_hand = (
                "get these files on another machine, put them into one folder and open that by path: "
                f"load_model({folder!r})"
            )
        licence = f"Accept its owners' licence on https://huggingface.co/{repository}, then: hf auth login. "
        raise CheckpointError(
            f"{name}: cannot download {what} from {repository} ({type(error).__name__}: {first_line(error)}). "
            f"{licence if isinstance(error, GatedRepoError) else ''}Without a network, {by_hand}; on the command line "
            f"--models {name}=PATH."
        ) from error


def _check_reachable(repository: str, file: str) -> None:
    """Raise what the client raises if no connection to the hub can be opened, tried twice; within ten seconds.

    `hf_hub_download` itself would try six times and log each: 23 s where a connection is refused, and six minutes
    where a firewall drops it. A hub that is reached and slow is left to it.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    for last in (False, True):
        try:
            get_hf_file_metadata(hf_hub_url(repository, file))
            return
        except Exception as error:
            kind = type(error).__name__  # of httpx, or of its successor: whichever the client uses
            if kind == "ConnectTimeout" or (kind == "ConnectError" and last):
                raise
            if kind != "ConnectError":  # some answer, or a slow one
                return
        time.sleep(1.0)
