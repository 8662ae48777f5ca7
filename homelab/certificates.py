"""The lab's own CA, limited to the lab's names and addresses, and the server certificates that it issues.

Each file begins with a comment that describes its certificate. A comparison reads this line alone: the import of a
parser of certificates takes a tenth of a second.
"""

from __future__ import annotations

import hashlib
import json
import re
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Any, Self, cast

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

_CA_LIFETIME, _CA_RENEWAL = timedelta(days=3650), timedelta(days=1100)
# A lab that is not deployed for a year and a half keeps working. Apple's systems refuse more than 825 days.
_SERVER_LIFETIME, _SERVER_RENEWAL = timedelta(days=825), timedelta(days=275)
_BACKDATED = timedelta(days=1)  # a container's clock may be behind
_DESCRIPTION = "# homelab: "
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\n.*?-----END CERTIFICATE-----\n", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Names:
    """The host names and IPv4 addresses of a certificate, each sorted; a CA's addresses may be networks."""

    hosts: tuple[str, ...]
    addresses: tuple[str, ...]

    @classmethod
    def of(cls, hosts: set[str], addresses: set[IPv4Address] | set[IPv4Network]) -> Self:
        """Return the names in their order."""
        return cls(tuple(sorted(hosts)), tuple(map(str, sorted(addresses))))

    def __str__(self) -> str:
        return ", ".join((*self.hosts, *self.addresses))


@dataclass(frozen=True, slots=True)
class Description:
    """The description of a certificate in the first line of its file; `issuer` identifies the key that signed it."""

    names: Names
    until: datetime
    issuer: str

    @classmethod
    def read(cls, line: str) -> Self:
        """Parse the line. Raises ValueError."""
        try:
            fields = json.loads(line.removeprefix(_DESCRIPTION))
            names = Names(tuple(map(str, fields["hosts"])), tuple(map(str, fields["addresses"])))
            until = datetime.fromisoformat(fields["until"])
            issuer = str(fields["issuer"])
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError("not a description of a certificate") from error
        if until.tzinfo is None:  # a container's file can contain anything
            raise ValueError("a time without its offset")
        return cls(names, until, issuer)

    def __str__(self) -> str:
        fields = {"hosts": self.names.hosts, "addresses": self.names.addresses}
        return _DESCRIPTION + json.dumps({**fields, "until": self.until.isoformat(), "issuer": self.issuer})

    def expires_soon(self, now: datetime) -> bool:
        """Return True for the last third of a server certificate's lifetime."""
        return self.until - now < _SERVER_RENEWAL


@dataclass(frozen=True, slots=True)
class Authority:
    """The lab's CA: its certificate (PEM), which clients trust, and its private key (PEM)."""

    description: Description
    certificate: str
    _key: str = field(repr=False)

    @classmethod
    def create(cls, lab: str, names: Names, now: datetime | None = None) -> Self:
        """Make a new CA that can issue certificates for these names only."""
        from cryptography.hazmat.primitives.asymmetric import ec

        # Not ed25519: libpq and PostgreSQL cannot bind SCRAM to such a certificate.
        return cls._signed(
            f"homelab CA of {lab}", ec.generate_private_key(ec.SECP256R1()), names, now or datetime.now(UTC)
        )

    @classmethod
    def read(cls, text: str) -> Self:
        """Parse the text of `file`, unless any part of it has changed. Raises ValueError.

        The private key is parsed only when it signs.
        """
        line, digest, pem = [*text.split("\n", 2), "", ""][:3]
        certificate = _CERTIFICATE.match(pem)
        if certificate is None or digest != _digest(line, pem):
            raise ValueError("not as it was written")
        return cls(Description.read(line), certificate[0], pem[certificate.end() :])

    def file(self) -> str:
        """Return the text that keeps the CA."""
        line, pem = str(self.description), f"{self.certificate}{self._key}"
        return f"{line}\n{_digest(line, pem)}\n{pem}"

    def is_valid_for(self, names: Names, now: datetime) -> bool:
        """Return True if the certificate permits exactly these names, and does not expire in the next years."""
        return self.description.names == names and self.description.until - now > _CA_RENEWAL

    def renew(self, names: Names, now: datetime | None = None) -> Self:
        """Return the CA with a new certificate for other names; the certificates that it has issued stay valid."""
        return self._signed(_subject_of(self.certificate), _private_key(self._key), names, now or datetime.now(UTC))

    @property
    def fingerprint(self) -> str:
        """The SHA-256 fingerprint of the certificate, `AA:BB:…`."""
        digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.certificate)).digest()
        return digest.hex(":").upper()

    @classmethod
    def _signed(cls, subject: str, key: ec.EllipticCurvePrivateKey, names: Names, now: datetime) -> Self:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes

        until = (now + _CA_LIFETIME).replace(microsecond=0)
        permitted = [
            *map(x509.DNSName, names.hosts),
            *(x509.IPAddress(IPv4Network(address)) for address in names.addresses),
        ]
        builder = (
            _builder(_name(subject), _name(subject), key.public_key(), now, until)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(x509.NameConstraints(permitted, None), critical=True)
        )
        certificate = builder.sign(key, hashes.SHA256())
        return cls(Description(names, until, _identity(key)), _pem(certificate), _key_pem(key))

    def issue(self, names: Names, now: datetime | None = None) -> str:
        """Return a file with a new private key and its certificate for these names."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID

        signing, ca = _private_key(self._key), x509.load_pem_x509_certificate(self.certificate.encode())
        key = ec.generate_private_key(ec.SECP256R1())
        now = now or datetime.now(UTC)
        until = (now + _SERVER_LIFETIME).replace(microsecond=0)
        alternatives = [*map(x509.DNSName, names.hosts), *(x509.IPAddress(IPv4Address(a)) for a in names.addresses)]
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key())
        builder = (
            _builder(_name(min(names.hosts, key=len)), ca.subject, key.public_key(), now, until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(authority, critical=False)
        )
        certificate = builder.sign(signing, hashes.SHA256())
        return f"{Description(names, until, _identity(signing))}\n{_pem(certificate)}{_key_pem(key)}"


def _digest(description: str, pem: str) -> str:
    """Return the second line of the CA's file: a digest of its other lines, which finds damage without a parser."""
    return "# sha256: " + hashlib.sha256(f"{description}\n{pem}".encode()).hexdigest()


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(**allowed: bool) -> x509.KeyUsage:
    from cryptography import x509

    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    others = ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: allowed.get(name, False) for name in (*names, *others)})


def _name(common_name: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])


def _subject_of(certificate: str) -> str:
    from cryptography import x509

    subject = x509.load_pem_x509_certificate(certificate.encode()).subject
    return str(subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)


def _private_key(pem: str) -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    return cast("ec.EllipticCurvePrivateKey", load_pem_private_key(pem.encode(), None))  # made by `create`


def _identity(key: ec.EllipticCurvePrivateKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(public).hexdigest()[:32]


def _pem(certificate: x509.Certificate) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM).decode()


def _key_pem(key: Any) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem.decode()
