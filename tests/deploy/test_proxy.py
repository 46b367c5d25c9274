"""deploy/ as it is shipped: the proxy by a real nginx, unit files by systemd, the image's parts."""

import http.client
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from fedkim_core.deploy import certificates, health, server, site
from fedkim_core.deploy.settings import SITE_FILE, SiteSettings, load_settings
from fedkim_core.paths import APP
from fedkim_core.superlink import RunFailure

NGINX = os.environ.get("FEDKIM_NGINX") or shutil.which("nginx")
FOLDER = "/etc/fedkim/federation"
MAIN = """
daemon off; master_process off; error_log {folder}/error.log; pid {folder}/nginx.pid;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  include {folder}/fedkim.conf;
}}
"""


def need_nginx() -> None:
    if NGINX is None:
        pytest.skip("nginx is not installed; apt-get install nginx-light, or FEDKIM_NGINX=FILE")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Proxy:
    """nginx with the shipped configuration, before a server that says which path it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, behind = folder, free_port(), free_port()
        self.settings = server.init(folder / "federation", ["localhost"], behind, "127.0.0.1")
        authority = self.settings.ca, self.settings.ca_key
        public = certificates.make_site_key(folder / "site.key")
        certificates.make_site_certificate(folder / "site.crt", public, authority, "north")
        certificates.make_authority(folder / "other.crt", folder / "other.key", "another")
        other = folder / "other.crt", folder / "other.key"
        certificates.make_site_certificate(folder / "stranger.crt", public, other, "north")
        shipped = (APP / "deploy" / "nginx" / "fedkim.conf").read_text()
        for text, replacement in (
            (FOLDER, str(folder / "federation")),
            ("listen 9443", f"listen 127.0.0.1:{self.port}"),
            ("127.0.0.1:9091", f"127.0.0.1:{behind}"),
        ):
            assert text in shipped
            shipped = shipped.replace(text, replacement)
        (folder / "fedkim.conf").write_text(shipped)
        (folder / "nginx.conf").write_text(MAIN.format(folder=folder))

    @contextmanager
    def running(self) -> Iterator[None]:
        command = [str(NGINX), "-p", str(self.folder), "-c", str(self.folder / "nginx.conf")]
        nginx = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                try:
                    socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield
        finally:
            nginx.terminate()
            nginx.wait(30)

    def ask(self, path: str, certificate: str | None = "site.crt") -> tuple[int, str]:
        """Status and body; the path goes out as it is."""
        context = ssl.create_default_context(cafile=str(self.settings.ca))
        if certificate:
            context.load_cert_chain(self.folder / certificate, self.folder / "site.pem")
        connection = http.client.HTTPSConnection(
            "localhost", self.port, timeout=10, context=context
        )
        try:
            connection.request("POST", path, body=b"x")
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


class Echo(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.path.encode())

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    need_nginx()
    made = Proxy(tmp_path_factory.mktemp("proxy"))
    settings = made.settings
    behind = ThreadingHTTPServer((settings.listen, settings.port), Echo)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(settings.certificate, settings.key)
    behind.socket = context.wrap_socket(behind.socket, server_side=True)
    threading.Thread(target=behind.serve_forever, daemon=True).start()
    try:
        with made.running():
            yield made
    finally:
        behind.shutdown()
        behind.server_close()


def test_a_site_reaches_what_it_needs(proxy: Proxy) -> None:
    for path in ("/v1/fleet/activate-node", "/v1/fleet/push-object", "/health"):
        assert proxy.ask(path) == (200, path)
    address = f"localhost:{proxy.port}"
    shown = proxy.folder / "site.crt", proxy.folder / "site.pem"
    assert health.ask(address, proxy.settings.ca, shown).fault is None


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/acquire-task",
        "/docs",
        "/openapi.json",
        "/",
        "/v1/fleet",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet%2f..%2fcontrol/start-run",
        "/v1//control/start-run",
        "/V1/CONTROL/start-run",
        "/health/../v1/control/start-run",
        "/health/",
        "//v1/control/start-run",
        "/v1/fleet/..%2fcontrol/start-run",
    ],
)
def test_and_nothing_else(proxy: Proxy, path: str) -> None:
    status, body = proxy.ask(path)
    assert status in (301, 400, 403)
    assert "control" not in body


@pytest.mark.parametrize("certificate", [None, "stranger.crt"])
def test_whoever_has_no_certificate_of_ours_is_refused(
    proxy: Proxy, certificate: str | None
) -> None:
    """Even of what sites may reach; ``ca.crt`` alone opens nothing."""
    status, body = proxy.ask("/v1/fleet/activate-node", certificate)
    assert status == 400
    assert "/v1/fleet" not in body


@pytest.mark.e2e
def test_a_real_site_connects_with_its_certificate_only(tmp_path: Path) -> None:
    need_nginx()
    proxy = Proxy(tmp_path)
    up = server.service(proxy.settings)
    up.start()
    try:
        with proxy.running():
            address, places = f"localhost:{proxy.port}", proxy.settings
            settings = site.init(tmp_path / "north", tmp_path, address, free_port())
            shutil.copy(places.ca, settings.server.ca)
            certificate = tmp_path / "north" / "north.crt"
            public = settings.key.with_suffix(".pub")
            server.register(places, public, "north", certificate)
            site.install_commands(settings)
            path = tmp_path / "north" / SITE_FILE
            with pytest.raises(RunFailure, match=r"the site ended: .*400 Bad Request"):
                site.service(path, settings).start()
            path.write_text(path.read_text().replace("certificate: null", "certificate: north.crt"))
            settings = load_settings(path, SiteSettings)
            node = site.service(path, settings)
            node.start()
            assert [(s["name"], s["status"]) for s in server.sites(places)] == [("north", "online")]
            assert node.stop()
        up.stop()
        up.start()  # registrations outlive it
        assert [s["name"] for s in server.sites(places)] == ["north"]
    finally:
        assert up.stop()


def test_unit_files_are_what_systemd_expects(tmp_path: Path) -> None:
    systemd = shutil.which("systemd-analyze")
    if systemd is None:
        pytest.skip("systemd-analyze is not installed")
    fedkim = Path(sys.executable).parent / "fedkim"
    for unit in sorted((APP / "deploy" / "systemd").glob("*.service")):
        text = unit.read_text()
        assert "/opt/fedkim/bin/fedkim" in text
        copy = tmp_path / unit.name
        copy.write_text(text.replace("/opt/fedkim/bin/fedkim", str(fedkim)))
        done = subprocess.run([systemd, "verify", str(copy)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        told = [line for line in done.stderr.splitlines() if unit.name in line]
        assert told == []


def test_the_image_copies_what_there_is() -> None:
    """All that can be said without a container engine."""
    folder = APP / "deploy" / "container"
    lines = (folder / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert copied
    assert all((APP / name).exists() for name in copied)
    compose = yaml.safe_load((folder / "compose.yaml").read_text())
    assert compose["services"]["site"]["volumes"][1].endswith(":/data:ro")
