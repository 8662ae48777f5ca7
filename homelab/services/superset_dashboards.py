"""The dashboards of the pipelines in Superset: imported after a change of a file, removed with their file.

A comment on Superset's table of dashboards records the imported assets: the hash of each file, and the hash of its rows
after the import. So a plan finds an edit in the browser by SQL, without a start of Superset's Python.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any, Literal

from homelab.errors import HomelabError
from homelab.host import UNREADABLE, CommandFailed, Host, Result, check, expected_format
from homelab.model import Pending, Pipeline, Step
from homelab.model.dashboards import KINDS, DashboardAsset, Kind, canonical, connection_uuid
from homelab.paths import bundled_path
from homelab.pipelines.dashboard_files import tar_of, to_import
from homelab.render import render
from homelab.sandbox import Sandbox
from homelab.services.superset_metadata import in_metadata
from homelab.steps import File, remote_paths
from homelab.steps.postgres_objects import literal, run_sql
from homelab.steps.queries import NO_CONNECTION, Query

PROGRAM = "/usr/local/sbin/homelab-superset-dashboards"
_MARK = "homelab: "  # at the beginning of the comment, before the JSON
_REFUSED = 3  # exit status of the program for content that Superset does not accept
_TIMEOUT = 1200.0  # seconds; a start of Superset takes half a minute, and minutes under load
# Superset writes these colours when a user opens a dashboard.
_COLOURS = "{shared_label_colors,map_label_colors,color_scheme_domain}"
_COLUMN = (
    "column_name, expression, verbose_name, description, type, is_dttm, groupby, filterable, is_active, "
    "python_date_format, extra"
)
_METRIC = "metric_name, expression, verbose_name, description, metric_type, d3format, warning_text, extra"
# The query context is left out: the browser stores it when a user opens a chart.
_HASHES = f"""
select 'dashboard' as kind, uuid::text as uuid, dashboard_title as title, md5(row(dashboard_title, position_json,
    coalesce(nullif(json_metadata, ''), '{{}}')::jsonb - '{_COLOURS}'::text[], description, css, slug, published,
    certified_by, certification_details, theme_id)::text) as hash
from dashboards
union all
select 'chart', uuid::text, slice_name, md5(row(slice_name, viz_type, params, description, cache_timeout,
    datasource_id, certified_by, certification_details)::text)
from slices
union all
select 'dataset', uuid::text, table_name, md5(row(table_name, schema, sql, main_dttm_col, description, database_id,
    cache_timeout, fetch_values_predicate, extra, template_params,
    (select string_agg(row({_COLUMN})::text, ',' order by column_name) from table_columns where table_id = tables.id),
    (select string_agg(row({_METRIC})::text, ',' order by metric_name) from sql_metrics where table_id = tables.id)
    )::text)
