"""The contract of the built-in services, and of the service that `homelab service new` writes."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from homelab.commands.pipeline_new import new_pipeline
from homelab.commands.service_new import new_service
from homelab.model import Service, Step
from homelab.paths import bundled_path
from homelab.services.airflow import Airflow
from homelab.services.airflow_worker import AirflowWorker
from homelab.services.alert_bridge import AlertBridge
from homelab.services.alertmanager import Alertmanager
from homelab.services.analytics import Analytics
from homelab.services.blackbox_exporter import BlackboxExporter
from homelab.services.broker import Broker
from homelab.services.clickhouse import ClickHouse
from homelab.services.consumer import Consumer
from homelab.services.gateway import WebGateway
from homelab.services.grafana import Grafana
from homelab.services.ingestion import Ingestion
from homelab.services.metabase import Metabase
from homelab.services.node_exporter import NodeExporter
from homelab.services.postgres import Postgres
from homelab.services.postgres_exporter import PostgresExporter
from homelab.services.prometheus import Prometheus
from homelab.services.pve_exporter import PveExporter
from homelab.services.redis import Redis
from homelab.services.runner import Runner
from homelab.services.s3 import S3
from homelab.services.station import Station
from homelab.services.superset import Superset
from homelab.steps import FinishUpgrade, PrepareUpgrade
from homelab.testing import ServiceContract
from tests.support import observability
from tests.unit.test_metabase import METABASE, write_jars
from tests.unit.test_openpgp import BOOKWORM, FINGERPRINT
from tests.unit.test_runner import GITEA, RUNNER

ECHO = Path(__file__).parents[1] / "packages" / "echo_stack" / "echo_stack" / "service.py"
UPGRADES = (PrepareUpgrade, FinishUpgrade)


def service_of_the_package() -> type[Service]:
    """Return the service of the tests' package, which is not installed here."""
    spec = importlib.util.spec_from_file_location("tests_echo_service", ECHO)
    assert spec
    assert spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: type[Service] = module.Echo
    return found


class TestPostgres(ServiceContract):
    service = Postgres


class TestAnalytics(ServiceContract):
    service = Analytics


class TestIngestion(ServiceContract):
    service = Ingestion


class TestAirflow(ServiceContract):
    service = Airflow


class TestAirflow2(ServiceContract):
    service = Airflow
    options: ClassVar = {"version": "2.11"}
    distributions: ClassVar = ("ubuntu-24.04", "debian-12")  # Airflow 2.11 does not run on Python 3.13


CELERY = {
    "airflow-orchestration": {"services": {"airflow": {"executor": "celery"}}},
    "queue": {"vmid": 197, "ip": ".197", "cores": 1, "memory": 512, "services": {"redis": {}}},
    "worker": {"vmid": 198, "ip": ".198", "cores": 1, "memory": 1024, "services": {"airflow_worker": {}}},
}


class TestAirflowWithCelery(ServiceContract):
    service = Airflow
    overlay: ClassVar = {"containers": CELERY}


class TestAirflowWorker(ServiceContract):
    service = AirflowWorker
    options: ClassVar = {"queues": ["default", "large"], "slots": 4}
    overlay: ClassVar = {"containers": {**CELERY, "worker": None}}


class TestRedis(ServiceContract):
    service = Redis


class TestS3(ServiceContract):
    service = S3
    options: ClassVar = {"buckets": ["exports"], "users": {"reports": {"read": ["exports", "pipeline-weather"]}}}


class TestS3AtAnEndpoint(ServiceContract):
    service = S3
    options: ClassVar = {
        "endpoint": "https://nas.home.arpa:9000",
        "bucket": "home-lake",
        "access_key": "homelab",
        "secret_key": {"secret": "nas-key"},
    }


class TestBroker(ServiceContract):
    service = Broker


BROKER = {
    "containers": {
        "broker": {"vmid": 197, "ip": ".197", "cores": 1, "memory": 512, "services": {"broker": {}, "consumer": {}}}
    },
    "pipelines": {"weather": {"to": "broker"}},
}


class TestBrokerWithItsClients(ServiceContract):
    service = Broker
    options: ClassVar = {"disk": "200MB"}
    overlay: ClassVar = {
        "containers": {"tested": {"services": {"consumer": {}}}},
        "pipelines": {"weather": {"to": "broker"}},
    }


class TestConsumer(ServiceContract):
    service = Consumer
    overlay: ClassVar = BROKER


class TestAnalyticsToTheBroker(ServiceContract):
    service = Analytics
    overlay: ClassVar = BROKER


