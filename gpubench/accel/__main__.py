"""`python -m gpubench.accel script.py args ...`: run a script or a module with all patches installed."""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path

from gpubench.accel import install, report
from gpubench.core.errors import GpubenchError


def main() -> None:
    """Install all patches, and run the script or module named on the command line with the arguments after it."""
    parser = argparse.ArgumentParser(
        prog="python -m gpubench.accel", description="Run a Python script or module on gpubench, unchanged."
    )
    parser.add_argument("--engine", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--report", action="store_true", help="print at the end which calls ran where")
    parser.add_argument("-m", dest="module", action="store_true", help="the name is that of a module, not of a script")
    parser.add_argument("script", help="path of the script, or name of the module")
    parser.add_argument("args", nargs=argparse.REMAINDER, help="its arguments")
    options = parser.parse_args()
    try:
        install(engine=options.engine)
    except GpubenchError as error:
        parser.error(str(error))
    sys.argv = [options.script, *options.args]
    try:
        if options.module:
            sys.path[0] = str(Path.cwd())
            runpy.run_module(options.script, run_name="__main__", alter_sys=True)
        else:
            sys.path[0] = str(Path(options.script).resolve().parent)
            runpy.run_path(options.script, run_name="__main__")
    finally:
        if options.report:
            sys.stderr.write(f"{report()}\n")


main()
