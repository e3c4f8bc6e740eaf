"""Where gpubench keeps files of its own: by the platform's convention, or where the environment says."""

from __future__ import annotations

import os
from pathlib import Path

CACHE = "GPUBENCH_CACHE"
"""Environment variable that names the cache folder."""


def cache_folder() -> Path:
    """The folder of what can be fetched or measured again; not made here.

    Returns
    -------
    What `GPUBENCH_CACHE` names, else the platform's: ~/.cache/gpubench on Linux, ~/Library/Caches/gpubench on macOS.
    """
    named = os.environ.get(CACHE)
    if named:
        return Path(named).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("gpubench", appauthor=False)


def config_folder() -> Path:
    """The folder of what the user has written for gpubench, such as a catalogue: ~/.config/gpubench on Linux."""
    from platformdirs import user_config_path

    return user_config_path("gpubench", appauthor=False)
