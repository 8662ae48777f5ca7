"""Installed by homelab. Imports, exports and removes dashboards with Superset's own functions.

A request is JSON on standard input; the answer is JSON on the last line of standard output. Exits with 3 if Superset
does not accept the content of a file, with one line per problem on standard error.
"""

import json
import logging
import sys

import yaml

REFUSED = 3


class Refused(Exception):
    """Content that Superset does not accept."""


def models():
    from superset.connectors.sqla.models import SqlaTable
    from superset.models.dashboard import Dashboard
    from superset.models.slice import Slice

    return {"dataset": SqlaTable, "chart": Slice, "dashboard": Dashboard}


def find(kind, uuid):
    from superset import db

    return db.session.query(models()[kind]).filter_by(uuid=uuid).one_or_none()


def database(uuid):
    from superset import db
    from superset.models.core import Database

    found = db.session.query(Database).filter_by(uuid=uuid).one_or_none()
    if found is None:
        raise Refused(f"the connection {uuid} of the pipeline is missing in Superset")
    return found


def validated(assets):
    """Return the contents as Superset's schemas load them. Raises Refused with every problem."""
    from marshmallow import ValidationError
    from superset.charts.schemas import ImportV1ChartSchema
    from superset.dashboards.schemas import ImportV1DashboardSchema
    from superset.datasets.schemas import ImportV1DatasetSchema

    schemas = {"dataset": ImportV1DatasetSchema, "chart": ImportV1ChartSchema, "dashboard": ImportV1DashboardSchema}
    problems = []
    for asset in assets:
        try:
            schemas[asset["kind"]]().load(asset["content"])
        except ValidationError as error:
            problems += [f"{asset['path']}: {key}: {text}" for key, text in error.normalized_messages().items()]
    if problems:
        raise Refused("\n".join(problems))
    return assets


def require_own_names(assets, connection):
    """Raise Refused if an asset with another uuid already has a name that must be unique."""
    from superset import db

    for asset in assets:
        content, model = asset["content"], models()[asset["kind"]]
        if asset["kind"] == "dataset":
            names = {"database_id": connection.id, "schema": content["schema"], "table_name": content["table_name"]}
            text = f"table_name: Superset has another dataset {content['table_name']}"
        elif asset["kind"] == "dashboard" and content["slug"]:
            names, text = {"slug": content["slug"]}, f"slug: Superset has another dashboard at {content['slug']}"
        else:
            continue
        for found in db.session.query(model).filter_by(**names):
            if str(found.uuid) != content["uuid"]:
                raise Refused(f"{asset['path']}: {text}; rename it or delete it there (uuid {found.uuid})")


def import_assets(request):
    """Import the assets, remove the assets of `remove`, and run the SQL that records them, in one transaction."""
    from superset import db
    from superset.commands.chart.importers.v1.utils import import_chart
    from superset.commands.dashboard.importers.v1.utils import find_chart_uuids, import_dashboard, update_id_refs
    from superset.commands.dataset.importers.v1.utils import import_dataset
    from superset.commands.utils import update_chart_config_dataset
    from superset.models.slice import Slice
    from superset.utils.decorators import transaction

    @transaction()
    def run():
        connection = database(request["database"]) if request["assets"] else None
        datasets, charts = {}, {}
        require_own_names(request["assets"], connection)
        for asset in validated(request["assets"]):
            content = asset["content"]
            if asset["kind"] == "dataset":
                found = import_dataset({**content, "database_id": connection.id}, overwrite=True)
                db.session.flush()
                datasets[content["uuid"]] = {
                    "datasource_id": found.id,
                    "datasource_type": found.datasource_type,
                    "datasource_name": found.table_name,
                }
            elif asset["kind"] == "chart":
                config = update_chart_config_dataset(content, datasets[content["dataset_uuid"]])
                found = import_chart(config, overwrite=True)
                # A stored query belongs to the earlier settings; the browser derives it again.
                found.query_context = None
                db.session.flush()
                charts[content["uuid"]] = found.id
            else:
                found = import_dashboard(update_id_refs(content, charts, datasets), overwrite=True)
                ids = [charts[uuid] for uuid in find_chart_uuids(content["position"])]
                found.slices = db.session.query(Slice).filter(Slice.id.in_(ids)).all() if ids else []
        db.session.flush()
        for kind, uuid in request["remove"]:
            remove(kind, uuid)
        db.session.flush()
        cursor = db.session.connection().connection.cursor()
        cursor.execute(request["record"])
        cursor.execute(cursor.fetchone()[0])

    run()
    return {}


