"""The dbt docs of the pipelines as web pages: generated after a build if they changed, and served to the gateway.

The user of each pipeline writes its page, and a user of its own serves all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from homelab.model import Endpoint, Inventory, Pipeline, ServiceContext, Step
from homelab.paths import bundled_path
from homelab.pipelines.layout import Layout
from homelab.render import render
from homelab.sandbox import Sandbox
from homelab.steps import Command, Directory, File, SystemdUnit, User

DOCS_FOLDER = "/var/lib/homelab-dbt-docs"
DOCS_UNIT = "homelab-dbt-docs.service"
_PROGRAM = "/usr/local/lib/homelab-dbt-docs.py"
_UNITS = "/etc/systemd/system"
_SANDBOX = Sandbox("homelab-dbt-docs", (DOCS_FOLDER,))  # the folder belongs to root, so it only reads

DOCS_ENDPOINT = Endpoint(
    name="docs",
    port=8095,
    description="dbt docs",
    audience="dependents",
    protocol="http",
    health_path="/",
    web_ui="dbt docs",
)


def docs_pages(inventory: Inventory) -> Mapping[str, str]:
    """Return the path of each pipeline's page by its title."""
    return {f"dbt docs: {each.name}": f"/{each.name}/" for each in inventory.pipelines if each.has_dbt}


def docs_steps(context: ServiceContext) -> Iterator[Step]:
    """Yield the units that generate the pages, and the server of them."""
    program = File(_PROGRAM, bundled_path("templates/dbt_docs/serve.py").read_bytes())
    text = render(
        "dbt_docs/homelab-dbt-docs.service.j2",
        program=_PROGRAM,
        address=context.container.address,
        port=DOCS_ENDPOINT.port,
        folder=DOCS_FOLDER,
        sandbox=_SANDBOX,
    )
    unit = File(f"{_UNITS}/{DOCS_UNIT}", text)
    yield from (User(_SANDBOX.user, DOCS_FOLDER), Directory(DOCS_FOLDER), program, unit)
    yield SystemdUnit(DOCS_UNIT, triggered_by=[program, unit])
    for pipeline in context.inventory.pipelines:
        if pipeline.has_dbt:
            yield from _publication(pipeline)


def _publication(pipeline: Pipeline) -> Iterator[Step]:
    """Yield the folder of a pipeline's page, and the units that generate the page."""
    layout, folder = Layout(pipeline), f"{DOCS_FOLDER}/{pipeline.name}"
    sandbox = replace(layout.sandbox, writable=(layout.data, folder))
    name = f"homelab-dbt-docs-{pipeline.name}"
    program = f"{layout.root}/publish-docs"
    values = {"name": pipeline.name, "program": program, "sandbox": sandbox}
    script = render(
        "dbt_docs/publish.j2", script=layout.script(layout.docs), page=f"{folder}/index.html", name=pipeline.name
    )
    publish = File(program, script, mode=0o755)
    unit = File(f"{_UNITS}/{name}.service", render("dbt_docs/publish.service.j2", **values))
    path = File(
        f"{_UNITS}/{name}.path",
        render("dbt_docs/publish.path.j2", report=f"{layout.data}/last_build.json", name=pipeline.name),
    )
    yield from (Directory(folder, sandbox.user, sandbox.user, 0o755), publish, unit, path)
    yield SystemdUnit(f"{name}.path", triggered_by=[unit, path], settle=0)
    # In the background: the deploy does not wait for dbt.
    yield Command(
        f"dbt docs of {pipeline.name} are being generated",
        "true",
        f"systemctl start --no-block {name}.service",
        triggered_by=[publish, unit],
    )
