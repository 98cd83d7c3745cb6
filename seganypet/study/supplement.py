"""The tables of the article's supplement, in the format of this package's results."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from seganypet._files import as_path
from seganypet.errors import SegAnyPETError

if TYPE_CHECKING:
    import pandas

FOLDER = Path(__file__).with_name("published")
FILES = {
    1: "table1_datasets.csv",
    2: "table2_autopet_organ.csv",
    3: "table3_ct_versus_pet.csv",
    4: "table4_training_strategy.csv",
    5: "table5_tumor_zero_shot.csv",
}
COLUMNS = ("target", "seen", "model", "strategy", "modality", "prompt", "click", "per_slice", "dsc", "source")


def published(table: int = 2, folder: str | os.PathLike | None = None) -> "pandas.DataFrame":
    """A table of the SegAnyPET supplement, as published by its authors; nothing in it was measured here.

    Args:
        table: Number of the table. 1: data sets. The others are DSC. 2: twelve organs of AutoPET-Organ, scans from
            another hospital; 3: CT against PET; 4: training strategies; 5: tumours of AutoPET, zero-shot.
        folder: Folder of the CSV files; default: those of this package.

    Returns:
        Table 1: dataset, split, targets, scans, new_data, new_label, source. The others have columns that match the
        results of `evaluate`:

        - target: the organ, "mean" over organs, or "tumour" for all tumours of a scan
        - seen: whether SegAnyPET was trained on such targets; NA where the table does not say
        - model; strategy: how SegAnyPET was trained (table 4), else NA; modality: "PET" or "registered CT"
        - prompt: as printed: "1", "3" or "5" points in a volume; "N", "3N" or "5N", which is 1, 3 or 5 in each of the N
          slices that contain the target; "auto" for none
        - click: the 1, 3 or 5, or NA; per_slice: whether in each slice. Effort is comparable only where per_slice is
          equal.
        - dsc: 0 to 1, mean over scans; source

    Raises:
        SegAnyPETError: There is no such table, or its file is missing.

    Source: Zhang et al., SegAnyPET, ICCV 2025, supplement, Tables 1 to 5.

    >>> published(table=2).query("target == 'liver' and model == 'SegAnyPET' and click == 1")["dsc"].item()
    0.767
    """
    import pandas as pd

    if table not in FILES:
        raise SegAnyPETError(f"no table {table!r}; expected one of {', '.join(map(str, FILES))}, such as table=2.")
    path = (FOLDER if folder is None else as_path(folder)) / FILES[table]
    if not path.is_file():
        raise SegAnyPETError(f"{path} is missing; expected a folder with {', '.join(FILES.values())}.")
    printed = pd.read_csv(path, dtype=str)
    source = f"Zhang et al., ICCV 2025, supplement Table {table}"
    if table == 1:
        yes = {name: printed[name] == "yes" for name in ("new_data", "new_label")}
        return printed.assign(scans=printed["scans"].astype(int), **yes, source=source)

    printed = printed.rename(columns={"organ": "target", "method": "model", "points": "prompt"})
    if table == 2:
        tidy = printed.assign(seen=printed["seen_in_training"] == "yes", percent=printed["dsc_percent"])
    elif table == 3:
        tidy = printed.assign(target="mean", percent=printed["avg_dsc_percent"])
    elif table == 4:
        tidy = pd.concat(
            printed.assign(target="mean", seen=seen, model="SegAnyPET", percent=printed[column])
            for seen, column in ((True, "seen_dsc_percent"), (False, "unseen_dsc_percent"))
        )
    else:
        tidy = printed.assign(target="tumour", seen=False, percent=printed["tumor_dsc_percent"])
    tidy = tidy.assign(
        click=pd.to_numeric(tidy["prompt"].replace({"N": "1", "3N": "3", "5N": "5", "auto": None})),
        per_slice=tidy["prompt"].str.endswith("N"),
        # Rounded, because 90.49 / 100 is 0.9048999999999999.
        dsc=[round(float(percent) / 100, 4) for percent in tidy["percent"]],
        source=source,
    )
    tidy["modality"] = tidy.get("modality", "PET")
    tidy = tidy.reindex(columns=list(COLUMNS)).reset_index(drop=True)
    return tidy.astype({"seen": "boolean", "click": "Int64", "strategy": "string", "per_slice": bool})
