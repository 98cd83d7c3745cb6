"""Serve a notebook as an app, without its code, to browsers on this machine.

    python -m seganypet.widgets.serve notebooks/app.ipynb --port=8866

Further options are Voila's, and win over `SERVER`.
"""

from collections.abc import Sequence

from traitlets.config import Config

SERVER = {
    "Voila": {
        "ip": "127.0.0.1",  # whoever reaches the port needs no password
        "open_browser": False,
        "tornado_settings": {
            # The page asks no other host, whatever is installed; Voila's template would fetch icons from one.
            "headers": {
                "Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
                "frame-ancestors 'self'"
            },
            # A closed page ends its kernel by a request with the kernel's id, which nobody else knows, but without the
            # token of this check; with the check the kernel would live on, scan and all.
            "disable_check_xsrf": True,
        },
    },
    "VoilaConfiguration": {"strip_sources": True},
    # For browsers that vanish without a word. A kernel whose page is open stays.
    "MappingKernelManager": {"cull_idle_timeout": 3600, "cull_connected": False},
}


def serve(arguments: Sequence[str] | None = None) -> None:
    """Serve until interrupted; arguments as on the command line."""
    from voila.app import Voila

    Voila.launch_instance(arguments, config=Config(SERVER))


if __name__ == "__main__":
    serve()
