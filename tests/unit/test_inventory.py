"""The inventory: its values, and each problem with file, line, path and allowed values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import yaml

from homelab.errors import HomelabError, InputError
from homelab.inventory import load, schedule, yaml_source
from homelab.inventory.container_defaults import ContainerDefaults
from homelab.inventory.errors import Problems
from homelab.inventory.json_schema import json_schema
from homelab.model import City, Inventory
from homelab.paths import bundled_path
from homelab.services.airflow_worker import AirflowWorker
from homelab.services.analytics import Analytics
from homelab.services.broker import Broker
from homelab.services.clickhouse import ClickHouse
from homelab.services.consumer import Consumer
from homelab.services.redis import Redis
from homelab.services.registry import Registry

BASE = """\
lab: home
proxmox:
  host: pve.lan
  token_id: homelab@pve!cli
network:
  subnet: 192.168.2.0/24
  gateway: .1
  bridge: vmbr0
containers:
  db:
    vmid: 167
    ip: .67
    cores: 1
    memory: 2048
    services: {postgres: {version: 16}}
  lake:
    vmid: 168
    ip: 192.168.2.68
    cores: 2
    memory: 4096
    services:
      analytics:
  flow:
    vmid: 169
    ip: .69
    cores: 2
    memory: 4096
    services: {airflow: {}}
pipelines:
  weather:
    cities: ["Newark,US"]
