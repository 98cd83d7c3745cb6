"""Sliders above a picture: drag and see; where no kernel runs, the picture as it began."""

import io
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import ipywidgets
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DPI = 80  # a picture is drawn and sent at each move of a slider, so it is no larger than a page needs
MARGINS = {"left": 0.1, "right": 0.98, "bottom": 0.18, "top": 0.9, "wspace": 0.3}  # quicker than a layout engine


class Explorer(ipywidgets.VBox):
    """A drawing whose parameters are sliders, menus and boxes to tick.

    Args:
        draw: Function that draws on an empty figure: `draw(figure, blur_mm=6.0, ...)`. It has a default for every
            control; it may return a line of text, shown below the picture.
        controls: For each parameter what `ipywidgets.interact` takes: (lowest, highest, step), a list of choices, or
            True or False.
        size: Width and height of the picture in inches.
        labels: Words beside the controls, by parameter; the parameter's own name otherwise.
        margins: What `Figure.subplots_adjust` takes, where the usual margins do not fit.

    Attributes:
        controls: Widgets by parameter; set `controls["blur_mm"].value` and the picture follows.
        text: The line below the picture.
    """

    def __init__(
        self,
        draw: Callable[..., str | None],
        controls: Mapping[str, Any],
        size: tuple[float, float] = (9.0, 3.4),
        labels: Mapping[str, str] | None = None,
        margins: Mapping[str, float] | None = None,
    ):
        self._draw = draw
        self._margins = {**MARGINS, **(margins or {})}
        self._figure = Figure(figsize=size, dpi=DPI)
        FigureCanvasAgg(self._figure)
        defaults = signature(draw).parameters
        words = labels or {}
        self.controls = {
            name: ipywidgets.interactive.widget_from_abbrev(control, defaults[name].default)
            for name, control in controls.items()
        }
        for name, control in self.controls.items():
            control.description = words.get(name, name.replace("_", " "))
            control.style.description_width = "initial"
            control.observe(self._redraw, "value")
        self._image = ipywidgets.Image(format="png", layout={"max_width": "100%"})
        self._line = ipywidgets.Label()
        row = ipywidgets.HBox([*self.controls.values()], layout={"flex_flow": "row wrap"})
        super().__init__([row, self._image, self._line], layout={"width": f"{size[0] * DPI:g}px", "max_width": "100%"})
        self._redraw()

    @property
    def text(self) -> str:
        return self._line.value

    def _redraw(self, _change: object = None) -> None:
        self._figure.clear()
        values = {name: control.value for name, control in self.controls.items()}
        said = self._draw(self._figure, **values)
        self._figure.subplots_adjust(**self._margins)
        png = io.BytesIO()
        self._figure.savefig(png, format="png")
        with self.hold_sync():
            self._image.value, self._line.value = png.getvalue(), said or ""

    def _repr_mimebundle_(self, **arguments: Any) -> tuple[dict, dict] | dict:
        """The live widget, and for pages without a kernel its picture as it is now."""
        bundle = super()._repr_mimebundle_(**arguments)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        data = {**data, "image/png": bytes(self._image.value), "text/plain": self.text or "sliders above a picture"}
        return data, metadata
