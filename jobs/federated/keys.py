"""Certificates and node keys of a federation. Those of one on this machine are made anew for each
start of a job; an authority that tenants know by their invites is kept.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

VALID = timedelta(days=14)
"""Twice as long as a job may take."""
LOOPBACK = "127.0.0.1"
AUTHORITY, CERTIFICATE, KEY = "ca.pem", "server.pem", "server.key"
"""What a server for TLS reads, in one folder."""


@dataclass(frozen=True)
class Authority:
    """Signs a federation's server certificates; tenants trust nobody else."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls, valid: timedelta) -> "Authority":
        """A new one."""
        key = ec.generate_private_key(ec.SECP256R1())
        ours = _name("Nightshift federation")
        root = (
            _certificate(ours, ours, key, datetime.now(UTC) + valid)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(root, key)

    @classmethod
    def read(cls, certificate: Path, key: Path) -> "Authority":
        """What was written."""
        private = load_pem_private_key(key.read_bytes(), None)
        root = x509.load_pem_x509_certificate(certificate.read_bytes())
        return cls(root, cast(ec.EllipticCurvePrivateKey, private))

    def write_key(self, path: Path) -> None:
        """For its owner only."""
        write_private(path, _pem(self.key))

    def issue(self, folder: Path, hosts: Iterable[str], valid: timedelta) -> None:
        """ca.pem, server.pem and server.key for TLS at `hosts`, never for longer than our own."""
        server = ec.generate_private_key(ec.SECP256R1())
        names = list(dict.fromkeys(hosts))
        ends = min(datetime.now(UTC) + valid, self.certificate.not_valid_after_utc)
        leaf = (
            _certificate(_name(names[0]), self.certificate.subject, server, ends)
            .add_extension(x509.SubjectAlternativeName(map(_host, names)), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        write_private(folder / AUTHORITY, self.certificate.public_bytes(Encoding.PEM))
        write_private(folder / CERTIFICATE, leaf.public_bytes(Encoding.PEM))
        write_private(folder / KEY, _pem(server))


def write_private(path: Path, content: bytes) -> None:
    """A file that only its user can read."""
    path.touch(mode=0o600)
    path.write_bytes(content)


def make_certificates(folder: Path) -> None:
    """ca.pem, server.pem and server.key for TLS on this machine's loopback.

    They count from a day ago, so that a clock that is off by hours refuses nothing.
    """
    Authority.make(VALID).issue(folder, [LOOPBACK], VALID)


def ends_at(certificate: Path) -> datetime:
    """Until when it is valid."""
    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc


def make_node_key(path: Path) -> bytes:
    """Write a node's private key as OpenSSH keeps it; its public key in PEM, to be registered."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    write_private(path, private)
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text[:64])])


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(ends)
    )
