"""Serve a notebook as an app, without its code, to browsers on this machine: `seganypet app`, `seganypet annotate`."""

import json
import os
from pathlib import Path
from typing import Any

from traitlets.config import Config

from seganypet._files import as_path, make_folder, replace_atomically, temporary_folder
from seganypet.errors import SegAnyPETError

SERVER = {
    "Voila": {
        "ip": "127.0.0.1",
        "auto_token": True,  # part of the address that is printed; $JUPYTER_TOKEN sets it
        "open_browser": False,
        "tornado_settings": {
            # The page asks no other host, whatever is installed; Voila's template would fetch icons from one.
            "headers": {
                "Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
                "frame-ancestors 'self'",
                "Referrer-Policy": "no-referrer",  # the address holds the token
                "Cross-Origin-Resource-Policy": "same-origin",
                "X-Content-Type-Options": "nosniff",
            },
            # A closed page ends its kernel by a request without the token of this check; with the check the kernel
            # would live on, scan and all. Requests of other sites are refused by `guard.refusal`, and have no cookie.
            "disable_check_xsrf": True,
        },
    },
    "VoilaConfiguration": {
        "strip_sources": True,
        "multi_kernel_manager_class": "seganypet.widgets.guard.LimitedKernels",
    },
    "IdentityProvider": {"cookie_options": {"samesite": "Strict"}},
    # For browsers that vanish without a word; see also `guard.LimitedKernels`.
    "MappingKernelManager": {"cull_idle_timeout": 3600, "cull_interval": 60, "cull_connected": False},
}
ANNOTATION_CELL = """\
import seganypet as sap

cohort = sap.Cohort.from_path({cohort!r})
annotation = sap.Annotation(cohort, sap.load_model({model!r}), {folder!r}, {options})
sap.AnnotationWidget(annotation)
"""


def serve_notebook(
    notebook: str | os.PathLike,
    port: int = 8866,
    base_url: str = "/",
    server_url: str | None = None,
    max_pages: int = 8,
    memory_gb: float = 5.0,
) -> None:
    """Serve a notebook until interrupted; the address is printed, with the token that opens it.

    Args:
        notebook: An .ipynb file; each page that is opened runs it in a kernel of its own.
        port: Port on localhost.
        base_url: Prefix of the page's address, behind a proxy.
        server_url: Prefix that the proxy has taken away; None: `base_url`.
        max_pages: Number of pages, each with a kernel, at a time.
        memory_gb: Memory of each kernel, in GB; kept on Linux only.

    Raises:
        SegAnyPETError: A limit is not positive, no such notebook, or the extra `notebooks` is not installed.
    """
    if not as_path(notebook).is_file():
        raise SegAnyPETError(f"{notebook} does not exist; expected a notebook, such as notebooks/app.ipynb.")
    if max_pages < 1 or not memory_gb > 0:
        raise SegAnyPETError(f"max_pages={max_pages}, memory_gb={memory_gb}; expected at least 1, and more than 0.")
    try:
        from seganypet.widgets.guard import GuardedVoila
    except ImportError as error:
        raise SegAnyPETError("pages need the package voila: pip install 'seganypet[notebooks]'.") from error

    options = [f"--port={port}", f"--base_url={base_url}", f"--server_url={server_url or base_url}"]
    config = Config(SERVER)
    config.LimitedKernels = Config(max_kernels=max_pages, memory_gb=memory_gb)
    with temporary_folder() as folder:
        config.Voila.connection_dir_root = str(folder)
        GuardedVoila.launch_instance([str(notebook), *options], config=config)


def write_annotation_notebook(path: str | os.PathLike, cohort: str | os.PathLike, model: str, **options: Any) -> Path:
    """Write a notebook that opens an `AnnotationWidget` on the folder that it lies in.

    Args:
        path: The notebook.
        cohort: What `Cohort.from_path` opens.
        model: Network by name or path.
        options: Keyword arguments of `Annotation`.

    Returns:
        `path`.

    Raises:
        SegAnyPETError: The folder cannot be made or written.
    """
    path = as_path(path)
    # The kernel starts in the notebook's folder, wherever the command was given.
    model = str(Path(model).resolve()) if Path(model).exists() else model
    said = {key: str(Path(one).resolve()) if isinstance(one, os.PathLike) else one for key, one in options.items()}
    source = ANNOTATION_CELL.format(
        cohort=str(Path(cohort).resolve()),
        model=model,
        folder=str(path.parent.resolve()),
        options=", ".join(f"{key}={one!r}" for key, one in said.items() if one is not None),
    )
    cell = {"cell_type": "code", "id": "annotate", "metadata": {}, "source": source}
    content = {
        "cells": [cell | {"outputs": [], "execution_count": None}],
        "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    make_folder(path.parent)
    with replace_atomically(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path
