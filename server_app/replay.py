"""A federation recorded once and replayed, for runs that differ in what the server does with it.

Without ``injector.train_encoders`` injection changes nothing that a site receives, so runs that
differ in injector, foundation model or evaluation alone share their federation to the last bit.
``federation.record=true`` keeps every round below ``federation/`` of the run folder;
``federation.replay=RUN`` goes through them again without asking a site. What the foundation model
alone said of the test set is kept as well, for runs that would ask it the same.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedkim_core import config as configuration
from fedkim_core import guard
from fedkim_core.answers import Answers
from fedkim_core.data.examples import Example
from fedkim_core.errors import UserError
from fedkim_core.exchange import Arrays, SiteProfile
from fedkim_core.settings import Config
from server_app.checkpoint import flat, nested
from server_app.evaluation import given, recall
from server_app.loading import identity
from server_app.recorder import Recorder
from server_app.strategy import Inject, KnowledgeStrategy

FOLDER = "federation"
BEFORE = "before.json"


def record(
    run: Path, round: int, aggregated: Arrays, strategy: "KnowledgeStrategy | Replay"
) -> None:
    """Keep the aggregate of ``round``, before injection, and what its sites said and cost."""
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    recorder = strategy.recorder
    # Profiles are asked for before the first round.
    rounds = (0, round) if round == 1 else (round,)
    told = {
        "losses": strategy.losses,
        "communication": [x for x in recorder.communication if x["round"] in rounds],
        "left_out": [x for x in recorder.left_out if x["round"] in rounds],
    }
    save_file(flat(aggregated), _path(folder, round), {"told": json.dumps(told)})
    if round == 1:
        profiles = [asdict(profile) for profile in strategy.profiles.values()]
        content = {"code": guard.code_digest(), "profiles": profiles}
        (folder / "profiles.json").write_text(json.dumps(content))


def record_before(
    run: Path, config: Config, test: Sequence[Example], before: Mapping[str, Answers]
) -> None:
    """Keep what the foundation model alone said of the test set."""
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    content = {"asked": _asked(config, test), "given": given(before)}
    (folder / BEFORE).write_text(json.dumps(content))


def recall_before(config: Config, test: Sequence[Example]) -> dict[str, Answers]:
    """What the recorded run's foundation model alone said; empty if this run would ask otherwise.

    Raises:
        UserError: what was kept cannot be read.
    """
    path = Path(str(config.federation.replay)).expanduser() / FOLDER / BEFORE
    if not path.is_file():  # the recorded run asked no foundation model
        return {}
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); record it again") from error
    return recall(test, content["given"]) if content["asked"] == _asked(config, test) else {}


def _asked(config: Config, test: Sequence[Example]) -> dict[str, Any]:
    """All that the answers of the foundation model alone hang on, to the bit."""
    settings = config.evaluation
    return {
        "foundation": config.foundation.model_dump(mode="json"),
        "batch_size": settings.batch_size,
        "max_new_tokens": settings.max_new_tokens,
        "test": identity(test),
    }


class Replay:
    """Stands where :class:`KnowledgeStrategy` stands, and asks nobody."""

    def __init__(self, config: Config, recorder: Recorder, inject: Inject) -> None:
        self.config, self.recorder, self.inject = config, recorder, inject
        self.source = Path(str(config.federation.replay)).expanduser()
        self.arrays: Arrays = {}
        self.profiles: dict[str, SiteProfile] = {}
        self.losses: dict[str, dict[str, float]] = {}
        self.code, self.run = guard.code_digest(), ""
        self.first_round = 1

    def state(self) -> dict[str, Tensor]:
        """Nothing: what a server optimiser kept is in the recorded rounds already."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to take over."""

    def discover(self, grid: object) -> None:
        """Read who took part.

        Raises:
            UserError: nothing was recorded there, or it is not the federation of this run.
        """
        named = f"federation.replay={self.source}"
        _check_same(self.config, configuration.load(self.source), named)
        try:
            content = json.loads((self.source / FOLDER / "profiles.json").read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{named}: nothing to replay; was it run with record=true?") from error
        if content["code"] != self.code:
            raise UserError(f"{named}: was recorded by other code; record it again")
        for told in content["profiles"]:
            told["modalities"] = tuple(told["modalities"])
            self.profiles[told["site"]] = SiteProfile(**told)

    def start(
        self,
        grid: object,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        evaluate_fn: Callable[[int, ArrayRecord], Any] | None = None,
    ) -> None:
        """All rounds, each injected and evaluated as if its sites had just replied."""
        for round in range(self.first_round, num_rounds + 1):
            began = time.monotonic()
            path = _path(self.source / FOLDER, round)
            try:
                aggregated = nested(load_file(path))
                with safe_open(path, "pt") as file:
                    told = json.loads(file.metadata()["told"])
            except (OSError, SafetensorError) as error:
                raise UserError(f"{path}: cannot be read ({error}); record it again") from error
            self.losses = told["losses"]
            self.recorder.communication += told["communication"]
            self.recorder.left_out += told["left_out"]
            self.arrays = self.inject(round, aggregated)
            with self.recorder.phase("validate", round):
                if evaluate_fn:
                    evaluate_fn(round, initial_arrays)
            self.recorder.event("round", round=round, seconds=time.monotonic() - began)


def _path(folder: Path, round: int) -> Path:
    return folder / f"round-{round:03d}.safetensors"


def _check_same(own: Config, source: Config, named: str) -> None:
    for config in (own, source):
        if config.injector.train_encoders:
            raise UserError(
                f"{named}: with injector.train_encoders=true sites notice the injection"
            )
    mine, theirs = own.site_settings(), source.site_settings()
    for key in mine:
        if mine[key] != theirs[key]:
            raise UserError(f"{named}: its setting of {key} is another")
