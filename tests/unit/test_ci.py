"""Workflows, comments and differences of marts for a user's repository."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from homelab.cli.diff_output import markdown, text
from homelab.commands.ci_comment import post_comment
from homelab.commands.ci_init import Workflow, write_workflow
from homelab.commands.diff import ColumnDiff, MartDiff, PipelineDiff
from homelab.commands.pipeline_new import new_pipeline
from homelab.dev.model_builds import Side
from homelab.dev.revision import at_revision
from homelab.errors import HomelabError, InputError
from homelab.inventory import load
from homelab.model import Inventory
from tests.scripts import ROOT


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    """An inventory with a pipeline of its own, in a git repository."""
    shutil.copy(ROOT / "inventory.yaml", tmp_path)
    new_pipeline(tmp_path, "prices")
    path = tmp_path / "inventory.yaml"
    path.write_text(path.read_text().replace("pipelines:\n", "pipelines:\n  prices: {path: pipelines/prices}\n", 1))
    git(tmp_path, "init", "-q")
    return load([path])


FILES = {
    "github": (".github/workflows/homelab.yml", "vendor.github-workflows"),
    "gitea": (".gitea/workflows/homelab.yml", "vendor.github-workflows"),
    "gitlab": (".gitlab-ci.yml", "vendor.gitlab-ci"),
}


@pytest.mark.slow
@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("forge", FILES)
def test_workflow_is_valid_and_is_not_overwritten(inventory: Inventory, forge: str, published: bool) -> None:
    workflow = Workflow(forge, "main", Path("/srv/homelab"), published)
    path = write_workflow(inventory, workflow)
    name, schema = FILES[forge]
    assert path == inventory.path.parent / name
    linter = Path(sys.executable).with_name("check-jsonschema")
    done = subprocess.run([linter, "--builtin-schema", schema, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert ("--published" in path.read_text()) is published
    with pytest.raises(InputError, match="it already exists"):
        write_workflow(inventory, workflow)


@pytest.mark.parametrize("forge", ["github", "gitea"])
def test_code_of_a_fork_never_reaches_the_users_own_runner(inventory: Inventory, forge: str) -> None:
    path = write_workflow(inventory, Workflow(forge, "main", Path("/srv/homelab"), published=True))
    jobs = yaml.safe_load(path.read_text())["jobs"]
    assert jobs["check"]["runs-on"] == ["self-hosted", "homelab"]
    assert "head.repo.full_name == github.repository" in jobs["check"]["if"]
    assert jobs["deploy"]["if"] == "github.event_name == 'push'"


@pytest.mark.parametrize(
    "changes", [{"branch": "main'; id"}, {"requirement": "x'$(id)"}, {"folder": Path("/srv/a b\n- run: id")}]
)
def test_value_for_a_shell_is_refused(inventory: Inventory, changes: dict[str, Any]) -> None:
    values = {"forge": "github", "branch": "main", "folder": Path("/srv"), **changes}
    with pytest.raises(InputError, match="unsupported characters"):
        write_workflow(inventory, Workflow(**values))


def test_folder_at_a_revision_leaves_the_working_tree_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "pipelines" / "prices"
    folder.mkdir(parents=True)
    git(tmp_path, "init", "-q")
    (folder / "a model.sql").write_text("select 1")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "one")
    (folder / "a model.sql").write_text("select 2")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").touch()
    git(tmp_path, "add", "-A")
    before = git(tmp_path, "status", "--short")
    with at_revision(folder, "HEAD") as found:
        assert found.folder
        assert (found.folder / "a model.sql").read_text() == "select 1"
        assert found.commit == git(tmp_path, "rev-parse", "HEAD")
    with at_revision(tmp_path / "other", "HEAD") as found:
        assert found.folder is None
    assert git(tmp_path, "status", "--short") == before
    for wrong in ("nonsense", "--version", "HEAD:pipelines"):
        with pytest.raises(InputError, match="Cannot read the revision"), at_revision(folder, wrong):
            pass


def node(name: str, **changes: Any) -> dict[str, Any]:
    config = {"materialized": "table"} | changes.pop("config", {})
    return {"alias": name, "resource_type": "model", "schema": "main", "config": config} | changes


@pytest.mark.parametrize(
    ("model", "tests", "key"),
    [
        ({}, [], []),
        ({"constraints": [{"type": "primary_key", "columns": ["a", "b"]}]}, [], ["a", "b"]),
        ({"constraints": [{"type": "check", "columns": ["a"]}], "config": {"unique_key": "b"}}, [], ["b"]),
        ({"config": {"unique_key": ["a", "b"]}}, [], ["a", "b"]),
        ({}, [("not_null", {"column_name": "a"}), ("unique", {"column_name": "b"})], ["b"]),
        ({}, [("unique_combination_of_columns", {"combination_of_columns": ["a", "b"]})], ["a", "b"]),
    ],
)
def test_key_of_a_model(tmp_path: Path, model: dict[str, Any], tests: list[Any], key: list[str]) -> None:
    nodes = {"model.p.m": node("m", **model)}
    for number, (name, kwargs) in enumerate(tests):
        metadata = {"name": name, "kwargs": kwargs}
        nodes[f"test.p.{number}"] = node(
            name, resource_type="test", schema="audit", attached_node="model.p.m", test_metadata=metadata
        )
    assert side(tmp_path, nodes).key_of("model.p.m") == key


def side(folder: Path, nodes: dict[str, Any], **more: Any) -> Side:
    (folder / "target").mkdir()
    (folder / "target" / "manifest.json").write_text(json.dumps({"nodes": nodes, **more}))
    return Side("x", folder, folder)


def test_marts_are_the_tables_of_the_schema_main(tmp_path: Path) -> None:
    nodes = {
        "model.p.a": node("a"),
        "seed.p.s": node("s", resource_type="seed", config={"materialized": "seed"}),
        "model.p.renamed": node("b"),
        "model.p.view": node("view", config={"materialized": "view"}),
        "model.p.landing": node("landing", schema="landing"),
        "snapshot.p.h": node("h", resource_type="snapshot"),
    }
    sources = {"source.p.raw": {"database": "pg"}, "source.p.other": {"database": "published_weather"}}
    parents = {"model.p.a": ["source.p.raw"], "model.p.renamed": ["source.p.other", "model.p.a"]}
    found = side(tmp_path, nodes, sources=sources, parent_map=parents)
    assert found.marts == {"a": "model.p.a", "s": "seed.p.s", "b": "model.p.renamed"}
    assert [found.reads_raw_rows(each) for each in ("model.p.a", "model.p.renamed", "seed.p.s")] == [True, False, False]


DIFFERENCE = PipelineDiff(
    "prices",
    "main",
    "0123456789abcdef",
    [
        MartDiff("new", "added", rows_after=3),
        MartDiff(
            "prices_daily",
            "changed",
            10,
            9,
            removed=1,
            changed=4,
            key=["day"],
            columns=[
                ColumnDiff("gone", "DOUBLE", "", 0),
                ColumnDiff("highest", "DOUBLE", "DOUBLE", 4),
                ColumnDiff("kind", "INTEGER", "BIGINT", 0),
                ColumnDiff("total", "", "DOUBLE", 0),
            ],
        ),
        MartDiff("same", "same", 5, 5),
    ],
    2,
    ["a note"],
)


def test_text_of_a_difference() -> None:
    assert text([DIFFERENCE]).splitlines() == [
        "prices, compared with main (01234567): 2 marts differ, 1 built again without a difference, 2 unmodified",
        "  new: added, 3 rows",
        "  prices_daily: 10 → 9 rows: 0 added, 1 removed, 4 changed",
        "    - gone",
        "    highest: 4 rows",
        "    kind: INTEGER → BIGINT",
        "    + total",
        "  same: the same, 5 rows",
        "  note: a note",
    ]


def test_markdown_of_a_difference_lets_no_name_end_its_cell() -> None:
    lines = markdown([DIFFERENCE]).splitlines()
    assert "| `new` (added) | 3 | 0 | 0 | 0 |  |" in lines
    columns = "`- gone`<br>`highest: 4 rows`<br>`kind: INTEGER → BIGINT`<br>`+ total`"
    assert f"| `prices_daily` | 10 → 9 | 0 | 1 | 4 | {columns} |" in lines
    hostile = PipelineDiff("p", "main", "0" * 40, [MartDiff("a`|<img>\n#", "same", 1, 1)], 0, [])
    assert [line for line in markdown([hostile]).splitlines() if "img" in line] == [
        "| `a???img??#` | 1 | 0 | 0 | 0 |  |"
    ]


@contextmanager
def forge(stored: list[dict[str, Any]], status: int = 200) -> Iterator[tuple[str, list[Any]]]:
    """A forge with comments; yield its address and the list of requests."""
    requests: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            token = self.headers.get("Authorization") or self.headers.get("PRIVATE-TOKEN")
            requests.append((self.command, self.path.partition("?")[0], token, body))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(stored if self.command == "GET" else {}).encode())

        do_GET = do_POST = do_PUT = do_PATCH = answer

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", requests
        server.shutdown()


def actions(monkeypatch: pytest.MonkeyPatch, folder: Path, url: str) -> None:
    (folder / "event.json").write_text(json.dumps({"pull_request": {"number": 7}}))
    monkeypatch.delenv("GITLAB_CI", raising=False)
    monkeypatch.setenv("GITHUB_EVENT_PATH", str(folder / "event.json"))
    monkeypatch.setenv("GITHUB_API_URL", url)
    monkeypatch.setenv("GITHUB_REPOSITORY", "me/lab")
    monkeypatch.setenv("GITHUB_TOKEN", "secret-token")


@pytest.fixture
def comment(tmp_path: Path) -> Path:
    path = tmp_path / "diff.md"
    path.write_text("differences")
    return path


def test_comment_is_posted_once_and_then_replaced(
    comment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = [{"id": 1, "body": "a person's"}, {"id": 2, "body": "<!-- homelab other -->\nx"}]
    body = {"body": "<!-- homelab diff -->\ndifferences"}
    with forge(stored) as (url, requests):
        actions(monkeypatch, tmp_path, url)
        assert post_comment(comment, "diff") == "posted"
        assert requests[-1] == ("POST", "/repos/me/lab/issues/7/comments", "token secret-token", body)
        stored.append({"id": 3, "body": "<!-- homelab diff -->\nearlier"})
        assert post_comment(comment, "diff") == "replaced"
        assert requests[-1] == ("PATCH", "/repos/me/lab/issues/comments/3", "token secret-token", body)


def test_note_of_a_merge_request(comment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with forge([{"id": 5, "body": "<!-- homelab diff -->"}]) as (url, requests):
        variables = {"CI": "1", "CI_API_V4_URL": url, "CI_PROJECT_ID": "12", "CI_MERGE_REQUEST_IID": "3"}
        for name, value in {"GITLAB_CI": "true", "GITLAB_TOKEN": "secret-token", **variables}.items():
            monkeypatch.setenv(name, value)
        assert post_comment(comment, "diff") == "replaced"
        assert requests[-1][:3] == ("PUT", "/projects/12/merge_requests/3/notes/5", "secret-token")


def test_refused_comment_names_no_token(comment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with forge([], status=403) as (url, _):
        actions(monkeypatch, tmp_path, url)
        with pytest.raises(HomelabError, match="403") as caught:
            post_comment(comment, "diff")
        assert "secret-token" not in str(caught.value)
    (tmp_path / "event.json").write_text("{}")
    with pytest.raises(InputError, match="no workflow of a pull request"):
        post_comment(comment, "diff")
