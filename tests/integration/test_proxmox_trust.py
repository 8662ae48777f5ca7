"""`trust`: whose word counts for a host key, and that nothing is pinned against what the container shows."""

from __future__ import annotations

import base64

import pytest

from homelab.commands.trust import trust
from homelab.errors import HomelabError, InputError
from homelab.known_hosts import Pin, fingerprint
from homelab.runtime.ssh_client import host_key_change
from tests.integration.test_proxmox_up import Site
from tests.integration.test_proxmox_up import pair as pair
from tests.integration.test_proxmox_up import site as site

NAME = "postgres-data"
LINE, OTHER = (f"ssh-ed25519 {base64.b64encode(text).decode()}" for text in (b"its key", b"another"))
READ = "pct exec 167 -- ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"


class Person:
    """Answers what `ssh-keygen -lf` printed, and remembers the question."""

    def __init__(self, answer: str) -> None:
        self.answer, self.asked = answer, ""

    def __call__(self, question: str) -> str:
        self.asked = question
        return self.answer


@pytest.fixture
def made(site: Site) -> Site:
    """One container, whose pin was lost."""
    site.up(NAME)
    site.known_hosts.forget(NAME)
    return site


@pytest.fixture
def rotated(made: Site) -> Site:
    """The same, and the log of its creation is gone."""
    made.pve.tasklog[:] = [task for task in made.pve.tasklog if task["type"] != "vzcreate"]
    return made


def run(site: Site, given: str | None = None, person: Person | None = None, line: str | None = None) -> Pin:
    return trust(
        site.inventory,
        NAME,
        given,
        known_hosts=site.known_hosts,
        ask=person,
        shown=lambda address: line if address == "192.168.2.67" else OTHER,
    )


def test_the_log_counts_where_nobody_answers(made: Site) -> None:
    assert run(made, person=Person("never asked")) == Pin(made.pve.keys[167])
    assert made.known_hosts.pins()[NAME] == Pin(made.pve.keys[167])


def test_the_log_and_the_container_agree(made: Site) -> None:
    made.pve.tasks[next(task["upid"] for task in made.pve.tasklog if task["type"] == "vzcreate")]["log"] = [
        "Creating SSH host key 'ssh_host_ed25519_key' - this may take some time ...",
        f"done: {fingerprint(LINE)} root@x",
    ]
    assert run(made, line=LINE) == Pin(fingerprint(LINE), LINE)


@pytest.mark.parametrize("answer", [fingerprint(LINE), f"256 {fingerprint(LINE)} root@postgres-data (ED25519)\n"])
@pytest.mark.parametrize("line", [LINE, None])
def test_without_the_log_it_asks(rotated: Site, answer: str, line: str | None) -> None:
    person = Person(answer)
    assert run(rotated, person=person, line=line) == Pin(fingerprint(LINE), line)
    assert f"On node pve, as root:\n  {READ}\n" in person.asked
    assert "SSH host key is not known" in person.asked


def test_without_the_log_and_a_terminal_it_says_how(rotated: Site) -> None:
    with pytest.raises(HomelabError, match="SSH host key is not known") as caught:
        run(rotated, line=LINE)
    assert READ in caught.value.resolution
    assert f"homelab trust {NAME} SHA256:" in caught.value.resolution
    assert rotated.known_hosts.pins() == {}


def test_a_key_made_anew_inside_is_not_taken_from_the_log(made: Site) -> None:
    with pytest.raises(HomelabError, match="shows another SSH host key than it was made with") as caught:
        run(made, line=LINE)
    assert (READ in caught.value.resolution, made.known_hosts.pins()) == (True, {})
    assert run(made, person=Person(fingerprint(LINE)), line=LINE) == Pin(fingerprint(LINE), LINE)


@pytest.mark.parametrize("given", [fingerprint(OTHER), None])
def test_what_the_container_does_not_show_is_not_trusted(rotated: Site, given: str | None) -> None:
    with pytest.raises(HomelabError, match="does not show that SSH host key") as caught:
        run(rotated, given, Person(fingerprint(OTHER)), LINE)
    assert "another machine is answering" in caught.value.resolution
    assert rotated.known_hosts.pins() == {}


@pytest.mark.parametrize("given", ["", "SHA256:short", "MD5:aa", fingerprint(LINE) + "x"])
def test_what_is_no_fingerprint(made: Site, given: str) -> None:
    with pytest.raises(InputError, match="not a host key's fingerprint") as caught:
        run(made, given)
    assert READ in caught.value.resolution


def test_the_keys_of_destroyed_containers_are_forgotten(made: Site) -> None:
    made.up("analytics-platform")
    run(made)
    assert sorted(made.known_hosts.pins()) == ["analytics-platform", NAME]
    made.destroy(NAME)
    assert list(made.known_hosts.pins()) == ["analytics-platform"]
    # One that somebody removed by hand, too.
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
def test_when_ssh_itself_stops_the_way_out_is_said(
    site: Site, pin: Pin | None, line: str | None, refused: bool
) -> None:
    if pin:
        site.known_hosts.pin(NAME, pin)
    error = host_key_change(site.inventory, NAME, site.known_hosts, lambda address: line)
    assert (error is not None) is refused
    if error:
        assert error.brief == "Cannot connect to postgres-data: its SSH host key has changed"
        assert "`homelab trust postgres-data`" in error.resolution
