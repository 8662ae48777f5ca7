"""The audit log: the changes on the node with time and result, as JSON lines that are only appended."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from homelab.errors import HomelabError
from homelab.private_files import private_folder

_SECRET = re.compile(r"password|secret|token|ticket|(?<!public-)\bkeys?\b", re.IGNORECASE)


class Audit:
    """An append-only log, mode 0600. Safe to use from several threads and processes: a line is one write.

    A call has one line before it is sent, with its parameters, and one after it, with its UPID or its error; a task has
    one for its exit status. The lines of a call share an `id`.
    """

    def __init__(self, path: Path, who: str) -> None:
        self._path = path
        self._who = who

    def sent(self, method: str, path: str, parameters: Mapping[str, Any]) -> str:
        """Log a call before it is sent and return its id. Raises HomelabError, which prevents the call."""
        call = secrets.token_hex(4)
        self._add(id=call, who=self._who, method=method, path=path, parameters=redacted(parameters), result="sent")
        return call

    def answered(self, call: str, method: str, path: str, answer: object) -> None:
        """Log a call's answer: its UPID, if it is one."""
        upid = str(answer) if str(answer).startswith("UPID:") else None
        self._add(id=call, method=method, path=path, upid=upid, result="accepted" if upid else "OK")

    def failed(self, call: str, method: str, path: str, error: BaseException) -> None:
        """Log a call that failed or was interrupted."""
        result = f"{error.brief}: {error.details}" if isinstance(error, HomelabError) else type(error).__name__
        self._add(id=call, method=method, path=path, upid=None, result=" ".join(result.split()))

    def ended(self, upid: str, result: str) -> None:
        """Log a task's exit status."""
        self._add(upid=upid, result=result)

    def _add(self, **fields: Any) -> None:
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds")} | fields
        private_folder(self._path.parent)
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(handle, "ab", buffering=0) as file:
                file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
        except OSError as error:
            raise HomelabError(
                "Cannot write the audit log: homelab changes nothing without it",
                f"{self._path}: {error.strerror}.",
                "Make this file writable, then run the same command again.",
            ) from error


def redacted(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Mask the values of parameters with a name that marks a secret; public keys are not secret."""
    return {name: "***" if _SECRET.search(name) else value for name, value in parameters.items()}
