"""Commands that make runs, many runs, and what is said about them."""

import importlib
from pathlib import Path
from typing import Annotated

import typer

from fedkim_core.commands.shared import require, require_run, terminal
from fedkim_core.errors import UserError

app = typer.Typer()


@app.command(no_args_is_help=False)
def run(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Settings to change. A group picks a file of conf/ (strategy=fedprox), a key "
            "changes one value (rounds=5, injector.experts=4), a list stands in brackets.",
        ),
    ] = None,
    server: Annotated[
        Path | None,
        typer.Option(help="Run on the hospitals of this server: the folder of `fedkim server`."),
    ] = None,
) -> None:
    """Train, inject, evaluate: a whole federation on this machine.

    Without settings: five synthetic hospitals, the bundled foundation model.
    Results go to `outputs/<time>/`: `summary.json`, `report.html`, `metrics.jsonl`, checkpoints
    and `run.log`.

    Examples:

        fedkim run

        fedkim run strategy=fedprox rounds=5 seed=1

        fedkim run tasks=[ecg_abnormal] data=folder data.root=/data/ptbxl

        fedkim run foundation=huggingface foundation.model=/models/my-llm

        fedkim run injector=lora output=/results/one-lora

        fedkim run resume=/results/one-lora

    `resume=RUN` goes on with a run that was interrupted, after its last checkpoint, and ends as if
    it had not been; `rounds` may be raised, other settings are the run's own.

    Every group and file lies in conf/, every key is explained in fedkim_core/settings.py. A wrong
    name or value is refused before anything starts.

    Exit code: 0 completed, 1 failed (the reason, and where the log is), 2 a setting, a file or
    the machine needs your hand, 130 stopped by Ctrl-C.
    """
    require("transformers", "peft", "ray")
    from fedkim_core.runner import run as run_federation

    raise typer.Exit(run_federation(overrides or [], console=terminal(), server=server))


@app.command()
def experiment(
    name: Annotated[
        str | None, typer.Argument(help="Of conf/matrix, or the path of such a file; see --list.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the experiment; default experiments/NAME.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Instead of the file's, e.g. 0,1,2.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="This cell only; give it again for more.")
    ] = None,
    more: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of every cell, KEY=VALUE.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run.")] = False,
    any_code: Annotated[
        bool, typer.Option("--any-code", help="Take finished runs of other versions of the code.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep checkpoints and recorded federations.")
    ] = False,
    reuse: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of another experiment: take over its runs; or more than one."),
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Show the experiments that are known.")] = (
        False
    ),
) -> None:
    """Make the runs of an experiment, and tables and figures of them.

    Runs that are done are not made again, unless settings or code have changed; after Ctrl-C the
    same command goes on. A run that fails stops nothing and is tried again by the next call.

    Example:

        fedkim experiment tiny

        fedkim experiment ablation --seeds 0,1,2 --set rounds=3

    Exit code: 0 every run is done, 1 some failed, 2 a mistake, 130 stopped by Ctrl-C.
    """
    from fedkim_core.experiment import command

    if show:
        command.show(terminal())
        return
    if name is None:
        raise UserError("experiment: which one? fedkim experiment --list names them")
    require("transformers", "peft", "ray")
    code = command.run(
        name,
        out=out,
        seeds=seeds,
        only=only or [],
        more=more or [],
        dry_run=dry_run,
        any_code=any_code,
        keep=keep,
        reuse=reuse or [],
        console=terminal(),
    )
    raise typer.Exit(code)


@app.command(no_args_is_help=True)
def tune(
    overrides: Annotated[
        list[str],
        typer.Argument(metavar="KEY=VALUES", help="Settings, of which some vary."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the search; one begun is gone on with.")],
    trials: Annotated[
        int | None, typer.Option(min=1, help="How many in all; default 20, or the whole grid.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what is tried; runs have their own.")] = 0,
    prune: Annotated[bool, typer.Option(help="Stop trials that are below the median.")] = True,
    seeds: Annotated[
        str | None, typer.Option(help="Judge a trial by its mean over runs with these, e.g. 0,1,2.")
    ] = None,
    by: Annotated[
        str, typer.Option(help="auroc, or agreement with the federated heads (no label decides).")
    ] = "auroc",
) -> None:
    """Search for settings that do well on the validation set.

    Choices (`a,b`), `range(...)` and `interval(...)` are searched, in Hydra's grammar; choices
    alone are a grid. What is maximised is the mean validation AUROC of the trained tasks, or how
    nearly the injected model says what the heads say; the test set decides nothing. After Ctrl-C
    the same command goes on. Leaves `best.yaml`, a file for conf/experiment.

    Example:

        fedkim tune strategy=fedavg,fedprox rounds=3 --seeds 0,1 --out search

        fedkim tune 'strategy.proximal_mu=tag(log,interval(1e-4,1))' strategy=fedprox --out mu

    Exit code: 0 done, 1 every trial failed, 2 a mistake, 130 stopped by Ctrl-C.
    """
    require("optuna", extra="tune")
    require("transformers", "peft", "ray")
    from fedkim_core.tune import command

    raise typer.Exit(
        command.run(
            overrides,
            out=out,
            trials=trials,
            seed=seed,
            prune=prune,
            seeds=seeds,
            by=by,
            console=terminal(),
        )
    )


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    split: Annotated[str, typer.Option(help="validation or test.")] = "test",
    controls: Annotated[
        bool,
        typer.Option(
            "--controls", help="Ask also with spoilt features and gate: four times as long."
        ),
    ] = False,
    checkpoint: Annotated[
        str, typer.Option(help="last, best (evaluation.best on the validation set) or a round.")
    ] = "last",
) -> None:
    """Ask the model of a run again, from one of its checkpoints.

    Writes `evaluation-<split>.json` into the run folder (`evaluation-<split>-best.json` and the
    like for another checkpoint), and of the test set and the last round new answers, summary and
    report. docs/evaluation.md says what the controls prove. Needs the extra `server`.
    """
    # The one place where fedkim_core reaches for the server's code, by name and at run time: a
    # hospital's installation has this command without having what it needs.
    require("transformers", "peft")
    require_run(folder)
    server = importlib.import_module("server_app.finished")
    typer.echo(str(server.evaluate_run(folder, split, checkpoint, controls=controls)))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a run or an experiment.")],
) -> None:
    """Write the report page of a run or of an experiment again."""
    from fedkim_core.experiment.page import write_page
    from fedkim_core.experiment.summary import FILE
    from fedkim_core.report import write_report

    write = write_page if (folder / FILE).is_file() else write_report
    typer.echo(str(write(folder)))
