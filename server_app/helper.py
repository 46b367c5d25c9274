"""One of the processes that share the batches of an injection (:mod:`server_app.team`).

``python -m server_app.helper RUN RANK SIZE``, which the server app starts.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from fedkim_core import config as configuration
from fedkim_core.errors import UserError
from fedkim_core.settings import Config
from server_app.injection import Injector
from server_app.loading import build_model, load_set
from server_app.team import STOP, STORE, Team, ready


def main(folder: Path, rank: int, size: int) -> None:
    """Help with one round after the other until there is none any more."""
    config = _on_own_device(configuration.load(folder), rank, size)
    store = dist.FileStore(str((folder / STORE).resolve()), size)
    model = build_model(config)
    public, _ = load_set(config, "public")
    store.set(ready(rank), "")
    team = Team(rank, size, store)
    injector = Injector(
        model, public, config.injector, seed=config.seed, rounds=config.rounds, team=team
    )
    while (round := team.wait()) != STOP:
        injector.inject(round, lambda step, of, loss: None)
    dist.destroy_process_group()


def _on_own_device(config: Config, rank: int, size: int) -> Config:
    """With GPUs one each; without, processor threads are shared out."""
    gpus = torch.cuda.device_count()
    if config.foundation.device != "auto" or not gpus:
        torch.set_num_threads(max(1, torch.get_num_threads() // size))
        return config
    if size > gpus:
        raise UserError(f"injector.processes={size}: there are {gpus} GPUs")
    own = config.foundation.model_copy(update={"device": f"cuda:{rank}"})
    return config.model_copy(update={"foundation": own})


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    except UserError as error:
        sys.exit(str(error))