from tables
"""
_RECORDS = (
    "coalesce(substring(obj_description('dashboards'::regclass, 'pg_class') "
    f"from '^{_MARK}(.*)$')::jsonb, '{{}}'::jsonb)"
)


@dataclass(frozen=True, slots=True)
class SupersetAccess:
    """Access of root to Superset: the query of its metadata, and the shell text that runs the program of dashboards.

    `user` is the Superset user that owns the dashboards.
    """

    query: Callable[[str], Query]
    program: str
    user: str = "admin"

    def run(self, host: Host, action: str, request: Mapping[str, Any], text: str) -> Result:
        """Run the program with a request. `text` is the action in an error. Raises HomelabError."""
        stdin = json.dumps({"action": action, "user": self.user, **request}).encode()
        result = host.run(self.program, stdin=stdin, timeout=_TIMEOUT)
        if result.status == _REFUSED:
            raise HomelabError(
                f"Cannot {text} on {host.name}: Superset does not accept the content",
                result.stderr.decode(errors="replace").strip()[-2000:],
                "Correct these files, then run `homelab deploy` again.",
            )
        if not result.ok:
            raise CommandFailed(host.name, result, text)
        return result

    def export(self, host: Host, action: str, text: str, **request: Any) -> DashboardExport:
        """Return assets in their canonical form. Raises HomelabError for an answer in another format."""
        result = self.run(host, action, request, text)
        with expected_format(host.name, text):
            answer = json.loads(result.text.splitlines()[-1])
            assets = list(map(_asset, answer["assets"]))
            left_out = {str(title): str(reason) for title, reason in answer.get("left_out", {}).items()}
            return DashboardExport(sorted(assets, key=lambda each: (KINDS.index(each.kind), each.uuid)), left_out)


@dataclass(frozen=True, slots=True)
class DashboardExport:
    """The assets that Superset returned, and the reasons for omitted dashboards, by title."""

    assets: Sequence[DashboardAsset]
    left_out: Mapping[str, str]


def _asset(exported: Mapping[str, Any]) -> DashboardAsset:
    asset = DashboardAsset(_kind(exported), canonical(_kind(exported), exported["content"]))
    uuid.UUID(asset.uuid)
    return asset


def _kind(asset: Mapping[str, Any]) -> Kind:
    return KINDS[KINDS.index(asset["kind"])]


def superset_access() -> SupersetAccess:
    """Return the access to Superset on its container."""
    return SupersetAccess(in_metadata, PROGRAM)


def records_query(access: SupersetAccess) -> Query:
    """Return shell text that prints the records of all pipelines as JSON."""
    return access.query(f"select {_RECORDS}")


def record_query(pipeline: str, assets: Sequence[DashboardAsset]) -> str:
    """Return the query of the statement that records the assets of a pipeline with their present rows."""
    files = json.dumps({asset.uuid: asset.digest for asset in assets})
    rows = (
        "select jsonb_object_agg(uuid, jsonb_build_object('kind', kind, 'title', title, 'rows', hash, 'file', file)) "
        f"from ({_HASHES}) as found join jsonb_each_text({literal(files)}) as each (uuid, file) using (uuid)"
    )
    return _comment(f"{_RECORDS} || jsonb_build_object({literal(pipeline)}, coalesce(({rows}), '{{}}'))")


def _comment(records: str) -> str:
    return f"select format('comment on table dashboards is %L', '{_MARK}' || coalesce({records}, '{{}}')::text)"


def record(host: Host, pipeline: str, assets: Sequence[DashboardAsset]) -> None:
    """Record the present rows of the assets as those of the pipeline's files, so that a deploy changes nothing."""
    query = in_metadata(record_query(pipeline, assets))
    run_sql(host, query.psql, query.database, f"{query.sql} \\gexec\n", f"record the dashboards of {pipeline}")


def program_steps(sandbox: Sandbox, folder: str, venv: str) -> Sequence[Step]:
    """Return the steps that install the program of dashboards, in the folder and the venv of Superset."""
    script = f"{folder}/dashboards.py"
    return (
        File(script, bundled_path("templates/superset/dashboards.py").read_bytes()),
        File(PROGRAM, render("superset/dashboards.j2", sandbox=sandbox, venv=venv, script=script), mode=0o700),
    )


def removal_step(pipelines: Sequence[Pipeline]) -> Step:
    """Return the step that removes the dashboards of all other pipelines, before their connections are removed."""
    names = [each.name for each in pipelines if each.dashboards]
    return Dashboards(superset_access(), others=names, part="the dashboards of removed pipelines")


def import_steps(pipelines: Sequence[Pipeline]) -> Iterator[Step]:
    """Yield the step of each pipeline with dashboards; a failure skips only this step."""
    for each in pipelines:
        if each.dashboards:
            yield Dashboards(superset_access(), each.name, each.dashboards, part=f"the dashboards of {each.name}")


@dataclass(frozen=True)
class _Difference:
    """An asset that differs; `foreign` if its rows differ from the imported ones."""

    verb: Literal["add", "change", "remove"]
    kind: Kind
    uuid: str
    title: str
    foreign: bool

    def __str__(self) -> str:
        return f"{self.kind} {self.title}"


def _differences(
    wanted: Collection[DashboardAsset], records: Mapping[str, Any], present: Mapping[str, Any]
) -> Iterator[_Difference]:
    """Yield the differences, removals last; `records` and `present` have the recorded and present rows by uuid."""

    def foreign(name: str) -> bool:
        return name in present and (name not in records or records[name]["rows"] != present[name]["hash"])

    for asset in wanted:
        if asset.uuid not in present:
            yield _Difference("add", asset.kind, asset.uuid, asset.title, False)
        elif foreign(asset.uuid) or records[asset.uuid]["file"] != asset.digest:
            yield _Difference("change", asset.kind, asset.uuid, asset.title, foreign(asset.uuid))
    names = {asset.uuid for asset in wanted}
    # A dashboard before its charts, and a chart before its dataset.
    for name, found in sorted(records.items(), key=lambda each: -KINDS.index(each[1]["kind"])):
        if name not in names:
            yield _Difference("remove", _kind(found), name, str(found["title"]), foreign(name))


