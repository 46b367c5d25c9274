"""The ``fedkim`` command. Every import that costs time waits until its command runs."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedkim_core import __version__
from fedkim_core.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from fedkim_core.ask import Advisor

USER_ERROR = 2

app = typer.Typer(
    name="fedkim",
    help="Federated knowledge injection for medical foundation models.\n\n"
    "Start with `fedkim run`: five synthetic hospitals teach a foundation model what they know, "
    "without sharing a record, and a page says what it learned.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point: a mistake that the user can mend is one line and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedkim {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of the command itself; the text stands where ``app`` is made."""


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
) -> None:
    """Train, inject, evaluate: a whole federation on this machine.

    Without settings: five synthetic hospitals, three rounds, the bundled foundation model.
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

    Every group and file lies in conf/, every key is explained in fedkim_core/config.py. A wrong
    name or value is refused before anything starts.

    Exit code: 0 completed, 1 failed (the reason, and where the log is), 2 a setting, a file or
    the machine needs your hand, 130 stopped by Ctrl-C.
    """
    require("transformers", "peft", "ray")
    from fedkim_core.runner import run as run_federation

    raise typer.Exit(run_federation(overrides or [], console=_console()))


@app.command()
def simulate(
    out: Annotated[Path, typer.Option(help="New folder for the hospitals and the server's sets.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same patients.")] = 0,
    sites: Annotated[int, typer.Option(min=1, help="Hospitals.")] = 5,
    patients: Annotated[int, typer.Option(min=10, help="Patients of each hospital.")] = 400,
    public_patients: Annotated[int, typer.Option(min=1, help="In the public set.")] = 280,
    validation_patients: Annotated[int, typer.Option(min=1, help="In the validation set.")] = 100,
    test_patients: Annotated[int, typer.Option(min=1, help="In the test set.")] = 300,
) -> None:
    """Write synthetic hospitals as site folders.

    No real patient is in them. The result is what `fedkim run` makes for itself on first use;
    write it out to look at the format, or to start your own experiment from.

    Example:

        fedkim simulate --out hospitals --sites 3 --patients 100

        fedkim run data=folder data.root=hospitals
    """
    from fedkim_core.data.simulate import simulate_network

    with _progress() as progress:
        simulate_network(
            out,
            seed=seed,
            sites=sites,
            patients=patients,
            public_patients=public_patients,
            validation_patients=validation_patients,
            test_patients=test_patients,
            progress=progress,
        )
    typer.echo(f"{out}: {sites} synthetic hospitals, public, validation and test set")


@app.command("check-site")
def check_site(
    folder: Annotated[Path, typer.Argument(help="A site folder, with its site.yaml.")],
    quick: Annotated[
        bool, typer.Option("--quick", help="Look for images and signals without decoding them.")
    ] = False,
    summary: Annotated[
        Path | None,
        typer.Option(help="Write what may be told about a good folder: FILE.json or FILE.md."),
    ] = None,
) -> None:
    """Check a site folder and print every fault, or what is in it.

    A fault names file, row and rule; no patient value is printed. Exit code 2 if there is one.

    `--summary` writes counts for the coordinator, in tens, without a cell of fewer than ten
    patients.

    Example:

        fedkim check-site my-hospital --summary my-hospital.md
    """
    from rich.console import Console

    from fedkim_core.data.site import Site
    from fedkim_core.data.site import check_site as faults_of
    from fedkim_core.data.site_summary import check_suffix, write_summary
    from fedkim_core.view import PrepareView

    if summary is not None:
        check_suffix(summary)
    with PrepareView(Console(stderr=True)) as progress:  # standard output holds faults only
        faults = faults_of(folder, decode=not quick, progress=progress)
    for fault in faults:
        typer.echo(fault)
    if faults:
        raise UserError(f"{folder}: {len(faults)} fault{'s' if len(faults) > 1 else ''}")
    site = Site.open(folder)
    kind = "synthetic" if site.card.synthetic else "not synthetic"
    patients = site.examples["patient_id"].n_unique()
    typer.echo(f"{folder}: {site.card.name}, {kind}, {patients} patients")
    counts = site.examples.group_by("task", "split").len().sort("task", "split")
    for task, split, number in counts.iter_rows():
        typer.echo(f"  {task} {split}: {number}")
    if summary is not None:
        write_summary(site, summary)
        typer.echo(f"{summary}: summary written")


