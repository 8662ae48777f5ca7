"""Runs of the pipeline's DAG in Airflow."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from homelab.errors import HomelabError, InputError, Interrupted
from homelab.host import ConnectionLost, Host, argv, check, expected_format
from homelab.model import Inventory
from homelab.model.stages import ANALYTICS
from homelab.model.web_uis import web_uis
from homelab.runtime.container_addresses import locate
from homelab.runtime.deployed_pipelines import DeployedPipeline, deployed_pipeline
from homelab.runtime.full_disks import explain_by_full_disk, require_space
from homelab.runtime.job_progress import POLL_INTERVAL, DbtLog
from homelab.runtime.session import Session
from homelab.runtime.task_messages import task_message
from homelab.services.airflow_metadata import CLI, in_metadata
from homelab.steps.postgres_objects import literal
from homelab.steps.queries import Query

_DEADLINE = 900  # seconds from the end of the run before it; the DAG's own retry comes after five minutes
_PATIENCE = 90  # seconds in which PostgreSQL or a container may not answer, such as during a backup
_KNOWN_WITHIN = 120  # seconds that Airflow has to read a DAG after its start
_OURS = "homelab__"  # prefix of the runs that homelab has started


@dataclass(frozen=True)
class Run:
    """A finished run of the DAG; `tasks` maps each task to its state."""

    run_id: str
    state: str
    seconds: float
    tasks: dict[str, str]

    def __str__(self) -> str:
        tasks = ", ".join(f"{task} {state}" for task, state in self.tasks.items())
        return f"{self.run_id}: {self.state} after {self.seconds:.0f} s ({tasks})"


@dataclass(frozen=True)
class _RunState:
    """A run's state, its tasks with their states and attempts, and another run that has to end before it."""

    state: str = "missing"
    tasks: Mapping[str, tuple[str | None, int]] = field(default_factory=dict)
    ahead: str | None = None

    @property
    def open_tasks(self) -> str:
        """The tasks that have not ended, such as ": build queued"; "" if there are none."""
        left = [f"{task} {state or 'waiting'}" for task, (state, _) in self.tasks.items() if state != "success"]
        return f": {', '.join(left)}" if left else ""


def run_pipeline(session: Session, name: str | None = None) -> Run:
    """Trigger the DAG of a pipeline and wait for its end; follow a run that an interrupted command has started.

    Raises HomelabError if the run fails or misses the deadline, Interrupted on Ctrl-C. The error names a full disk.
    """
    pipeline = deployed_pipeline(session.inventory, name)
    require_space(session, "run the pipeline")
    try:
        return _run_pipeline(session, pipeline)
    except (Interrupted, InputError):
        raise
    except HomelabError as error:
        raise explain_by_full_disk(session, error) from error


def _run_pipeline(session: Session, pipeline: DeployedPipeline) -> Run:
    session = session.on(locate(session.inventory))
    container = session.inventory.container_with("airflow")
    started = time.monotonic()
    with (
        ExitStack() as connections,
        session.connect(container) as host,
        session.connect_to_stage(ANALYTICS) as analytics,
    ):
        workers = list(_workers(session, connections))
        with session.progress.step(container.name, f"trigger {pipeline.dag_id}"):
            _await_dag(host, pipeline)
            run_id, followed = _own_run(host, pipeline), True
            if not run_id:
                run_id, followed = f"{_OURS}{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}", False
                trigger = argv(CLI, "dags", "trigger", "--run-id", run_id, pipeline.dag_id)
                check(host, trigger, f"trigger {pipeline.dag_id}")
        if followed:
            session.progress.note(container.name, f"following {run_id}, which has not ended yet")
        follower = _Follower(
            [host, *workers], analytics, pipeline, run_id, lambda text: session.progress.note(container.name, text)
        )
        try:
            with session.progress.step(container.name, ", then ".join(pipeline.tasks)) as report:
                end = follower.wait(DbtLog(analytics, pipeline.read_data), report)
        except KeyboardInterrupt as error:
            raise Interrupted(
                f"Interrupted: the run {run_id} continues in Airflow",
                f"Its web UI, {ui(session.inventory)}, can stop it.",
                f"`homelab pipeline run {pipeline.name}` follows this run instead of starting another one.",
            ) from error
    run = Run(
        run_id, end.state, time.monotonic() - started, {name: str(state) for name, (state, _) in end.tasks.items()}
    )
    if run.state != "success":
        raise HomelabError(
            f"Cannot complete the pipeline run: it ended as {run.state}",
            "\n".join([str(run), *follower.messages.values()]),
            f"Fix the cause, then run `homelab pipeline run {pipeline.name}`. The last build: "
            f"`homelab pipeline status {pipeline.name}`. The complete log: {ui(session.inventory)}, user admin.",
        )
    return run


