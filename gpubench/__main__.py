"""`python -m gpubench` is the command `gpubench`."""

from __future__ import annotations

import os
import sys

from gpubench.cli.main import main
from gpubench.running.interrupt import has_abandoned_work


def run() -> None:
    """Run the command line and end the process with its exit code."""
    code = main()
    if has_abandoned_work():  # Python would wait for the library that Ctrl-C interrupted
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    run()
