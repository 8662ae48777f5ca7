"""The lab's CA: the certificates that it issues, their renewal, and a CA that is lost."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from homelab.certificates import Authority, Names
from homelab.errors import HomelabError
from homelab.host import Host, Result
from homelab.model import Health
from homelab.paths import bundled_path
from homelab.progress import SilentProgress
from homelab.secrets import FileSecretStore
from homelab.services.lab_certificates import with_certificate
from homelab.steps import ServerCertificate, remote_paths
from homelab.steps.converge import converge
from homelab.steps.host_state import pending_changes
from tests.support import LocalHost, owner_of_new_files

POSTGRES = Names(("postgres-data",), ("192.168.2.67",))
LAB = Names.of({"postgres-data", "analytics-platform"}, {IPv4Address("192.168.2.67"), IPv4Address("192.168.2.68")})
NOW = datetime.now(UTC)
YEARS = timedelta(days=365)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("home", LAB)


def accepts(folder: Path, authority: Authority, server: str, name: str) -> bool:
    """Make a TLS handshake in memory; return True if the client accepts the server's certificate for the name."""
    (folder / "server.pem").write_text(server)
    client, service = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client.load_verify_locations(cadata=authority.certificate)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    service.load_cert_chain(folder / "server.pem")
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client.wrap_bio(back, there, server_hostname=name), service.wrap_bio(there, back, server_side=True)]
    for _ in range(3):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
    return True


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("postgres-data", True),
        ("192.168.2.67", True),
        ("analytics-platform", False),
        ("192.168.2.68", False),
        ("192.168.2.1", False),
    ],
)
def test_certificate_is_valid_for_its_own_names_only(
    tmp_path: Path, authority: Authority, name: str, valid: bool
) -> None:
    assert accepts(tmp_path, authority, authority.issue(POSTGRES), name) is valid


@pytest.mark.parametrize(
    "names",
    [
        Names(("bank.example.com",), ()),
        Names(("postgres-data.example.com",), ()),
        Names(("postgres-data",), ("192.168.2.1",)),
    ],
    ids=str,
)
def test_clients_refuse_certificates_of_the_ca_for_names_outside_the_lab(
    tmp_path: Path, authority: Authority, names: Names
) -> None:
    assert not accepts(tmp_path, authority, authority.issue(names), (*names.addresses, *names.hosts)[0])


def test_renewed_ca_accepts_issued_certificates_and_permits_new_names(tmp_path: Path, authority: Authority) -> None:
    server = authority.issue(POSTGRES)
    more = Names.of({*LAB.hosts, "redis"}, {*map(IPv4Address, LAB.addresses), IPv4Address("192.168.2.70")})
    renewed = authority.renew(more)
    assert renewed.certificate != authority.certificate
    assert renewed.description.issuer == authority.description.issuer
    assert accepts(tmp_path, renewed, server, "postgres-data")
    assert accepts(tmp_path, renewed, renewed.issue(Names(("redis",), ("192.168.2.70",))), "192.168.2.70")
    assert not accepts(tmp_path, authority, renewed.issue(Names(("redis",), ("192.168.2.70",))), "192.168.2.70")


def test_ca_with_a_domain_permits_each_name_below_it(tmp_path: Path) -> None:
    # With a name that is longer than the subject of a certificate may be.
    names = Names(("home.example", f"{'a' * 60}.home.example"), ())
    authority = Authority.create("home", Names(("home.example",), ()))
    for name in names.hosts:
        assert accepts(tmp_path, authority, authority.issue(names), name)
    for name in ("other.example", "nothome.example"):
        assert not accepts(tmp_path, authority, authority.issue(Names((name,), ())), name)


def test_key_and_certificate_can_bind_scram_to_the_channel(authority: Authority) -> None:
    """PostgreSQL and libpq need a hash in the signature's algorithm, which ed25519 does not have."""
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(authority.issue(POSTGRES).encode())
    assert certificate.signature_hash_algorithm is not None


