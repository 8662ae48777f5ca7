"""Samples of a lab for `homelab top`, with a fake node and with a real PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing

import pytest

from homelab.errors import HomelabError
from homelab.host import Result
from homelab.model import Container
from homelab.runtime.container_usage import USAGE
from homelab.runtime.database_activity import ACTIVITY, DatabaseActivity
from homelab.runtime.lab_sample import Sampler
from tests.integration import pg
from tests.integration.test_proxmox_up import NAMES, Site
from tests.integration.test_proxmox_up import pair as pair
from tests.integration.test_proxmox_up import site as site
from tests.support import NoHost, make_session

JOURNAL = ["[1] a@b LOG:  connection authorized: user=a", "[1] a@b ERROR:  relation does not exist"]


class Inside(NoHost):
    """A container that answers with its use and with active units."""

    seconds = 0

    def batch(self, commands: Sequence[str]) -> list[Result]:
        """See Host.batch."""
        self.seconds += 1
        usage = f"at {self.seconds}000000000\ncpu {self.seconds}00000000\ntotal 100\navailable 60\ndisk 1\ndisk_total 4"
        journal = "\n".join(json.dumps({"__REALTIME_TIMESTAMP": "1000000", "MESSAGE": text}) for text in JOURNAL)
        answers = {USAGE: usage, "is-active": "active\nactive\nactive\nactive", "journalctl": journal}
        return [
            Result(each, 0, next((text for key, text in answers.items() if key in each), "").encode())
            for each in commands
        ]

    def close(self) -> None:
        """See Connection."""


def sampler(site: Site, *hosts: object) -> Sampler:
    waiting = list(hosts)

    def connect(container: Container, *_: object) -> object:
        found = waiting.pop(0) if waiting else Inside()
        if isinstance(found, HomelabError):
            raise found
        return found

    return Sampler(make_session(site.inventory, site.known_hosts, connector=connect))


def test_use_is_that_of_proxmox_at_first_and_then_that_from_inside(site: Site) -> None:
    site.up()
    with closing(sampler(site)) as found:
        first, second = found.sample(), found.sample()
    assert [each.name for each in first.containers] == NAMES
    assert [each.status for each in first.containers] == ["running"] * 3
    assert [each.cpu for each in first.containers] == [0.02] * 3, "of the fake node"
    assert [each.cpu for each in second.containers] == [0.1 / each.cores for each in second.containers]
    assert [(each.memory, each.memory_total, each.disk) for each in second.containers] == [(40, 100, 1)] * 3
    assert second.history.source.startswith("samples since")
    assert [line.text for line in second.logs] == JOURNAL[1:] * 3, "without the connections of the samples"
    assert list(second.history.memory["postgres-data"]) == [0.4, 0.4]


def test_container_that_does_not_answer_has_the_values_of_proxmox(site: Site) -> None:
    site.up()
    site.pve.ct(169).status = "stopped"
    refused = HomelabError("Cannot connect to it: no answer over SSH", "", "")
    with closing(sampler(site, refused, refused, refused)) as found:
        database, analytics, airflow = found.sample().containers
        again = found.sample().containers
    assert database.problem == analytics.problem == "Cannot connect to it: no answer over SSH"
    assert (database.memory, database.cpu) == (67108864, 0.02)
    assert (airflow.status, airflow.problem) == ("stopped", "")
    assert [each.problem for each in again] == [""] * 3, "it connects again"


def test_node_that_does_not_answer_hides_no_container(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> None:
        raise HomelabError("Cannot reach the node: no answer", "", "")

    monkeypatch.setattr("homelab.runtime.lab_sample.container_states", fails)
    with closing(sampler(site)) as found:
        sample = found.sample()
    assert sample.problem == "Cannot reach the node: no answer"
    assert [(each.status, each.memory) for each in sample.containers] == [("running", 40)] * 3


def test_activity_has_open_transactions(postgres: pg.Server) -> None:
    with postgres.database("d") as name, postgres.connect(name) as busy, postgres.connect(name) as connection:
        busy.autocommit = False
        busy.execute("select 1,\n  'two'")
        row = connection.execute(ACTIVITY.sql.encode()).fetchone()
        found = DatabaseActivity.parse(Result("", 0, json.dumps(row[0] if row else None).encode()))
        busy.rollback()
    assert found
    assert (found.connections, found.idle_in_transaction) == (1, 1)
    (session,) = found.sessions
    assert (session.state, session.statement) == ("idle in transaction", "select 1, 'two'")
    assert session.seconds >= 0
