"""Set Redpanda up: its settings, identities, topics and their rights; standard input has them, and the passwords.

Settings and identities go to its admin API on loopback; topics and rights to its Kafka API with `rpk`. Each step can be
repeated. The password of the setup itself is kept in a file, to log in when another one is wanted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_MECHANISM = "SCRAM-SHA-256"


class Admin:
    """The admin API, with a login."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self._url = url
        self._login = b64encode(f"{user}:{password}".encode()).decode()

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """Return the answer to a request. Raises HTTPError."""
        headers = {"Authorization": f"Basic {self._login}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._url}{path}", data, headers, method=method)  # noqa: S310
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=20) as response:
            text = response.read()
        return json.loads(text) if text.strip() else None


def log_in(settings: Mapping[str, Any]) -> Admin:
    """Return the admin API with the wanted password, or the former one. Raises SystemExit if it refuses both."""
    user, former = settings["user"], Path(settings["former"])
    passwords = [settings["passwords"][user], *([former.read_text()] if former.exists() else [])]
    for password in passwords:
        admin = Admin(settings["admin"], user, password)
        try:
            admin.request("GET", "/v1/security/users")
        except urllib.error.HTTPError as error:
            if error.code not in (401, 403):
                raise
        else:
            return admin
    raise SystemExit(f"Redpanda refuses the password of {user}, and the former one in {former}")


def set_identities(admin: Admin, passwords: Mapping[str, str], own: str) -> None:
    """Create the identities, or change their passwords; delete all others. The last change is that of the own login."""
    present = set(admin.request("GET", "/v1/security/users"))
    for user in sorted(present - set(passwords)):
        admin.request("DELETE", f"/v1/security/users/{user}")
    for user in sorted(passwords, key=lambda name: name == own):
        body = {"username": user, "password": passwords[user], "algorithm": _MECHANISM}
        if user in present:
            admin.request("PUT", f"/v1/security/users/{user}", body)
        else:
            admin.request("POST", "/v1/security/users", body)


class Rpk:
    """Redpanda's command line, logged in at the Kafka API; its environment has the password."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._environment = {
            **os.environ,
            "RPK_BROKERS": settings["brokers"],
            "RPK_TLS_ENABLED": "true",
            "RPK_TLS_CA": settings["ca_file"],
            "RPK_USER": settings["user"],
            "RPK_PASS": settings["passwords"][settings["user"]],
            "RPK_SASL_MECHANISM": _MECHANISM,
        }

    def run(self, *words: str) -> str:
        """Return the output of a command. Raises SystemExit with its error."""
        line = ["rpk", "--ignore-profile", *words]
        done = subprocess.run(line, env=self._environment, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise SystemExit(f"rpk {' '.join(words[:3])}: {(done.stderr or done.stdout).strip()[-1000:]}")
        return done.stdout


def set_topics(rpk: Rpk, topics: Sequence[str], values: Mapping[str, Any]) -> None:
    """Create the topics with one partition each, and set their settings."""
    present = {each["name"] for each in json.loads(rpk.run("topic", "list", "--format", "json") or "[]")}
    for topic in topics:
        if topic not in present:
            each = [word for key, value in values.items() for word in ("--topic-config", f"{key}={value}")]
            rpk.run("topic", "create", topic, "--partitions", "1", "--replicas", "1", *each)
    rpk.run(
        "topic",
        "alter-config",
        *topics,
        *(word for item in values.items() for word in ("--set", "=".join(map(str, item)))),
    )


def set_rights(rpk: Rpk, acls: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Replace the rights of each identity."""
    for user, wanted in acls.items():
        rpk.run("security", "acl", "delete", "--allow-principal", f"User:{user}", "--no-confirm")
        for acl in wanted:
            named = [word for kind in ("topic", "group") for name in acl[f"{kind}s"] for word in (f"--{kind}", name)]
            operations = ("--operation", ",".join(acl["operations"]))
            rpk.run("security", "acl", "create", "--allow-principal", f"User:{user}", *operations, *named)


def main(settings: Mapping[str, Any]) -> None:
    """Set everything; see the module's docstring."""
    admin, former = log_in(settings), Path(settings["former"])
    set_identities(admin, settings["passwords"], settings["user"])
    former.touch(mode=0o600)
    former.write_text(settings["passwords"][settings["user"]])
    admin = log_in(settings)
    admin.request("PUT", "/v1/cluster_config", {"upsert": settings["cluster"], "remove": []})
    rpk = Rpk(settings)
    set_topics(rpk, settings["topics"], settings["topic"])
    set_rights(rpk, settings["acls"])


if __name__ == "__main__":
    main(json.load(sys.stdin))