class TestStore:
    def test_ca_is_made_once_and_private(self, tmp_path: Path) -> None:
        assert FileSecretStore(tmp_path / "s").known_authority() is None
        first = FileSecretStore(tmp_path / "s").authority("home", LAB)
        assert FileSecretStore(tmp_path / "s").authority("home", LAB) == first
        assert (tmp_path / "s" / "ca.pem").stat().st_mode & 0o777 == 0o600
        assert "PRIVATE" not in first.certificate
        assert "PRIVATE" not in repr(first)

    def test_ca_gets_a_new_certificate_for_the_same_key_if_the_names_change(self, tmp_path: Path) -> None:
        store = FileSecretStore(tmp_path)
        first, second = store.authority("home", LAB), store.authority("home", POSTGRES)
        assert second.description.names == POSTGRES
        assert second.description.issuer == first.description.issuer
        assert store.known_authority() == second

    def test_ca_gets_a_new_certificate_years_before_it_expires(self, tmp_path: Path) -> None:
        store = FileSecretStore(tmp_path)
        old = Authority.create("home", LAB, datetime.now(UTC) - 8 * YEARS)
        (tmp_path / "ca.pem").write_text(old.file())
        renewed = store.authority("home", LAB)
        assert renewed.description.until > datetime.now(UTC) + 9 * YEARS
        assert renewed.description.issuer == old.description.issuer

    def test_lost_ca_is_replaced_by_another_one(self, tmp_path: Path) -> None:
        store = FileSecretStore(tmp_path)
        first = store.authority("home", LAB)
        (tmp_path / "ca.pem").unlink()
        assert store.authority("home", LAB).description.issuer != first.description.issuer

    @pytest.mark.parametrize("text", ["", "junk\n", "{file}", "{half}", "{other_key}"])
    def test_damaged_ca_is_an_error_that_quotes_nothing_of_it(self, tmp_path: Path, text: str) -> None:
        good = Authority.create("home", LAB).file()
        damaged = {"{file}": good.replace("# homelab: {", "# homelab: [", 1), "{half}": good[: len(good) // 2]}
        damaged["{other_key}"] = good.replace("PRIVATE KEY-----\nM", "PRIVATE KEY-----\nX")
        (tmp_path / "ca.pem").write_text(damaged.get(text, text))
        with pytest.raises(HomelabError, match=r"Cannot read .*ca\.pem: it is damaged"):
            FileSecretStore(tmp_path).authority("home", LAB)
        with pytest.raises(HomelabError, match=r"Cannot read .*ca\.pem: it is damaged") as error:
            FileSecretStore(tmp_path).authority("home", POSTGRES)
        assert good.splitlines()[-3] not in str(error.value) + error.value.details
        assert "move it away" in error.value.resolution


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(remote_paths, "STATE", str(tmp_path / "state"))
    monkeypatch.setattr(remote_paths, "RUN", str(tmp_path / "run"))
    return tmp_path


def step(folder: Path, authority: Authority, names: Names = POSTGRES, now: datetime = NOW) -> ServerCertificate:
    owner, group = owner_of_new_files()
    return ServerCertificate(str(folder / "postgres.pem"), authority, names, group, owner, now)


def reasons(found: ServerCertificate, host: Host | None = None) -> list[str]:
    return [change.pending.reason for change in pending_changes(host or LocalHost(), [found])]


class TestStep:
    def test_certificate_is_issued_once(self, folder: Path, authority: Authority) -> None:
        (change,) = converge(LocalHost(), [step(folder, authority)], SilentProgress())
        assert change.pending.reason == "does not exist"
        assert reasons(step(folder, authority)) == []
        assert (folder / "postgres.pem").stat().st_mode & 0o777 == 0o640
        assert accepts(folder, authority, (folder / "postgres.pem").read_text(), "192.168.2.67")

    @pytest.mark.parametrize(("days", "renewed"), [(540, False), (560, True), (900, True)])
    def test_certificate_is_renewed_in_the_last_third_of_its_lifetime(
        self, folder: Path, authority: Authority, days: int, renewed: bool
    ) -> None:
        converge(LocalHost(), [step(folder, authority)], SilentProgress())
        later = step(folder, authority, now=NOW + timedelta(days=days))
        expiry = f"{NOW + timedelta(days=825):%Y-%m-%d}"
        assert reasons(later) == ([f"is renewed: it expires on {expiry}"] if renewed else [])
        converge(LocalHost(), [later], SilentProgress())
        assert reasons(later) == []

    def test_certificate_is_issued_again_for_another_name_or_address(self, folder: Path, authority: Authority) -> None:
        converge(LocalHost(), [step(folder, authority)], SilentProgress())
        moved = step(folder, authority, Names(("postgres-data",), ("192.168.2.68",)))
        assert reasons(moved) == ["postgres-data, 192.168.2.67 → postgres-data, 192.168.2.68"]
        converge(LocalHost(), [moved], SilentProgress())
        assert not accepts(folder, authority, (folder / "postgres.pem").read_text(), "192.168.2.67")

    def test_certificate_is_issued_again_by_a_new_ca_but_not_by_a_renewed_one(
        self, folder: Path, authority: Authority
    ) -> None:
        converge(LocalHost(), [step(folder, authority)], SilentProgress())
        assert reasons(step(folder, authority.renew(POSTGRES))) == []
        assert reasons(step(folder, Authority.create("home", LAB))) == ["is of another CA"]

    @pytest.mark.parametrize("by_hand", ["echo >>{path}", "sed -i '/PRIVATE/d' {path}", "echo own >{path}"])
    def test_certificate_that_was_changed_by_hand_is_issued_again(
        self, folder: Path, authority: Authority, by_hand: str
    ) -> None:
        wanted = step(folder, authority)
        converge(LocalHost(), [wanted], SilentProgress())
        subprocess.run(["sh", "-c", by_hand.format(path=folder / "postgres.pem")], check=True)
        assert reasons(wanted) == ["changed by hand"]
        converge(LocalHost(), [wanted], SilentProgress())
        assert accepts(folder, authority, (folder / "postgres.pem").read_text(), "192.168.2.67")

    def test_readable_key_gets_its_mode_back(self, folder: Path, authority: Authority) -> None:
        wanted = step(folder, authority)
        converge(LocalHost(), [wanted], SilentProgress())
        (folder / "postgres.pem").chmod(0o644)
        (reason,) = reasons(wanted)
        assert reason.endswith("640")
        converge(LocalHost(), [wanted], SilentProgress())
        assert (folder / "postgres.pem").stat().st_mode & 0o777 == 0o640

    def test_private_key_is_in_no_output_and_no_command(self, folder: Path, authority: Authority) -> None:
        host = LocalHost()
        converge(host, [step(folder, authority)], SilentProgress())
        secret = (folder / "postgres.pem").read_text().splitlines()[-2]
        assert secret not in "".join(host.ran)
        answers = LocalHost().batch(["true", *step(folder, authority).probes()])
        assert secret.encode() not in b"".join(answer.stdout for answer in answers)


@pytest.mark.parametrize(
    ("days", "healthy", "note"),
    [
        (700, True, ""),
        (750, True, f"; its certificate expires on {NOW + timedelta(days=825):%Y-%m-%d}: run `homelab deploy`"),
        (826, False, f"; its certificate expired on {NOW + timedelta(days=825):%Y-%m-%d}: run `homelab deploy`"),
    ],
)
def test_status_warns_of_a_certificate_that_expires(authority: Authority, days: int, healthy: bool, note: str) -> None:
    line = authority.issue(POSTGRES, NOW).splitlines()[0].encode()
    health = with_certificate(Health(True, "fine"), Result("", 0, line), NOW + timedelta(days=days))
    assert (health.healthy, health.summary) == (healthy, f"fine{note}")
    assert with_certificate(Health(True, "fine"), Result("", 1), NOW) == Health(True, "fine")


def test_report_of_a_container_with_a_time_without_offset_is_ignored(authority: Authority) -> None:
    line = authority.issue(POSTGRES, NOW).splitlines()[0].replace("+00:00", "").encode()
    assert with_certificate(Health(True, "fine"), Result("", 0, line), NOW) == Health(True, "fine")


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "inventory.yaml").write_text(bundled_path("inventory.yaml").read_text())
    return subprocess.run(
        [sys.executable, "-m", "homelab", *words], cwd=folder, capture_output=True, text=True, check=False
    )


def test_ca_show_and_export(tmp_path: Path) -> None:
    refused = run(tmp_path, "ca", "show")
    assert refused.returncode == 2
    assert "Cannot find the CA of home: it does not exist yet" in refused.stderr
    authority = FileSecretStore(tmp_path / ".homelab" / "home").authority("home", LAB)
    shown = json.loads(run(tmp_path, "ca", "show", "--json").stdout)
    assert shown["fingerprint"] == authority.fingerprint
    assert shown["hosts"] == ["analytics-platform", "postgres-data"]
    assert "192.168.2.67, 192.168.2.68" in run(tmp_path, "ca", "show").stdout
    assert run(tmp_path, "ca", "export").stdout == authority.certificate
    assert json.loads(run(tmp_path, "ca", "export", "--json").stdout) == authority.certificate
    (tmp_path / "ca.crt").write_text(authority.certificate)
    openssl = ["openssl", "x509", "-in", str(tmp_path / "ca.crt"), "-noout", "-fingerprint", "-sha256"]
    assert authority.fingerprint in subprocess.run(openssl, capture_output=True, text=True, check=True).stdout
