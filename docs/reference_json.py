"""The reference page about the JSON that each command prints."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from homelab.errors import HomelabError

# The function of each verb: the verb prints its result with --json.
RESULTS = {
    "doctor": "homelab.commands.doctor:doctor",
    "plan": "homelab.commands.plan:preview",
    "up": "homelab.commands.up:up",
    "destroy": "homelab.commands.destroy:destroy",
    "prune": "homelab.commands.prune:prune",
    "deploy": "homelab.commands.deploy:deploy",
    "status": "homelab.commands.status:status",
    "logs": "homelab.commands.logs:logs",
    "top": "homelab.runtime.lab_sample:Sampler.sample",
    "query": "homelab.commands.query:query",
    "pull": "homelab.commands.pull:pull",
    "backup": "homelab.commands.backup:backup",
    "restore": "homelab.commands.restore:restore",
    "ca show": "homelab.commands.ca_show:show",
    "ca export": "homelab.commands.ca_export:export",
    "secret list": "homelab.secrets:FileSecretStore.names",
    "dashboard export": "homelab.commands.dashboard_export:PreparedExport.write",
    "pipeline lock": "homelab.commands.pipeline_lock:lock",
    "pipeline list": "homelab.commands.pipeline_list:pipelines",
    "pipeline run": "homelab.commands.pipeline_run:run",
    "pipeline status": "homelab.commands.pipeline_status:status",
    "pipeline backfill": "homelab.commands.pipeline_backfill:backfill_file",
    "pipeline exclude": "homelab.commands.pipeline_exclude:exclude",
    "pipeline include": "homelab.commands.pipeline_exclude:include",
    "pipeline exclusions": "homelab.commands.pipeline_exclude:exclusions",
    "pipeline rebuild": "homelab.commands.pipeline_rebuild:rebuild",
    "pipeline unarchive": "homelab.commands.pipeline_unarchive:unarchive",
    "pipeline move": "homelab.commands.pipeline_move:move",
    "alerts test": "homelab.commands.alerts:send_test",
    "airflow lock": "homelab.commands.airflow_lock:lock",
    "dev run": "homelab.commands.dev:run",
    "dev query": "homelab.commands.query:query",
    "diff": "homelab.commands.diff:compare",
    "ci check": "homelab.commands.ci_check:check",
    "export kubernetes": "homelab.commands.export_kubernetes:export_kubernetes",
    "services": "homelab.commands.service_list:list_services",
    "snapshot create": "homelab.commands.snapshot:create",
    "snapshot list": "homelab.commands.snapshot:list_snapshots",
    "snapshot rollback": "homelab.commands.snapshot:rollback",
    "snapshot delete": "homelab.commands.snapshot:delete",
    "golden create": "homelab.commands.golden:create",
    "golden list": "homelab.commands.golden:list_golden",
    "golden delete": "homelab.commands.golden:delete",
    "lab status": "homelab.lab.lab_status:status",
}


def json_outputs() -> list[str]:
    """Return the lines of the page about the results that `--json` prints."""
    lines = [
        "# JSON outputs",
        "",
        "This page lists the JSON that each command prints with `--json`. Times in UTC are ISO 8601; binary values of",
        "a query are base64. The [types](#types) are at the end.",
    ]
    types: dict[str, Any] = {}
    for verb, target in RESULTS.items():
        module, _, name = target.partition(":")
        function: Any = import_module(module)
        for part in name.split("."):
            function = getattr(function, part)
        text = _json_type(_hints(function)["return"], types)
        lines += ["", f"## homelab {verb}", "", f"{text[0].upper()}{text[1:]}"]
    lines += ["", "## Types"]
    described: set[str] = set()
    while missing := sorted(set(types) - described):
        for name in missing:
            described.add(name)
            lines += ["", f"### {name}", "", *inspect.getdoc(types[name]).splitlines(), ""]  # type: ignore[union-attr]
            hints = _hints(types[name])
            lines += [f"- `{each.name}`: {_json_type(hints[each.name], types)}" for each in fields(types[name])]
    lines += ["", "### Error", "", "- `brief`: text", "- `details`: text", "- `resolution`: text"]
    return lines


def _hints(item: Any) -> dict[str, Any]:
    """Return an item's type hints, those that its module imports for type checkers only included."""
    from homelab.model import Difference
    from homelab.runtime.container_states import ContainerState

    return get_type_hints(item, localns={"ContainerState": ContainerState, "Difference": Difference})


def _json_type(kind: Any, types: dict[str, Any]) -> str:
    """Return the JSON form of a Python type in words; add its dataclasses to `types`."""
    arguments = get_args(kind)
    origin = get_origin(kind) or kind
    if origin in (Union, UnionType):
        return " or ".join("null" if each is NoneType else _json_type(each, types) for each in arguments)
    if origin is Literal:
        return " or ".join(f"`{each}`" for each in arguments)
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return f"object by name: {_json_type(arguments[1], types)}" if arguments else "object"
    if inspect.isclass(origin) and issubclass(origin, Iterator):
        return f"{_json_type(arguments[0], types)}, one per line"
    if inspect.isclass(origin) and issubclass(origin, Collection) and not issubclass(origin, str):
        return f"list of {_json_type(arguments[0], types)}"
    if inspect.isclass(kind) and issubclass(kind, HomelabError):
        return "[Error](#error)"
    if is_dataclass(kind) and not hasattr(kind, "apply"):
        types[kind.__name__] = kind
        return f"[{kind.__name__}](#{kind.__name__.lower()})"
    words = {bool: "true or false", int: "number", float: "number", Any: "any value", object: "any value"}
    return words.get(kind, "text")
