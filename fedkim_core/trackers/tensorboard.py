"""TensorBoard: files in ``tensorboard/`` of the run folder."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"


def start(folder: Path) -> "TensorBoard":
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    return TensorBoard(SummaryWriter(str(folder / FOLDER)))


class TensorBoard:
    def __init__(self, writer: SummaryWriter) -> None:
        self._writer = writer

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()
