"""TLS before a server that has none: a gateway with a certificate of an authority that nobody trusts unasked."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Certificate:
    """One that has signed itself, and so is its own authority."""

    file: Path
    key: Path

    @classmethod
    def made(cls, folder: Path, *names: str) -> "Certificate":
        """For these host names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "of a test")])
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([_name(one) for one in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        place = folder / ("-".join(names) + ".pem")
        found = cls(place, place.with_suffix(".key"))
        found.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        form = serialization.PrivateFormat.PKCS8
        found.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
        return found


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


@contextmanager
def tls_before(port: int, certificate: Certificate, *, postgres: bool = False) -> Iterator[int]:
    """A port of loopback that speaks TLS and leads to another one, which does not."""
    told = (str(port), certificate.file, certificate.key, "postgres" if postgres else "plain")
    command = [sys.executable, "-m", "tests.support.tls_gateway", *told]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as gateway:
        try:
            assert gateway.stdout is not None
            yield int(gateway.stdout.readline())
        finally:
            gateway.kill()
