"""`trust`: the accepted sources of a host key; a key that the container does not present is never pinned."""

from __future__ import annotations

import base64

import pytest

from homelab.commands.trust_host import trust_host
from homelab.errors import HomelabError, InputError
from homelab.known_hosts import Pin, fingerprint
from homelab.runtime.ssh_client import host_key_change
from tests.integration.test_proxmox_up import Site
from tests.integration.test_proxmox_up import pair as pair
from tests.integration.test_proxmox_up import site as site
from tests.support import make_session

NAME = "postgres-data"
LINE, OTHER = (f"ssh-ed25519 {base64.b64encode(text).decode()}" for text in (b"its key", b"another"))
READ = "pct exec 167 -- ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"


class Person:
    """A user who enters the output of `ssh-keygen -lf`; records the question."""

    def __init__(self, answer: str) -> None:
        self.answer, self.asked = answer, ""

    def __call__(self, question: str) -> str:
        self.asked = question
        return self.answer


@pytest.fixture
def made(site: Site) -> Site:
    """A site with one container and a lost pin."""
    site.up(NAME)
    site.known_hosts.forget(NAME)
    return site


@pytest.fixture
def rotated(made: Site) -> Site:
    """The same site, without the log of the creation."""
    made.pve.tasklog[:] = [task for task in made.pve.tasklog if task["type"] != "vzcreate"]
    return made


def run(site: Site, given: str | None = None, person: Person | None = None, line: str | None = None) -> Pin:
    return trust_host(
        make_session(site.inventory, site.known_hosts),
        NAME,
        given,
        ask=person,
        shown=lambda address: line if address == "192.168.2.67" else OTHER,
    )


def test_create_log_is_trusted_without_an_ssh_answer(made: Site) -> None:
    assert run(made, person=Person("never asked")) == Pin(made.pve.keys[167])
    assert made.known_hosts.pins()[NAME] == Pin(made.pve.keys[167])


def test_create_log_and_container_agree(made: Site) -> None:
    made.pve.tasks[next(task["upid"] for task in made.pve.tasklog if task["type"] == "vzcreate")]["log"] = [
        "Creating SSH host key 'ssh_host_ed25519_key' - this may take some time ...",
        f"done: {fingerprint(LINE)} root@x",
    ]
    assert run(made, line=LINE) == Pin(fingerprint(LINE), LINE)


@pytest.mark.parametrize("answer", [fingerprint(LINE), f"256 {fingerprint(LINE)} root@postgres-data (ED25519)\n"])
@pytest.mark.parametrize("line", [LINE, None])
def test_without_the_create_log_the_user_is_asked(rotated: Site, answer: str, line: str | None) -> None:
    person = Person(answer)
    assert run(rotated, person=person, line=line) == Pin(fingerprint(LINE), line)
    assert f"On node pve, as root:\n  {READ}\n" in person.asked
    assert "its SSH host key is unknown" in person.asked


def test_without_log_and_terminal_the_error_has_the_commands(rotated: Site) -> None:
    with pytest.raises(HomelabError, match="its SSH host key is unknown") as caught:
        run(rotated, line=LINE)
    assert READ in caught.value.resolution
    assert f"homelab trust host {NAME} FINGERPRINT" in caught.value.resolution
    assert rotated.known_hosts.pins() == {}


def test_regenerated_key_is_not_trusted_by_the_log(made: Site) -> None:
    with pytest.raises(HomelabError, match="shows another SSH host key than at its creation") as caught:
        run(made, line=LINE)
    assert (READ in caught.value.resolution, made.known_hosts.pins()) == (True, {})
    assert run(made, person=Person(fingerprint(LINE)), line=LINE) == Pin(fingerprint(LINE), LINE)


@pytest.mark.parametrize("given", [fingerprint(OTHER), None])
def test_key_that_the_container_does_not_present_is_refused(rotated: Site, given: str | None) -> None:
    with pytest.raises(HomelabError, match="does not show that SSH host key") as caught:
        run(rotated, given, Person(fingerprint(OTHER)), LINE)
    assert "another machine answers" in caught.value.resolution
    assert rotated.known_hosts.pins() == {}


@pytest.mark.parametrize("given", ["", "SHA256:short", "MD5:aa", fingerprint(LINE) + "x"])
def test_invalid_fingerprint_is_refused(made: Site, given: str) -> None:
    with pytest.raises(InputError, match="Cannot read the host key's fingerprint") as caught:
        run(made, given)
    assert READ in caught.value.resolution


def test_destroy_removes_pins(made: Site) -> None:
    made.up("analytics-platform")
    run(made)
    assert sorted(made.known_hosts.pins()) == ["analytics-platform", NAME]
    made.destroy(NAME)
    assert list(made.known_hosts.pins()) == ["analytics-platform"]
    # Also for a container that was removed by hand.
    made.pve.cts.clear()
    made.destroy()
    assert made.known_hosts.pins() == {}


@pytest.mark.parametrize(
    ("pin", "line", "refused"),
    [
        (Pin(fingerprint(LINE)), OTHER, True),
        (Pin(fingerprint(LINE)), LINE, False),
        (Pin(fingerprint(LINE)), None, False),
        (None, OTHER, False),
    ],
)
def test_resolution_when_ssh_refuses_the_host_key(site: Site, pin: Pin | None, line: str | None, refused: bool) -> None:
    if pin:
        site.known_hosts.pin(NAME, pin)
    error = host_key_change(make_session(site.inventory, site.known_hosts), NAME, lambda address: line)
    assert (error is not None) is refused
    if error:
        assert error.brief == "Cannot connect to postgres-data: its SSH host key has changed"
        assert "`homelab trust host postgres-data`" in error.resolution
