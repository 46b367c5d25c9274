"""What a site and a server are told about themselves: one YAML file each.

A hospital's file is its own decision: what it offers, what may leave, and where things are. The
coordinator cannot change any of it.
"""

from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator

from fedkim_core.errors import UserError

SITE_FILE, SERVER_FILE = "fedkim-site.yaml", "fedkim-server.yaml"

Place = Annotated[Path, Strict(False)]
"""A path; a relative one counts from the folder of the file that names it."""
Port = Annotated[int, Field(ge=1, le=65535)]
Names = Annotated[tuple[str, ...], Strict(False)]
MetricKinds = Annotated[tuple[Literal["loss", "auroc", "examples"], ...], Strict(False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Egress(_Section):
    """What may leave the site; never more than :mod:`fedkim_core.exchange` allows."""

    tasks: Literal["all"] | Names = "all"
    """Tasks that the site takes part in."""
    arrays: Literal["all"] | Names = "all"
    """Modules whose arrays may leave, e.g. ``encoder.image``, ``head.covid19``."""
    metrics: MetricKinds = ("loss", "auroc", "examples")
    """Kinds of metric that may leave."""
    smallest: Annotated[int, Field(ge=1)] = 10
    """Patients that anything which leaves stands on, at least; also the step to which counts are
    rounded down. 1 hides nothing."""
    largest_mb: Annotated[float, Field(gt=0)] = 256.0
    """Size of one message, in 10^6 bytes."""

    @model_validator(mode="after")
    def _metrics_need_their_counts(self) -> "Egress":
        if "loss" in self.metrics and "examples" not in self.metrics:
            raise ValueError("egress.metrics: loss needs examples, the server weighs it by them")
        return self


class ServerAddress(_Section):
    """Where the coordinator's server is, and how it is known."""

    address: Annotated[str, Field(pattern=r"^[A-Za-z0-9.\-]+:[0-9]{1,5}$")]
    """``host:port``, as the server's certificate names the host."""
    ca: Place
    """The coordinator's CA certificate, PEM."""
    certificate: Place | None = None
    """What the coordinator issued to this site, PEM; needed behind a proxy that asks for it."""


class SiteSettings(_Section):
    """A hospital's ``fedkim-site.yaml``."""

    data: Place
    """The site folder; it is only read."""
    server: ServerAddress
    key: Place
    """The site's private key, as ``fedkim site init`` wrote it."""
    state: Place
    """Where the site's processes keep what they need; holds tensors of patients as a cache."""
    logs: Place
    """``site.log`` and the audit log."""
    log_days: Annotated[int, Field(ge=1)] = 30
    """Days that ``site.log`` is kept; the audit log is kept for ever."""
    port: Port = 9094
    """On the loopback interface, between the site's own processes."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """Processor threads for training; null: all cores."""
    egress: Egress = Egress()

    @property
    def audit(self) -> Path:
        return self.logs / "audit"


class ServerSettings(_Section):
    """A coordinator's ``fedkim-server.yaml``."""

    listen: str = "127.0.0.1"
    """Address of the interface; behind a proxy on the same machine the loopback one."""
    port: Port = 9091
    names: Names
    """Host names and addresses under which the sites reach the server."""
    state: Place
    logs: Place
    log_days: Annotated[int, Field(ge=1)] = 30
    ca: Place
    ca_key: Place
    certificate: Place
    key: Place


Settings = TypeVar("Settings", SiteSettings, ServerSettings)


def load_settings(path: Path, kind: type[Settings]) -> Settings:
    """Read a settings file; relative paths in it become absolute.

    Args:
        path: the file, or the folder that holds it under its usual name.
        kind: :class:`SiteSettings` or :class:`ServerSettings`.

    Raises:
        UserError: names the file and every wrong key with its value.
    """
    if path.is_dir():
        path = path / (SITE_FILE if kind is SiteSettings else SERVER_FILE)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    try:
        settings = kind.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path}: {_faults(error)}") from error
    return _absolute(settings, path.absolute().parent)


def _faults(error: ValidationError) -> str:
    lines = []
    for fault in error.errors():
        parts = [
            str(part) for part in fault["loc"] if not str(part).startswith(("literal", "tuple"))
        ]
        value = "" if isinstance(fault["input"], dict | BaseModel) else f"={fault['input']!r}"
        what = "no such setting" if fault["type"] == "extra_forbidden" else fault["msg"]
        what = what.removeprefix("Value error, ")
        lines.append(f"{'.'.join(parts)}{value}: {what[:1].lower()}{what[1:]}".lstrip(": "))
    return "; ".join(dict.fromkeys(lines))


def _absolute(settings: Settings, base: Path) -> Settings:
    changed: dict[str, object] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Path):
            changed[name] = base / value.expanduser()
        elif isinstance(value, ServerAddress):
            certificate = value.certificate and base / value.certificate.expanduser()
            places = {"ca": base / value.ca.expanduser(), "certificate": certificate}
            changed[name] = value.model_copy(update=places)
    return settings.model_copy(update=changed)
