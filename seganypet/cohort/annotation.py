"""Annotation of a cohort case by case: proposed by a model, corrected by a person, saved at every click.

The workflow of the SegAnyPET supplement's Fig. 1: a model and a junior annotator draw all cases, which gives labels of
low quality (LQ); seniors check and refine some of them, which gives labels of high quality (HQ).

    junior = Annotation(cohort, model, "junior", annotator="J. Junior")
    session = junior.open()  # the first case that is not done, with what the model proposes
    session.select("liver")
    session.click(ijk=(60, 71, 40))
    junior.finish()

    drawn = Cohort.from_csv("junior/cohort.csv")
    senior = Annotation(drawn, model, "senior", annotator="S. Senior", refine="junior")

A folder belongs to one annotator and one quality:

    <case>/progress.json   annotator, state, minutes, numbers of clicks, and the starting point
    <case>/clicks.json     the journal; written after progress.json, so that every journal has its progress
    <case>/mask.nii.gz     organs, numbered as ORGAN_CONVENTIONS["seganypet"]
    <case>/lesions.nii.gz  all other objects, numbered 1, 2, ... in the order of their first clicks
    <case>/objects.seg.nrrd  all objects, if some that share a label map overlap
    cohort.csv             the finished cases, for `Cohort.from_csv`
    annotations.csv        the effort that each of them took

Every file is whole or absent. A case becomes "done" after its masks are written, and the tables are made from all
progress.json, so a process may die at any time: open the folder again and continue.
"""

import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from seganypet import __version__
from seganypet._files import as_path, replace_atomically, system_reason, unsafe_name
from seganypet.cohort.case import QUALITIES, Case
from seganypet.cohort.cohort import Cohort
from seganypet.cohort.labels import ORGAN_CONVENTIONS
from seganypet.cohort.progress import CLICKS, PROGRESS, CaseProgress, holds_progress
from seganypet.errors import AnnotationError, SegAnyPETError
from seganypet.model.sam3d import Sam3D
from seganypet.organs import ORGANS
from seganypet.pet.mask_files import save_masks
from seganypet.pet.volume import Volume, save_mask
from seganypet.prompting.prompts import read_prompt, write_prompt
from seganypet.prompting.proposal import propose
from seganypet.prompting.session import Session
from seganypet.prompting.simulate import first_click
from seganypet.prompting.stopwatch import Stopwatch
from seganypet.regions import overlaps

if TYPE_CHECKING:
    import pandas

MASK, LESIONS, OBJECTS = "mask.nii.gz", "lesions.nii.gz", "objects.seg.nrrd"
COHORT_TABLE, ANNOTATION_TABLE = "cohort.csv", "annotations.csv"
LABEL_OF = {organ: label for label, organ in ORGAN_CONVENTIONS["seganypet"].items()}
ORGAN_WORDS = {word for organ in ORGANS for word in organ.split("_")} - {"left", "right", "upper", "middle", "lower"}


