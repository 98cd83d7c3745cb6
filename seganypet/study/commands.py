"""The studies as subcommands of `seganypet`: a signature is a command line, a docstring its help.

Each function calls a study and prints a summary of its table. Options that studies share are `Study` and `Methods`.
PyTorch is imported when a function runs, not before.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

import seganypet as sap
from seganypet._files import make_folder
from seganypet.errors import SegAnyPETError, say

if TYPE_CHECKING:
    import pandas as pd

    from seganypet.cohort.cohort import Cohort

# Options whose help says what holds without them; a default of None or () says nothing.
UNSET = arg(help_behavior_hint="")
OptionalInt = Annotated[int | None, UNSET]
OptionalText = Annotated[str | None, UNSET]
OptionalPath = Annotated[Path | None, UNSET]
Texts = Annotated[tuple[str, ...], UNSET]


@dataclass(frozen=True)
class Study:
    """Options that all studies share.

    Attributes:
        cohort: Cohort table (CSV), AutoPET tree or nnU-Net folder.
        split: Only cases of this split.
        limit: Only the first LIMIT cases.
        processes: Number of cases that are worked on at the same time, each in a process of its own.
        cluster: Address of a Dask scheduler, tcp://host:port, whose workers take the cases instead (extra `cluster`).
        threads: PyTorch's threads in each process; its share of the cores unless given.
        retry_failed: Try cases again that failed before.
    """

    cohort: Positional[Path]
    split: OptionalText = None
    limit: OptionalInt = None
    processes: int = 1
    cluster: OptionalText = None
    threads: OptionalInt = None
    retry_failed: bool = False

    def cases(self) -> "Cohort":
        """The cases that are asked for, but for `limit`, which the study itself applies."""
        cohort = sap.Cohort.from_path(self.cohort)
        return cohort if self.split is None else cohort.filter(split=self.split)

    def engine(self) -> dict[str, Any]:
        """The keyword arguments that all studies have."""
        names = ("limit", "processes", "cluster", "threads", "retry_failed")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Methods:
    """Methods that a study evaluates.

    Attributes:
        models: Networks by name or path, threshold rules, "random_walker"; NAME=... names one in the table.
        rules: Additional threshold rules, such as "41% SUVmax", "SUV>=4", "41% SUVmax, from hottest", "band".
        no_rules: Leave out all threshold rules that are not among the models.
        device: Where networks compute: auto, cpu, cuda, cuda:1, mps. Several GPUs are dealt to the processes.
        precision: Digits of 3D networks; auto is bfloat16 where the processor has units for it, else float32.
        mixed_precision: Allow rows of one network in several precisions, as on a cluster of different machines.
    """

    models: Texts = ()
    rules: Texts = ()
    no_rules: bool = False
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    mixed_precision: bool = False

    def named(self) -> dict[str, str] | list[str]:
        """The models, for a study."""
        from seganypet.study.methods import named_models

        return named_models(self.models)

    def chosen(self) -> dict[str, Any]:
        """Keyword arguments of a study: where networks compute; and `rules`, unless its default is meant."""
        if self.no_rules and self.rules:
            raise SegAnyPETError("--rules and --no-rules exclude each other; give one of them.")
        names = ("device", "precision", "mixed_precision")
        return {name: getattr(self, name) for name in names} | (
            {"rules": self.rules} if self.rules or self.no_rules else {}
        )


def evaluate(
    study: Study,
    methods: Methods,
    clicks: int = 5,
    targets: Texts = (),
    protocol: Literal["whole_volume", "release"] = "whole_volume",
    first: Annotated[Literal["deepest", "random"] | None, UNSET] = None,
    then: Annotated[Literal["largest_error", "random_error"] | None, UNSET] = None,
    seed: int = 0,
    prompt: Literal["click", "scribble", "box", "box3d", "lasso", "mask"] = "click",
    correction: Annotated[Literal["click", "scribble"] | None, UNSET] = None,
    seconds_per_click: float = 2.0,
    modality: tuple[Literal["pet", "ct"], ...] = ("pet",),
    totalsegmentator: OptionalPath = None,
    save_masks: OptionalPath = None,
    output: Path = Path("results.csv"),
) -> None:
    """Segment every target of a cohort under simulated clicks, and print means over patients with 95 % intervals.

    The table has one row for each case, model, target and click; `seganypet.study.evaluation.evaluate` describes its
    columns. An interrupted run resumes with the same command. Failed cases are rows with their error.

    Models:
      tiny, tiny-base, tiny-organs; in 2D tiny-2d, tiny-2d-organs: in the package
      seganypet-v1, -v2, -lesion, sam-med3d, sam-med3d-turbo; in 2D sam-vit-b, -l, -h, medsam-vit-b: downloaded once
      PATH of a .safetensors or .pth file, or of a folder that holds a SAM
      "41% SUVmax", "SUV>=4", ... and random_walker: the same clicks without a network
      propose: organs without a click
      A 2D model is clicked on every slice that holds the target, which 3D models are not told: an oracle.

    Protocols:
      whole_volume: DSC and NSD after each click, over the whole volume, never the best over clicks
      release: that of the public releases, which flatters: a window centred on the truth, random clicks, DSC inside the
      window, the best over clicks so far. For comparison with tables that were made so.

    Prompts:
      click, or as the first one a scribble, box or lasso in the slice with most of the target (of a 2D model: in every
      slice), box3d in space, or mask: a start from an imprecise mask. What a model does not take becomes an error.

    Examples:
      seganypet evaluate data_samples/cohort.csv --models tiny --clicks 5 --output out/results.csv
      seganypet evaluate cohort.csv --models medsam-vit-b --prompt box --no-rules --output boxes.csv
      seganypet evaluate cohort.csv --models tiny tiny-2d mine=runs/mine.safetensors --processes 4
      seganypet evaluate cohort.csv --models tiny --protocol release --no-rules --output release.csv
      seganypet evaluate cohort.csv --rules "41% SUVmax" "SUV>=2.5" --targets liver spleen
      seganypet evaluate cohort.csv --models sam-med3d-turbo --modality pet ct --totalsegmentator TotalSegmentator

    Args:
        study: Cases and resources.
        methods: Models and threshold rules. Without models, the rules alone.
        clicks: Number of clicks on each target.
        targets: Names of targets, such as liver; "lesion" for each single lesion. All unless given.
        protocol: How clicks are simulated and scored, see above.
        first: Strategy of the first click; deepest unless given, random with the protocol release.
        then: Strategy of later clicks; largest_error unless given, random_error with the protocol release.
        seed: Seed of random clicks.
        prompt: Kind of the first prompt, see above.
        correction: Kind of later prompts; scribble after a scribble, click otherwise, unless given.
        seconds_per_click: What a click costs a person, in seconds: assumed, not measured.
        modality: What networks look at: pet, and/or ct, the case's CT laid over its PET.
        totalsegmentator: Folder of TotalSegmentator's output, <case>.nii.gz or <case>/, scored beside the models.
        save_masks: Folder for the masks after the last click, <case>/<model>/<target>.nii.gz.
        output: Table (CSV) that rows are appended to.
    """
    from seganypet.study.automatic import CT, PET

    results = sap.evaluate(
        study.cases(), methods.named(), clicks, targets=targets or None, protocol=protocol, first=first, then=then,
        seed=seed, prompt=prompt, correction=correction, seconds_per_click=seconds_per_click,
        modalities=[{"pet": PET, "ct": CT}[one] for one in modality], totalsegmentator=totalsegmentator,
        save_masks=save_masks, output=in_folder(output), **methods.chosen(), **study.engine(),
    )  # fmt: skip
    _check_failures(results, output)
    summary = sap.summarise(results, sorted({1, 3, 5, int(results["click"].max())}))
    shown = [  # columns that fit a terminal
        name for name in summary
        if not name.startswith(("auc_", "noc85_", "hd95_", "assd_")) or name.endswith(("relative", "failures", "mm"))
    ]
    print_table(summary[shown])


def lesions(
    study: Study,
    methods: Methods,
    clicks: int = 3,
    clicks_at_once: OptionalInt = None,
    promptings: tuple[Literal["all at once", "one by one"], ...] = ("all at once", "one by one"),
    thresholds: tuple[float, ...] = (4.0,),
    min_volume_ml: float = 0.0,
    totalsegmentator: OptionalPath = None,
    save_masks: OptionalPath = None,
    output: Path = Path("tumours.csv"),
    reports: OptionalPath = None,
) -> None:
    """Segment the lesions of a cohort under simulated clicks, and print means over patients with 95 % intervals.

    Networks are clicked on all lesions at once and one by one, those for slices in each slice; thresholds with clicks
    and without are compared with them. `seganypet.study.lesions.analyse_tumours` describes the columns of the table.
    An interrupted run resumes with the same command.

    Examples:
      seganypet lesions FDG-PET-CT-Lesions --models seganypet-v1 sam-vit-b --clicks 5 --reports reports
      seganypet lesions cohort.csv --models tiny-organs --promptings "one by one" --min-volume-ml 1
      seganypet lesions cohort.csv --models tiny-organs --thresholds 2.5 4 --totalsegmentator TotalSegmentator

    Args:
        study: Cases and resources.
        methods: Models and the threshold rules that are clicked on every lesion.
        clicks: Number of clicks on each lesion, and in each slice.
        clicks_at_once: Number of clicks where all lesions are one object; the number of --clicks unless given.
        promptings: How 3D networks are clicked.
        thresholds: SUVs of thresholds without clicks: everything above is called tumour.
        min_volume_ml: Smallest lesion that is clicked one by one, in mL.
        totalsegmentator: Folder of TotalSegmentator's output, <case>.nii.gz or <case>/.
        save_masks: Folder for the masks after the last click, <case>/<model>/<prompting>.nii.gz.
        output: Table (CSV) that rows are appended to.
        reports: Folder for one page for each case.
    """
    table = sap.analyse_tumours(
        study.cases(), methods.named(), clicks=clicks, clicks_at_once=clicks_at_once, promptings=promptings,
        thresholds=thresholds, min_volume_ml=min_volume_ml, totalsegmentator=totalsegmentator,
        save_masks=save_masks, output=in_folder(output), reports=reports, **methods.chosen(), **study.engine(),
    )  # fmt: skip
    _check_failures(table, output)
    print_table(sap.summarise_tumours(table))


def interactive(
    study: Study,
    methods: Methods,
    click_files: OptionalPath = None,
    edition: Literal["IV", "V"] = "IV",
    strokes: Literal["centerline", "random", "boundary"] = "centerline",
    steps: OptionalInt = None,
    one_sided: Literal["stroke", "none"] = "stroke",
    objects: Literal["per_lesion", "single"] = "per_lesion",
    seed: int = 0,
    save_masks: OptionalPath = None,
    output: Path = Path("interactive.csv"),
) -> None:
    """Follow autoPET's interactive protocols: IV, clicks given in advance; V, strokes where the mask is most wrong.

    IV scores after 0, 1, ..., 10 clicks of each kind, V after 0, 1, ..., 5 strokes; AUCs are areas over these steps.
    Prints means over patients with 95 % intervals. An interrupted run resumes with the same command.

    Examples:
      seganypet interactive FDG-PET-CT-Lesions --models seganypet-v1 --click-files clicks
      seganypet interactive cohort.csv --models tiny-organs --rules "41% SUVmax, from hottest" --objects single
      seganypet interactive cohort.csv --models tiny-base --edition V --strokes random --save-masks masks

    Args:
        study: Cases and resources.
        methods: Models and threshold rules. No rule unless given.
        click_files: Folder of <case>_clicks.json or <case>.json; without it, clicks are simulated.
        edition: Edition of the challenge.
        strokes: How strokes are drawn, of edition V.
        steps: Number of the last step; 10 of IV and 5 of V unless given.
        one_sided: What happens where only missing or only false tumour is left, of edition V: a stroke, or none.
        objects: An object for each lesion, or a single one for all.
        seed: Seed of simulated clicks.
        save_masks: Folder for the masks, <case>/<model>/iter_<step>.nii.gz, and of V their strokes.
        output: Table (CSV) that rows are appended to.
    """
    from seganypet.study.interactive import summarise_interactive

    table = sap.evaluate_interactive(
        study.cases(), methods.named(), click_files, edition=edition, strokes=strokes, steps=steps,
        one_sided=one_sided, objects=objects, seed=seed, save_masks=save_masks, output=in_folder(output),
        **methods.chosen(), **study.engine(),
    )  # fmt: skip
    _check_failures(table, output)
    print_table(summarise_interactive(table))


def quantify(
    study: Study,
    threshold: OptionalText = None,
    peak: Literal["global", "local"] = "global",
    propose: bool = False,
    output: Path = Path("quantities.csv"),
) -> None:
    """Measure every organ and lesion of a cohort: SUVmax, SUVmean, SUVpeak, MTV, TLG. Prints medians over cases.

    An interrupted run resumes with the same command; cases whose files have changed are measured again.

    Examples:
      seganypet quantify data_samples/cohort.csv --output out/quantities.csv
      seganypet quantify FDG-PET-CT-Lesions --threshold "41% SUVmax" --processes 4
      seganypet quantify FDG-PET-CT-Lesions --propose --output organs.csv

    Args:
        study: Cases and resources.
        threshold: Threshold rule that narrows the masks of lesions, such as "41% SUVmax" or "SUV>=4".
        peak: Where the sphere of SUVpeak may be centred: on any voxel of the mask, or on its hottest.
        propose: Propose organs where a case has none drawn; the columns proposed_by and confidence say so.
        output: Table (CSV) that rows are appended to.
    """
    table = sap.quantify_cohort(
        study.cases(), threshold=threshold, peak=peak, propose=propose, output=in_folder(output), **study.engine()
    )
    _check_failures(table, output)
    # Single lesions are numbered in each case: lesion_01 of one has nothing to do with that of another.
    table = table.assign(object=table["object"].where(table["kind"] != "lesion", "each lesion"))
    medians = table.pivot_table("value", ["kind", "object"], "quantity", "median", sort=False).round(2)
    say("Medians:")
    print_table(medians.reset_index())
    if drawn_by := sorted(table["proposed_by"].dropna().unique()):
        say(f"Organs that nobody drew were {', '.join(drawn_by)}: nobody has checked them.")


def _check_failures(table: "pd.DataFrame", output: Path) -> None:
    """Say what failed; SegAnyPETError if nothing else is left."""
    failed = table[table["error"].notna()] if "error" in table else table[:0]
    if len(table) == len(failed):
        reason = f": {failed['error'].iloc[0]}" if len(failed) else ""
        raise SegAnyPETError(f"no case could be analysed{reason}; see the warnings, and the column error of {output}.")
    keys = [name for name in ("case", "model", "target") if name in table]
    failed = failed.drop_duplicates(keys)
    for row in failed.head(5).to_dict("records"):
        what = ", ".join(row[name] for name in keys if isinstance(row[name], str) and row[name])
        say(f"failed: case {what}: {row['error']}")
    if len(failed):
        say(f"{len(failed)} failed; the column error says why, and --retry-failed tries again.")


def in_folder(path: Path) -> Path:
    """The same path, in a folder that is made if it is missing."""
    make_folder(path.parent)
    return path


def print_table(table: "pd.DataFrame") -> None:
    """Print a table without empty columns."""
    say(table.dropna(axis="columns", how="all").round(3).to_string(index=False))
