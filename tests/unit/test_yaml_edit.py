"""A new entry in inventory.yaml: the text around it is kept byte by byte."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from homelab.errors import HomelabError, InputError
from homelab.inventory import load
from homelab.inventory.yaml_edit import entry, insert_containers, read_text, replace_text
from homelab.paths import bundled_path

WEB: dict[str, Any] = {"vmid": 105, "ip": ".70"}
PATH = Path("inventory.yaml")


def into(text: str, **more: Any) -> str:
    return insert_containers(text, PATH, {"web": WEB | more})


def test_shipped_inventory_gets_one_more_container() -> None:
    text = bundled_path("inventory.yaml").read_text()
    after = into(text)
    new = "\n  web:\n    vmid: 105\n    ip: .70\n"
    assert after.replace(new, "", 1) == text
    before, _, rest = after.partition(new)
    assert "  airflow-orchestration:\n" in before
    assert rest.startswith("\n  # Metrics and alerts of the whole stack")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("containers:\n  a:\n    vmid: 1\n", "containers:\n  a:\n    vmid: 1\n  web:\n    vmid: 105\n    ip: .70\n"),
        ("containers:\n  a:\n    vmid: 1", "containers:\n  a:\n    vmid: 1\n  web:\n    vmid: 105\n    ip: .70"),
        (
            "containers:\n    a: {vmid: 1}\nlab: x\n",
            "containers:\n    a: {vmid: 1}\n    web:\n      vmid: 105\n      ip: .70\nlab: x\n",
        ),
        (
            "containers:\n  a:\n    vmid: 1\n    # its own\n\n    # and this\n  # of all\n# of the file\nlab: x\n",
            "containers:\n  a:\n    vmid: 1\n    # its own\n\n    # and this\n  web:\n    vmid: 105\n    ip: .70\n"
            "  # of all\n# of the file\nlab: x\n",
        ),
        (
            "containers:\n  a:\n    vmid: 1\n\n  b:\n    text: |\n      x\n      y\n\nlab: x\n",
            "containers:\n  a:\n    vmid: 1\n\n  b:\n    text: |\n      x\n      y\n\n  web:\n    vmid: 105\n"
            "    ip: .70\n\nlab: x\n",
        ),
        (
            "containers:\r\n  a:\r\n    vmid: 1\r\nlab: x\r\n",
            "containers:\r\n  a:\r\n    vmid: 1\r\n  web:\r\n    vmid: 105\r\n    ip: .70\r\nlab: x\r\n",
        ),
        (
            "x: &it\n  vmid: 1\ncontainers:\n  a: *it\n",
            "x: &it\n  vmid: 1\ncontainers:\n  a: *it\n  web:\n    vmid: 105\n    ip: .70\n",
        ),
        (
            "containers:\n  a:\n    services:\n      b: {}\n      c:\nlab: x\n",
            "containers:\n  a:\n    services:\n      b: {}\n      c:\n  web:\n    vmid: 105\n    ip: .70\nlab: x\n",
        ),
    ],
)
def test_position_of_an_entry(text: str, expected: str) -> None:
    assert into(text) == expected


@pytest.mark.parametrize("text", ["lab: x\n", "containers: {a: {vmid: 1}}\n", "containers:\n", "[1]\n"])
def test_inventory_without_a_position_for_an_entry_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="Cannot add a container"):
        into(text)


@pytest.mark.parametrize(
    "value",
    [
        "local-lvm",
        "debian-12",
        "local:vztmpl/debian-12_1.tar.zst",
        ".67",
        "true",
        "no",
        "mount=nfs;cifs",
        "a b",
        "#x",
        "x: y",
        "5",
        "1e3",
        "",
        "ä",
        12,
        0,
        True,
        False,
        ["a", "mount=nfs;cifs"],
        [],
        {"size": 3, "backup": False},
    ],
)
def test_every_value_is_read_back(value: Any, tmp_path: Path) -> None:
    lines = entry("web", {"key": value})
    raw = yaml.load("\n".join(lines), Loader=yaml.BaseLoader)["web"]["key"]  # noqa: S506 - all values as text

    def text(item: Any) -> Any:
        if isinstance(item, dict | list):
            return {k: text(v) for k, v in item.items()} if isinstance(item, dict) else [text(v) for v in item]
        return str(item).lower() if isinstance(item, bool) else str(item)

    assert raw == text(value)
    assert 'key: "' not in lines[1] or value not in ("local-lvm", "debian-12", ".67")


def test_mounts_are_a_block_and_load(tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    text = insert_containers(
        bundled_path("inventory.yaml").read_text(),
        path,
        {
            "web": WEB
            | {
                "cores": 1,
                "memory": 512,
                "mounts": {"/srv": 8, "/data": {"size": 9, "backup": False}},
                "features": ["nesting"],
                "tags": ["mine"],
            }
        },
    )
    assert "    mounts:\n      /srv: 8\n      /data: {size: 9, backup: false}\n    features: [nesting]\n" in text
    web = load([path], text).containers[-1]
    assert [(mount.path, mount.size, mount.backup) for mount in web.shape.mounts] == [
        ("/data", 9, False),
        ("/srv", 8, True),
    ]
    assert not path.exists()


def test_file_is_replaced_atomically_with_its_mode_and_through_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real.yaml", tmp_path / "inventory.yaml"
    real.write_bytes(b"a: 1\r\n")
    real.chmod(0o640)
    link.symlink_to(real)
    before = read_text(link)
    replace_text(link, before, before + "b: 2\r\n")
    assert (real.read_bytes(), real.stat().st_mode & 0o777, link.is_symlink()) == (b"a: 1\r\nb: 2\r\n", 0o640, True)
    assert sorted(os.listdir(tmp_path)) == ["inventory.yaml", "real.yaml"]


def test_file_changed_in_the_meantime_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_text("theirs")
    with pytest.raises(HomelabError, match="changed in the meantime"):
        replace_text(path, "before", "after")
    assert path.read_text() == "theirs"