class TestIngestionToTheBroker(ServiceContract):
    service = Ingestion
    overlay: ClassVar = BROKER


class TestStation(ServiceContract):
    service = Station
    options: ClassVar = {
        "city": "Garden",
        "latitude": 48.1,
        "longitude": 11.5,
        "passkey": {"secret": "station"},
        "timezone": "Europe/Berlin",
    }


class TestAnalyticsWithAStream(ServiceContract):
    service = Analytics
    overlay: ClassVar = {"pipelines": {"weather": {"schedule": "on_data"}}}


class TestIngestionWithAStream(ServiceContract):
    service = Ingestion
    overlay: ClassVar = {"pipelines": {"weather": {"schedule": "stream"}}}


class TestAirflowWithAStream(ServiceContract):
    service = Airflow
    overlay: ClassVar = {"pipelines": {"weather": {"schedule": "on_data"}}}


class TestPrometheus(ServiceContract):
    service = Prometheus
    overlay: ClassVar = {"containers": {"tested": {"services": {"alertmanager": {}, "blackbox_exporter": {}}}}}


RECEIVERS = {
    "email": {"smtp": "mail:25", "from": "a@b.c", "to": ["d@e.f"], "user": "a", "password": {"secret": "smtp"}},
    "slack": {"webhook": {"secret": "slack"}},
    "webhook": "http://192.168.2.5:8000/",
    "urls": ["ntfy://192.168.2.5/topic", {"secret": "telegram"}],
    "quiet": {"from": "22:00", "to": "07:00"},
}


class TestAlertmanager(ServiceContract):
    service = Alertmanager
    overlay: ClassVar = {"alerts": RECEIVERS}


class TestAlertBridge(ServiceContract):
    service = AlertBridge
    overlay: ClassVar = {"alerts": RECEIVERS}


class TestAlertBridgeOfTheWatcher(ServiceContract):
    service = AlertBridge
    overlay: ClassVar = {"alerts": RECEIVERS, "containers": observability(prometheus={}, alertmanager={})}


class TestAlertBridgeThatChecksThePipelines(ServiceContract):
    service = AlertBridge
    overlay: ClassVar = {"alerts": RECEIVERS, "containers": {"tested": None}}


class TestNodeExporter(ServiceContract):
    service = NodeExporter


class TestPostgresExporter(ServiceContract):
    service = PostgresExporter


def repository(name: str) -> dict[str, object]:
    """Return the repository of a vendor, with the key in `KEY`."""
    source = {"uri": f"https://packages.{name}.example/deb", "suite": "stable", "components": ["main"]}
    return {"packages": {"repositories": {name: {**source, "key": KEY, "fingerprint": FINGERPRINT}}}}


KEY = "vendor.asc"


class OfVendor(ServiceContract):
    """The contract of a service from a vendor's repository."""

    @pytest.fixture(autouse=True)
    def key(self, tmp_path: Path) -> None:
        """Write the key of the repository before the inventory is read."""
        (tmp_path / KEY).write_text(BOOKWORM)


class TestGrafana(OfVendor):
    service = Grafana
    overlay: ClassVar = {**repository("grafana"), "containers": {"tested": {"services": {"prometheus": {}}}}}


class TestClickHouse(OfVendor):
    service = ClickHouse
    options: ClassVar = {"clients": "lan", "readers": ["grafana"]}
    overlay: ClassVar = {**repository("clickhouse"), "pipelines": {"weather": {"target": "clickhouse"}}}


KAFKA = {**repository("redpanda"), "pipelines": {"weather": {"to": "broker"}}}
REDPANDA = {"vmid": 198, "ip": ".198", "cores": 1, "memory": 2048, "services": {"broker": {"kind": "kafka"}}}


class TestBrokerWithKafka(OfVendor):
    service = Broker
    options: ClassVar = {"kind": "kafka"}
    overlay: ClassVar = {**KAFKA, "containers": {"tested": {"memory": 4096, "services": {"consumer": {}}}}}


class TestConsumerOfKafka(OfVendor):
    service = Consumer
    overlay: ClassVar = {**KAFKA, "containers": {"box": REDPANDA}}


class TestAnalyticsWithClickHouse(OfVendor):
    service = Analytics
    overlay: ClassVar = {
        **repository("clickhouse"),
        "containers": {"box": {"vmid": 198, "ip": ".198", "cores": 2, "memory": 4096, "services": {"clickhouse": {}}}},
        "pipelines": {"weather": {"target": "clickhouse"}},
    }


class TestWebGateway(ServiceContract):
    service = WebGateway


