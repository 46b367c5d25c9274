"""Keys and certificates: a CA and a server certificate, sites' keys, and what the CA says of them.

ECDSA on P-384 throughout: Flower wants the sites' keys so, and one kind is easier to judge.
Private keys are files of mode 0600 and are never overwritten.
"""

import ipaddress
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedkim_core.errors import UserError

CA_DAYS, CERTIFICATE_DAYS = 3650, 397
PEM = ".pem"
"""Suffix of a site's key in the format of TLS, beside the one in the format of Flower."""


def make_authority(certificate: Path, key: Path, name: str) -> None:
    """A CA of the federation's own; it can sign nothing but end certificates."""
    private = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        _builder(subject, subject, private.public_key(), CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign=True), critical=True)
        .sign(private, hashes.SHA384())
    )
    _write(key, _pem(private))
    _write(certificate, made.public_bytes(Encoding.PEM), mode=0o644)


def make_server_certificate(
    certificate: Path, key: Path, authority: tuple[Path, Path], names: Sequence[str]
) -> None:
    """A key (unless there is one) and a certificate for these host names and addresses."""
    if not key.exists():
        _write(key, _pem(ec.generate_private_key(ec.SECP384R1())))
    own = load_pem_private_key(key.read_bytes(), None)
    usage = ExtendedKeyUsageOID.SERVER_AUTH
    sans = [_general(name) for name in dict.fromkeys([*names, "localhost", "127.0.0.1"])]
    _issue(certificate, own.public_key(), names[0], usage, authority, sans)


def make_site_key(key: Path) -> Path:
    """A site's key for Flower (OpenSSH), the same for TLS beside it; returns the public key."""
    private = ec.generate_private_key(ec.SECP384R1())
    _write(key, private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    _write(key.with_suffix(PEM), _pem(private))
    public = key.with_suffix(".pub")
    text = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    _write(public, text + b"\n", mode=0o644)
    return public


def make_site_certificate(
    certificate: Path, public: Path, authority: tuple[Path, Path], site: str
) -> None:
    """What the CA says of a site's public key; the proxy asks the site for it.

    Raises:
        UserError: ``public`` is not the public key of a site.
    """
    usage = ExtendedKeyUsageOID.CLIENT_AUTH
    _issue(certificate, read_public(public), site, usage, authority, [])


def read_public(path: Path) -> ec.EllipticCurvePublicKey:
    """A site's public key.

    Raises:
        UserError: it is not one.
    """
    try:
        key = load_ssh_public_key(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserError(f"{path}: is not a public key as `fedkim site init` writes it") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise UserError(f"{path}: is not an ECDSA key on P-384, as `fedkim site init` writes it")
    return key


def faults_of_key(key: Path) -> list[str]:
    """What is wrong with a site's private key."""
    faults = []
    for path in (key, key.with_suffix(PEM)):
        try:
            if path.stat().st_mode & 0o077:
                faults.append(f"{path}: others can read it; chmod 600 {path}")
            if path == key:
                load_ssh_private_key(path.read_bytes(), None)
        except OSError as error:
            faults.append(f"{path}: cannot be read ({error.strerror})")
        except (ValueError, UnsupportedAlgorithm):
            faults.append(f"{path}: is not a private key as `fedkim site init` writes it")
    return faults


def faults_of_certificate(
    path: Path, authority: Path | None = None, public: Path | None = None
) -> list[str]:
    """What is wrong with a certificate, e.g. that it is not of this CA, or for another key."""
    try:
        certificate = _read(path)
        if authority is not None:
            certificate.verify_directly_issued_by(_read(authority))
    except UserError as error:
        return [str(error)]
    except (ValueError, TypeError, InvalidSignature):
        return [f"{path}: was not issued by {authority}"]
    faults = []
    if public is not None and certificate.public_key() != read_public(public):
        faults.append(f"{path}: is for another key than {public}")
    if (left := days_left(path)) < 0:
        faults.append(f"{path}: ended {-left} days ago; ask the coordinator for a new one")
    return faults


def days_left(path: Path) -> int:
    """Days until a certificate ends.

    Raises:
        UserError: it cannot be read.
    """
    return (_read(path).not_valid_after_utc - datetime.now(UTC)).days


def _read(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: is not a certificate (PEM)") from error


def _issue(
    path: Path,
    public: object,
    name: str,
    usage: x509.ObjectIdentifier,
    authority: tuple[Path, Path],
    sans: Sequence[x509.GeneralName],
) -> None:
    issuer = _read(authority[0])
    signer = load_pem_private_key(authority[1].read_bytes(), None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise UserError(f"{authority[1]}: is not the key that `fedkim server init` wrote")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        _builder(subject, issuer.subject, public, CERTIFICATE_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    )
    if sans:
        builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
    made = builder.sign(signer, hashes.SHA384())
    _write(path, made.public_bytes(Encoding.PEM), mode=0o644, new=False)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: object, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)  # type: ignore[arg-type]  # a key of any kind that can be certified
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # clocks differ
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign,
        key_cert_sign=sign,
        crl_sign=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, content: bytes, *, mode: int = 0o600, new: bool = True) -> None:
    """Raises UserError when it is there already, unless it may be replaced."""
    flags = os.O_WRONLY | os.O_CREAT | (os.O_EXCL if new else os.O_TRUNC)
    try:
        with os.fdopen(os.open(path, flags, mode), "wb") as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
