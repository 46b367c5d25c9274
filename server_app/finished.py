"""A finished run, opened again: to be used, or to be asked again."""

from pathlib import Path

from fedkim_core import answers as answers_file
from fedkim_core import config as configuration
from fedkim_core.data.examples import Example
from fedkim_core.data.network import locate, prepare
from fedkim_core.errors import UserError
from fedkim_core.models.injected import InjectedModel
from fedkim_core.report import write_report
from fedkim_core.settings import Config
from server_app import checkpoint, summary
from server_app.columns import ask_all, entries
from server_app.evaluation import ask
from server_app.loading import build_model, load_set


def load_model(folder: Path, dtype: str | None = None) -> tuple[Config, InjectedModel]:
    """The model of a run folder, in the run's arithmetic or, not quantised, in ``dtype``.

    Raises:
        UserError: no run folder, no checkpoint, or the foundation model is gone.
    """
    config = configuration.load(folder)
    if dtype is not None:
        foundation = config.foundation.model_copy(update={"dtype": dtype, "quantised": "none"})
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


def evaluate_run(
    folder: Path, split: str = "test", which: str = checkpoint.LAST, *, controls: bool = False
) -> Path:
    """Ask a checkpoint of a run again; writes ``evaluation-<split>.json``.

    Args:
        split: ``validation`` or ``test``.
        which: ``last``, ``best`` or the number of a round; other than ``last`` it becomes a part
            of the file's name.
        controls: whether to ask with one thing spoilt as well.

    With the test set and the last round, ``answers.parquet``, ``summary.json`` and ``report.html``
    become the new ones, where there is a summary.

    Raises:
        UserError: no run folder, no such checkpoint, or no such set.
    """
    if split not in ("validation", "test"):
        raise UserError(f"split={split}: must be validation or test")
    config = configuration.load(folder)
    chosen = checkpoint.find(folder, which)
    prepare(config)
    examples, synthetic = load_set(config, split)
    model = build_model(config)
    before = ask(model, examples, config.evaluation, plain=True) if config.injector.enabled else {}
    federated = checkpoint.load(chosen, model)
    answers = ask_all(
        config, model, examples, before=before, federated=federated, controls=controls
    )
    tasks = entries(config, answers, synthetic=synthetic)
    round = checkpoint.read_state(chosen)["round"]
    result = {
        "schema_version": 1,
        "split": split,
        "checkpoint": {"which": which, "round": round},
        "synthetic": synthetic,
        "tasks": tasks,
    }
    named = "" if which == checkpoint.LAST else f"-{which}"
    path = summary.write(folder, result, f"evaluation-{split}{named}.json")
    if split == "test" and round == config.rounds:
        answers_file.write(folder, answers)
        if (folder / "summary.json").is_file():
            summary.replace_tasks(folder, tasks)
            write_report(folder)
    return path
