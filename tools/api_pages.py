"""Write the API pages from the docstrings: `python tools/api_pages.py out/docs`, or `make docs`.

One page for each module of the package, and an index; pages ask no host for anything.
"""

import pkgutil
import sys
import warnings
from pathlib import Path

import pdoc

import seganypet


def modules() -> list[str]:
    """Names of the package, its wings and all their modules."""
    found = pkgutil.walk_packages(seganypet.__path__, "seganypet.")
    return ["seganypet", *sorted(module.name for module in found if not module.name.endswith("__main__"))]


def write_pages(folder: Path, *names: str) -> None:
    """Write the pages of these modules.

    Raises:
        UserWarning: A module that cannot be imported, or a docstring that cannot be read.
    """
    pdoc.render.configure(docformat="google", footer_text=f"seganypet {seganypet.__version__}")
    with warnings.catch_warnings():
        # pdoc leaves out what it cannot import, with a warning.
        warnings.filterwarnings("error", module="pdoc")
        # A package brings its modules along, unless its __all__ says otherwise; they are named here all the same.
        warnings.filterwarnings("ignore", "The module specification .* has already been added")
        pdoc.pdoc(*names, output_directory=folder)


if __name__ == "__main__":
    destination = Path(sys.argv[1])
    write_pages(destination, *modules())
    print(f"Open {destination / 'index.html'}.")