@dataclass(frozen=True, eq=False)
class Dashboards(Step):
    """The dashboards of a pipeline; without `pipeline`, the removal of the dashboards of all pipelines but `others`."""

    access: SupersetAccess
    pipeline: str = ""
    assets: Sequence[DashboardAsset] = ()
    others: Sequence[str] = ()
    part: str = ""

    @property
    def title(self) -> str:
        """See Step."""
        return f"dashboards of {self.pipeline or 'removed pipelines'}"

    def probes(self) -> Sequence[str]:
        """See Step."""
        uuids = ", ".join(["null", *(literal(asset.uuid) for asset in self.assets)])
        recorded = f"select jsonb_object_keys(value) from jsonb_each({_RECORDS})"
        present = (
            "select json_object_agg(uuid, json_build_object('title', title, 'hash', hash)) "
            f"from ({_HASHES}) as found where uuid in ({uuids}) or uuid in ({recorded})"
        )
        return (self.access.query(f"select json_build_object('records', {_RECORDS}, 'present', ({present}))"),)

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        if answers[0].status == NO_CONNECTION and self.assets:
            return Pending("not known yet")
        try:
            differences = self._find(answers[0])
        except UNREADABLE:
            return Pending("cannot be read")
        if not differences:
            return None
        counts = Counter[str](each.verb for each in differences)
        signs = {"add": "+", "change": "~", "remove": "-"}
        foreign = [each for each in differences if each.foreign]
        return Pending(
            ", ".join(f"{counts[verb]} to {verb}" for verb in signs if counts[verb]),
            "".join(
                f"{signs[each.verb]} {each}{' (changed in the browser)' if each.foreign else ''}\n"
                for each in differences
            ),
            kept=f"{', '.join(map(str, foreign))}: kept in {self._copies}" if foreign else "",
        )

    @property
    def _copies(self) -> str:
        """The folder for copies of the edits in the browser."""
        return remote_paths.replaced(f"/dashboards/{self.pipeline or 'removed'}")

    def _find(self, answer: Result) -> list[_Difference]:
        """Return the differences; all assets if there are no tables yet."""
        found = json.loads(answer.text) if answer.ok and answer.text else {}
        by_pipeline = found.get("records") or {}
        own = [self.pipeline] if self.pipeline else [name for name in by_pipeline if name not in self.others]
        records = {key: each for name in own for key, each in (by_pipeline.get(name) or {}).items()}
        return list(_differences(self.assets, records, found.get("present") or {}))

    def apply(self, host: Host) -> None:
        """See Step. Copies the edits in the browser first; then makes all changes in one transaction."""
        answer = check(host, self.probes()[0], f"read the {self.title}")
        with expected_format(host.name, f"read the {self.title}"):
            differences = self._find(answer)
        if foreign := [(each.kind, each.uuid) for each in differences if each.foreign]:
            self._keep(host, foreign)
        contents = [to_import(each, self.pipeline) for each in self.assets]
        request = {
            "database": connection_uuid(self.pipeline),
            "assets": [
                {"kind": each.kind, "path": each.path, "content": content}
                for each, content in zip(self.assets, contents, strict=True)
            ],
            "remove": [(each.kind, each.uuid) for each in differences if each.verb == "remove"],
            "record": self._record(),
        }
        self.access.run(host, "import", request, f"import the {self.title}")

    def _record(self) -> str:
        """Return the query of the statement that records the assets, after their import."""
        if self.pipeline:
            return record_query(self.pipeline, self.assets)
        kept = ", ".join(["null", *map(literal, self.others)])
        return _comment(f"(select jsonb_object_agg(key, value) from jsonb_each({_RECORDS}) where key in ({kept}))")

    def _keep(self, host: Host, foreign: Sequence[tuple[Kind, str]]) -> None:
        """Copy assets to the container, in the form of files of `dashboards/`."""
        action = f"copy the {self.title}"
        archive = tar_of(self.access.export(host, "export", action, uuids=foreign).assets)
        new = quote(f"{self._copies}/.new")
        script = (
            f"set -e; umask 077; mkdir -p {quote(self._copies)}; rm -rf {new}; mkdir {new}\n"
            f"tar -xf - -C {new} --no-same-owner; mv -T {new} {quote(self._copies)}/$(date -u +%Y%m%dT%H%M%SZ)"
        )
        check(host, script, action, stdin=archive)
