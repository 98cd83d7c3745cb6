"""The command `seganypet`, with a subcommand for each study, for training, for the pages, and for data.

Each subcommand is a function: its signature is its command line, its docstring its help. It calls the library and
prints a summary; PyTorch and the like are imported when it runs. `seganypet.study.commands` has the four studies,
`file_commands` `convert` and `table`, `seganypet.training.commands` `train`.
"""

import inspect
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import tyro
from tyro.conf import (
    DisallowNone,
    FlagCreatePairsOff,
    OmitArgPrefixes,
    Positional,
    PositionalMetavarFromFieldName,
    arg,
)
from tyro.extras import SubcommandApp

import seganypet as sap
from seganypet._files import replace_atomically, system_reason
from seganypet.errors import SegAnyPETError, printable, say
from seganypet.study.commands import (
    OptionalPath,
    OptionalText,
    Texts,
    evaluate,
    in_folder,
    interactive,
    lesions,
    print_table,
    quantify,
)
from seganypet.study.file_commands import convert, table
from seganypet.training.commands import config_path, train

if TYPE_CHECKING:
    from seganypet.model.sam3d import Sam3D

DESCRIPTION = """Promptable segmentation of 3D PET. `seganypet SUBCOMMAND --help` shows options and examples.

For research and teaching. Not a medical device, not for clinical use."""
CONFIG = (OmitArgPrefixes, FlagCreatePairsOff, DisallowNone, PositionalMetavarFromFieldName)
ERROR, INTERRUPTED = 2, 130  # exit codes; 130 is what shells report of Ctrl-C
# Options that had another name or meaning before 0.1.0, where, and what to write instead.
RENAMED = (
    ("--model", "evaluate lesions interactive", "--models, once, followed by all of them: --models tiny mine=PATH"),
    ("--baselines", "evaluate", '--rules, as in --rules "41% SUVmax" "SUV>=4"; --no-rules leaves them all out'),
    ("--rule", "evaluate lesions interactive", '--rules, once, followed by all of them: --rules "41% SUVmax" "SUV>=4"'),
    ("--rule", "quantify", '--threshold, as in --threshold "41% SUVmax"'),
    ("--threshold", "lesions", "--thresholds, once, followed by all of them: --thresholds 2.5 4"),
    ("--prompting", "lesions", '--promptings, once, followed by all: --promptings "all at once" "one by one"'),
    ("--least-ml", "lesions", "--min-volume-ml"),
    ("--clicks", "interactive", "--click-files, a folder; --clicks is a number everywhere"),
)  # fmt: skip


def app(
    notebook: Positional[Path] = Path("notebooks/app.ipynb"),
    port: int = 8866,
    base_url: str = "/",
    server_url: OptionalText = None,
    max_pages: int = 8,
    memory_gb: float = 5.0,
    device: str = "auto",
) -> None:
    """Serve a notebook as a page without code to the browsers of this machine, until interrupted.

    Open the address that is printed: it holds the token without which nothing is answered. The server listens on
    localhost only; the README says how to put it behind JupyterHub.

    Examples:
      seganypet app
      seganypet app notebooks/app.ipynb --port 9000

    Args:
        notebook: The page; notebooks/app.ipynb opens samples and uploads, and takes clicks.
        port: Port of the page.
        base_url: Prefix of the page's address, behind a proxy.
        server_url: Prefix that the proxy has taken away; as --base-url unless given.
        max_pages: Number of pages at a time; each has a kernel.
        memory_gb: Memory of each kernel, in GB; kept on Linux only.
        device: Where networks compute: auto, cpu, cuda, cuda:1 or mps.
    """
    _use_device(device)
    from seganypet.widgets.serve import serve_notebook

    serve_notebook(notebook, port, base_url, server_url, max_pages, memory_gb)