class Annotation:
    """One annotator's work on a cohort, without any display.

    Args:
        cohort: Cases to annotate. Where they have labels, the model's proposals come from clicks in these; organs that
            are not drawn are proposed without, see `seganypet.propose`.
        model: Network from `load_model`.
        folder: Folder of the annotation, created when the first case is opened.
        annotator: Name of the annotator.
        quality: Quality of the labels, "LQ" or "HQ"; default: HQ with `refine`, else LQ.
        targets: Targets to draw: organs, "lesions" (all in one object) or "lesion" (each in its own).
        refine: Folder of an earlier annotation, whose clicks on finished cases are the starting point.
        clock: Function that returns seconds from any origin, for the minutes.

    Attributes:
        case: Case that is open, or was last; None before the first.
        session: Session of the open case; None if no case is open.
        proposal: Description of the starting point, and of what could not be proposed.
        stopwatch: Active time on the case; call its `tick` when the annotator does something that changes no click.

    Raises:
        AnnotationError: The annotator is blank, the quality or a target unknown, a case's name cannot be a folder's,
            the folder belongs to another annotation, a progress.json is damaged, there is nothing to refine, or the
            network does not segment in 3D.
    """

    def __init__(
        self,
        cohort: Cohort,
        model: Sam3D,
        folder: str | os.PathLike,
        *,
        annotator: str,
        quality: str | None = None,
        targets: Sequence[str] = (*ORGANS, "lesion"),
        refine: str | os.PathLike | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not isinstance(annotator, str) or not annotator.strip() or not annotator.isprintable():
            raise AnnotationError(f"annotator={annotator!r}; expected the name of the annotator.")
        if quality not in (None, *QUALITIES):
            raise AnnotationError(f"quality={quality!r}; expected one of {', '.join(QUALITIES)}.")
        known = (*ORGANS, "lesion", "lesions")
        if isinstance(targets, str) or not targets or not set(targets) <= set(known):
            raise AnnotationError(f"targets={targets!r}; expected a list of some of {', '.join(known)}.")
        if refine is not None and not holds_progress(as_path(refine)):
            raise AnnotationError(f"refine={refine}: no <case>/{PROGRESS} in it; expected an Annotation's folder.")
        if not Session.serves(model):
            name = getattr(model, "name", type(model).__name__)
            raise AnnotationError(f"model {name} cannot propose in 3D; expected a network such as load_model('tiny').")
        # Refused are names whose folders would lie outside, be hidden, or coincide where case is ignored.
        found = unsafe_name((case.name for case in cohort), (COHORT_TABLE, ANNOTATION_TABLE))
        if found:
            raise AnnotationError(
                f"{cohort.source}: case {found[0]!r} cannot have a folder of that name: {found[1]}. Rename it in the "
                "cohort table; letters, digits, '-' and '_' are safe."
            )
        self.cohort, self.model, self.folder = cohort, model, as_path(folder)
        self.annotator, self.quality = annotator, quality or ("LQ" if refine is None else "HQ")
        self.targets, self.refine = tuple(targets), None if refine is None else as_path(refine)
        self._organs_wanted = any(target in LABEL_OF for target in self.targets)
        self._lesions_wanted = any(target not in LABEL_OF for target in self.targets)
        self.case: Case | None = None
        self.session: Session | None = None
        self.proposal = ""
        self.stopwatch = Stopwatch(clock)
        self._clock = clock
        self._saved: dict[str, CaseProgress] = {}  # by case, as it stands in the folder
        if holds_progress(self.folder):
            self._write_tables()  # the last process may have died before it did
        elif found := [name for name in (COHORT_TABLE, ANNOTATION_TABLE) if (self.folder / name).exists()]:
            raise AnnotationError(
                f"{self.folder} holds a {found[0]} that no annotation wrote, and that this one would overwrite; choose "
                "another folder."
            )

    @property
    def remaining(self) -> tuple[str, ...]:
        """Names of the cases that are not done, in the cohort's order."""
        return tuple(case.name for case in self.cohort if not _is_done(self._saved.get(case.name)))

    @property
    def progress(self) -> "pandas.DataFrame":
        """One row per case of the cohort: case, state ("new", "open", "done"), minutes, clicks, proposed_clicks."""
        import pandas

        new = CaseProgress(self.annotator, self.quality, proposal="", proposed=[], active="", state="new")
        known = [(case.name, self._saved.get(case.name, new)) for case in self.cohort]
        rows = [(name, now.state, now.minutes, now.clicks, len(now.proposed)) for name, now in known]
        return pandas.DataFrame(rows, columns=["case", "state", "minutes", "clicks", "proposed_clicks"])

    def open(self, case: str | None = None) -> Session:
        """Open a case as it was left, or with a proposal if it is new.

        Args:
            case: Name of the case; default: the first that is not done.

        Returns:
            The session to click in; every change in it is saved at once.

        Raises:
            AnnotationError: The case is done, or all are; its folder cannot be made; its progress.json is damaged.
            JournalError: Saved clicks cannot be replayed, for example with other weights; no file is changed.
            SegAnyPETError: As `Case.load_pet` and `Session`.
        """
        if case is None and not self.remaining:
            raise AnnotationError(f"all {len(self.cohort)} cases are done; reopen(case) changes one.")
        name = self.cohort[self.remaining[0] if case is None else case].name
        if _is_done(self._read(name)):
            raise AnnotationError(f"case {name} is done; reopen({name!r}) to change it.")
        return self._open(name)

    def next(self) -> Session:
        """As `open`, for the next case after this one that is not done; after the last comes the first."""
        names = [case.name for case in self.cohort]
        after = 0 if self.case is None else names.index(self.case.name) + 1
        return self.open(next((name for name in names[after:] + names[:after] if name in self.remaining), None))

    def reopen(self, case: str) -> Session:
        """As `open`, even if the case is done; the tables leave it out until it is finished again."""
        session = self._open(self.cohort[case].name)
        self._write_tables()
        return session

    def finish(self) -> None:
        """Write masks and tables of the open case and mark it as done. If that fails midway, call it again.

        Where two organs, or two lesions, overlap, their label map holds the one whose first click came later;
        `objects.seg.nrrd` then holds both.

        Raises:
            AnnotationError: No case is open, or an object's name could be an organ's or a lesion's.
        """
        if self.session is None:
            raise AnnotationError("no case is open, so none can be finished; open() one first.")
        self._check_objects()
        self._save(self.session)
        organs = {name: LABEL_OF[name] for name in self.session.objects if name in LABEL_OF}
        lesions = [name for name in self.session.objects if name not in LABEL_OF]
        self._write_overlaps(organs, lesions)
        self._write_labels(MASK, organs, self._organs_wanted)
        self._write_labels(LESIONS, {name: label for label, name in enumerate(lesions, 1)}, self._lesions_wanted)
        self._write_progress(replace(self._saved[self.case.name], state="done"))
        self._write_tables()
        self.session = None

    # ---- opening

    def _open(self, name: str) -> Session:
        case, progress, journal = self.cohort[name], self._read(name), self.folder / name / CLICKS
        pet = case.load_pet()
        if journal.is_file():
            session = Session.replay(self.model, pet, journal)
            proposal, proposed = "unknown: its progress.json was lost", []
            session.select(progress.active if progress else session.active)
        else:
            session, proposal = self._propose(case, pet)
            progress, proposed = None, [write_prompt(prompt) for _, prompt in session.journal().prompts]
        try:
            journal.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AnnotationError(f"case {name}: cannot make {journal.parent}: {system_reason(error)}") from error
        progress = progress or CaseProgress(self.annotator, self.quality, proposal, proposed, session.active)
        before = dict(vars(self))
        self._progress = progress
        self.case, self.session, self.proposal = case, session, progress.proposal
        self.stopwatch = Stopwatch(self._clock, seconds=60 * progress.minutes)
        try:
            self._save(session)
        except BaseException:
            vars(self).update(before)  # the case before stays open
            raise
        session.watchers.append(partial(self._save, session))
        return session

    def _propose(self, case: Case, pet: Volume) -> tuple[Session, str]:
        """A session with clicks that the annotator need not make, and a description of their origin."""
        if self.refine is not None:
            earlier = CaseProgress.load(self.refine / case.name / PROGRESS)
            if _is_done(earlier):
                session = Session.replay(self.model, pet, self.refine / case.name / CLICKS)
                return session, f"refines {earlier.annotator} ({earlier.quality})"
        session, drawn, failed = Session(self.model, pet), [], []
        # Organs and lesions apart: if one file cannot be used, the other still can.
        for labelled in (replace(case, lesions=None), replace(case, organs=None)):
            try:
                for target, truth in labelled.targets(pet, self.targets):
                    if not truth.any():
                        continue  # absent from this scan
                    session.select(target)
                    try:
                        mask = session.click(ijk=first_click(truth, spacing=pet.spacing).ijk)
                        problem = session.notice or ("" if mask.any() else "empty mask")
                    except (SegAnyPETError, RuntimeError, MemoryError) as error:  # torch out of memory: RuntimeError
                        problem = f"{type(error).__name__}: {error}"
                    drawn += [] if problem else [target]
                    failed += [f"{target} ({problem})"] if problem else []
            except SegAnyPETError as error:
                failed.append(str(error))
        parts = [f"model: {', '.join(drawn)}"] if drawn else []
        if case.organs is None and self._organs_wanted:
            parts += self._propose_organs(session, failed)
        parts = parts or ["nothing"]
        parts += ["failed: " + ", ".join(failed)] if failed else []
        parts += [f"not done in {self.refine.name}, so not refined"] if self.refine is not None else []
        return session, "; ".join(parts)

    def _propose_organs(self, session: Session, failed: list[str]) -> list[str]:
        """Start the wanted organs from what is proposed without a prompt, and say so."""
        try:
            proposal = propose(session.volume, organs=[name for name in self.targets if name in LABEL_OF])
            for name, mask in proposal.masks.items():
                session.select(name)
                session.start_from(mask)
        except (SegAnyPETError, RuntimeError, MemoryError) as error:
            failed.append(f"organs ({type(error).__name__}: {error})")
            return []
        found = ", ".join(f"{name} (DSC to expect {value:.2f})" for name, value in proposal.confidence.items())
        return [f"{proposal.proposed_by}: {found}"] if found else []

    # ---- saving

    def _save(self, session: Session) -> None:
        """Count the time, save progress and journal; called after every change of the session."""
        if session is not self.session:
            raise AnnotationError(
                f"{session.volume.source}: this session was closed when its case was finished or another opened, so "
                "this change is not saved. Continue in the session that open(case) or reopen(case) returns."
            )
        self.stopwatch.tick()
        journal = session.journal()
        # Compared without the names of their objects, because the annotator may have renamed one.
        own = Counter(prompt for _, prompt in journal.prompts) - Counter(map(read_prompt, self._progress.proposed))
        now = replace(self._progress, active=session.active, state="open", seganypet=__version__)
        self._write_progress(replace(now, minutes=self.stopwatch.seconds / 60, clicks=own.total()))
        journal.save(self.folder / self.case.name / CLICKS)

    def _check_objects(self) -> None:
        """Refuse objects that would be saved as lesions by mistake, which would go unnoticed until training."""
        for name in self.session.objects:
            if name in LABEL_OF or (self._lesions_wanted and name.startswith("lesion")):
                continue
            words = re.findall("[a-z]+", name.lower())
            if not self._lesions_wanted or any(get_close_matches(word, ORGAN_WORDS, cutoff=0.8) for word in words):
                raise AnnotationError(
                    f"case {self.case.name}: object {name!r} would be saved as a lesion. If it is an organ, rename it "
                    f"to one of {', '.join(LABEL_OF)}. If it is a lesion, "
                    + ("rename it to 'lesion ...'." if self._lesions_wanted else "put 'lesion' among the targets.")
                )

    def _write_overlaps(self, *label_maps: Iterable[str]) -> None:
        path, mask_of = self.folder / self.case.name / OBJECTS, self.session.mask_of
        if any(overlaps(map(mask_of, names)) for names in label_maps):
            drawn = {name: mask for name, mask in self.session.masks.items() if mask.any()}
            save_masks(path, drawn, self.session.volume)
        else:
            path.unlink(missing_ok=True)

    def _write_labels(self, file: str, labels: dict[str, int], wanted: bool) -> None:
        path, label_map = self.folder / self.case.name / file, np.zeros(self.session.volume.shape, np.uint8)
        for name, label in labels.items():
            label_map[self.session.mask_of(name)] = label
        if labels or wanted:
            save_mask(path, label_map, self.session.volume)
        else:
            path.unlink(missing_ok=True)  # an empty map would mean "there is none", but nobody was asked to look

    def _write_progress(self, progress: CaseProgress) -> None:
        name = self.case.name
        path = self.folder / name / PROGRESS
        if CaseProgress.load(path) != self._saved.get(name):
            raise AnnotationError(
                f"{path}: changed by another process since this case was opened, perhaps a second notebook; nothing "
                f"was overwritten. Close the other one, then open({name!r}) again."
            )
        with replace_atomically(path) as temporary:
            temporary.write_text(json.dumps(asdict(progress), indent=1) + "\n")
        self._progress = self._saved[name] = progress

    def _write_tables(self) -> None:
        import pandas

        for path in sorted(self.folder.glob(f"*/{PROGRESS}")):
            self._read(path.parent.name)
        done = {name: progress for name, progress in sorted(self._saved.items()) if _is_done(progress)}
        here = [case.name for case in self.cohort]
        cases, table = [self._drawn(self.cohort[name]) for name in here if name in done], self.folder / COHORT_TABLE
        if len(cases) < len(done) and table.is_file():  # the folder was also opened with another part of the cohort
            cases += [case for case in Cohort.from_csv(table) if case.name in done and case.name not in here]
        if cases:
            Cohort(cases, str(table)).to_csv(table)
        else:
            table.unlink(missing_ok=True)  # a cohort without cases is none
        rows = [
            (name, p.annotator, p.quality, round(p.minutes, 2), p.clicks, len(p.proposed), p.proposal, p.seganypet)
            for name, p in done.items()
        ]
        columns = ["case", "annotator", "quality", "minutes", "clicks", "proposed_clicks", "started_from", "seganypet"]
        with replace_atomically(self.folder / ANNOTATION_TABLE) as temporary:
            pandas.DataFrame(rows, columns=columns).to_csv(temporary, index=False)

    def _drawn(self, case: Case) -> Case:
        """The case with the labels drawn here instead of its own."""
        files = [self.folder / case.name / file for file in (MASK, LESIONS)]
        organs, lesions = (file if file.is_file() else None for file in files)
        convention = "seganypet" if organs else None
        return replace(
            case, organs=organs, organ_convention=convention, organ_labels=None, lesions=lesions, lesion_labels=None,
            label_grid=None, quality=self.quality,
        )  # fmt: skip

    def _read(self, name: str) -> CaseProgress | None:
        """The progress of a case in the folder now; AnnotationError if it belongs to another annotator or quality."""
        self._saved.pop(name, None)
        progress = CaseProgress.load(self.folder / name / PROGRESS)
        if progress and (progress.annotator, progress.quality) != (self.annotator, self.quality):
            raise AnnotationError(
                f"{self.folder}: case {name} was annotated by {progress.annotator} ({progress.quality}), not by "
                f"{self.annotator} ({self.quality}); a folder belongs to one annotator and one quality. Choose another "
                "folder; to continue from those labels, give this folder as refine=."
            )
        if progress:
            self._saved[name] = progress
        return progress


def _is_done(progress: CaseProgress | None) -> bool:
    return progress is not None and progress.state == "done"
