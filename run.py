# PYTHON_ARGCOMPLETE_OK
"""Neural Music Interpolation from the command line: python run.py --help."""

import sys

from nemui_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