@app.command()
def prepare(
    name: Annotated[str | None, typer.Argument(help="Which data set; see --list.")] = None,
    source: Annotated[
        Path | None, typer.Option(help="The data set, as its owner ships it.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New folder for the site folders.")] = None,
    sites: Annotated[int, typer.Option(min=1, help="Hospitals to divide it into.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of the division, by patient.")] = 0,
    by: Annotated[
        str, typer.Option(help="How patients are dealt out: iid, dirichlet:ALPHA or natural.")
    ] = "iid",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of this data set, KEY=VALUE; --list names them."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--list", help="Show the data sets that are known.")
    ] = False,
) -> None:
    """Turn a public data set into site folders.

    Example:

        fedkim prepare ptbxl --source ptb-xl-1.0.3 --out ecg --sites 3

        fedkim run data=folder data.root=ecg tasks=[ecg_abnormal]
    """
    from fedkim_core.data.adapters import available, settings, settings_of
    from fedkim_core.data.prepare import prepare as write

    adapters = available()
    if show:
        for known, adapter in adapters.items():
            typer.echo(f"{known}")
            typer.echo(f"  modalities: {', '.join(adapter.MODALITIES)}")
            typer.echo(f"  tasks: {', '.join(adapter.TASKS)}")
            typer.echo(f"  licence: {adapter.LICENCE}")
            typer.echo(f"  obtain: {adapter.OBTAIN}")
            for key, value in settings(adapter).items():
                typer.echo(f"  --set {key}={value.default}")
        return
    if name not in adapters:
        raise UserError(f"data set {name or '(none)'}: unknown; one of {', '.join(adapters)}")
    if source is None or out is None:
        raise UserError(f"prepare {name}: needs --source and --out; see fedkim prepare --help")
    with _progress() as progress:
        left_out = write(
            adapters[name],
            source,
            out,
            sites=sites,
            seed=seed,
            by=by,
            settings=settings_of(adapters[name], setting or []),
            progress=progress,
        )
    typer.echo(f"{out}: {sites} site folders, public, validation and test set")
    if left_out:
        typer.echo(f"{out / 'left_out.csv'}: what was left out, {left_out} records")


@app.command()
def propose(
    export: Annotated[Path, typer.Argument(help="A hospital's export: a folder of tables.")],
    out: Annotated[Path, typer.Option(help="New file.")] = Path("mapping.yaml"),
) -> None:
    """Look at a hospital's own export and propose a mapping for `prepare-site`.

    The proposal is a start: it says TODO wherever it could not tell, and every line of it wants to
    be checked by somebody who knows the data. docs/hospital-data.md is the guide.

    Example:

        fedkim propose export --out mapping.yaml
    """
    from fedkim_core.data.hospital.proposal import propose as write

    left = write(export, out)
    lines = "1 line is" if left == 1 else f"{left} lines are"
    typer.echo(f"{out}: proposed; {lines} marked TODO, check the others")


@app.command("prepare-site")
def prepare_site(
    mapping: Annotated[Path, typer.Argument(help="How the export is to be read, mapping.yaml.")],
    out: Annotated[Path, typer.Option(help="New folder for the site folder.")],
) -> None:
    """Turn a hospital's own export into a site folder.

    Patients get pseudonyms; the key stays beside the mapping. What could not be used is listed in
    `OUT.left_out.csv`, by file and row. docs/hospital-data.md is the guide.

    Example:

        fedkim prepare-site mapping.yaml --out my-hospital

        fedkim check-site my-hospital
    """
    from fedkim_core.data.hospital import prepare_site as write

    with _progress() as progress:
        made = write(mapping, out, progress=progress)
    typer.echo(f"{out}: {made.examples} examples of {made.patients} patients")
    if made.left_out:
        typer.echo(f"{made.listed}: what was left out, {made.left_out} lines")


