"""`python -m nemui_jax.cli`, the same as `python run.py`."""

import sys

from nemui_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
