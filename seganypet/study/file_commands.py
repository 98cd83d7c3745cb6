"""What turns files into other files, as subcommands of `seganypet`: `convert` and `table`."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

import seganypet as sap
from seganypet.errors import SegAnyPETError, say
from seganypet.study.commands import OptionalInt, OptionalPath, OptionalText, Texts, in_folder


def convert(
    source: Positional[Path],
    output: Positional[Path],
    layout: Literal["autopet", "nnunet"] = "autopet",
    series: Texts = (),
    masks: OptionalPath = None,
    no_masks: bool = False,
    no_ct: bool = False,
    processes: int = 1,
    limit: OptionalInt = None,
) -> int:
    """Convert DICOM studies to NIfTI in AutoPET's or nnU-Net's layout: SUV, CT on the PET's grid, masks.

    Of each study the attenuation corrected PET is taken, the CT in its frame of reference, and its DICOM SEG or
    RTSTRUCT. Where several fit, the study is refused with their list. OUTPUT also gets conversion.csv, a row for each
    study, and cohort.csv for the other subcommands. Folders are named by PatientID and study date: pseudonymise first.

    An interrupted run resumes with the same command; what failed is tried again, what is new or changed converted. The
    exit code is 1 if a study failed.

    Examples:
      seganypet convert dicom/ converted/
      seganypet convert dicom/ Dataset042_PET --layout nnunet --masks masks/ --processes 4
      seganypet convert study/ converted/ --series 1.2.840.113619.2.1 1.2.840.113619.2.7

    Args:
        source: Folder of DICOM files: a study, or studies of several patients in any arrangement.
        output: Folder of the result.
        layout: <patient>/<study>/{SUV,CTres,SEG}.nii.gz, or imagesTr, labelsTr and dataset.json.
        series: SeriesInstanceUIDs to take where a study holds several PETs, CTs or masks that fit.
        masks: Folder of masks instead of those in the studies: <case>, <study> or <patient> with an ending of NIfTI,
            NRRD or DICOM.
        no_masks: Convert no masks.
        no_ct: Convert no CT.
        processes: Number of studies that are converted at the same time, each in a process of its own.
        limit: Only the first LIMIT studies.
    """
    if masks is not None and no_masks:
        raise SegAnyPETError("--masks and --no-masks exclude each other; give one of them.")
    done = sap.convert(
        source, output, layout, series=series, masks=not no_masks if masks is None else masks, ct=not no_ct,
        processes=processes, limit=limit,
    )  # fmt: skip
    failed = done.table["error"].notna()
    for severity, sentences in (("warning", done.skipped), ("error", done.damaged)):
        for sentence in sentences:
            say(f"{severity}: {sentence}")
    for row in done.table.fillna("").to_dict("records"):
        if row["error"] or row["notes"]:
            say(f"{'error' if row['error'] else 'warning'}: case {row['case']}: {row['error'] or row['notes']}")
    say(f"{int((~failed).sum())} studies converted, {int(failed.sum())} failed. Table: {output / 'conversion.csv'}")
    return 1 if failed.any() or done.damaged else 0


def table(
    results: Positional[tuple[Path, ...]],
    like: Annotated[Literal[2, 3, 4, 5], arg(help_behavior_hint="")],
    form: Literal["markdown", "latex", "csv"] = "markdown",
    names: Texts = (),
    against: OptionalText = None,
    measure: Literal["dsc", "nsd"] = "dsc",
    mixed_precision: bool = False,
    output: OptionalPath = None,
) -> None:
    """Print tables of studies as the supplement of the SegAnyPET article does, beside its own numbers.

    Means over patients with 95 % intervals; tests are paired over patients.

    Examples:
      seganypet table table2.csv --like 2 --form latex --against sam-med3d --output table2.tex
      seganypet table finetune.csv cpcl.csv --like 4 --names mine=Fine-Tuning mine-cpcl=CPCL
      seganypet table tumours.csv --like 5

    Args:
        results: Tables (CSV) that studies wrote; their rows are put below each other.
        like: Table of the supplement: 2, organs; 3, CT against PET; 4, training strategies; 5, tumours.
        form: Markdown, LaTeX with booktabs, or CSV with a row for each number.
        names: Printed names, MODEL=NAME; a name of the supplement's puts its numbers beside.
        against: Model that the others are compared with; a star marks what differs (Wilcoxon, Holm, p < 0.05).
        measure: What is printed, in percent.
        mixed_precision: Allow rows of one network in several precisions, as from jobs on different machines.
        output: File; printed unless given.
    """
    import pandas as pd

    from seganypet.study.paper_tables import read_results, write_table

    if unclear := [one for one in names if "=" not in one]:
        raise SegAnyPETError(f"--names {unclear[0]!r}: expected MODEL=NAME, such as mine=SegAnyPET.")
    rows = pd.concat([read_results(path) for path in results], ignore_index=True)
    made = sap.table(
        rows, like, against=against, names=dict(one.rsplit("=", 1) for one in names), measure=measure,
        mixed_precision=mixed_precision,
    )  # fmt: skip
    text = {"markdown": made.to_markdown, "latex": made.to_latex, "csv": made.to_csv}[form]()
    if output is None:
        say(text)
    else:
        write_table(in_folder(output), text)
        say(f"Table: {output}")
