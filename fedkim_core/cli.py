"""The ``fedkim`` command; its subcommands lie in ``commands``."""

import sys
from typing import Annotated

import typer

from fedkim_core import __version__
from fedkim_core.commands import data, federation, foundation, model, runs
from fedkim_core.errors import UserError

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
for commands in (runs, data, model, foundation, federation):
    app.add_typer(commands.app)


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


if __name__ == "__main__":
    main()
