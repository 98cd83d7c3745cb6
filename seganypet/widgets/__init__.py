"""Widgets for notebooks and apps; they need the extra `notebooks`."""

from importlib.util import find_spec

from seganypet.errors import SegAnyPETError

if find_spec("anywidget") is None:
    raise SegAnyPETError("widgets need the package anywidget: pip install 'seganypet[notebooks]'.")
