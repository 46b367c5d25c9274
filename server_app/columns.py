"""Who is asked: every column of ``answers.parquet``, and what the summary says of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedkim_core.answers import Answers, Columns
from fedkim_core.data.examples import Example
from fedkim_core.evidence import task_entries
from fedkim_core.exchange import Arrays
from fedkim_core.models.injected import InjectedModel
from fedkim_core.settings import Config
from server_app.controls import ask_controls
from server_app.evaluation import ask, ask_heads


def ask_injected(
    config: Config, model: InjectedModel, examples: Sequence[Example]
) -> dict[str, Answers]:
    """The injected model's answers; none when nothing is injected."""
    return ask(model, examples, config.evaluation) if config.injector.enabled else {}


def ask_all(
    config: Config,
    model: InjectedModel,
    examples: Sequence[Example],
    *,
    before: Mapping[str, Answers],
    federated: Arrays,
    controls: bool,
) -> dict[str, Mapping[str, Answers]]:
    """Every column of ``answers.parquet``.

    Args:
        before: what the foundation model alone said.
        federated: the extractor as aggregated, before injection.
        controls: whether to ask with one thing spoilt as well.
    """
    size = config.evaluation.batch_size
    answers = {"before": before, "injected": ask_injected(config, model, examples)}
    if config.injector.train_encoders:
        answers["extractor_after"] = ask_heads(model.extractor, examples, size)
    injected_arrays = model.extractor.arrays()
    model.extractor.load_arrays(federated)
    answers["extractor"] = ask_heads(model.extractor, examples, size)
    model.extractor.load_arrays(injected_arrays)
    if controls and config.injector.enabled:
        answers |= ask_controls(model, examples, config.evaluation, config.seed)
    return answers


def entries(config: Config, answers: Columns, *, synthetic: bool) -> dict[str, Any]:
    """The ``tasks`` part of the summary."""
    return task_entries(
        answers,
        config.cards(),
        bootstrap=config.evaluation.bootstrap,
        seed=config.seed,
        synthetic=synthetic,
    )