def annotate(
    cohort: Positional[Path],
    folder: Positional[Path],
    annotator: str,
    model: str = "tiny-base",
    quality: Annotated[Literal["LQ", "HQ"] | None, arg(help_behavior_hint="")] = None,
    targets: Texts = (),
    refine: OptionalPath = None,
    device: str = "auto",
    port: int = 8866,
    no_serve: bool = False,
) -> None:
    """Annotate a cohort: list what is done, write FOLDER/annotate.ipynb, and serve it to the browsers of this machine.

    The model proposes, a person corrects, and every click is saved. The notebook also opens in JupyterLab.

    Examples:
      seganypet annotate data_samples/cohort.csv junior --annotator "J. Junior"
      seganypet annotate junior/cohort.csv senior --annotator "S. Senior" --refine junior
      seganypet annotate data_samples/cohort.csv junior --annotator "J. Junior" --no-serve

    Args:
        cohort: Cohort table (CSV), AutoPET tree or nnU-Net folder.
        folder: Folder of masks, tables and progress, which belongs to one annotator.
        annotator: Name of the person.
        model: 3D network that proposes, by name or path.
        quality: Quality of the labels; HQ if something is refined, else LQ, unless given.
        targets: What is to be drawn: organs, "lesions" (one object) or "lesion" (each by itself). All unless given.
        refine: Folder of an earlier annotation, whose finished cases are the starting point.
        device: Where the model computes: auto, cpu, cuda, cuda:1 or mps.
        port: Port of the page.
        no_serve: List and write only.
    """
    _use_device(device)
    from seganypet.widgets.serve import serve_notebook, write_annotation_notebook

    options: dict[str, Any] = {"annotator": annotator, "quality": quality, "refine": refine}
    options |= {"targets": targets} if targets else {}
    network = cast("Sam3D", sap.load_model(model))  # Annotation refuses a 2D one
    annotation = sap.Annotation(sap.Cohort.from_path(cohort), network, folder, **options)
    print_table(annotation.progress)
    done = len(annotation.cohort) - len(annotation.remaining)
    say(f"{done} of {len(annotation.cohort)} cases are done.")
    notebook = write_annotation_notebook(folder / "annotate.ipynb", cohort, model, **options)
    say(f"Notebook: {notebook}")
    if not no_serve:
        serve_notebook(notebook, port)


def report(
    scan: Positional[Path],
    journal: Path,
    output: Path = Path("report.html"),
    model: OptionalText = None,
    truth: OptionalPath = None,
    title: OptionalText = None,
    device: str = "auto",
) -> None:
    """Replay a journal of clicks on its scan, and write one self-contained page: pictures, quantities, clicks, origin.

    Examples:
      seganypet report SUV.nii.gz --journal clicks.json --output page.html
      seganypet report PET_AC/ --journal clicks.json --model runs/mine.safetensors --truth SEG.nii.gz

    Args:
        scan: PET scan: NIfTI, or a folder of DICOM files.
        journal: Clicks, as a session or the page saved them.
        output: The page (HTML).
        model: Network that was clicked, by name or path; the one that the journal names unless given.
        truth: Mask or label map of the true lesions (NIfTI, .seg.nrrd, DICOM SEG or RTSTRUCT), drawn and scored beside.
        title: Title of the page; the scan's file name unless given.
        device: Where the network computes: auto, cpu, cuda, cuda:1 or mps.
    """
    import numpy as np

    from seganypet.study.methods import open_session

    recorded = sap.Journal.load(journal)
    volume = open_as_recorded(scan, recorded)
    network = sap.load_model(model or recorded.model.get("name", "tiny"), device)
    session = type(open_session(network, volume)).replay(network, volume, journal)
    lesions = None
    if truth is not None:
        lesions = np.logical_or.reduce([np.zeros(volume.shape, bool), *sap.load_masks(truth, like=volume).values()])
    say(f"Page: {sap.write_report(in_folder(output), session, title=title, truth=lesions)}")


def open_as_recorded(scan: Path, journal: "sap.Journal") -> "sap.Volume":
    """The scan in the unit of a journal, and with what was given by hand when it was opened for that."""
    from seganypet.pet.given import Given

    stated = journal.volume.get("given_by_hand")
    names = [field.name for field in fields(Given)] if scan.is_dir() else ["geometry", "length_unit"]
    given = {name: stated[name] for name in names if isinstance(stated, dict) and name in stated}
    return (sap.load_dicom if scan.is_dir() else sap.load_volume)(scan, unit=journal.volume.get("unit"), **given)


def samples(
    action: Positional[Literal["list", "fetch"]],
    names: Positional[Texts] = (),
    folder: OptionalPath = None,
) -> None:
    """List public real scans, or fetch some and check them.

    Examples:
      seganypet samples list
      seganypet samples fetch STS_002 STS_003

    Args:
        action: "list" shows name, size, licence and content; "fetch" downloads once and checks the SHA-256.
        names: Names of the samples to fetch.
        folder: Folder of the samples; the user's cache unless given.
    """
    if action == "list":
        print_table(sap.samples.list_samples()[["name", "size_mb", "how", "licence", "what"]])
        return
    if not names:
        raise SegAnyPETError("samples fetch: no name given; `seganypet samples list` shows them.")
    for name in names:
        say(sap.samples.fetch(name, folder))


