"""Commands about data: make it, check it, turn it into site folders."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fedkim_core.commands.shared import progress_view
from fedkim_core.errors import UserError

app = typer.Typer()


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

    with progress_view() as progress:
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
    with progress_view() as progress:
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

    with progress_view() as progress:
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
    with progress_view() as progress:
        write_network(data, out, sites=sites, seed=seed, by=by, drop=drop, progress=progress)
    typer.echo(f"{out}: {sites} site folders, public, validation and test set; see holdings.svg")