def remove(kind, uuid):
    """Remove an asset that no other one uses."""
    from superset import db
    from superset.models.slice import Slice

    found = find(kind, uuid)
    if found is None or (kind == "chart" and found.dashboards):
        return
    if kind == "dataset" and db.session.query(Slice).filter_by(datasource_id=found.id, datasource_type="table").count():
        return
    db.session.delete(found)
    db.session.flush()


def exported(kind, model):
    """Return an asset as Superset exports it."""
    from superset.commands.chart.export import ExportChartsCommand
    from superset.commands.dashboard.export import ExportDashboardsCommand
    from superset.commands.dataset.export import ExportDatasetsCommand

    command = {"dataset": ExportDatasetsCommand, "chart": ExportChartsCommand, "dashboard": ExportDashboardsCommand}
    return {"kind": kind, "content": yaml.safe_load(command[kind]._file_content(model))}


def export_assets(request):
    """Return the assets of `uuids` that exist."""
    found = [(kind, find(kind, uuid)) for kind, uuid in request["uuids"]]
    return {"assets": [exported(kind, model) for kind, model in found if model]}


def export_dashboards(request):
    """Return the dashboards that read only the database, with their charts and datasets, and the assets of `known`.

    Other dashboards, and drafts that are not in `known`, are omitted with the reason.
    """
    from superset import db

    known = {uuid for _, uuid in request["known"]}
    found = {(kind, uuid): model for kind, uuid in request["known"] if (model := find(kind, uuid))}
    left_out, connection = {}, database(request["database"])
    for dashboard in db.session.query(models()["dashboard"]).order_by("id"):
        databases = {chart.table.database_id for chart in dashboard.slices if chart.table}
        if str(dashboard.uuid) not in known:
            if connection.id not in databases:
                continue
            if len(databases) > 1:
                left_out[dashboard.dashboard_title] = "it also reads another connection"
                continue
            if not dashboard.published:
                left_out[dashboard.dashboard_title] = "it is a draft: publish it in the browser first"
                continue
        found["dashboard", str(dashboard.uuid)] = dashboard
        for chart in dashboard.slices:
            found["chart", str(chart.uuid)] = chart
    for (kind, _), chart in list(found.items()):
        if kind == "chart" and chart.table:
            found["dataset", str(chart.table.uuid)] = chart.table
    assets = [exported(kind, model) for (kind, _), model in found.items()]
    for uuid in {uuid for each in assets if each["kind"] == "dashboard" for uuid in filter_datasets(each["content"])}:
        if ("dataset", uuid) not in found:
            assets.append(exported("dataset", find("dataset", uuid)))
    return {"assets": assets, "left_out": left_out}


def filter_datasets(content):
    """Return the uuids of the datasets that the filters of a dashboard read."""
    filters = (content.get("metadata") or {}).get("native_filter_configuration") or []
    return [target["datasetUuid"] for each in filters for target in each.get("targets", []) if "datasetUuid" in target]


ACTIONS = {"import": import_assets, "export": export_assets, "export dashboards": export_dashboards}


def main():
    """Answer one request."""
    logging.disable(logging.WARNING)
    request = json.load(sys.stdin)
    from superset.app import create_app

    with create_app().app_context():
        from superset import security_manager
        from superset.utils.core import override_user

        try:
            with override_user(security_manager.find_user(request["user"])):
                answer = ACTIONS[request["action"]](request)
        except Refused as error:
            print(error, file=sys.stderr)
            sys.exit(REFUSED)
    print()
    print(json.dumps(answer, default=str))


main()
