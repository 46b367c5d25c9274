"""A run on a federation that is up already, instead of on a private SuperLink."""

from pathlib import Path

from fedkim_core.deploy import health, server
from fedkim_core.deploy.settings import ServerSettings
from fedkim_core.errors import UserError
from fedkim_core.superlink import CONNECTION, RunFailure, SuperLink


class Federation(SuperLink):
    """The SuperLink of ``fedkim server start``; what is started here is a run and its log."""

    def __init__(self, scratch: Path, log: Path, settings: ServerSettings) -> None:
        super().__init__(scratch, log)
        self.settings = settings
        self._run: str | None = None

    def start(self) -> None:
        """Look whether the server answers; it is not ours to start.

        Raises:
            UserError: it does not.
        """
        answer = health.ask(server.address(self.settings), self.settings.ca)
        if answer.fault:
            raise UserError(f"{answer.fault}; is it up? fedkim server status")
        (self.scratch / "home" / "config.toml").write_text(server.connection(self.settings))

    def submit(self, app: Path, run_config: Path, *, supernodes: int, workers: int) -> str:
        """Start a run on whatever sites are connected; the numbers are a simulation's."""
        answer = self._flwr("run", str(app), CONNECTION, "--run-config", str(run_config))
        self._run = str(answer["run-id"])
        return self._run

    def idle(self) -> bool:
        """Never known: the run's process is not ours to see."""
        return False

    def alive(self) -> bool:
        """Not ours to know at once: a busy server may be late; whoever asks for the status sees."""
        return True

    def stop(self) -> None:
        """End what is still going on of the run; the server and the sites stay up."""
        try:
            if self._run is not None and not self.status(self._run).finished:
                self._flwr("stop", self._run, CONNECTION)
        except RunFailure as error:  # it may be the reason why we stop
            with self.log.open("a", encoding="utf-8") as log:
                log.write(f"{error}\n")
        super().stop()
