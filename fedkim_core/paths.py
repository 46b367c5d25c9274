"""Where the application's own files are, and where it may keep what it can make again."""

import os
from pathlib import Path

APP = Path(__file__).resolve().parent.parent
"""The folder that holds fedkim_core, server_app and client_app."""

CONF = next(
    (c for c in (Path(__file__).resolve().parent / "conf", APP / "conf") if c.is_dir()),
    APP / "conf",
)
"""Configuration: inside the package in a wheel, beside it in a checkout or a Flower bundle."""


def cache_folder() -> Path:
    """Folder for things that can be made again (converted weights, synthetic data, tensors)."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fedkim"
    return Path(os.environ.get("FEDKIM_CACHE", default))
