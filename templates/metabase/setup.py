"""Create Metabase's first user, and a connection for each pipeline, as JSON on standard input describes them.

Everything else in Metabase stays as it is. Safe to repeat.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from http.client import HTTPConnection
from typing import Any


class Refused(Exception):
    """A request that Metabase answered with an error."""


class Client:
    """Metabase's API at an address; `session` is that of the admin."""

    def __init__(self, address: str, port: int) -> None:
        self.address, self.port = address, port
        self.session = ""

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the answer to a request. Raises Refused."""
        connection = HTTPConnection(self.address, self.port, timeout=120)
        headers = {"Content-Type": "application/json", "X-Metabase-Session": self.session}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.status >= 300:
            raise Refused(f"HTTP {answer.status}")
        return json.loads(content) if content else None

    def log_in(self, email: str, password: str) -> None:
        """Create the first user and log in as it, or log in as the existing one. Raises Refused."""
        properties = self.call("GET", "/api/session/properties")
        if properties["has-user-setup"]:
            answer = self.call("POST", "/api/session", {"username": email, "password": password})
        else:
            user = {"email": email, "password": password, "first_name": "Homelab", "last_name": "Admin"}
            prefs = {"site_name": "Homelab", "allow_tracking": False}
            setup = {"token": properties["setup-token"], "user": user, "prefs": prefs}
            answer = self.call("POST", "/api/setup", setup)
        self.session = answer["id"]

    def connect(self, connection: Mapping[str, Any]) -> None:
        """Create a connection, or replace its details."""
        for each in self.call("GET", "/api/database")["data"]:
            if (each["engine"], each["name"]) == (connection["engine"], connection["name"]):
                self.call("PUT", f"/api/database/{each['id']}", connection)
                return
        self.call("POST", "/api/database", connection)


def main() -> None:
    """Apply the description."""
    wanted = json.load(sys.stdin)
    client = Client(wanted["address"], wanted["port"])
    try:
        client.log_in(wanted["email"], wanted["password"])
    except Refused as error:
        sys.exit(
            f"Cannot log in to Metabase as {wanted['email']}: {error}. Either its password was changed in "
            "Metabase: store it with `homelab secret set metabase-admin`. Or another visitor was faster and became the "
            "first user: `homelab prune metabase` deletes the metadata after you have removed the service."
        )
    for connection in wanted["connections"]:
        try:
            client.connect(connection)
        except Refused as error:
            sys.exit(f"Cannot connect Metabase to the tables of {connection['name']}: {error}")
    client.call("DELETE", "/api/session")


if __name__ == "__main__":
    main()