"""
STORAGE = "s3: {endpoint: 'https://nas.lan', bucket: raw, access_key: me, secret_key: {secret: nas}}"
CITIES_AT = "inventory.yaml:31: pipelines.weather"
BELOW_CITIES = "inventory.yaml:32: pipelines.weather"


def read(folder: Path, *texts: str, registry: Registry | None = None) -> Inventory:
    paths = [folder / ("inventory.yaml" if n == 0 else f"overlay{n}.yaml") for n in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return load(paths, registry=registry)


def problems(folder: Path, *texts: str, registry: Registry | None = None) -> list[str]:
    """Return `file:line: path: text` of each problem."""
    with pytest.raises(InputError) as caught:
        read(folder, *texts, registry=registry)
    assert caught.value.exit_code == 2
    return [line.strip().removeprefix(f"{folder}/") for line in caught.value.details.splitlines()]


def test_values_of_an_inventory(tmp_path: Path) -> None:
    inventory = read(tmp_path, BASE)
    db, lake, flow = inventory.containers
    assert [c.address for c in (db, lake)] == [IPv4Address("192.168.2.67"), IPv4Address("192.168.2.68")]
    assert (db.shape.tags, db.shape.features, db.shape.unprivileged) == ({"homelab", "homelab-home"}, {"nesting"}, True)
    assert all(re.fullmatch(r"[a-z0-9_][a-z0-9_\-+.]*", tag) for tag in db.shape.tags)
    assert [c.shape.startup_order for c in (db, lake, flow)] == [1, 2, 3]
    assert "`home`" in db.shape.description
    assert f"{tmp_path.name}/inventory.yaml" in db.shape.description
    assert inventory.state_dir == tmp_path / ".homelab" / "home"
    assert inventory.endpoint.token_file == tmp_path / ".homelab" / "proxmox-token"
    assert inventory.weather.cities == (City(name="Newark,US"),)
    assert (db.template, db.storage, db.shape.disk, db.shape.swap, db.shape.pool) == (
        "ubuntu-24.04",
        "local-lvm",
        8,
        512,
        None,
    )


@pytest.mark.parametrize(
    ("subnet", "short", "whole"),
    [
        ("192.168.2.0/24", ".67", "192.168.2.67"),
        ("192.168.2.64/26", ".67", "192.168.2.67"),
        ("10.20.0.0/16", ".67", "10.20.0.67"),
    ],
)
def test_last_part_of_an_address_is_completed(tmp_path: Path, subnet: str, short: str, whole: str) -> None:
    text = BASE.replace("192.168.2.0/24", subnet).replace(".67", short)
    text = text.replace("gateway: .1", "gateway: .65").replace("192.168.2.68", ".68")
    assert str(read(tmp_path, text).containers[0].address) == whole


def test_containers_with_dhcp_have_no_address_and_no_gateway_of_their_own(tmp_path: Path) -> None:
    db, lake, flow = read(
        tmp_path, BASE.replace("ip: .67", "ip: dhcp").replace("ip: 192.168.2.68", "ip: dhcp")
    ).containers
    assert [(c.shape.address, c.shape.gateway, c.known_address, c.shown_address) for c in (db, lake)] == [
        ("dhcp", None, None, "dhcp")
    ] * 2
    assert flow.shown_address == "192.168.2.69"
    with pytest.raises(HomelabError, match="Cannot use the address of db: DHCP has not given it one"):
        str(db.address)


def test_further_network_cards(tmp_path: Path) -> None:
    cards = "{net2: {bridge: vmbr2, ip: dhcp, ip6: auto}, net1: {bridge: vmbr1, ip: 10.0.0.5/8, vlan: 7, mtu: 9000}}"
    text = BASE.replace("cores: 1", f"cores: 1\n    firewall: true\n    networks: {cards}")
    first, second = read(tmp_path, text).containers[0].shape.networks
    assert str(first) == "vmbr1 10.0.0.5/8 vlan 7 mtu 9000 firewall"
    assert str(second) == "vmbr2 dhcp auto firewall"
    assert read(tmp_path, text.replace("10.0.0.5/8", "10.0.0.5/32")).containers[0].shape.networks[0].ip == "10.0.0.5/32"
    assert read(tmp_path, BASE).containers[0].shape.networks == ()


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ("{net0: {bridge: a1}}", "networks.net0: must be net1 to net31; the keys of the container are its net0"),
        ("{net32: {bridge: a1}}", "networks.net32: must be net1 to net31"),
        ("{net1: {}}", "networks.net1.bridge: is missing"),
        ("{net1: {bridge: a1, ip: 10.0.0.5}}", "networks.net1.ip: must be dhcp, or an address with its prefix length"),
        ("{net1: {bridge: a1, ip: 10.0.0.5/33}}", "networks.net1.ip: cannot use '10.0.0.5/33': "),
        ("{net1: {bridge: a1, ip: 10.0.0.0/8}}", "networks.net1.ip: 10.0.0.0 is the network or broadcast address of"),
        ("{net1: {bridge: a1, ip: 192.168.2.68/24}}", "ip: 192.168.2.68 is taken by "),
        ("{net1: {bridge: a1, ip6: slaac}}", "networks.net1.ip6: must be auto, dhcp, or an address with its prefix"),
        ("{net1: {bridge: a1, gw: 10.0.0.1}}", "networks.net1.gw: unknown key"),
        ("[net1]", "networks: must be network cards by name, as in net1, not a list"),
    ],
)
def test_each_problem_of_a_network_card(tmp_path: Path, cards: str, expected: str) -> None:
    (problem,) = problems(tmp_path, BASE.replace("cores: 1", f"cores: 1\n    networks: {cards}"))
    assert expected in problem


def test_overlay_merges_replaces_and_deletes(tmp_path: Path) -> None:
    base = BASE + "defaults: {disk: 9, pool: mine}\n"
    (tmp_path / "sub").mkdir()
    overlay = tmp_path / "sub" / "lab.yaml"
    overlay.write_text(
        "lab: lab\nproxmox: {port: 18006, token_file: token}\ndefaults: {pool: null, swap: 0}\n"
        "containers: {db: {memory: 1024}, flow: null, lake: {services: {analytics: {threads: 4}}}}\n"
        "pipelines: {weather: {cities: [a, b]}}\n"
    )
    (tmp_path / "inventory.yaml").write_text(base)
    inventory = load([tmp_path / "inventory.yaml", overlay])
    assert [c.name for c in inventory.containers] == ["db", "lake"]
    db, lake = inventory.containers
    assert (db.shape.memory, db.shape.disk, db.shape.swap, db.shape.pool, db.vmid) == (1024, 9, 0, None, 167)
    assert lake.services["analytics"] == Analytics(threads=4)
    assert [c.name for c in inventory.weather.cities] == ["a", "b"]
    assert inventory.endpoint.token_file == tmp_path / "sub" / "token"
    assert inventory.weather.api_key_file == tmp_path / ".homelab" / "openweather-api-key"
    assert inventory.state_dir == tmp_path / ".homelab" / "lab"


def test_cities_file_is_relative_to_the_inventory(tmp_path: Path) -> None:
    pipeline = read(tmp_path, BASE.replace('["Newark,US"]', "{file: cities.csv}\n    rate_limit: 0")).weather
    assert (pipeline.cities, pipeline.cities_file, pipeline.rate_limit) == ((), tmp_path / "cities.csv", 0)


# (replace this, by this) → the beginning of the problem: file:line: path: text
PROBLEMS = [
    ("lab: home", "lab: Home", "inventory.yaml:1: lab: must be the lab's name"),
    ("lab: home", "lab: golden", "inventory.yaml:1: lab: must be the lab's name"),
    ("lab: home\n", "", "inventory.yaml:1: lab: is missing"),
    ("host: pve.lan", "host: https://pve.lan", "inventory.yaml:3: proxmox.host: must be a host name"),
    ("host: pve.lan", "hots: pve.lan", "inventory.yaml:3: proxmox.hots: unknown key; did you mean `host`?"),
    ("homelab@pve!cli", "homelab", "inventory.yaml:4: proxmox.token_id: must be user@realm!name"),
    ("host: pve.lan", "host: a\n  port: 0", "inventory.yaml:4: proxmox.port: must be a whole number from 1 to 65535"),
    ("host: pve.lan", "host: a\n  fingerprint: AA:BB", "inventory.yaml:4: proxmox.fingerprint: must be a SHA-256"),
    (
        "host: pve.lan",
        f"host: a\n  fingerprint: {'ab' * 32}\n  ca_file: x",
        "inventory.yaml:5: proxmox.ca_file: cannot be combined with `fingerprint`",
    ),
    ("192.168.2.0/24", "192.168.2.1/24", "inventory.yaml:6: network.subnet: must be a network such as"),
    ("192.168.2.0/24", "192.168.2.0/30", "inventory.yaml:6: network.subnet: must have a prefix length"),
    ("gateway: .1", "gateway: 10.0.0.1", "inventory.yaml:7: network.gateway: 10.0.0.1 is outside the subnet"),
    ("bridge: vmbr0", "bridge: 5", "inventory.yaml:8: network.bridge: must be a bridge of the node"),
    ("bridge: vmbr0", "bridge: vmbr0\n  mtu: 9", "inventory.yaml:9: network.mtu: must be a whole number of bytes"),
    ("bridge: vmbr0", "bridge: vmbr0\n  vlan: 4095", "inventory.yaml:9: network.vlan: must be a whole number from 1"),
    ("bridge: vmbr0", "bridge: vmbr0\n  nameservers: [.1, x]", "inventory.yaml:9: network.nameservers[1]: must be an"),
    ("ip: .67", "ip: .256", "inventory.yaml:12: containers.db.ip: must be an IPv4 address, whole or as its last part"),
    ("ip: .67", "ip: DHCP", "inventory.yaml:12: containers.db.ip: must be an IPv4 address, whole or as its last part"),
    ("ip: .67", "ip: 67", "inventory.yaml:12: containers.db.ip: must be an IPv4 address"),
    ("ip: .67", "ip: .0", "inventory.yaml:12: containers.db.ip: 192.168.2.0 is the network address"),
    ("ip: .67", "ip: .255", "inventory.yaml:12: containers.db.ip: 192.168.2.255 is the broadcast address"),
    ("ip: .67", "ip: .1", "inventory.yaml:12: containers.db.ip: 192.168.2.1 is taken by the gateway"),
    ("ip: .67", "ip: 192.168.3.67", "inventory.yaml:12: containers.db.ip: 192.168.3.67 is outside the subnet"),
    ("192.168.2.68", ".67", "inventory.yaml:18: containers.lake.ip: 192.168.2.67 is taken by db"),
    ("vmid: 168", "vmid: 167", "inventory.yaml:17: containers.lake.vmid: 167 is taken by db"),
    ("vmid: 168", "vmid: 99", "inventory.yaml:17: containers.lake.vmid: must be a whole number from 100 to 999999999"),
    ("vmid: 168", "vmid: true", "inventory.yaml:17: containers.lake.vmid: must be a whole number"),
    ("cores: 1", "cores: 0", "inventory.yaml:13: containers.db.cores: must be a whole number from 1"),
    ("memory: 2048", "memory: 2 GB", "inventory.yaml:14: containers.db.memory: must be a whole number of MiB from 128"),
    ("memory: 2048", "memory: 2048\n    disk: 0", "inventory.yaml:15: containers.db.disk: must be a whole number of"),
    ("memory: 2048", "memory: 2048\n    onboot: yes", "inventory.yaml:15: containers.db.onboot: must be true or false"),
    (
        "memory: 2048",
        "memory: 2048\n    template: ubuntu-2404",
        "inventory.yaml:15: containers.db.template: unknown template 'ubuntu-2404'; did you mean `ubuntu-24.04`?",
    ),
    ("  db:", "  Db_1:", "inventory.yaml:10: containers.Db_1: the name is also the host name"),
    ("  lake:", "  db:", "inventory.yaml:16: containers.db: written twice; the first one is in line 10"),
    ("    cores: 1\n", "", "inventory.yaml:10: containers.db.cores: is missing"),
    ("{postgres: {version: 16}}", "{}", "inventory.yaml:22: containers.lake.services.analytics: needs the service `po"),
    ("analytics:", "postgres:", "inventory.yaml:22: containers.lake.services.postgres: is on db already"),
    ("analytics:", "analitics:", "inventory.yaml:22: containers.lake.services.analitics: unknown service; did you mea"),
    ("{postgres: {version: 16}}", "[postgres]", "inventory.yaml:15: containers.db.services: must be a mapping"),
    ("{version: 16}", "{version: '16'}", "inventory.yaml:15: containers.db.services.postgres.version: must be a whole"),
    ("{version: 16}", "{source: apt}", "inventory.yaml:15: containers.db.services.postgres.source: must be one of 'di"),
    ("{version: 16}", "{verison: 16}", "inventory.yaml:15: containers.db.services.postgres.verison: unknown key; did "),
    ("{version: 16}", "{version: 15}", "inventory.yaml:15: containers.db.services.postgres.version: ubuntu-24.04 ship"),
    (
        "{airflow: {}}",
        "{airflow: {version: 3.3}}",
        "inventory.yaml:28: containers.flow.services.airflow.version: must be one of '3.3', '2.11', "
        "not 3.3; put it in q",
    ),
    ("ip: .69", "ip: .69\n    template: local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst\n    disk: 9", None),
    ('["Newark,US"]', "[]", f"{CITIES_AT}.cities: must name at least one city"),
    *(
        ('["Newark,US"]', f"[{city}]", f"{CITIES_AT}.cities[0].name: must be a city's name of at most")
        for text in (r'"a\0b"', r'"a\u001b[2Jb"', r'"a\nb"', f'"{"x" * 201}"')
        for city in (text, f"{{name: {text}}}")
    ),
    ('["Newark,US"]', "[x, x]", f"{CITIES_AT}.cities[1]: 'x' is in the list twice"),
    ('["Newark,US"]', "[5]", f"{CITIES_AT}.cities[0]: must be a name such as"),
    ('["Newark,US"]', "[{id: 5}]", f"{CITIES_AT}.cities[0].name: is missing"),
    ('["Newark,US"]', "[{name: x, latitude: 5}]", f"{CITIES_AT}.cities[0]: needs both latitude"),
    (
        '["Newark,US"]',
        "[{name: x, latitude: 95, longitude: 1}]",
        f"{CITIES_AT}.cities[0].latitude: must be a number from -90 to 90",
    ),
    (
        '["Newark,US"]',
        "[{name: x, id: 1, latitude: 5, longitude: 1}]",
        f"{CITIES_AT}.cities[0]: has both an id and coordinates",
    ),
    ('["Newark,US"]', "[{name: x, timezone: Berlin}]", f"{CITIES_AT}.cities[0].timezone: must be a time zone such as"),
    ('["Newark,US"]', "[{name: x, timezone: Europe/Berln}]", f"{CITIES_AT}.cities[0]: unknown time zone"),
    ('["Newark,US"]', "[x]\n    days: solar", f"{BELOW_CITIES}.days: must be one of 'utc', 'local'"),
    ('["Newark,US"]', "[x]\n    schedule: '0 0 31 2 *'", f"{BELOW_CITIES}.schedule: cron's day of the month '31'"),
    ('["Newark,US"]', "[x]\n    schedule: '*/90 * * * *'", f"{BELOW_CITIES}.schedule: cron's minute has the"),
    ('["Newark,US"]', "[x]\n    schedule: '@hurly'", f"{BELOW_CITIES}.schedule: unknown preset '@hurly'; d"),
    ('["Newark,US"]', "[x]\n    units: kelvin", f"{BELOW_CITIES}.units: must be one of 'standard', 'metric'"),
    *(
        ('["Newark,US"]', f"[x]\n    api_url: '{url}'", f"{BELOW_CITIES}.api_url: must be an http or https URL")
        for url in ("http://[::1", "http://x:99999", "http://x:abc", "http://x:0")
    ),
    ('["Newark,US"]', "[x]\n    api_url: ftp://x", f"{BELOW_CITIES}.api_url: must be an http or https URL"),
    ('["Newark,US"]', "{file: cities.txt}", f"{CITIES_AT}.cities.file: must be a path that ends in"),
    ('["Newark,US"]', "{fil: cities.csv}", f"{CITIES_AT}.cities.fil: unknown key; did you mean `file`"),
    ('["Newark,US"]', "[x]\n    rate_limit: -1", f"{BELOW_CITIES}.rate_limit: must be a whole number of req"),
    (
        '["Newark,US"]',
        f"{[f'c{n}' for n in range(11)]}\n    rate_limit: 1",
        f"{CITIES_AT}.cities: has 11 cities, but at 1 requests a minute a run of 10 minutes fetches ",
    ),
    ('pipelines:\n  weather:\n    cities: ["Newark,US"]\n', "", None),
    ('pipelines:\n  weather:\n    cities: ["Newark,US"]\n', "pipelines: {weather: null}\n", None),
    ("pipelines:", "pipeline:", "inventory.yaml:29: pipeline: unknown key; did you mean `pipelines`?"),
]


@pytest.mark.parametrize(("old", "new", "expected"), PROBLEMS, ids=[str(p[2])[:60] for p in PROBLEMS])
def test_each_problem_has_its_line_and_path(tmp_path: Path, old: str, new: str, expected: str | None) -> None:
    assert old in BASE
    text = BASE.replace(old, new, 1)
    if expected is None:
        assert read(tmp_path, text)
    else:
        assert any(problem.startswith(expected) for problem in problems(tmp_path, text)), problems(tmp_path, text)


def test_airflow_2_needs_an_older_python(tmp_path: Path) -> None:
    text = BASE.replace("{airflow: {}}", '{airflow: {version: "2.11"}}\n    template: debian-13')
    assert problems(tmp_path, text) == [
        "inventory.yaml:28: containers.flow.services.airflow.version: Airflow 2.11 runs on Python up to 3.12, and "
        'debian-13 has 3.13: write "3.3", or another template'
    ]


def test_all_problems_are_reported_in_the_order_of_the_lines(tmp_path: Path) -> None:
    text = BASE.replace("gateway: .1", "gateway: x").replace("vmid: 168", "vmid: 1").replace("  db:", "  DB:")
    found = problems(tmp_path, text + "  cities: [a]\nextra: 1\n")
    assert [int(line.split(":")[1]) for line in found] == [7, 10, 17, 32, 33]


def test_problem_of_an_overlay_points_into_the_overlay(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        BASE.replace("cores: 1", "cores: 0"),
        "\n\ncontainers:\n  db: {memory: 1}\n",
        "network: {gateway: 1.2.3.4}\nnetwrok: {}\n",
    )
    assert [line.partition(": ")[0] for line in found] == [
        "inventory.yaml:13",
        "overlay1.yaml:4",
        "overlay2.yaml:1",
        "overlay2.yaml:2",
    ]


def test_text_that_no_file_can_hold_is_a_problem(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, BASE.replace("Newark,US", r"\ud800"))
    assert found.endswith("not '\\ud800'; it has a control character")


def test_values_replaced_by_an_overlay_have_no_problems(tmp_path: Path) -> None:
    found = problems(
        tmp_path, BASE.replace('["Newark,US"]', "[{name: x}]"), "\npipelines: {weather: {cities: [{id: 5}]}}\n"
    )
    assert found == [
        "overlay1.yaml:2: pipelines.weather.cities[0].name: is missing: a city's name of at most 200 characters"
    ]


# Eight levels, each with ten aliases of the one before.
BOMB = "x-a0: &a0 {{}}\n" + "".join(
    f"x-a{level}: &a{level} {{open}}{', '.join([f'{{item}}a{level - 1}'] * 10)}{{close}}\n" for level in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lab: [\n", "inventory.yaml:2: not valid YAML"),
        (
            "schedule: @hourly\n",
            "inventory.yaml:1: not valid YAML: found character '@' that cannot start any token; put",
        ),
        ("lab: home\n\tx: 1\n", "inventory.yaml:2: not valid YAML"),
        ("- a\n", "inventory.yaml:1: must be a mapping, not a list"),
        ("lab: !!python/object:os.system x\n", "inventory.yaml:1: not valid YAML"),
        ("lab: \x00\n", "inventory.yaml:1: not valid YAML: unacceptable character"),
        ("lab: " + "[" * 1000, "inventory.yaml:1: nested too deeply"),
        *(
            (f"x-a: {value}\n", f"inventory.yaml:1: not valid YAML: this value cannot be read as {value.split()[0]}")
            for value in ("!!int foo", "!!float foo", "!!bool foo", "!!timestamp foo", "!!timestamp 2026-01-01")
        ),
        ("x-a: !!float .inf\n", "inventory.yaml:1: not valid YAML: this value cannot be read as !!float"),
        ("x-a:\n- 1.0e999\n", "inventory.yaml:2: not valid YAML: this value cannot be read as !!float"),
        ("x-a: !!binary foo\n", "inventory.yaml:1: not valid YAML: "),
        (
            BOMB.format(open="[", close="]", item="*"),
            "inventory.yaml:5: x-a5[3]: aliases repeat more than 100,000 values",
        ),
        (BOMB.format(open="{<<: [", close="]}", item="*"), "inventory.yaml:6: x-a5: aliases repeat"),
        ("a: &x [*x]\n", "inventory.yaml:1: a[0]: nested too deeply, or an alias that contains itself"),
    ],
)
def test_unreadable_inventories(tmp_path: Path, text: str, expected: str) -> None:
    (problem, *_) = problems(tmp_path, text)
    assert problem.startswith(expected)


MERGED = """\
x-small: &small {cores: 1, memory: 512, tags: [small]}
x-web: &web
  memory: 1024
  disk: 9
  onboot: nope
