"""`homelab dashboard export`: the changes of the files, and answers in another format."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from homelab.commands.dashboard_export import PreparedExport, prepare_export
from homelab.errors import HomelabError, InputError
from homelab.host import Result
from homelab.model import Inventory
from homelab.runtime.session import Session
from tests.support import NoHost, make_session
from tests.unit.test_pipeline_dashboards import CHART, DASHBOARD, DATASET, FILES, read, write
from tests.unit.test_superset import APART
from tests.unit.test_superset import inventory as with_superset


@dataclass
class Superset(NoHost):
    """Superset's container: the recorded assets, and the exported contents by their uuid."""

    records: Mapping[str, Any]
    contents: Mapping[str, Any]
    ran: list[str] = field(default_factory=list)

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
        """See Host.run."""
        if stdin.startswith(b"{"):
            kinds = {DATASET: "dataset", CHART: "chart"}
            assets = [{"kind": kinds.get(uuid, "dashboard"), "content": each} for uuid, each in self.contents.items()]
            answer = {"assets": assets, "left_out": {"Draft": "it is a draft: publish it in the browser first"}}
            return Result(command, 0, b"log\n" + json.dumps(answer).encode())
        if stdin:
            self.ran.append(stdin.decode())
        return Result(command, 0, json.dumps({"prices": self.records}).encode())


@dataclass(frozen=True)
class Home:
    """A pipeline with dashboards that are deployed, and Superset's contents of them."""

    inventory: Inventory
    contents: dict[str, dict[str, Any]]
    records: dict[str, dict[str, Any]]

    def session(self) -> tuple[Session, Superset]:
        superset = Superset(self.records, self.contents)
        return make_session(self.inventory, connector=lambda *_: superset), superset

    def export(self) -> PreparedExport:
        return prepare_export(self.session()[0], "prices")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (pipeline,), _ = read(write(tmp_path / "prices"))
    found = replace(with_superset(tmp_path, APART), pipelines=(pipeline,))
    contents = {str(each["uuid"]): dict(each) for each in FILES.values()}
    records = {each.uuid: {"kind": each.kind, "file": each.digest} for each in pipeline.dashboards}
    return Home(found, contents, records)


def lines(export: PreparedExport) -> list[str]:
    return [str(each) for each in export.changes.changes]


def test_export_of_unchanged_dashboards_writes_nothing(home: Home) -> None:
    export = home.export()
    assert (lines(export), export.changes.unchanged, export.overwrites) == ([], 3, False)
    assert export.changes.left_out == {"Draft": "it is a draft: publish it in the browser first"}


def test_change_and_new_chart_are_written_and_recorded(home: Home) -> None:
    home.contents[CHART]["slice_name"] = "Mean"
    new = "00000000-0000-4000-8000-000000000009"
    home.contents[new] = {"dashboard_title": "Prices / now", "uuid": new, "position": {}}
    session, superset = home.session()
    export = prepare_export(session, "prices")
    assert lines(export) == [
        "change charts/average.yaml (chart Mean)",
        "add dashboards/prices_now.yaml (dashboard Prices / now)",
    ]
    assert export.overwrites
    export.write(session)
    folder = Path(export.changes.folder)
    assert (folder / "charts" / "average.yaml").read_text().startswith("slice_name: Mean\n")
    assert (folder / "dashboards" / "prices_now.yaml").exists()
    (sql,) = superset.ran
    assert sql.startswith("select format('comment on table dashboards")
    assert new in sql


def test_file_changed_after_the_last_deploy_is_marked(home: Home) -> None:
    home.contents[CHART]["slice_name"] = "Mean"
    home.records[CHART]["file"] = "another"
    assert lines(home.export()) == [
        "change charts/average.yaml (chart Mean; the file was changed here after the last deploy)"
    ]


def test_deleted_dashboard_removes_its_file_and_a_file_not_deployed_yet_stays(home: Home) -> None:
    del home.contents[DASHBOARD], home.contents[CHART]
    del home.records[CHART]
    assert lines(home.export()) == ["remove dashboards/prices.yaml (dashboard Prices)"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda each: each.update(uuid="../../etc/passwd"),
        lambda each: each.update(params=5),
        lambda each: each.pop("uuid"),
    ],
)
def test_answer_in_another_format_is_an_error(home: Home, spoil: Callable[[dict[str, Any]], Any]) -> None:
    spoil(home.contents[CHART])
    with pytest.raises(HomelabError, match="the answer has an unexpected format"):
        home.export()


def test_folder_of_the_built_in_weather_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        prepare_export(
            make_session(replace(with_superset(tmp_path, APART), path=tmp_path / "inventory.yaml")), "weather"
        )
    assert "homelab pipeline copy weather" in caught.value.resolution
