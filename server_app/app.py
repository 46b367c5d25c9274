"""The server's side: Flower calls :func:`main` once per run."""

import logging

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedkim_core import guard
from fedkim_core.config import split_overrides
from server_app.run import execute

guard.check_origin(__file__)
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run what the run-config key ``overrides`` describes."""
    overrides = split_overrides(str(context.run_config.get("overrides", "")))
    path = execute(overrides, grid)
    logging.getLogger("fedkim").info("summary: %s", path)
