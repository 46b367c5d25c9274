"""Keys and certificates, judged by OpenSSL's own rules through the ssl module."""

import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from fedkim_core.deploy import certificates, health
from fedkim_core.errors import UserError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, a server, a site with its certificate, and a CA of somebody else."""
    folder = tmp_path_factory.mktemp("keys")
    authority = folder / "ca.crt", folder / "ca.key"
    certificates.make_authority(*authority, "a federation")
    certificates.make_authority(folder / "other.crt", folder / "other.key", "another")
    certificates.make_server_certificate(
        folder / "server.crt", folder / "server.key", authority, ["fedkim.example.org", "10.1.2.3"]
    )
    public = certificates.make_site_key(folder / "site.key")
    certificates.make_site_certificate(folder / "site.crt", public, authority, "north")
    other = folder / "other.crt", folder / "other.key"
    certificates.make_site_certificate(folder / "stranger.crt", public, other, "north")
    return folder


@contextmanager
def serving(made: Path, *, ask: bool = False, answer: bytes = b"") -> Iterator[str]:
    """A TLS server with this certificate that says the same to everybody; its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made / "server.crt", made / "server.key")
    if ask:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(made / "ca.crt")
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                plain, _ = listening.accept()
            except OSError:
                return  # closed: the test is over
            try:
                with context.wrap_socket(plain, server_side=True) as secured:
                    secured.recv(4096)
                    secured.sendall(answer)
            except OSError:
                continue  # the client refused us, as some tests want

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(5)


def http(status: str = "200 OK", *, ahead: float = 0.0) -> bytes:
    date = (datetime.now(UTC) + timedelta(seconds=ahead)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    return f"HTTP/1.1 {status}\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n".encode()


def test_private_keys_are_private(made: Path) -> None:
    for name in ("ca.key", "server.key", "site.key", "site.pem"):
        assert stat.S_IMODE((made / name).stat().st_mode) == 0o600
    assert certificates.faults_of_key(made / "site.key") == []


def test_no_key_is_overwritten(made: Path) -> None:
    with pytest.raises(UserError, match=r"ca\.key: cannot be written"):
        certificates.make_authority(made / "ca.crt", made / "ca.key", "again")
    with pytest.raises(UserError, match=r"site\.key: cannot be written"):
        certificates.make_site_key(made / "site.key")


def test_a_healthy_server(made: Path) -> None:
    with serving(made, answer=http()) as address:
        assert health.ask(address, made / "ca.crt").fault is None
        by_name = address.replace("127.0.0.1", "localhost")
        assert health.ask(by_name, made / "ca.crt").fault is None


def test_names_of_the_server(made: Path) -> None:
    certificate = x509.load_pem_x509_certificate((made / "server.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fedkim.example.org", "localhost"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["10.1.2.3", "127.0.0.1"]


def test_a_server_of_another_ca_is_not_ours(made: Path) -> None:
    with serving(made, answer=http()) as address:
        fault = health.ask(address, made / "other.crt").fault
    assert fault is not None
    assert "not the server of this CA" in fault


def test_a_server_that_is_ill_or_of_another_time(made: Path) -> None:
    with serving(made, answer=http("503 Service Unavailable")) as address:
        assert "status 503" in str(health.ask(address, made / "ca.crt").fault)
    with serving(made, answer=http(ahead=600)) as address:
        assert "its clock is +" in str(health.ask(address, made / "ca.crt").fault)
    with serving(made, answer=b"") as address:
        assert "does not answer" in str(health.ask(address, made / "ca.crt").fault)
    assert "does not answer" in str(health.ask(address, made / "ca.crt").fault)  # closed


def test_a_server_that_asks_for_a_certificate(made: Path) -> None:
    with serving(made, ask=True, answer=http()) as address:
        pem = made / "site.pem"
        assert health.ask(address, made / "ca.crt", (made / "site.crt", pem)).fault is None
        assert health.ask(address, made / "ca.crt").fault is not None
        assert health.ask(address, made / "ca.crt", (made / "stranger.crt", pem)).fault is not None
        # A server's certificate is none for a client.
        server = made / "server.crt", made / "server.key"
        assert health.ask(address, made / "ca.crt", server).fault is not None


def test_faults_of_a_certificate(made: Path, tmp_path: Path) -> None:
    public, ca = made / "site.pub", made / "ca.crt"
    assert certificates.faults_of_certificate(made / "site.crt", ca, public) == []
    assert "was not issued by" in certificates.faults_of_certificate(made / "stranger.crt", ca)[0]
    other = certificates.make_site_key(tmp_path / "site.key")
    assert "for another key" in certificates.faults_of_certificate(made / "site.crt", ca, other)[0]
    assert "is not a certificate" in certificates.faults_of_certificate(made / "ca.key")[0]
    assert "cannot be read" in certificates.faults_of_certificate(tmp_path / "none.crt")[0]
    assert certificates.days_left(made / "server.crt") == certificates.CERTIFICATE_DAYS - 1


def test_faults_of_a_key(made: Path, tmp_path: Path) -> None:
    key = tmp_path / "site.key"
    certificates.make_site_key(key)
    key.chmod(0o644)
    (tmp_path / "site.pem").unlink()
    assert certificates.faults_of_key(key) == [
        f"{key}: others can read it; chmod 600 {key}",
        f"{tmp_path / 'site.pem'}: cannot be read (No such file or directory)",
    ]
    key.write_text("no key")
    assert "is not a private key" in certificates.faults_of_key(key)[1]


def test_only_a_site_s_public_key_is_registered(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a public key"):
        certificates.read_public(made / "ca.crt")
    with pytest.raises(UserError, match="cannot be read"):
        certificates.read_public(tmp_path / "none.pub")


def test_renewal_keeps_the_key(made: Path) -> None:
    key, before = (made / "server.key").read_bytes(), (made / "server.crt").read_bytes()
    authority = made / "ca.crt", made / "ca.key"
    certificates.make_server_certificate(
        made / "server.crt", made / "server.key", authority, ["fedkim.example.org", "10.1.2.3"]
    )
    assert (made / "server.key").read_bytes() == key
    assert (made / "server.crt").read_bytes() != before
