"""`python -m gpubench` is the command `gpubench`."""

from __future__ import annotations

import sys

from gpubench.cli import main

sys.exit(main())
