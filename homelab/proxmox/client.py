"""The Proxmox API client: token login over verified TLS, and readable errors. The only importer of proxmoxer's API."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import requests
from proxmoxer.backends.https import Backend
from proxmoxer.core import ProxmoxResource, ResourceException

from homelab.errors import HomelabError
from homelab.model import ProxmoxApi, Secret
from homelab.proxmox import errors
from homelab.proxmox.audit import Audit
from homelab.proxmox.task_list import NEWEST, TaskList
from homelab.proxmox.tls import TrustAdapter
from homelab.secrets import one_word, read_secret

TOKEN_VARIABLE = "HOMELAB_PROXMOX_TOKEN"  # noqa: S105 - the variable's name
# Timeouts in seconds for the connection and the answer; Proxmox lets a change wait up to 10 s for the container's lock.
_TIMEOUT = (5, 40)
_PAUSES = (0.1, 0.3, 0.8, 1.5)  # seconds before each repetition of a read
_REFUSALS = 3  # refusals of a read after which it is not repeated
_PATIENCE = 60.0  # seconds after which a read is not repeated
_LAST_ANSWERS = 5.0  # seconds for which an interrupted run waits for answers


class Client:
    """A client of the API. May be used from several threads: each has its own connection, which is kept alive.

    Reads are repeated after transient failures. Changes are never repeated, and each is logged in `audit`.
    """

    def __init__(self, endpoint: ProxmoxApi, audit: Audit | None = None, token: Secret | None = None) -> None:
        self.endpoint = endpoint
        self.under_way: dict[str, None] = {}  # the UPIDs of started tasks until their end is seen
        self.begun_tasks: set[str] = set()  # the UPIDs of all started tasks
        self.task_list = TaskList(self._newest_tasks)
        self._audit = audit
        self._closed = False
        self._unanswered: list[str] = []  # changes that were sent
        self._answered = threading.Condition()
        self._token = token or read_token(endpoint)
        self._local = threading.local()

    def get(self, path: str, /, **params: Any) -> Any:
        """Read. Raises ProxmoxError if Proxmox refuses the call, HomelabError if it cannot be reached."""
        until, refusals = time.monotonic() + _PATIENCE, 0
        for pause in _PAUSES:
            try:
                return self._call("get", path, params)
            except HomelabError as error:
                if not errors.is_transient(error) or time.monotonic() > until:
                    raise
                refusals += not isinstance(error, errors.Unanswered)
                if refusals == _REFUSALS:
                    raise
            time.sleep(pause)
        return self._call("get", path, params)

    def post(self, path: str, /, **params: Any) -> Any:
        """Create or start. Raises like `get`; after Unanswered, Proxmox may have done it or not."""
        return self._change("post", path, params)

    def put(self, path: str, /, **params: Any) -> Any:
        """Update. Raises like `post`."""
        return self._change("put", path, params)

    def delete(self, path: str, /, **params: Any) -> Any:
        """Delete. Raises like `post`."""
        return self._change("delete", path, params)

    def begun(self, upid: str) -> None:
        """Record a started task."""
        self.under_way[upid] = None
        self.begun_tasks.add(upid)

    def ended(self, upid: str, result: str) -> None:
        """Record the end of a task with its exit status."""
        self.under_way.pop(upid, None)
        if self._audit:
            self._audit.ended(upid, result)

    def _newest_tasks(self, node: str) -> Any:
        return self.get(f"nodes/{node}/tasks", source="all", limit=NEWEST)

    def close(self) -> list[str]:
        """Refuse further changes, and wait at most 5 s for answers; return the changes that are still unanswered.

        Without the wait, a task that was just begun would be missing in `under_way`.
        """
        with self._answered:
            self._closed = True
            self._answered.wait_for(lambda: not self._unanswered, _LAST_ANSWERS)
            return list(self._unanswered)

    def _change(self, method: str, path: str, params: dict[str, Any]) -> Any:
        change = f"{method.upper()} /{path}"
        with self._answered:
            if self._closed:
                raise HomelabError(
                    "Cannot continue: interrupted",
                    f"`{change}` was not sent.",
                    "Run the same command again: it continues from there.",
                )
            self._unanswered.append(change)
        try:
            answer = self._audited_call(method, path, params)
            if str(answer).startswith("UPID:"):
                self.begun(answer)
            return answer
        finally:
            with self._answered:
                self._unanswered.remove(change)
                self._answered.notify_all()

    def _audited_call(self, method: str, path: str, params: dict[str, Any]) -> Any:
        if self._audit is None:
            return self._call(method, path, params)
        call = self._audit.sent(method.upper(), f"/{path}", params)
        try:
            answer = self._call(method, path, params)
        except BaseException as error:
            self._audit.failed(call, method.upper(), f"/{path}", error)
            raise
        self._audit.answered(call, method.upper(), f"/{path}", answer)
        return answer

    def _call(self, method: str, path: str, params: dict[str, Any]) -> Any:
        call = f"{method.upper()} /{path}"
        # Proxmox takes 0 and 1 in forms, not True.
        plain = {name: int(value) if isinstance(value, bool) else value for name, value in params.items()}
        try:
            answer = getattr(self._resource()(path), method)(**plain)
        except ResourceException as error:
            raise errors.answered(error, self.endpoint, call) from error
        except requests.RequestException as error:
            raise errors.unreachable(error, self.endpoint, call) from error
        if isinstance(answer, dict) and isinstance(answer.get("errors"), bytes):
            raise HomelabError(
                f"Cannot use the answer of Proxmox at {self.endpoint.host}:{self.endpoint.port}: it is not JSON",
                f"The call was `{call}`.",
                "Check that `proxmox.host` in the inventory is the node itself, and not a proxy.",
            )
        return answer

    def _resource(self) -> ProxmoxResource:
        if not hasattr(self._local, "resource"):
            self._local.resource = self._connect()
        return self._local.resource

    def _connect(self) -> ProxmoxResource:
        user, _, name = self.endpoint.token_id.partition("!")
        backend = Backend(
            self.endpoint.host,
            port=self.endpoint.port,
            user=user,
            token_name=name,
            token_value=self._token.reveal(),
            verify_ssl=True,
            timeout=_TIMEOUT,
        )
        session = backend.get_session()
        # Ignore proxies, CAs and .netrc of the environment: only the inventory defines the endpoint.
        session.trust_env = False
        session.max_redirects = 0
        session.mount("https://", TrustAdapter(self.endpoint))
        return ProxmoxResource(base_url=backend.get_base_url(), session=session, serializer=backend.get_serializer())


def read_token(endpoint: ProxmoxApi) -> Secret:
    """Read the token's secret from the environment or its file. Raises HomelabError if it is missing or not private."""
    name = "the secret of the Proxmox token"
    if value := os.environ.get(TOKEN_VARIABLE, ""):
        return one_word(value, name, f"${TOKEN_VARIABLE}", f"Correct or unset it: {endpoint.token_file} is read then.")
    resolution = f"`homelab init` asks for it and writes it there. ${TOKEN_VARIABLE} overrides the file."
    return read_secret(endpoint.token_file, name, resolution)
