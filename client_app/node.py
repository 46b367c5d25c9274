"""Flower's ``flower-supernode`` with a certificate of its own, for a proxy that asks for one.

Flower's command verifies the server but cannot show a certificate (flwr 1.41). The first two
arguments are certificate and key, PEM; the rest are Flower's.
"""

import ssl
import sys
from typing import Any

from flwr.supernode import fleet_http_connection
from flwr.supernode.cli import flower_supernode
from flwr.supernode.fleet_http_client import FleetHttpClient

CLIENT = "FleetHttpClient"
"""The name under which Flower makes its connection (1.41 has no other seam)."""


def certified(certificate: str, key: str) -> type[FleetHttpClient]:
    """A Fleet client that shows a certificate."""

    class CertifiedClient(FleetHttpClient):
        @classmethod
        def from_server_address(
            cls,
            server_address: str,
            insecure: bool,
            root_certificates: bytes | str | None,
            interceptors: Any,
            **more: Any,
        ) -> Any:
            if insecure or not isinstance(root_certificates, bytes):
                raise ValueError("a certificate is shown to a server that is verified only")
            context = ssl.create_default_context(cadata=root_certificates.decode("ascii"))
            context.load_cert_chain(certificate, key)
            return cls(
                f"https://{server_address}", interceptors=interceptors, verify=context, **more
            )

    return CertifiedClient


def main() -> None:
    certificate, key = sys.argv[1:3]
    del sys.argv[1:3]
    setattr(fleet_http_connection, CLIENT, certified(certificate, key))
    flower_supernode()


if __name__ == "__main__":
    main()
