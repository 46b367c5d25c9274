"""The commands ``fedkim foundation``: which foundation models are known, and would one fit here."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedkim_core.commands.shared import quiet, require
from fedkim_core.errors import UserError

if TYPE_CHECKING:
    from fedkim_core.settings import Config

app = typer.Typer(
    name="foundation",
    help="Foundation models: which are known, whether one would run here.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@app.callback()
def _needs() -> None:
    require("transformers", "peft", extra="server")


@app.command("list")
def show() -> None:
    """Name the foundation models that have a card in conf/foundation."""
    from fedkim_core.models.cards import cards

    for name, settings in cards().items():
        card = settings.card
        assert card is not None
        size = f"{card.parameters / 1e6:,.0f} million parameters, " if card.parameters else ""
        width = f"width {card.width}; " if card.width else ""
        typer.echo(f"{name}: {size}{width}{card.licence}")
        typer.echo(f"  obtain: {card.obtain}")
        if card.note:
            typer.echo(f"  note: {card.note}")


@app.command()
def check(
    model: Annotated[str, typer.Argument(metavar="NAME|FOLDER", help="A card, or a model folder.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings of the run it is meant for."),
    ] = None,
) -> None:
    """Say what would be adapted, and whether memory and time suffice; its weights are not read.

    Reads the model's `config.json`, by name from the cache or the network. Memory is counted, time
    is estimated from one layer that is trained here for a moment. Exit code 2 if it does not fit.

    Examples:

        fedkim foundation check mmedlm2_1_8b

        fedkim foundation check /models/my-llm injector.experts=4 foundation.dtype=bfloat16
    """
    quiet()
    from fedkim_core.models import footprint
    from fedkim_core.models.footprint import gigabytes
    from fedkim_core.models.pace import ROW, measure

    config = _config(model, overrides or [])
    own = footprint.footprint(config)
    typer.echo(
        f"{model}: {own.architecture}, {own.parameters / 1e6:,.0f} million parameters, "
        f"{own.layers} layers of width {own.width}"
    )
    if config.foundation.card:
        typer.echo(f"licence: {config.foundation.card.licence}")
    names = ", ".join(f"{count} {name}" for name, count in own.adapted.items())
    typer.echo(f"adapted: {names or 'nothing'}")
    injector = config.injector
    typer.echo(
        f"trained: {own.trained / 1e6:,.1f} million parameters "
        f"({injector.experts} experts of rank {injector.rank}, gate, connectors)"
    )
    pace = measure(footprint.language_config(config.foundation), injector, own.dtype, own.device)
    tokens = injector.batch_size * ROW
    training = own.training(pace.kept(tokens, own.layers))
    free = footprint.free_memory(own.device, spread=config.foundation.device_map is not None)
    typer.echo(
        f"memory: {gigabytes(own.asking)} to ask it, {gigabytes(training)} to train it "
        f"({own.kept_in} on {own.device}, {injector.batch_size} rows of {ROW} "
        f"tokens); {gigabytes(free)} free"
    )
    step = pace.seconds * tokens * own.layers
    steps = injector.steps * config.rounds
    typer.echo(
        f"time: about {step:.1f} s for a training step, {step * steps / 60:.0f} min for the "
        f"{steps} of a run, by one layer measured now"
    )
    if max(training, own.asking) > free:
        raise UserError(f"{model}: does not fit; {footprint.remedy(config, own, free)}")


@app.command()
def convert(
    model: Annotated[str, typer.Argument(metavar="NAME|FOLDER", help="A card, or a model folder.")],
    out: Annotated[Path, typer.Option(help="New folder.")],
) -> None:
    """Write a foundation model in the plain layout that transformers reads without foreign code.

    What an export of a run on InternLM2 (MMedLM 2), on PyTorch files or on a multimodal model
    calls its base is this.

    Example:

        fedkim foundation convert mmedlm2_1_8b --out mmedlm2-plain
    """
    quiet()
    from fedkim_core.export.base import write_plain
    from fedkim_core.export.folder import new_folder

    with new_folder(out) as scratch:
        write_plain(_config(model, []).foundation, scratch)
    typer.echo(f"{out}: written")


def _config(model: str, overrides: list[str]) -> "Config":
    from fedkim_core.config import compose
    from fedkim_core.paths import CONF

    if (CONF / "foundation" / f"{model}.yaml").is_file():
        return compose([f"foundation={model}", *overrides])
    folder = Path(model).expanduser()
    if not (folder.is_dir() or "/" in model):
        raise UserError(f"{model}: no folder and no card; fedkim foundation list names the cards")
    config = compose(["foundation=huggingface", "foundation.model=given", *overrides])
    # Put in afterwards: a path may hold what means something in an override.
    name = str(folder.absolute()) if folder.is_dir() else model
    settings = config.foundation.model_copy(update={"model": name})
    return config.model_copy(update={"foundation": settings})
