"""`studio`: serves the page for mixing songs live."""

import argparse

from nemui_jax import shell
from nemui_jax.cli import console
from nemui_jax.errors import UsageError
from nemui_jax.runs.run import read_run


def studio(args: argparse.Namespace) -> None:
    """Serves the page for mixing songs live, until interrupted."""
    run = read_run(args.run)
    console.start_jax()
    try:
        from nemui_jax.studio.server import serve
    except ImportError as error:
        raise UsageError(f"the studio needs optional packages ({error}): {shell.install('studio')}") from error
    serve(run.path, args.port, not args.no_browser)
