"""Flower's ``flwr-clientapp`` at a hospital, but it runs the code that is installed here.

Stock Flower unpacks the bundle that the server sent and runs that: whoever controls the server
then runs what he likes beside the patients, whatever policy the site has written down. Here the
bundle is never unpacked. The installed application answers, which refuses a server that runs
other code than its own (:func:`fedkim_core.guard.require_digest`).

``fedkim site start`` puts this before Flower's own command on the PATH, where Flower looks for it.
"""

from collections.abc import Callable

from flwr.clientapp import ClientApp
from flwr.supernode.cli.flwr_clientapp import flwr_clientapp
from flwr.supernode.runtime import run_clientapp

from client_app.app import app


def leave_packed(*_: object, **__: object) -> None:
    """What Flower would install is left as it came."""


def installed(*_: object, **__: object) -> Callable[..., ClientApp]:
    """What Flower would load from the bundle is the application that is here."""
    return lambda *_: app


INSTEAD = {"install_from_fab": leave_packed, "get_load_client_app_fn": installed}
"""By the name under which Flower calls it (1.41 has no other seam)."""


def main() -> None:
    """Answer one message, as ``flwr-clientapp`` does.

    Raises:
        AttributeError: this Flower calls other names, and would run the server's code.
    """
    for name, own in INSTEAD.items():
        getattr(run_clientapp, name)
        setattr(run_clientapp, name, own)
    flwr_clientapp()


if __name__ == "__main__":
    main()
