"""What a site keeps of a run from one round to the next: on its own disk, never on the wire.

Flower's ``context.state`` would be lost with the SuperNode's process, and is empty when a run is
gone on with, which is a new run to Flower. Here what was kept after round r stands under the run's
name and r, so a round that is asked again, or after an interruption, finds what it found before.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedkim_core.errors import UserError
from fedkim_core.files import sync
from fedkim_core.paths import cache_folder

ROUNDS = 3
"""Rounds that are kept: a run goes on from its last checkpoint or from the one before."""
DAYS = 7
"""After so long without a round a run's memory is removed."""


class Memory:
    """Tensors by name, of one site in one run.

    Args:
        run: the run's name, as the server says it; hexadecimal.
        site: whose memory it is.
    """

    def __init__(self, run: str, site: str) -> None:
        owner = hashlib.sha256(site.encode()).hexdigest()[:16]
        self._site = cache_folder() / "memory" / owner
        self._folder = self._site / (run or "0")

    def before(self, round: int) -> dict[str, Tensor]:
        """What was kept last before ``round``; empty at first. What came later is forgotten.

        Raises:
            UserError: it cannot be read.
        """
        for path in self._files():
            if _round(path) >= round:
                path.unlink(missing_ok=True)
        kept = self._files()
        if not kept:
            return {}
        try:
            return load_file(kept[-1])
        except (OSError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{kept[-1]}: cannot be read ({reason}); remove it") from error

    def keep(self, round: int, tensors: Mapping[str, Tensor]) -> None:
        """Keep ``tensors`` as what this round leaves.

        Raises:
            UserError: they cannot be written.
        """
        path = self._folder / f"round-{round:06d}.safetensors"
        part = path.with_suffix(".part")
        try:
            if not self._folder.is_dir():
                self._forget_old_runs()
                self._folder.mkdir(mode=0o700, parents=True)
            save_file({name: value.contiguous() for name, value in tensors.items()}, part)
            sync(part)
            os.replace(part, path)
            for old in self._files()[:-ROUNDS]:
                old.unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{path}: cannot be written ({reason}); make room or set FEDKIM_CACHE"
            ) from error

    def _files(self) -> list[Path]:
        """From old to new."""
        return sorted(self._folder.glob("round-*.safetensors"))

    def _forget_old_runs(self) -> None:
        for folder in self._site.glob("*"):
            with suppress(FileNotFoundError):  # another process was faster
                if time.time() - folder.stat().st_mtime > DAYS * 86400:
                    shutil.rmtree(folder, ignore_errors=True)


def _round(path: Path) -> int:
    return int(path.stem.removeprefix("round-"))