class TestWebGatewayWithNames(ServiceContract):
    service = WebGateway
    options: ClassVar = {"domain": "home.example"}


class TestSuperset(ServiceContract):
    service = Superset
    distributions: ClassVar = ("ubuntu-24.04", "debian-12")  # Superset does not run on Python 3.13


class TestSupersetNextToThePipelines(TestSuperset):
    overlay: ClassVar = {"containers": {"tested": None, "analytics-platform": {"services": {"superset": {}}}}}


class TestAnalyticsWithSuperset(ServiceContract):
    service = Analytics
    distributions: ClassVar = ("ubuntu-24.04", "debian-12")
    overlay: ClassVar = {
        "containers": {"box": {"vmid": 198, "ip": ".198", "cores": 1, "memory": 1024, "services": {"superset": {}}}}
    }


class TestRunnerOfGitHub(ServiceContract):
    service = Runner
    options: ClassVar = RUNNER


class TestRunnerOfGitea(ServiceContract):
    service = Runner
    options: ClassVar = GITEA


class TestMetabase(ServiceContract):
    service = Metabase
    options: ClassVar = METABASE
    distributions: ClassVar = ("ubuntu-24.04", "debian-13")  # Debian 12 has Java 17

    @pytest.fixture(autouse=True)
    def jars(self, tmp_path: Path) -> None:
        """Write the jars before the inventory is read."""
        write_jars(tmp_path)


class TestMetabaseNextToThePipelines(TestMetabase):
    overlay: ClassVar = {"containers": {"tested": None, "analytics-platform": {"services": {"metabase": METABASE}}}}


class TestPveExporter(ServiceContract):
    service = PveExporter


class TestBlackboxExporter(ServiceContract):
    service = BlackboxExporter


class WithPipeline(ServiceContract):
    """The contract with a pipeline of the user's in the inventory."""

    overlay: ClassVar = {"pipelines": {"prices": {"path": "pipelines/prices"}}}

    @pytest.fixture(autouse=True)
    def pipeline(self, tmp_path: Path) -> None:
        """Write the pipeline before the inventory is read."""
        new_pipeline(tmp_path, "prices")


class TestPostgresWithPipeline(WithPipeline):
    service = Postgres


class TestAnalyticsWithPipeline(WithPipeline):
    service = Analytics


class TestAnalyticsWithDocs(WithPipeline):
    service = Analytics
    options: ClassVar = {"docs": True}


class TestIngestionWithPipeline(WithPipeline):
    service = Ingestion


class TestAnalyticsApartFromTheIngestion(WithPipeline):
    service = Analytics
    overlay: ClassVar = {
        **WithPipeline.overlay,
        "containers": {"box": {"vmid": 198, "ip": ".198", "cores": 1, "memory": 512, "services": {"ingestion": {}}}},
    }


class TestAirflowWithPipeline(WithPipeline):
    service = Airflow


class TestAirflowWithObjects(ServiceContract):
    service = Airflow
    options: ClassVar = {
        "dags": str(bundled_path("pipelines/weather/dags")),
        "connections": {
            "sales": {"conn_type": "http", "password": {"secret": "sales"}, "extra": {"a": {"secret": "b"}}}
        },
        "variables": {"key": {"secret": "key"}, "limits": {"rows": [1, {"secret": "c"}]}},
        "pools": {"sales": 2},
    }


class TestEcho(ServiceContract):
    service = service_of_the_package()

    def test_upgrade_in_the_wrong_place_is_found(self, instance: Service, steps: Sequence[Step]) -> None:
        prepare, finish = (next(each for each in steps if isinstance(each, kind)) for kind in UPGRADES)
        others = [each for each in steps if each not in (prepare, finish)]
        for wrong, problem in (
            ([prepare, *others], "no later step finishes it"),
            ([*others, finish], "its preparation is not a step before it"),
            ([prepare, *others, finish], "unit echo.service comes before it"),
            ([finish, prepare, *others], "no later step finishes it"),
        ):
            with pytest.raises(AssertionError, match=problem):
                self.test_upgrade_is_prepared_then_finished_before_the_units_start(instance, wrong)


def test_service_that_homelab_writes_keeps_the_contract(tmp_path: Path) -> None:
    new_service(tmp_path, "file_share")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"\b[1-9]\d passed", done.stdout), done.stdout


def test_typical_daemon_is_at_most_sixty_lines_of_module_and_template(tmp_path: Path) -> None:
    written = new_service(tmp_path, "file_share")
    lines = [line for path in written if "services" in path.parts for line in path.read_text().splitlines()]
    assert len([line for line in lines if line.strip()]) <= 60