@app.command()
def partition(
    folder: Annotated[Path, typer.Argument(help="A site folder, or a folder that holds some.")],
    out: Annotated[Path, typer.Option(help="New folder for the federation.")],
    sites: Annotated[int, typer.Option(min=1, help="Hospitals to divide it into.")] = 5,
    by: Annotated[
        str,
        typer.Option(help="iid, dirichlet:ALPHA, column:NAME or natural (the sites as they were)."),
    ] = "iid",
    patients: Annotated[
        Path | None,
        typer.Option(help="With column:NAME, a csv or parquet file with patient_id and NAME."),
    ] = None,
    drop: Annotated[
        float, typer.Option(min=0, max=1, help="Chance that a hospital lacks a modality.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the division, by patient.")] = 0,
) -> None:
    """Divide the patients of site folders into a federation, and draw who holds what.

    Example:

        fedkim partition my-hospital --sites 4 --by dirichlet:0.5 --out federation

        fedkim run data=folder data.root=federation
    """
    from fedkim_core.data.federation import column_of, read_folders
    from fedkim_core.data.prepare import write_network

    data = read_folders(folder)
    if by.startswith("column:"):
        if patients is None:
            raise UserError(f"--by {by}: needs --patients, a file with patient_id and that column")
        data = replace(data, natural=column_of(patients, by.removeprefix("column:")))
    with _progress() as progress:
        write_network(data, out, sites=sites, seed=seed, by=by, drop=drop, progress=progress)
    typer.echo(f"{out}: {sites} site folders, public, validation and test set; see holdings.svg")


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
    keep: Annotated[bool, typer.Option("--keep", help="Keep the checkpoints.")] = False,
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
        command.show(_console())
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
        console=_console(),
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
) -> None:
    """Search for settings that do well on the validation set.

    Choices (`a,b`), `range(...)` and `interval(...)` are searched, in Hydra's grammar; choices
    alone are a grid. What is maximised is the mean validation AUROC of the trained tasks; the
    test set decides nothing. After Ctrl-C the same command goes on. Leaves `best.yaml`, a file for
    conf/experiment.

    Example:

        fedkim tune strategy=fedavg,fedprox rounds=3 --out search

        fedkim tune 'strategy.proximal_mu=tag(log,interval(1e-4,1))' strategy=fedprox --out mu

    Exit code: 0 done, 1 every trial failed, 2 a mistake, 130 stopped by Ctrl-C.
    """
    require("optuna", extra="tune")
    require("transformers", "peft", "ray")
    from fedkim_core.tune import command

    raise typer.Exit(
        command.run(overrides, out=out, trials=trials, seed=seed, prune=prune, console=_console())
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
    server = importlib.import_module("server_app.finished")
    typer.echo(str(server.evaluate_run(folder, split, checkpoint, controls=controls)))


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
    _quiet()
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


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
) -> None:
    """Write the report page of a run folder again."""
    from fedkim_core.report import write_report

    typer.echo(str(write_report(folder)))


def require(*modules: str, extra: str = "server,simulation") -> None:
    """Refuse a command whose optional packages are not installed.

    Raises:
        UserError: names the package and how to install it.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise UserError(f"{module} is not installed; install 'fedkim[{extra}]'")


def _advisor(folder: Path) -> "Advisor":
    _quiet()
    from fedkim_core.ask import Advisor, read_answers
    from fedkim_core.report.schema import read_summary

    config, model = importlib.import_module("server_app.finished").load_model(folder)
    summary = read_summary(folder) if (folder / "summary.json").is_file() else None
    return Advisor(model, config, summary, read_answers(folder))


def _quiet() -> None:
    """Silence transformers' progress bars and what it says of its own future."""
    import warnings

    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def _console() -> "Console":
    from rich.console import Console

    # Rich takes 80 columns for a file or pipe; the table of results wants more.
    return Console(width=None if sys.stdout.isatty() else 120)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    from fedkim_core.view import PrepareView

    with PrepareView(_console()) as view:
        yield view


if __name__ == "__main__":
    main()