def check(cohort: Positional[Path], no_voxels: bool = False, output: OptionalPath = None) -> int:
    """List everything that is wrong with a cohort: missing or damaged files, other grids, wrong units, strange labels.

    Of a training configuration: what it asks for and its cohort does not have.

    The exit code is 1 if a case cannot be used as it is; warnings alone leave it at 0.

    Examples:
      seganypet check cohort.csv
      seganypet check FDG-PET-CT-Lesions --no-voxels --output problems.csv
      seganypet check supplement

    Args:
        cohort: Cohort table (CSV), AutoPET tree or nnU-Net folder; or a training configuration, as of `train`.
        no_voxels: Read headers only: milliseconds a case, but units and labels are not checked.
        output: Table (CSV) of the problems.
    """
    if not cohort.exists():
        cohort = config_path(cohort)
    if cohort.suffix in (".yaml", ".yml"):
        import pandas as pd

        from seganypet.training.checks import problems_of
        from seganypet.training.config import load_config

        found = problems_of(load_config(cohort), voxels=not no_voxels)
        problems = pd.DataFrame([(severity, "", message) for severity, message in found],
                                columns=["severity", "case", "message"])  # fmt: skip
    elif cohort.is_file():
        problems = sap.Cohort.validate_csv(cohort, voxels=not no_voxels)
    else:
        problems = sap.Cohort.from_path(cohort).validate(voxels=not no_voxels)
    for row in problems.to_dict("records"):
        where = f"case {row['case']}: " if row["case"] else ""
        say(f"{row['severity']}: {where}{row['message']}")
    errors = int((problems["severity"] == "error").sum())
    say(f"{errors} errors, {len(problems) - errors} warnings.")
    if output is not None:
        with replace_atomically(in_folder(output)) as temporary:
            problems.to_csv(temporary, index=False)
    return 1 if errors else 0


def _use_device(device: str) -> None:
    """Make a device that of this process and of the kernels that it starts, unless it is "auto"."""
    if device != "auto":
        from seganypet.model.devices import find_device

        os.environ["SEGANYPET_DEVICE"] = str(find_device(device))


COMMANDS: dict[str, Callable[..., Any]] = {
    command.__name__: command
    for command in (
        evaluate, lesions, interactive, quantify, table, train, app, annotate, report, samples, check, convert,
    )  # fmt: skip
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        arguments: Words of the command line; those of this process unless given.

    Returns:
        Exit code: 0; 1 if `check` found errors, or a study failed in `convert`; 2 after an error of this package, which
        is printed without traceback; 130 after Ctrl-C.

    Raises:
        SystemExit: The command line cannot be understood (2), or help was asked for (0).
    """
    name, *options = words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name == "--version":
        print(f"seganypet {sap.__version__}")
        return 0
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _print_warning
            if name not in COMMANDS:
                return _overview(words)
            _refuse_renamed(name, options)
            return _run(name, options)
    except SegAnyPETError as error:
        print(f"error: {error}", file=sys.stderr)
        return ERROR
    except BrokenPipeError:  # whoever reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"error: {printable(str(error.filename or 'file'))}: {system_reason(error)}", file=sys.stderr)
        return ERROR
    except KeyboardInterrupt:
        print("interrupted; what was finished is on disk, and the same command resumes.", file=sys.stderr)
        return INTERRUPTED


def _run(name: str, options: Sequence[str]) -> int:
    """Parse the options of one subcommand and run it; its help ends with the examples of its docstring."""
    text, _, _ = _text(COMMANDS[name]).partition("\nArgs:")
    text, _, examples = text.partition("\nExamples:\n")
    try:
        return tyro.cli(COMMANDS[name], prog=f"seganypet {name}", description=text, args=options, config=CONFIG) or 0
    except SystemExit:
        if {"-h", "--help"} & set(options):
            print(f"examples:\n{examples.rstrip()}")
        raise


def _overview(words: Sequence[str]) -> int:
    """Help on all subcommands, or the refusal of an unknown one."""
    overview = SubcommandApp()
    for name, command in COMMANDS.items():
        overview.command(name=name, help=_text(command).splitlines()[0])(command)
    return overview.cli(prog="seganypet", description=DESCRIPTION, args=words, config=CONFIG)


def _text(command: Callable[..., Any]) -> str:
    return inspect.getdoc(command) or ""


def _refuse_renamed(command: str, options: Sequence[str]) -> None:
    """Name the new option where an old one is used."""
    said = {option.partition("=")[0].replace("_", "-") for option in options}
    for old, commands, new in RENAMED:
        if old in said and command in commands.split():
            raise SegAnyPETError(f"seganypet {command} has no {old}: write {new}.")


def _print_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    from tqdm.auto import tqdm

    tqdm.write(f"warning: {printable(str(message))}", file=sys.stderr)  # on a line of its own, above a progress bar
