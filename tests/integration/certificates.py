"""Certificates for tests: an authority, and what it signs."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_PEM = serialization.Encoding.PEM
_FORM = serialization.PrivateFormat.PKCS8
DAY = datetime.timedelta(days=1)
_USES = {
    "serverAuth": ExtendedKeyUsageOID.SERVER_AUTH,
    "clientAuth": ExtendedKeyUsageOID.CLIENT_AUTH,
}


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


class Authority:
    """Signs certificates for 127.0.0.1.

    :param place: a directory for its own, ``ca.pem``; there is no other there.
    :param ends: until when its own is valid, as seen from now.
    """

    def __init__(
        self, place: Path, name: str = "authority", ends: datetime.timedelta = DAY
    ) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.directory = place
        self.file = place / "ca.pem"
        self._name = _named(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        own = self._builder(self._name, self._key, ends=ends).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.file.write_bytes(own.sign(self._key, hashes.SHA256()).public_bytes(_PEM))

    def _builder(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        begins: datetime.timedelta = -DAY,
        ends: datetime.timedelta = DAY,
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
        )

    def issue(
        self,
        place: Path,
        begins: datetime.timedelta = -DAY,
        ends: datetime.timedelta = DAY,
        use: str = "",
    ) -> tuple[Path, Path]:
        """Sign a certificate.

        :param begins: from when on it is valid, as seen from now; ``ends`` until when.
        :param use: what alone it is made for; empty for anything.
        :return: the files of its key and of it, in a directory.
        """
        place.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        here = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        one = self._builder(_named("node"), key, begins, ends).add_extension(
            x509.SubjectAlternativeName([here]), critical=False
        )
        if use:
            allowed = x509.ExtendedKeyUsage([_USES[use]])
            one = one.add_extension(allowed, critical=False)
        files = place / "key.pem", place / "cert.pem"
        files[0].write_bytes(key.private_bytes(_PEM, _FORM, serialization.NoEncryption()))
        files[1].write_bytes(one.sign(self._key, hashes.SHA256()).public_bytes(_PEM))
        return files
