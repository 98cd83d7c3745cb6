"""Widgets for notebooks and apps; they need the extra `notebooks`.

    click, actions   ClickWidget: slices to click on, a view of a session; what can be done in it
    edits, methods   brush, eraser and spheres; thresholds beside the session
    table, colours, score   numbers of objects; their colours; DSC against a truth
    messages, encoding, transport   what a browser may ask for; what it gets to draw; voxels in pieces
    sittings, export   work that is kept and offered again; files and pictures
    rendering    view3d: a rotating MIP, NiiVue, itkwidgets
    annotate     AnnotationWidget: the cases of a cohort, one after the other
    app, serve   the app: pick or upload a scan, then click
    upload, received   files from a browser: how they come, and how they are opened
    static       the scripts that run in the browser
"""

from importlib.util import find_spec

from seganypet.errors import SegAnyPETError

if find_spec("anywidget") is None:
    raise SegAnyPETError("widgets need the package anywidget: pip install 'seganypet[notebooks]'.")
