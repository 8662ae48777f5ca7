"""`packages:`, the package sources of the containers, and their security updates."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from homelab.distributions import distribution_of
from homelab.inventory import openpgp
from homelab.inventory.declaration import SectionOf, declaration_of
from homelab.inventory.schema_rules import together
from homelab.inventory.section import Section
from homelab.model import PackageSources, Repository
from homelab.model.options import KeyNames, Option
from homelab.model.urls import SERVER

_URL = rf"https?://{SERVER}(/[^\s@?#]*)?"  # without a password: every user of the containers could read it
_SUITE = r"[A-Za-z0-9./][A-Za-z0-9._+/-]*"
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\s]+?-----END CERTIFICATE-----")
_FLAT = {  # the rule of JSON Schema: a flat repository has no components, any other has some
    "if": {"properties": {"suite": {"pattern": "/$"}}, "required": ["suite"]},
    "then": {"properties": {"components": {"maxItems": 0}}},
    "else": {"properties": {"components": {"type": "array", "minItems": 1}}, "required": ["components"]},
}
MIRROR_RULE = together("apt_security_mirror", "apt_mirror")


def _url(description: str, example: str, expected: str = "") -> Option:
    expected = expected or f"a URL such as {example}, without a password"
    return Option(description, pattern=_URL, expected=expected, examples=(example,))


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositorySection:
    """The keys of a repository."""

    uri: Annotated[str, _url("URL of the repository.", "https://apt.home.arpa")]
    suite: Annotated[
        str,
        Option(
            "Suite; that of a flat repository ends in `/`.",
            pattern=_SUITE,
            expected="a suite such as stable; with a `/` at its end if it is flat",
        ),
    ]
    components: Annotated[
        tuple[Annotated[str, Option(pattern=_SUITE, expected="a component such as main")], ...],
        Option("Components; a flat repository has none.", expected="a list such as [main]"),
    ] = ()
    key: Annotated[Path, Option("File with the OpenPGP key of the repository.", expected="a file with an OpenPGP key")]
    fingerprint: Annotated[
        str,
        Option(
            "Fingerprint of the key, from a source that you trust.",
            pattern=r"(\s*[0-9A-Fa-f]){40}\s*",
            expected="the key's fingerprint: 40 hexadecimal digits, from a source that you trust",
        ),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagesSection:
    """The keys of `packages:`."""

    apt_proxy: Annotated[
        str | None,
        _url(
            "Proxy of apt for plain http, such as apt-cacher-ng.",
            "http://192.168.2.5:3142",
            "a URL such as http://192.168.2.5:3142, without a password",
        ),
    ] = None
    apt_mirror: Annotated[
        str | None, _url("Mirror that replaces the distribution's archive.", "http://mirror.home.arpa/ubuntu")
    ] = None
    apt_security_mirror: Annotated[
        str | None,
        _url("Mirror that replaces the archive of security updates.", "http://mirror.home.arpa/debian-security"),
    ] = None
    repositories: Annotated[
        Mapping[
            str,
            Annotated[
                Section,
                SectionOf(
                    RepositorySection, "a mapping with uri, suite, components, key and fingerprint", schema=_FLAT
                ),
            ],
        ],
        Option(
            "Further apt repositories by name.",
            expected="repositories by name",
            keys=KeyNames(r"[a-z0-9][a-z0-9-]*", "must be a name of lower-case letters, digits and hyphens"),
        ),
    ] = field(default_factory=dict)
    pypi_index: Annotated[
        str | None, _url("Index that replaces PyPI, such as devpi.", "https://devpi.home.arpa/root/pypi/+simple/")
    ] = None
    ca_certificates: Annotated[
        tuple[Annotated[Path, Option(expected="a file in PEM")], ...],
        Option("Files with further CAs in PEM.", expected="a list of files in PEM", examples=(["home-ca.pem"],)),
    ] = ()
    pins: Annotated[
        Mapping[
            str,
            Annotated[
                str, Option(pattern=r"[A-Za-z0-9.+:~*-]+", expected='a version or a pattern of one, such as "16.4-*"')
            ],
        ],
        Option(
            "Versions of Debian packages.",
            expected="versions by package",
            keys=KeyNames(r"[a-z0-9][a-z0-9.+-]+", "is not a name of a Debian package"),
            examples=({"postgresql-16": "16.4-*"},),
        ),
    ] = field(default_factory=dict)
    security_updates: Annotated[
        bool,
        Option("Install the distribution's security updates unattended; never PostgreSQL's server, which restarts."),
    ] = True
    maintenance_window: Annotated[
        str,
        Option(
            "Start of the half hour in which security updates are installed: daily, or on a weekday, in the "
            "containers' time zone.",
            pattern=r"((Mon|Tue|Wed|Thu|Fri|Sat|Sun) )?([01][0-9]|2[0-3]):[0-5][0-9]",
            expected='a time in quotes such as "04:00" or "Sun 04:00"',
            examples=("Sun 04:00",),
        ),
    ] = "04:00"


def package_sources(section: Section, templates: Collection[str]) -> PackageSources:
    """Read the section for containers of these templates."""
    found: PackagesSection = declaration_of(PackagesSection).build(section)
    _check_mirrors(section, found, templates)
    repositories = [_repository(name, below) for name, below in found.repositories.items()]
    return PackageSources(
        apt_proxy=found.apt_proxy,
        apt_mirror=found.apt_mirror,
        apt_security_mirror=found.apt_security_mirror,
        repositories=tuple(repository for repository in repositories if repository is not None),
        pypi_index=found.pypi_index,
        certificates=tuple(dict.fromkeys(_certificates(section, found.ca_certificates))),
        pins=found.pins,
        security_updates=found.security_updates,
        maintenance_window=found.maintenance_window,
    )


def _check_mirrors(section: Section, found: PackagesSection, templates: Collection[str]) -> None:
    families = sorted({known.family for known in map(distribution_of, templates) if known})
    if found.apt_mirror and len(families) > 1:
        section.problem(
            f"would be for containers of {' and of '.join(families)}, and each needs an archive of its own: write "
            "`apt_proxy`, or have containers of one of them",
            "apt_mirror",
        )
    if found.apt_security_mirror and not section.has("apt_mirror"):
        section.problem("needs `apt_mirror`: write both", "apt_security_mirror")


def _repository(name: str, section: Section) -> Repository | None:
    found: RepositorySection = declaration_of(RepositorySection).build(section)
    if found.suite and found.suite.endswith("/") == bool(section.data.get("components")):
        section.problem(
            "must be left out: a flat repository has none"
            if found.suite.endswith("/")
            else "is missing: a list such as [main]",
            "components",
        )
    key = _key(section, found.key, found.fingerprint) if found.key and found.fingerprint else None
    if key is None or not found.uri or not found.suite:
        return None
    return Repository(name=name, uri=found.uri, suite=found.suite, components=found.components, key=key)


def _key(section: Section, file: Path, fingerprint: str) -> bytes | None:
    """Return the packets of the only key in the file, if it has the fingerprint."""
    try:
        key = openpgp.dearmored(file.read_bytes())
        found = openpgp.fingerprints(key)
    except OSError as error:
        section.problem(f"cannot read {file}: {error.strerror}", "key")
    except ValueError as error:
        section.problem(f"cannot use {file}: {error}", "key")
    else:
        if len(found) != 1:
            section.problem(f"{file} must hold one key, and holds {len(found)}", "key")
        elif found[0] != "".join(fingerprint.split()).upper():
            section.problem(
                f"is not that of {file}, which is {found[0]}: do not use that key unless you know why", "fingerprint"
            )
        else:
            return key
    return None


def _certificates(section: Section, files: Collection[Path]) -> Iterator[str]:
    for index, file in enumerate(files):
        try:
            found = _PEM.findall(file.read_text())
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            section.problem(f"cannot read {file}: {reason}", "ca_certificates", index)
            continue
        if not found:
            section.problem(f"{file} has no certificate in PEM", "ca_certificates", index)
        yield from found
