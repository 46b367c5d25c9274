"""Commands that use the model of a finished run."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedkim_core.commands.shared import quiet, require, require_run
from fedkim_core.errors import UserError

if TYPE_CHECKING:
    from fedkim_core.ask import Advisor

app = typer.Typer()


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[Path, typer.Option(help="New folder.")],
    task: Annotated[str | None, typer.Option(help="The task to export.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every task, each in a folder of OUT.")
    ] = False,
    modalities: Annotated[
        str | None, typer.Option(help="Fold the gate for these only, e.g. vitals,labs.")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="Compress the adapter to this rank (truncated SVD).")
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Write the whole model, which needs no base.")
    ] = False,
) -> None:
    """Write a task of a finished run as a model that works without fedkim.

    The gate of the task is folded in: OUT holds a plain PEFT adapter, encoders and connectors, a
    model card, and `load.py`, which needs no fedkim. What the export answers is measured against
    the run on its validation set. docs/using-a-model.md is the guide. Needs the extra `server`.

    Examples:

        fedkim export outputs/RUN --task covid19 --out covid19

        fedkim export outputs/RUN --task mortality --modalities vitals,labs --rank 8 --out small

        fedkim export outputs/RUN --all --merge --out models
    """
    if every == (task is not None):
        raise UserError("export: give --task NAME or --all")
    require("transformers", "peft")
    require_run(folder)
    quiet()
    from fedkim_core.export.export import Wish
    from fedkim_core.export.export import export as write
    from fedkim_core.report.schema import read_summary

    finished = importlib.import_module("server_app.finished")
    config, model = finished.load_model(folder, "float32")
    validation, synthetic = finished.load_validation(config)
    summary = read_summary(folder) if (folder / "summary.json").is_file() else None
    chosen = tuple(name.strip() for name in modalities.split(",")) if modalities else None
    made = write(
        model,
        config,
        list(model.cards) if task is None else [task],
        out,
        Wish(chosen, rank, merge),
        single=not every,
        validation=validation,
        summary=summary,
        synthetic=summary.synthetic if summary else synthetic,
    )
    for one in made:
        typer.echo(f"{one.folder}: {one.said}")


@app.command()
def ask(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    task: Annotated[str, typer.Option(help="What is asked.")],
    image: Annotated[Path | None, typer.Option(help="A radiograph, PNG or DICOM.")] = None,
    signal: Annotated[Path | None, typer.Option(help="A WFDB header, F.hea beside F.dat.")] = None,
    tables: Annotated[
        Path | None, typer.Option(help="One stay, csv or parquet, as in docs/site-folder.md.")
    ] = None,
    note: Annotated[str | None, typer.Option(help="A short note, if the task reads one.")] = None,
    question: Annotated[str | None, typer.Option(help="Default: the task's own.")] = None,
) -> None:
    """Ask the model of a finished run about one patient. Research software, no medical device.

    Says the answer, its probability, how often the model was right when it said such a thing of
    the test patients, and what it was not given. Needs the extra `server`.

    Example:

        fedkim ask outputs/RUN --task covid19 --image chest.png
    """
    require("transformers", "peft")
    from fedkim_core.data.study import read_study

    advisor = _advisor(folder)
    features = read_study(
        advisor.readable(task),
        image=image,
        signal=signal,
        tables=tables,
        hours=advisor.model.cards[task].hours,
        image_size=advisor.config.data.image_size,
    )
    (reply,) = advisor.answer([advisor.example(task, features, question, note)])
    chance = "" if reply.probability is None else f" (probability of yes {reply.probability:.3f})"
    typer.echo(f"{reply.question}\n{reply.answer}{chance}")
    typer.echo(f"given: {', '.join(reply.given)}; not given: {', '.join(reply.lacking) or 'none'}")
    for line in (f"calibration: {reply.calibration}", *reply.notes):
        typer.echo(line)


@app.command()
def serve(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8417,
) -> None:
    """Serve a finished run: a page and an HTTP interface. Research software, no medical device.

    It has no login and no encryption. Leave it on 127.0.0.1, or put a proxy that has both in
    front. What is asked is not kept and not logged. Needs the extras `server` and `serve`.

    Example:

        fedkim serve outputs/RUN

        curl http://127.0.0.1:8417/tasks
    """
    require("fastapi", "uvicorn", "transformers", "peft", extra="server,serve,simulation")
    from fedkim_core.serve.app import LOOPBACK, create_app, listen
    from fedkim_core.serve.app import serve as answer

    bound = listen(host, port)
    app = create_app(_advisor(folder), hosts=LOOPBACK if host in LOOPBACK else ("*",))
    if host not in LOOPBACK:
        typer.echo("warning: reachable from other machines, without login or encryption", err=True)
    typer.echo(f"http://{host}:{bound.getsockname()[1]}/  (Ctrl-C ends it)")
    answer(app, bound)


def _advisor(folder: Path) -> "Advisor":
    require_run(folder)
    quiet()
    from fedkim_core.ask import Advisor, read_answers
    from fedkim_core.report.schema import read_summary

    config, model = importlib.import_module("server_app.finished").load_model(folder)
    summary = read_summary(folder) if (folder / "summary.json").is_file() else None
    return Advisor(model, config, summary, read_answers(folder))
