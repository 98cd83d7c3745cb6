"""Networks that others published on the Hugging Face hub: their names here, and their files in its cache."""

from pathlib import Path

from seganypet.errors import CheckpointError

# name -> repository, file
HUB = {
    "seganypet-v1": ("YichiZhang98/SegAnyPET", "seganypet_v1.pth"),
    "seganypet-v2": ("YichiZhang98/SegAnyPET", "seganypet_v2.pth"),
    "seganypet-lesion": ("YichiZhang98/SegAnyPET", "seganypet_lesion.pth"),
    "sam-med3d": ("blueyo0/SAM-Med3D", "sam_med3d.pth"),
    "sam-med3d-turbo": ("blueyo0/SAM-Med3D", "sam_med3d_turbo.pth"),
}
# 2D: name -> repository, which holds `SAM_FILES`
HUB_2D = {
    "sam-vit-b": "facebook/sam-vit-base",
    "sam-vit-l": "facebook/sam-vit-large",
    "sam-vit-h": "facebook/sam-vit-huge",
    "medsam-vit-b": "wanglab/medsam-vit-base",
}
SAM_FILES = ("config.json", "model.safetensors")


def download(name: str) -> Path:
    """Path of a network's file, or, of a 2D one, of the folder of its files; fetched if the cache lacks any.

    Raises:
        CheckpointError: It cannot be downloaded; says how to get it by hand.
    """
    if name in HUB:
        repository, file = HUB[name]
        by_hand = f"get the file on another machine and open it by path: load_model({file!r})"
        return _fetch(name, repository, (file,), by_hand)[0]
    repository = HUB_2D[name]
    by_hand = "get these files on another machine, put them into one folder and open that by path: "
    return _fetch(name, repository, SAM_FILES, by_hand + f"load_model({repository.split('/')[1]!r})")[0].parent


def _fetch(name: str, repository: str, files: tuple[str, ...], by_hand: str) -> list[Path]:
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
        raise CheckpointError(
            f"{name}: cannot download {what} from {repository} ({type(error).__name__}). Without a network, {by_hand}."
        ) from error
