"""Annotation with the mouse: the cases of a cohort one after the other, each in a ClickWidget."""

import os
from collections.abc import Callable
from html import escape
from itertools import count
from typing import Any

import ipywidgets

from seganypet.cohort.annotation import Annotation
from seganypet.cohort.case import Case
from seganypet.errors import SegAnyPETError, WriteError
from seganypet.prompting.base import PromptSession
from seganypet.widgets.click import ClickWidget
from seganypet.widgets.messages import showing_errors


class AnnotationWidget(ipywidgets.VBox):
    """A view of an `Annotation`, which saves every click and can be resumed after a kernel died.

    Args:
        annotation: Annotation whose cases are shown; its first case that is not done is opened.
        with_ct: Whether the CT is laid under the PET where the cohort names one.

    Attributes:
        annotation: Annotation that is shown.
        click_widget: ClickWidget of the open case; None when all are done.
    """

    def __init__(self, annotation: Annotation, *, with_ct: bool = True):
        self.annotation, self.with_ct = annotation, with_ct
        self.click_widget: ClickWidget | None = None
        self._heading, self._message = ipywidgets.HTML(), ipywidgets.HTML()
        self._is_listing = False
        self._targets = {
            target: ipywidgets.Button(description=target, tooltip=f"draw {target}", layout={"width": "auto"})
            for target in annotation.targets
        }
        self._finish = ipywidgets.Button(description="Done, next case", button_style="primary", icon="check")
        self._skip = ipywidgets.Button(description="Later", tooltip="leave this case open and go to the next")
        self._cases = ipywidgets.Dropdown(description="case:", layout={"width": "260px"})
        self._cases.observe(lambda change: self._go_to(change["new"]), "value")
        for target, button in self._targets.items():
            button.on_click(lambda _, target=target: self._do(self.select, target))
        self._finish.on_click(lambda _: self._do(self.finish))
        self._skip.on_click(lambda _: self._do(self.skip))
        draw = ipywidgets.HTML("draw:")
        self._bar = ipywidgets.HBox(
            [draw, *self._targets.values(), self._finish, self._skip, self._cases], layout={"flex_flow": "row wrap"}
        )
        super().__init__()
        if annotation.session is not None:
            self._show(annotation.session)
        else:
            self._go_on()

    # ---- what the mouse can do

    def select(self, target: str) -> None:
        """Draw this target next; each time "lesion" is asked for, another lesion begins."""
        session = self.annotation.session
        if target == "lesion":
            target = next(name for n in count(1) if (name := f"lesion {n}") not in session.objects)
        if self.click_widget is not None:
            self.click_widget.select(target)  # and look there

    def open_case(self, name: str) -> None:
        """Open a case; one that is done is open again until it is finished once more."""
        annotation = self.annotation
        self._show(annotation.open(name) if name in annotation.remaining else annotation.reopen(name))

    def finish(self) -> None:
        """Write the masks of this case, call it done, and open the next."""
        self.annotation.finish()
        self._go_on()

    def skip(self) -> None:
        """Leave this case as it is, saved and open, and go to the next."""
        self._go_on()

    def _go_on(self) -> None:
        """Open the next case that is not done and can be opened; say what is wrong with those that cannot."""
        annotation, problems = self.annotation, []
        names = [case.name for case in annotation.cohort]
        after = 0 if annotation.case is None else names.index(annotation.case.name) + 1
        for name in names[after:] + names[:after]:
            if name in annotation.remaining:
                try:
                    self._show(annotation.open(name))
                    break
                except WriteError:
                    raise  # the case that was open is not saved
                except SegAnyPETError as error:
                    problems.append(f"{name}: {error}")
        else:
            self._nothing_left()
        self._complain(*problems)

    def _go_to(self, name: str | None) -> None:
        """Open the case that was chosen in the list, unless it is the one that is open."""
        shown = None if self.annotation.session is None else self.annotation.case.name
        if not self._is_listing and name not in (None, shown):
            self._do(self.open_case, name)
            self._list_cases()

    # ---- what is shown

    def _list_cases(self) -> None:
        """Say of each case whether it is done; the open one is chosen."""
        annotation = self.annotation
        states = annotation.progress.set_index("case")["state"]
        chosen = None if annotation.session is None else annotation.case.name
        self._is_listing = True  # a list that is renewed chooses its first entry
        self._cases.options = [(f"{case.name} ({states[case.name]})", case.name) for case in annotation.cohort]
        self._cases.value = chosen
        self._is_listing = False

    def _show(self, session: PromptSession) -> None:
        # Whatever fails here: page and annotation are on the same case, and nobody finishes a case unseen.
        case = self.annotation.case
        self._close_view()
        self._heading.value, self._finish.disabled = self._words(case), True
        self.children = [self._heading, self._bar, self._message]
        ct = case.load_ct() if self.with_ct and case.ct is not None else None
        self.click_widget = ClickWidget(session, ct=ct, stopwatch=self.annotation.stopwatch)
        session.watchers.append(self._mark_target)
        self._mark_target()
        self._finish.disabled = False
        self.children = [*self.children, self.click_widget]
        self._list_cases()

    def _mark_target(self) -> None:
        """Show which target is drawn; lesions are numbered objects."""
        active = self.annotation.session.active if self.annotation.session else ""
        for target, button in self._targets.items():
            is_drawn = active == target or (target == "lesion" and active.startswith("lesion"))
            button.button_style = "info" if is_drawn else ""

    def _close_view(self) -> None:
        if self.click_widget is not None:
            self.click_widget.close()
        self.click_widget = None

    def _nothing_left(self) -> None:
        self._close_view()
        left, total = len(self.annotation.remaining), len(self.annotation.cohort)
        done = f"All {total} cases are done." if not left else f"{left} of {total} cases cannot be opened."
        folder = os.path.abspath(self.annotation.folder)
        self._heading.value = f"{done} Masks and tables: {escape(folder)}"
        self._list_cases()
        self.children = [self._heading, self._cases, self._message]

    def _words(self, case: Case) -> str:
        annotation = self.annotation
        done = len(annotation.cohort) - len(annotation.remaining)
        return (
            f"<b>{escape(case.name)}</b> &middot; {done} of {len(annotation.cohort)} done &middot; "
            f"{escape(annotation.annotator)}, {annotation.quality} &middot; started from: {escape(annotation.proposal)}"
        )

    def _do(self, act: Callable[..., None], *arguments: Any) -> None:
        """Do what a button asks. Whatever goes wrong is shown; what nobody foresaw is also raised."""
        self._complain()
        with showing_errors(self._complain):
            act(*arguments)

    def _complain(self, *problems: str) -> None:
        paragraphs = (f"<p role='alert' style='color: #7a0015'>{escape(problem)}</p>" for problem in problems)
        self._message.value = "".join(paragraphs)

    def _repr_mimebundle_(self, **arguments: Any) -> dict:
        """The live view, and for pages without one the picture of the open case."""
        bundle = super()._repr_mimebundle_(**arguments)
        if self.click_widget is None:
            return bundle
        picture = self.click_widget._repr_mimebundle_()[0]["image/png"]
        return {**bundle, "image/png": picture}
