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


def main() -> None:
    """Answer one message, as ``flwr-clientapp`` does."""

    def leave_packed(*_: object, **__: object) -> None:
        """What Flower would install is left as it came."""

    def installed(*_: object, **__: object) -> Callable[..., ClientApp]:
        return lambda *_: app

    # flwr 1.41 has no other seam; tests/deploy/test_worker.py holds on to both names.
    run_clientapp.install_from_fab = leave_packed
    run_clientapp.get_load_client_app_fn = installed
    flwr_clientapp()


if __name__ == "__main__":
    main()
