"""Real receivers of alerts in a container with Debian 13: aiosmtpd, ntfy, and webhooks with the shapes of Slack's, of
Discord's and of Alertmanager's.
"""

from __future__ import annotations

import json
import shlex
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from homelab.certificates import Authority, Names
from tests.integration.lab_fixture import LabFixture

NAME = "receivers"
RECEIVERS = ("email", "slack", "webhook", "ntfy", "discord")
SLACK, DISCORD = "slack-secret-token", "discord-secret-token"
_PACKAGES = "python3-aiosmtpd ntfy"
# They record the receiver, the title, the text and the time of each message.
_RECORD = """import email, email.policy, json, ssl, sys, threading, time
def record(receiver, title, text):
    with open("/run/messages", "a") as file:
        file.write(json.dumps([receiver, title, text, time.time()]) + "\\n")
"""
_MAIL = (
    _RECORD
    + """from aiosmtpd.controller import Controller
class Mail:
    async def handle_DATA(self, server, session, envelope):
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        record("email", mail["Subject"], mail.get_content())
        return "250 OK"
Controller(Mail(), hostname="0.0.0.0", port=25).start()
threading.Event().wait()"""
)
_WEB = (
    _RECORD
    + """from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
SLACK, DISCORD = sys.argv[1:]
class Web(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(*self.take(body))
    def take(self, body):
        if self.path.startswith("/services/"):
            if not self.path.endswith("/" + SLACK):
                return 404, b"no_service"
            if list(body) != ["text"]:
                return 400, b"invalid_payload"
            record("slack", body["text"].splitlines()[0].strip("*"), body["text"])
        elif self.path.startswith("/api/webhooks/"):
            if not self.path.split("?")[0].endswith("/" + DISCORD):
                return 404, b'{"message": "Unknown Webhook", "code": 10015}'
            if not body.get("content") and not body.get("embeds"):
                return 400, b'{"message": "Cannot send an empty message", "code": 50006}'
            text = body.get("content") or body["embeds"][0]["title"]
            record("discord", text.splitlines()[0].strip("*# \\u200b"), text)
            return 204, b""
        else:
            alert = body["alerts"][0]
            over = "Over: " if body["status"] == "resolved" else ""
            record("webhook", over + alert["annotations"]["summary"], alert["annotations"].get("details"))
        return 200, b"ok"
    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
tls = ThreadingHTTPServer(("0.0.0.0", 443), Web)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/root/discord.pem")
tls.socket = context.wrap_socket(tls.socket, server_side=True)
threading.Thread(target=tls.serve_forever, daemon=True).start()
ThreadingHTTPServer(("0.0.0.0", 8000), Web).serve_forever()"""
)


@dataclass(frozen=True)
class AlertSinks:
    """The receivers at an address; Discord's name has to lead there."""

    address: str
    authority: Authority

    @classmethod
    def at(cls, address: str, folder: Path) -> AlertSinks:
        """Return the receivers at an address, and write their CA to `ca.pem` in the folder."""
        authority = Authority.create("sinks", Names(("discord.com",), ()))
        (folder / "ca.pem").write_text(authority.certificate)
        return cls(address, authority)

    def section(self, folder: Path) -> Mapping[str, object]:
        """Return the sections of the inventory."""
        return {
            "packages": {"ca_certificates": [str(folder / "ca.pem")]},
            "alerts": {
                "email": {"smtp": f"{self.address}:25", "from": "homelab@home.arpa", "to": ["me@home.arpa"]},
                "slack": {"webhook": {"secret": "slack"}},
                "webhook": f"http://{self.address}:8000/alerts",
                "urls": [f"ntfy://{self.address}:2586/alerts", {"secret": "discord"}],
            },
        }

    def set_secrets(self, stack: LabFixture) -> None:
        """Store the secrets that the section names."""
        stack.session.secrets.set("slack", f"http://{self.address}:8000/services/T0/B0/{SLACK}")
        stack.session.secrets.set("discord", f"discord://123456789012345678/{DISCORD}")

    def start(self, stack: LabFixture, senders: Sequence[str]) -> None:
        """Install and start the receivers; for the senders, Discord's name leads to them."""
        stack.run(
            f"DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends {_PACKAGES} >/dev/null", NAME
        )
        with stack.connect(NAME) as host:
            key = self.authority.issue(Names(("discord.com",), ()))
            assert host.run("umask 077; cat >/root/discord.pem", stdin=key.encode()).ok
        for unit, command in {
            "web": f"/usr/bin/python3 -c {shlex.quote(_WEB)} {SLACK} {DISCORD}",
            # The tests read its messages more often than it allows by default.
            "ntfy-web": "ntfy serve --listen-http :2586 --cache-file /run/ntfy.db --visitor-request-limit-burst 100000",
        }.items():
            stack.run(f"systemd-run -q --unit={unit} {command}", NAME)
        self.start_mail(stack)
        for name in senders:
            stack.run(f"echo '{self.address} discord.com' >>/etc/hosts", name)

    def start_mail(self, stack: LabFixture) -> None:
        """Start the mail server; it runs in the unit `mail`."""
        stack.run(f"systemd-run -q --unit=mail /usr/bin/python3 -c {shlex.quote(_MAIL)}", NAME)

    def messages(self, stack: LabFixture, since: float) -> Iterator[tuple[str, str, str]]:
        """Yield the receiver, the title and the text of each message since a time, in order by receiver."""
        for line in stack.run("cat /run/messages 2>/dev/null || true", NAME).splitlines():
            receiver, title, text, at = json.loads(line)
            if at >= since:
                yield receiver, title, text
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        url = f"http://{self.address}:2586/alerts/json?poll=1&since={since:.0f}"
        with opener.open(url, timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                found = json.loads(line)
                yield "ntfy", found["title"], found["message"]
