"""A finished run, opened again to be used: its model as the last checkpoint left it."""

from pathlib import Path

from fedkim_core import config as configuration
from fedkim_core.config import Config
from fedkim_core.data.examples import Example
from fedkim_core.data.network import locate, prepare
from fedkim_core.models.injected import InjectedModel
from server_app import checkpoint
from server_app.run import build_model, load_set


def load_model(folder: Path, dtype: str | None = None) -> tuple[Config, InjectedModel]:
    """The model of a run folder, in the run's arithmetic or in ``dtype``.

    Raises:
        UserError: no run folder, no checkpoint, or the foundation model is gone.
    """
    config = configuration.load(folder)
    if dtype is not None:
        foundation = config.foundation.model_copy(update={"dtype": dtype})
        config = config.model_copy(update={"foundation": foundation})
    newest = checkpoint.find(folder, checkpoint.LAST)
    model = build_model(config)
    checkpoint.load(newest, model)
    return config, model.eval()


def load_validation(config: Config) -> tuple[list[Example], bool | None]:
    """The run's validation examples and whether they are synthetic; ``[], None`` if they are gone.

    A synthetic network is made again.

    Raises:
        UserError: the folder is there but breaks the contract.
    """
    if not locate(config.data, config.seed).is_dir():
        if config.data.kind != "synthetic":
            return [], None
        prepare(config)
    return load_set(config, "validation")