def _workers(session: Session, connections: ExitStack) -> Iterator[Host]:
    """Yield connections to the workers, which have the logs of tasks; workers that do not answer are omitted."""
    for container in session.inventory.containers_with("airflow_worker"):
        with suppress(HomelabError):
            yield connections.enter_context(session.connect(container))


def ui(inventory: Inventory) -> str:
    """Return the address of Airflow's web UI."""
    return next(each.url for each in web_uis(inventory.containers) if each.service == "airflow")


def succeeded_lately(session: Session, name: str | None = None) -> bool:
    """Return True if a run has succeeded within the last hour. Raises HomelabError."""
    dag_id = deployed_pipeline(session.inventory, name).dag_id
    query = in_metadata(
        f"select count(*) > 0 from dag_run where dag_id = '{dag_id}' and state = 'success' "
        "and end_date > now() - interval '1 hour'"
    )
    with session.connect_to("airflow") as host:
        return check(host, query, "read the last runs").text == "t"


def _await_dag(host: Host, pipeline: DeployedPipeline) -> None:
    """Wait until Airflow has read the DAG, some time after its start."""
    deadline = time.monotonic() + _KNOWN_WITHIN
    query = in_metadata(f"select 1 from dag where dag_id = '{pipeline.dag_id}'")
    while (answer := host.run(query)).text != "1":
        if time.monotonic() > deadline:
            if not answer.ok:
                raise _unanswered(answer.stderr.decode(errors="replace"), "run the pipeline")
            errors = host.run(in_metadata("select stacktrace from import_error")).text
            raise HomelabError(
                f"Cannot run the pipeline: Airflow does not know the DAG {pipeline.dag_id}",
                errors[-1500:] or "Airflow has not read it yet.",
                f"See `homelab logs {host.name}`, then run `homelab deploy`.",
            )
        time.sleep(0.5)


def _unanswered(error: str, action: str) -> HomelabError:
    return HomelabError(f"Cannot {action}: PostgreSQL does not answer", error.strip()[-1500:], "See `homelab status`.")


def _own_run(host: Host, pipeline: DeployedPipeline) -> str:
    """Return the run of an earlier command that has not ended; "" if there is none."""
    return check(
        host,
        in_metadata(
            f"select run_id from dag_run where dag_id = '{pipeline.dag_id}' and state in ('queued', 'running') "
            f"and starts_with(run_id, '{_OURS}') order by run_id limit 1"
        ),
        "read the active runs",
    ).text


