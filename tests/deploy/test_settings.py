"""A site's and a server's settings: what is wrong is one line, and paths count from the file."""

from pathlib import Path

import pytest

from fedkim_core.deploy.settings import SITE_FILE, SiteSettings, load_settings
from fedkim_core.errors import UserError

SITE = """
data: patients
server: {address: "server.example.org:9443", ca: ca.crt}
key: site.key
state: /var/lib/fedkim
logs: logs
"""


def load(folder: Path, text: str) -> SiteSettings:
    (folder / SITE_FILE).write_text(text)
    return load_settings(folder, SiteSettings)


def test_paths_count_from_the_file(tmp_path: Path) -> None:
    settings = load(tmp_path, SITE)
    assert settings.data == tmp_path / "patients"
    assert settings.server.ca == tmp_path / "ca.crt"
    assert settings.server.certificate is None
    assert settings.state == Path("/var/lib/fedkim")
    assert settings.audit == tmp_path / "logs" / "audit"
    assert settings.egress.smallest == 10
    assert settings.egress.metrics == ("loss", "auroc", "examples")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("egress: {smallest: 0}", "egress.smallest=0: input should be greater than or equal to 1"),
        ("egress: {metrics: [loss]}", "egress: egress.metrics: loss needs examples"),
        ("egress: {metrics: [names]}", "egress.metrics.0='names': input should be"),
        ("egress: {array: all}", "egress.array='all': no such setting"),
        ("port: 70000", "port=70000: input should be less than or equal to 65535"),
        ("threads: many", "threads='many': input should be a valid integer"),
        ("log_days: 1.5", "log_days=1.5: input should be a valid integer"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(tmp_path: Path, more: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        load(tmp_path, SITE + more)
    assert str(error.value).startswith(f"{tmp_path / SITE_FILE}: {said}")
    assert "\n" not in str(error.value)


def test_an_address_has_a_port(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"server\.address='https://x': string should match"):
        load(tmp_path, SITE.replace("server.example.org:9443", "https://x"))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="key: field required; state: field required"):
        load(tmp_path, "data: x\nserver: {address: 'a:1', ca: c}\nlogs: l\n")


@pytest.mark.parametrize("text", ["a: [", "- a", "", "\x00"])
def test_what_is_no_mapping_is_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError) as error:
        load(tmp_path, text)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_settings(tmp_path / "nowhere.yaml", SiteSettings)
