"""Grafana's dashboards are those of the generator, and ask for metrics that homelab's own sources write."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from dashboards.__main__ import FOLDER, files
from tests.scripts import ROOT

# Each metric of ours with the file that writes it.
SOURCES = {
    "homelab_airflow_": "templates/airflow/metrics.sql",
    "homelab_pipeline_": "pipelines/shared/scripts/metrics.py",
    "homelab_certificate_": "homelab/services/lab_certificates.py",
    "homelab_security_": "homelab/services/security_updates.py",
}


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(FOLDER.glob("*.json")):
        yield from ((path.stem, panel) for panel in json.loads(path.read_text())["panels"])


def test_dashboards_are_up_to_date() -> None:
    assert {path.name: path.read_text() for path in FOLDER.glob("*.json")} == files(), "run: make dashboards"


def test_there_is_a_dashboard_for_each_part_of_the_stack() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == {
        "airflow",
        "container",
        "pipeline",
        "postgresql",
        "proxmox",
        "stack",
    }


def test_panels_fill_their_rows_and_have_queries_of_their_own() -> None:
    for page, panel in panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, (page, panel["title"])
        names = [target["refId"] for target in panel["targets"]]
        assert len(set(names)) == len(names) > 0, (page, panel["title"])


def test_each_metric_of_homelab_has_a_source() -> None:
    names = {
        name
        for _, panel in panels()
        for target in panel["targets"]
        for name in re.findall(r"homelab_\w+", target["expr"])
    }
    assert len(names) >= 20
    for name in names:
        prefix = next(each for each in SOURCES if name.startswith(each))
        text = (ROOT / SOURCES[prefix]).read_text()
        assert re.search(rf"\b({name}|{name.removeprefix(prefix)})\b", text), name