class _Follower:
    """The wait for the end of one run; `note` reports its failed attempts and a wait for another run.

    `logs` are Airflow's container and those of its workers.
    """

    def __init__(
        self,
        logs: Sequence[Host],
        analytics: Host,
        pipeline: DeployedPipeline,
        run_id: str,
        note: Callable[[str], None],
    ) -> None:
        self._airflow, self._logs, self._analytics = logs[0], logs, analytics
        self._pipeline, self._run_id, self._note = pipeline, run_id, note
        self._noted_ahead: str | None = None
        self.messages: dict[str, str] = {}  # by task: that of its last failed attempt
        self._attempts: set[tuple[str, int]] = set()

    def wait(self, dbt: Callable[[], str], report: Callable[[str], None]) -> _RunState:
        """Return the run's state at its end; report the running task and dbt's progress until then.

        Raises HomelabError at the deadline, and if PostgreSQL does not answer for long.
        """
        deadline, next_report, silent_since = time.monotonic() + _DEADLINE, 0.0, 0.0
        while True:
            found, error = self._read()
            now = time.monotonic()
            silent_since = 0.0 if found else silent_since or now
            if silent_since and now - silent_since > _PATIENCE:
                raise _unanswered(error, f"follow the run {self._run_id}, which continues in Airflow")
            if found:
                self._report_failures(found)
                if found.state in ("success", "failed"):
                    return found
                if found.state == "queued" and found.ahead:  # without one, Airflow does not start it: a paused DAG
                    deadline = now + _DEADLINE
                    self._report_queue(found.ahead)
                if now > deadline:
                    raise HomelabError(
                        "Cannot wait longer for the pipeline run: it has not ended",
                        f"It is {found.state} after {_DEADLINE} s, and continues in Airflow{found.open_tasks}.",
                        f"`homelab pipeline run {self._pipeline.name}` follows it. See `homelab status`.",
                    )
                if now >= next_report:
                    self._report_progress(found, dbt, report)
                    next_report = now + POLL_INTERVAL
            time.sleep(0.3)

    def _read(self) -> tuple[_RunState | None, str]:
        """Return the state of the run, or None and the reason why it cannot be read at present."""
        try:
            answer = self._airflow.run(_state_query(self._pipeline.dag_id, self._run_id))
        except ConnectionLost as error:
            self._airflow.reconnect(_PATIENCE)
            return None, str(error)
        if not answer.ok:
            return None, answer.stderr.decode(errors="replace")
        if not answer.text:
            return _RunState(), ""
        with expected_format(self._airflow.name, "read the state of the run"):
            found = json.loads(answer.text)
            tasks = {str(name): (state, int(attempt)) for name, (state, attempt) in found["tasks"].items()}
            return _RunState(str(found["state"]), tasks, found["ahead"]), ""

    def _report_failures(self, found: _RunState) -> None:
        for task, (state, attempt) in found.tasks.items():
            if state in ("failed", "up_for_retry") and (task, attempt) not in self._attempts:
                self._attempts.add((task, attempt))
                message = ""
                with suppress(HomelabError):
                    message = task_message(self._logs, self._analytics, self._pipeline, self._run_id, task, attempt)
                again = "; Airflow tries it again in some minutes" if state == "up_for_retry" else ""
                self.messages[task] = f"{task}: {message or 'its log has no message'}"
                self._note(f"{task} failed{again}: {message or 'its log has no message'}")

    def _report_queue(self, ahead: str) -> None:
        if ahead != self._noted_ahead:
            self._noted_ahead = ahead
            self._note(f"queued behind the run {ahead}, which has to end first")

    def _report_progress(self, found: _RunState, dbt: Callable[[], str], report: Callable[[str], None]) -> None:
        running = [task for task, (state, _) in found.tasks.items() if state == "running"]
        progress = ""
        with suppress(HomelabError):
            progress = dbt() if self._pipeline.build in running else ""
        if running:
            report(" ".join(filter(None, [*running, progress])))


def _state_query(dag_id: str, run_id: str) -> Query:
    return in_metadata(
        "select json_build_object('state', state, "
        "'tasks', (select coalesce(json_object_agg(task_id, json_build_array(state, try_number) order by task_id), "
        "'{}') from task_instance where dag_id = this.dag_id and run_id = this.run_id), "
        "'ahead', (select min(run_id) from dag_run where dag_id = this.dag_id and run_id <> this.run_id "
        f"and state = 'running')) from dag_run as this where dag_id = {literal(dag_id)} and run_id = {literal(run_id)}"
    )