"""


def test_merge_keys_add_the_keys_of_other_mappings(tmp_path: Path) -> None:
    text = MERGED.replace("nope", "false") + BASE.replace("cores: 1\n    memory: 2048", "<<: [*small, *web]")
    text = text.replace(
        "cores: 2\n    memory: 4096\n    services:\n      analytics",
        "<<: *small\n    cores: 2\n    services: {analytics: }\n    #",
    )
    db, lake, _ = read(tmp_path, text).containers
    assert (db.shape.cores, db.shape.memory, db.shape.disk, db.shape.onboot) == (1, 512, 9, False), "the first one wins"
    assert (lake.shape.cores, lake.shape.memory) == (2, 512), "an explicit key wins"
    assert "small" in db.shape.tags & lake.shape.tags


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("cores: 1\n", "<<: *web\n    cores: 1\n", "inventory.yaml:5: containers.db.onboot: must be true or false"),
        (
            "cores: 1\n",
            "<<: *small\n    cores: 1\n    cores: 2\n",
            "inventory.yaml:20: containers.db.cores: written tw",
        ),
        ("cores: 1\n", "<<: *small\n    <<: *web\n", "inventory.yaml:19: containers.db.<<: written twice; the first"),
        ("cores: 1\n", "cores: 1\n    <<: 5\n", "inventory.yaml:19: containers.db.<<: must be an alias of a mapping"),
        ("cores: 1\n", "cores: 1\n    <<: [*small, x]\n", "inventory.yaml:19: containers.db.<<: must be an alias of"),
        ("cores: 1\n", "cores: 1\n    <<: &a {<<: *a}\n", "inventory.yaml:15: containers.db: nested too deeply, or an"),
        ("vmid: 168\n", "vmid: 168\n    <<: *web\n", "inventory.yaml:5: containers.lake.onboot: must be true or false"),
        (
            "cores: 1\n",
            "cores: 1\n    <<: &a {<<: [*a, *a, *a]}\n",
            "inventory.yaml:15: containers.db: nested too deeply",
        ),
        ("lab: home\n", "lab: home\ny-small: {}\n", "inventory.yaml:7: y-small: unknown key"),
        ("vmid: 167\n", "vmid: 167\n    x-small: {}\n", "inventory.yaml:17: containers.db.x-small: unknown key"),
    ],
)
def test_each_problem_with_merge_keys(tmp_path: Path, old: str, new: str, expected: str) -> None:
    (found,) = problems(tmp_path, MERGED + BASE.replace(old, new, 1))
    assert found.startswith(expected)


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("    cities: ", "    path: ~nouser/weather\n    cities: ", "pipelines.weather.path"),
        ("  host: pve.lan\n", "  host: pve.lan\n  ca_file: ~nouser/ca.pem\n", "proxmox.ca_file"),
        ("network:\n", "defaults: {ssh_keys: [~nouser/key.pub]}\nnetwork:\n", "defaults.ssh_keys[0]"),
    ],
)
def test_path_below_the_home_of_no_user(tmp_path: Path, old: str, new: str, place: str) -> None:
    assert old in BASE
    (found,) = problems(tmp_path, BASE.replace(old, new, 1))
    assert re.fullmatch(rf"inventory\.yaml:\d+: {re.escape(place)}: cannot use ~nouser/\S+: no user of .*", found)


def test_aliases_that_repeat_little_are_no_problem(tmp_path: Path) -> None:
    rows = "".join(f"- {{a: {number}}}\n" for number in range(60_000))
    found = Problems()
    document = yaml_source.parse(tmp_path, f"first:\n{rows}x: [&b [1], *b]\n", found)
    assert (len(document.data["first"]), document.data["x"], found.found) == (60_000, [[1], [1]], [])


def test_both_yaml_parsers_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = MERGED + opened(bundled_path("inventory.yaml").read_text())
    fast = yaml_source.parse(tmp_path, text, Problems())
    monkeypatch.setattr(yaml_source, "_FAST_NESTING", 0)
    assert yaml_source.parse(tmp_path, text, Problems()) == fast


def test_empty_file_lacks_every_section_but_no_keys_below(tmp_path: Path) -> None:
    assert [line.split(": ")[1] for line in problems(tmp_path, "")] == ["lab", "proxmox", "network", "containers"]


def test_missing_file_names_init(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Cannot read inventory.yaml: No such file") as caught:
        load([tmp_path / "inventory.yaml"])
    assert "homelab init" in caught.value.resolution


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("@hourly", True),
        ("@daily", True),
        ("0 * * * *", True),
        ("*/15 0-6,12 1 jan-mar mon", True),
        ("5/10 * * * *", True),
        ("@often", False),
        ("0 * * *", False),
        ("60 * * * *", False),
        ("* 24 * * *", False),
        ("* * 0 * *", False),
        ("* * * 13 *", False),
        ("* * * * 8", False),
        ("*/0 * * * *", False),
        ("5-1 * * * *", False),
        ("a * * * *", False),
        ("* * * foo *", False),
        ("", False),
        ("-1 * * * *", False),
        ("0 0 29 2 *", True),
        ("0 0 30 feb *", False),
        ("0 0 31 2,apr,6 *", False),
        ("0 0 30,31 2 *", False),
        ("0 0 31 2-3 *", True),
        ("0 0 31 2/2 *", True),
        ("0 0 31 4/5 *", False),
        ("0 0 31 2 mon", True),
        ("*/59 * * * *", True),
        ("*/60 * * * *", False),
        ("0 */24 * * *", False),
        ("0 0 */31 * *", False),
        ("0 0 * */12 *", False),
        ("0 0 * * */8", False),
    ],
)
def test_schedules(text: str, good: bool) -> None:
    assert (schedule.error_in(text) is None) is good


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("features: [keyctl, x]", "features[1]: must be one of nesting, keyctl"),
        ("tags: [Prod]", "tags[0]: must be a tag: lower-case letters"),
        ("tags: [homelab-x]", "tags[0]: must be a tag: lower-case letters"),
        ("tags: prod", "tags: must be a list, not 'prod'"),
        ("protection: 1", "protection: must be true or false"),
        ("stop_timeout: -1", "stop_timeout: must be a whole number of seconds from 0"),
        ("mounts: {data: 8}", "mounts.data: must be an absolute path"),
        ("mounts: {/a/../b: 8}", "mounts./a/../b: must be an absolute path"),
        ("mounts: {/a: 0}", "mounts./a.size: must be a whole number of GiB from 1"),
        ("mounts: {/a: {backup: true}}", "mounts./a.size: is missing"),
        ("mounts: {/a: {size: 1, bakup: true}}", "mounts./a.bakup: unknown key; did you mean `backup`?"),
        ("ssh_keys: [5]", "ssh_keys[0]: must be a public key or a file with some, not 5"),
        ("ssh_keys: [ssh-ed25519 AAAA, inventory.yaml]", "ssh_keys[1]: line 1 of inventory.yaml is not a public key"),
    ],
)
def test_each_problem_of_a_container_setting(tmp_path: Path, line: str, expected: str) -> None:
    found = problems(tmp_path, BASE.replace("    cores: 1\n", f"    cores: 1\n    {line}\n"))
    assert found[0].startswith(f"inventory.yaml:14: containers.db.{expected}")


TOO_LARGE = "must be at most the"


@pytest.mark.parametrize(
    ("service", "settings", "expected"),
    [
        ("redis: {memory: 3GB}", "memory: 2500", "redis.memory: must be at most the memory of box, 2500 MiB"),
        ("redis: {memory: 2GB}", "memory: 2048", ""),
        ("redis: {}", "memory: 2048", ""),
        (
            "clickhouse: {memory_limit: 8GB}",
            "memory: 4096",
            f"clickhouse.memory_limit: {TOO_LARGE} memory of box, 4 GiB",
        ),
        ("broker: {disk: 8GB}", "memory: 512, disk: 4", f"broker.disk: {TOO_LARGE} disk of box, 4 GiB"),
        ("broker: {disk: 8GB}", "memory: 512, disk: 4, mounts: {/data: 8}", ""),
        ("prometheus: {retention_size: 5GB}", "memory: 512, disk: 4", f"prometheus.retention_size: {TOO_LARGE} disk"),
    ],
)
def test_part_of_the_memory_or_the_disk_fits_into_the_container(
    tmp_path: Path, service: str, settings: str, expected: str
) -> None:
    box = f"  box: {{vmid: 170, ip: .70, cores: 1, {settings}, services: {{{service}}}}}\n"
    text = BASE.replace("pipelines:\n", f"{box}pipelines:\n")
    if expected:
        (found,) = problems(tmp_path, text)
        assert found.startswith(f"inventory.yaml:29: containers.box.services.{expected}")
    else:
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("services: {airflow: {}}", "services: {airflow: {}, ingestion: {}}", "needs `ingestion` and `analytics` on "),
        ("version: 16", "version: 16, retention_months: 24", "`retention_months` of `postgres` would delete months: "),
        (f"      {STORAGE}", "", "needs object storage: a container with the service `s3`"),
        ("version: 16", "version: 16", ""),
    ],
)
def test_archive_of_old_months_has_a_place_and_no_rival(tmp_path: Path, old: str, new: str, expected: str) -> None:
    archive = '["Newark,US"]\n    archive_months: 12'
    text = BASE.replace('["Newark,US"]', archive).replace("      analytics:", f"      analytics:\n      {STORAGE}")
    text = text.replace(old, new)
    if expected:
        (problem,) = problems(tmp_path, text)
        assert f"pipelines.weather.archive_months: {expected}" in problem
    else:
        assert read(tmp_path, text).weather.archive_months == 12


@pytest.mark.parametrize("inline", [True, False])
def test_private_key_in_place_of_a_public_one_is_not_quoted(tmp_path: Path, inline: bool) -> None:
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\nhunter3\n-----END OPENSSH PRIVATE KEY-----\n"
    (tmp_path / "id_ed25519").write_text(key)
    item = json.dumps(key) if inline else "id_ed25519"
    (problem,) = problems(tmp_path, BASE + f"defaults: {{ssh_keys: [{item}]}}\n")
    assert "private key" in problem
    assert "hunter" not in problem
    if not inline:
        assert "id_ed25519.pub" in problem


def test_secret_file_in_place_of_the_inventory_is_not_quoted(tmp_path: Path) -> None:
    assert problems(tmp_path, "hunter2-hunter3\n") == ["inventory.yaml:1: must be a mapping, not a single value"]


def test_missing_file_of_public_keys_is_refused(tmp_path: Path) -> None:
    problem = problems(tmp_path, BASE + "defaults: {ssh_keys: [nosuch.pub]}\n")[0]
    assert (
        problem == f"inventory.yaml:32: defaults.ssh_keys[0]: cannot read {tmp_path}/nosuch.pub: No such file "
        "or directory"
    )


def test_public_keys_come_from_the_inventory_and_from_files(tmp_path: Path) -> None:
    (tmp_path / "my.pub").write_text("# mine\nssh-ed25519 AAAA me@desk\n\nssh-rsa BBBB\n")
    base = BASE.replace("    cores: 1\n", "    cores: 1\n    ssh_keys: [ssh-ed25519 CCCC]\n")
    db, lake, _ = read(tmp_path, base + "defaults: {ssh_keys: [my.pub]}\n").containers
    assert (db.ssh_keys, lake.ssh_keys) == (("ssh-ed25519 CCCC",), ("ssh-ed25519 AAAA me@desk", "ssh-rsa BBBB"))


def test_range_of_vmids_replaces_missing_ones(tmp_path: Path) -> None:
    without = BASE.replace("    vmid: 167\n", "")
    assert [problem.split(": ", 1)[1] for problem in problems(tmp_path, without)] == [
        "containers.db.vmid: is missing: a whole number from 100 to 999999999"
    ]
    inventory = read(tmp_path, without + "defaults: {vmid_range: 160-199}\n")
    assert ([c.vmid for c in inventory.containers], inventory.vmid_range) == ([0, 168, 169], range(160, 200))
    problem = problems(tmp_path, without + "defaults: {vmid_range: 200-100}\n")[1]
    assert "defaults.vmid_range: must be a range such as 160-199, and 200 is more than 100" in problem


def test_settings_become_the_container_config(tmp_path: Path) -> None:
    extra = "    bridge: vmbr1\n    vlan: 7\n    tags: [prod]\n    mounts: {/data: 5, /big: {size: 9, storage: zfs}}\n"
    db, lake, _ = read(
        tmp_path,
        BASE.replace("    cores: 1\n", f"    cores: 1\n{extra}")
        + ("defaults: {mtu: 1400, start_delay: 5, features: [nesting, keyctl], protection: true}\n"),
    ).containers
    assert (db.shape.bridge, db.shape.vlan, db.shape.mtu) == ("vmbr1", 7, 1400)
    assert (lake.shape.bridge, lake.shape.vlan, lake.shape.mtu) == ("vmbr0", None, 1400)
    assert db.shape.tags == {"homelab", "homelab-home", "prod"}
    assert [(m.path, m.size, m.storage, m.backup) for m in db.shape.mounts] == [
        ("/big", 9, "zfs", True),
        ("/data", 5, "local-lvm", True),
    ]
    assert (lake.shape.start_delay, lake.shape.features, lake.shape.protection) == (5, {"nesting", "keyctl"}, True)


def declared_keys(schema: object) -> Iterator[str]:
    if isinstance(schema, dict):
        properties = schema.get("properties", {}) if "additionalProperties" in schema else {}
        yield from properties
        for below in (*properties.values(), *(value for key, value in schema.items() if key != "properties")):
            yield from declared_keys(below)
    elif isinstance(schema, list):
        for item in schema:
            yield from declared_keys(item)


def test_shipped_inventory_mentions_every_key() -> None:
    """It has every key, commented or not, and no unknown key."""
    keys = set(declared_keys(json_schema())) - {"uri", "suite", "components", "key"}  # of a repository
    assert {"vlan", "token_file", "template", "schedule", "memory_limit", "latitude"} <= keys
    path = bundled_path("inventory.yaml")
    inventory = load([path])
    text = path.read_text()
    missing = [key for key in sorted(keys) if not re.search(rf"(?m)(^\s*#?\s*|[{{ ]){key}:", text)]
    assert missing == []
    assert [(c.name, c.vmid, str(c.address), c.shape.cores, c.shape.memory) for c in inventory.containers] == [
        ("postgres-data", 167, "192.168.2.67", 1, 2048),
        ("analytics-platform", 168, "192.168.2.68", 2, 4096),
        ("airflow-orchestration", 169, "192.168.2.69", 2, 4096),
    ]


def opened(text: str) -> str:
    """Return the shipped inventory with its commented keys, except those of `packages` and `ca_file`."""
    text, alerts, receivers = text.partition("# alerts:\n")
    text = re.sub(r"(?m)^( +)# ( *[\w-]+:( |$))", r"\1\2", text)
    text = re.sub(r"(?m)^( +)# (- \{)", r"\1\2", text).replace("  ca_file", "  # ca_file")
    text = re.sub(r"(?m)^( +)#   (/)", r"\1  \2", text)
    return text + alerts.removeprefix("# ") + re.sub(r"(?m)^#(   \w+: )", r" \1", receivers)


def test_comments_of_the_shipped_inventory_are_valid(tmp_path: Path) -> None:
    """The commented keys are valid, and the defaults in them are the defaults."""
    text = bundled_path("inventory.yaml").read_text()
    assert set(yaml.safe_load(opened(text))["defaults"]) == {field.name for field in fields(ContainerDefaults)} | {
        "vmid_range"
    }
    (tmp_path / "dags").mkdir()
    for name in ("metabase.jar", "duckdb.metabase-driver.jar"):
        (tmp_path / name).touch()
    inventory = read(tmp_path, opened(text).replace("executor: local", "executor: celery"))
    plain = read(tmp_path, text)
    *others, broker, station, ci, queue, worker = inventory.containers
    *containers, observability, dashboards, metabase, ingestion, storage, olap = others
    assert list(observability.services) == [
        "prometheus",
        "alertmanager",
        "alert_bridge",
        "blackbox_exporter",
        "grafana",
        "pve_exporter",
        "gateway",
        "node_exporter",
        "postgres_exporter",
    ]
    assert [list(each.services) for each in (dashboards, metabase)] == [["superset"], ["metabase"]]
    assert [list(each.services) for each in (ingestion, storage)] == [["ingestion"], ["s3"]]
    assert olap.services == {"clickhouse": ClickHouse(readers=("grafana",))}
    assert broker.services == {"broker": Broker(), "consumer": Consumer()}
    assert list(station.services) == ["station"]
    assert list(ci.services) == ["runner"]
    assert (queue.services["redis"], worker.services["airflow_worker"]) == (Redis(), AirflowWorker())
    assert inventory.alerts.receivers == ("email", "slack", "webhook", "url-1")
    inventory = replace(inventory, containers=tuple(containers))
    assert inventory.network.vlan == 20
    assert list(map(str, inventory.containers[0].shape.mounts)) == [
        "/srv/archive 100 GiB without backup",
        "/var/lib/postgresql 32 GiB",
    ]
    assert (inventory.vmid_range, plain.vmid_range) == (range(160, 200), range(0))
    for name in ("bridge", "firewall", "protection", "features", "tags"):
        assert [getattr(c.shape, name) for c in inventory.containers] == [
            getattr(c.shape, name) for c in plain.containers
        ]
    assert inventory.endpoint.fingerprint is not None
    assert inventory.endpoint.token_file == plain.endpoint.token_file
    assert inventory.weather.units == plain.weather.units
    assert inventory.weather.api_url == plain.weather.api_url
    assert inventory.weather.api_key_file == plain.weather.api_key_file
    assert [c.template_storage for c in inventory.containers] == [c.template_storage for c in plain.containers]
