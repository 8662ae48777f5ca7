"""The bridge of alerts on this machine: its messages, its receivers, the hours without messages, and its own checks."""

from __future__ import annotations

import base64
import errno
import hmac
import json
import shlex
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from datetime import datetime
from http.server import HTTPServer, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.alert_servers import SCRIPTS, Mailbox, Sink, bridged, mail, serving, slack

# Programs of the container, which tests.alert_servers makes importable.
import check  # isort: skip
import receivers  # isort: skip
import settings  # isort: skip
from messages import message_of  # isort: skip

ALERT = {
    "status": "firing",
    "labels": {"alertname": "PipelineFailed", "severity": "critical", "pipeline": "weather"},
    "annotations": {
        "summary": "The last build of the pipeline weather failed",
        "details": "test not_null: Got 1 result",
        "command": "homelab pipeline status weather",
        "runbook": "docs/how-to/runbooks/pipeline-failed.md",
    },
    "startsAt": "2026-11-27T06:46:01.123456789Z",
    "endsAt": "0001-01-01T00:00:00Z",
}
FIRING = {"version": "4", "status": "firing", "alerts": [ALERT]}
OVER = {**FIRING, "status": "resolved", "alerts": [{**ALERT, "status": "resolved", "endsAt": "2026-11-27T08:00:01Z"}]}
NOON = datetime(2026, 11, 27, 12)


@pytest.fixture
def sink() -> Iterator[tuple[str, list[Any]]]:
    got: list[Any] = []
    with serving(HTTPServer(("127.0.0.1", 0), type("", (Sink,), {"got": got}))) as port:
        yield f"http://127.0.0.1:{port}", got


@pytest.fixture
def mailbox() -> Iterator[tuple[dict[str, Any], list[str]]]:
    got: list[str] = []
    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), type("", (Mailbox,), {"got": got}))) as port:
        yield mail(port), got


def test_message_has_cause_time_words_command_and_runbook() -> None:
    message = message_of(FIRING, "home")
    assert message.title == "[home] The last build of the pipeline weather failed"
    assert message.text.splitlines() == [
        "PipelineFailed: The last build of the pipeline weather failed",
        "Since 2026-11-27 06:46 UTC",
        "test not_null: Got 1 result",
        "Run: homelab pipeline status weather",
        "Help: docs/how-to/runbooks/pipeline-failed.md",
    ]


def test_message_of_an_end_has_the_duration() -> None:
    message = message_of(OVER, "home")
    assert message.title == "[home] Over: The last build of the pipeline weather failed"
    assert "From 2026-11-27 06:46 UTC to 2026-11-27 08:00 UTC, 1 h 14 min" in message.text


def test_message_lists_open_alerts_only_and_keeps_one_line_each() -> None:
    other = {**ALERT, "annotations": {"summary": "Another\r\nBcc: you@home.arpa"}}
    ended = {**ALERT, "status": "resolved", "annotations": {"summary": "ended"}}
    message = message_of({**FIRING, "alerts": [ALERT, other, ended]}, "home")
    assert message.title.endswith("failed and 1 more")
    assert "Another Bcc: you@home.arpa" in message.text
    assert "ended" not in message.text


def test_mail_has_subject_and_text(mailbox: tuple[dict[str, Any], list[str]]) -> None:
    receiver, got = mailbox
    receivers.send(receiver, message_of(FIRING, "home"))
    (received,) = got
    assert "Subject: [home] The last build of the pipeline weather failed" in received
    assert "test not_null: Got 1 result" in received


def test_password_is_sent_over_tls_only(mailbox: tuple[dict[str, Any], list[str]]) -> None:
    receiver, got = mailbox
    with pytest.raises(receivers.NotSent, match="has no TLS: the password is not sent"):
        receivers.send({**receiver, "user": "me", "password": "secret"}, message_of(FIRING, "home"))
    assert got == []


def test_refused_recipient_is_named(mailbox: tuple[dict[str, Any], list[str]]) -> None:
    with pytest.raises(receivers.NotSent, match=r"refuses the recipients: nobody@home\.arpa: 550 unknown"):
        receivers.send({**mailbox[0], "to": ["nobody@home.arpa"]}, message_of(FIRING, "home"))


def test_mail_that_some_recipients_refuse_is_sent_once_and_names_them(
    mailbox: tuple[dict[str, Any], list[str]], tmp_path: Path
) -> None:
    receiver, got = mailbox
    some = {**receiver, "to": ["nobody@home.arpa", "me@home.arpa"]}
    reason = f"127.0.0.1:{receiver['port']} refuses some recipients: nobody@home.arpa: 550 unknown"
    state: dict[str, Any] = {}
    with bridged(tmp_path, receivers={"email": some}) as found:
        for _ in range(2):
            sent(state, found, metrics(0, 1, 1), tmp_path / "incidents.json")
        assert call(found, "/") == (200, json.dumps({"receivers": {"email": reason}}))
        assert len(got) == 1
        words = [sys.executable, str(SCRIPTS / "send.py"), "--test", f"--settings={tmp_path / 'alerts.json'}"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert (done.returncode, json.loads(done.stdout)) == (1, {"email": reason})
        assert call(found, "/send/email", OVER) == (200, reason)


class Login(Mailbox):
    """A mail server that offers one way to log in and records the texts of the client."""

    mechanism: str

    def handle(self) -> None:
        """Answer the commands of one connection."""
        self._reply("220 mail")
        while line := self.rfile.readline().decode().strip():
            word, _, rest = line.partition(" ")
            if word == "ehlo":
                self._reply(f"250-mail\r\n250 AUTH {self.mechanism}")
                continue
            self.got += [base64.b64decode(each).decode() for each in (rest.split()[1:] if word == "AUTH" else [line])]
            is_last = len(self.got) == (2 if self.mechanism == "LOGIN" else 1)
            self._reply("235 ok" if is_last else f"334 {base64.b64encode(b'challenge').decode()}")
            if is_last:
                return


@pytest.mark.parametrize(
    ("mechanism", "expected"),
    [
        ("PLAIN", ["\0jörg\0pässwörd€"]),
        ("LOGIN", ["jörg", "pässwörd€"]),
        ("CRAM-MD5", [f"jörg {hmac.new('pässwörd€'.encode(), b'challenge', 'md5').hexdigest()}"]),
    ],
)
def test_password_of_the_mail_server_may_have_any_letter(mechanism: str, expected: list[str]) -> None:
    got: list[str] = []
    handler = type("", (Login,), {"got": got, "mechanism": mechanism})
    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)) as port:
        server = receivers.Smtp("127.0.0.1", port, timeout=5)
        receivers.log_in(server, {"user": "jörg", "password": "pässwörd€"})
        server.close()
    assert got == expected


def test_unreachable_mail_server_is_named() -> None:
    with pytest.raises(receivers.NotSent, match=r"cannot send over 127\.0\.0\.1:1: Connection refused"):
        receivers.send(mail(1), message_of(FIRING, "home"))


def test_slack_gets_its_shape_and_a_webhook_the_payload(sink: tuple[str, list[Any]]) -> None:
    url, got = sink
    receivers.send({"kind": "slack", "url": f"{url}/services/T/B/x"}, message_of(FIRING, "a<b>&c"))
    receivers.send({"kind": "webhook", "url": f"{url}/alerts"}, message_of(OVER, "home"))
    assert got[0].keys() == {"text"}
    assert got[0]["text"].startswith("*[a&lt;b&gt;&amp;c] The last build of the pipeline weather failed*\n")
    assert got[1] == OVER


def test_wrong_webhook_is_reported_without_its_token(sink: tuple[str, list[Any]]) -> None:
    with pytest.raises(receivers.NotSent, match="404: no_service") as raised:
        receivers.send(
            {"kind": "slack", "url": f"{sink[0]}/services/T0000/B0000/wrongtoken"}, message_of(FIRING, "home")
        )
    assert "wrongtoken" not in str(raised.value)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "no-url-with-secret", "http://127.0.0.1:1/secrettoken"])
def test_unusable_webhook_is_an_error_without_its_token(url: str) -> None:
    with pytest.raises(receivers.NotSent) as raised:
        receivers.send({"kind": "webhook", "url": url}, message_of(FIRING, "home"))
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("start", "end", "hour", "expected"),
    [
        ("22:00", "07:00", 23, True),
        ("22:00", "07:00", 6, True),
        ("22:00", "07:00", 7, False),
        ("22:00", "07:00", 12, False),
        ("12:00", "14:00", 13, True),
        ("12:00", "14:00", 14, False),
        ("12:00", "14:00", 1, False),
    ],
)
def test_quiet_hours_may_cross_midnight(start: str, end: str, hour: int, expected: bool) -> None:
    found = {"quiet": {"from": start, "to": end, "except": None}}
    assert settings.is_quiet(found, FIRING, NOON.replace(hour=hour)) is expected


def test_critical_alert_is_sent_in_quiet_hours_if_excepted() -> None:
    found = {"quiet": {"from": "22:00", "to": "07:00", "except": "critical"}}
    warning = {**FIRING, "alerts": [{**ALERT, "labels": {"severity": "warning"}}]}
    assert not settings.is_quiet(found, FIRING, NOON.replace(hour=23))
    assert settings.is_quiet(found, warning, NOON.replace(hour=23))


def call(found: Mapping[str, Any], path: str, content: object = None) -> tuple[int, str]:
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{found['port']}{path}", body)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_bridge_sends_and_remembers_the_failure_of_one_receiver(sink: tuple[str, list[Any]], tmp_path: Path) -> None:
    good, bad = (slack(sink[0], token) for token in ("good", "wrongtoken"))
    with bridged(tmp_path, receivers={"slack": good, "webhook": bad}) as found:
        assert call(found, "/send/slack", FIRING) == (200, "")
        status, reason = call(found, "/send/webhook", FIRING)
        assert status == 502
        assert "404: no_service" in reason
        assert "wrongtoken" not in reason
        assert json.loads(call(found, "/")[1]) == {"receivers": {"slack": "", "webhook": reason}}
        assert call(found, "/send/other", FIRING)[0] == 404
        assert call(found, "/send/slack", [])[0] == 400
    assert len(sink[1]) == 1


def test_bridge_defers_messages_in_quiet_hours(sink: tuple[str, list[Any]], tmp_path: Path) -> None:
    quiet = {"from": "00:00", "to": "23:59", "except": None}
    with bridged(tmp_path, receivers={"slack": {"kind": "slack", "url": sink[0]}}, quiet=quiet) as found:
        assert call(found, "/send/slack", FIRING)[0] == 409
    assert sink[1] == []


def test_bridge_refuses_other_clients(tmp_path: Path) -> None:
    with bridged(tmp_path, clients=("192.168.2.70",)) as found:
        assert call(found, "/watchdog", {})[0] == 403
        assert call(found, "/")[0] == 403
    assert not (tmp_path / "watchdog").exists()


def test_bridge_records_the_sign_of_life(tmp_path: Path) -> None:
    with bridged(tmp_path) as found:
        assert call(found, "/watchdog", {})[0] == 200
    assert (tmp_path / "watchdog").exists()


def metrics(success: int, published: float, newest: float) -> str:
    return (
        f'homelab_pipeline_last_build_success{{pipeline="weather",table=""}} {success}\n'
        f'homelab_pipeline_published_timestamp_seconds{{pipeline="weather",table=""}} {published}\n'
        f'homelab_pipeline_newest_row_timestamp_seconds{{pipeline="weather",table=""}} {newest}\n'
        'homelab_pipeline_last_error_info{pipeline="weather",message="test not_null: Got 1 result"} 1\n'
    )


def incidents(text: str, watched: float = 0, now: float = 100_000, watchdog: float = 0) -> dict[str, Any]:
    return dict(check.incidents({"pipelines": {"weather": 10_800}, "watchdog": watchdog}, text, watched, now))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (metrics(1, 99_000, 99_000), []),
        (metrics(0, 99_000, 99_000), ["PipelineFailed weather"]),
        (metrics(1, 80_000, 99_000), ["PipelineLate weather"]),
        (metrics(1, 99_000, 80_000), ["DataStale weather"]),
        ("", []),
        ("garbage\n", []),
    ],
)
def test_check_finds_failed_late_and_stale_pipelines(text: str, found: list[str]) -> None:
    assert list(incidents(text)) == found


def test_failed_build_is_reported_with_the_words_of_dbt() -> None:
    assert (
        incidents(metrics(0, 1, 1))["PipelineFailed weather"]["annotations"]["details"] == "test not_null: Got 1 result"
    )


def test_missing_sign_of_life_is_an_incident() -> None:
    assert list(incidents("", watched=99_900, watchdog=300)) == []
    assert list(incidents("", watched=99_600, watchdog=300)) == ["MonitoringDown"]


def sent(state: dict[str, Any], found: Mapping[str, Any], text: str, file: Path) -> None:
    """Run the check once."""
    now = datetime.now().astimezone().isoformat()
    check.update(state, incidents(text), now, check.unread({"pipelines": ["weather"]}, text))
    check.Delivery(state, found, file).run(1)


def test_each_incident_is_sent_once_to_each_receiver_and_so_is_its_end(
    sink: tuple[str, list[Any]], tmp_path: Path
) -> None:
    state: dict[str, Any] = {}
    good, bad = (slack(sink[0], token) for token in ("good", "wrongtoken"))
    with bridged(tmp_path, receivers={"slack": good, "webhook": bad}) as found:
        for _ in range(3):
            sent(
                state, found, metrics(0, 1, 1), tmp_path / "incidents.json"
            )  # late as well, which the failure explains
        sent(state, found, metrics(1, 99_000, 99_000), tmp_path / "incidents.json")
        sent(state, found, metrics(1, 99_000, 99_000), tmp_path / "incidents.json")
    assert [each["text"].partition("\n")[0] for each in sink[1]] == [
        "*[home] The last build of the pipeline weather failed*",
        "*[home] Over: The last build of the pipeline weather failed*",
    ]
    assert state == {}


def test_incident_that_begins_and_ends_in_quiet_hours_is_not_sent(sink: tuple[str, list[Any]], tmp_path: Path) -> None:
    state: dict[str, Any] = {}
    quiet = {"from": "00:00", "to": "23:59", "except": None}
    with bridged(tmp_path, receivers={"slack": {"kind": "slack", "url": sink[0]}}, quiet=quiet) as found:
        sent(state, found, metrics(0, 1, 1), tmp_path / "incidents.json")
        sent(state, found, metrics(1, 99_000, 99_000), tmp_path / "incidents.json")
    assert sink[1] == []
    assert state == {}


def test_test_message_reaches_the_others_if_one_receiver_fails(sink: tuple[str, list[Any]], tmp_path: Path) -> None:
    good = slack(sink[0], "good")
    with bridged(tmp_path, receivers={"email": mail(1), "slack": good}):
        words = [sys.executable, str(SCRIPTS / "send.py"), "--test", f"--settings={tmp_path / 'alerts.json'}"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"email": "cannot send over 127.0.0.1:1: Connection refused", "slack": ""}
    assert "Test message from box" in sink[1][0]["text"]


def test_receiver_that_does_not_answer_delays_no_other_one(sink: tuple[str, list[Any]], tmp_path: Path) -> None:
    silent = socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler)  # accepts, and is not served
    slow = {"kind": "webhook", "url": f"http://127.0.0.1:{silent.server_address[1]}/"}
    with bridged(tmp_path, receivers={"webhook": slow, "slack": {"kind": "slack", "url": sink[0]}}) as found:
        threading.Thread(target=call, args=(found, "/send/webhook", FIRING), daemon=True).start()
        start = time.monotonic()
        assert call(found, "/send/slack", FIRING)[0] == 200
        assert time.monotonic() - start < 5
    silent.server_close()


def post(port: int, headers: str, body: bytes = b"") -> bytes:
    """Send a request as it is, and return the first line of the answer."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(f"POST /send/slack HTTP/1.1\r\n{headers}\r\n\r\n".encode() + body)
        return connection.makefile("rb").readline().rstrip()


@pytest.mark.parametrize("length", ["-1", "x", "", "1 2", "\u00b2", "9" * 5000])
def test_bridge_reads_no_body_without_a_valid_length(length: str, tmp_path: Path) -> None:
    with bridged(tmp_path, receivers={"slack": {"kind": "slack", "url": "http://127.0.0.1:1"}}) as found:
        assert post(found["port"], f"Content-Length: {length}") == b"HTTP/1.0 411 Length Required"


@pytest.mark.parametrize(
    "body",
    [
        "[" * 100_000,
        json.dumps({**FIRING, "alerts": [{**ALERT, "startsAt": "0001-01-01T00:00:00+10:00"}]}),
        json.dumps({**FIRING, "alerts": {"a": 1}}),
        json.dumps({**FIRING, "alerts": [{**ALERT, "labels": None}]}),
        json.dumps({**FIRING, "alerts": [{**ALERT, "startsAt": 1}]}),
        "\x00",
    ],
)
def test_bridge_answers_hostile_json(body: str, tmp_path: Path) -> None:
    with bridged(tmp_path, receivers={"slack": {"kind": "slack", "url": "http://127.0.0.1:1"}}) as found:
        answer = post(found["port"], f"Content-Length: {len(body)}", body.encode())
    assert answer == b"HTTP/1.0 400 Bad Request"


def test_message_has_no_characters_that_receivers_refuse(mailbox: tuple[dict[str, Any], list[str]]) -> None:
    hostile = {**ALERT, "annotations": {"summary": "a\ud800b\x00c\x1b[2Jd\u202e"}}
    message = message_of({**FIRING, "alerts": [hostile]}, "home")
    assert message.title == "[home] a?b?c?[2Jd?"
    receivers.send(mailbox[0], message)
    assert "Subject: [home] a?b?c?[2Jd?" in mailbox[1][0]


class Leaving(Sink):
    """A receiver that takes each message only after its sender was told to wait no longer."""

    left: threading.Event

    def do_POST(self) -> None:
        self.left.wait(10)
        super().do_POST()


def test_message_whose_sender_left_before_the_answer_is_sent_once(tmp_path: Path) -> None:
    got: list[Any] = []
    left = threading.Event()
    body = json.dumps(FIRING).encode()
    with serving(HTTPServer(("127.0.0.1", 0), type("", (Leaving,), {"got": got, "left": left}))) as port:
        receiver = {"kind": "webhook", "url": f"http://127.0.0.1:{port}/"}
        with bridged(tmp_path, receivers={"slack": receiver}) as found:
            with socket.create_connection(("127.0.0.1", found["port"])) as connection:
                connection.sendall(f"POST /send/slack HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
                time.sleep(0.5)
            left.set()
            assert call(found, "/send/slack", FIRING) == (200, "")
            assert len(got) == 1
            assert call(found, "/send/slack", FIRING) == (200, "")  # another repetition is a message of its own
            assert len(got) == 2


class Busy(Sink):
    """A receiver that records the number of messages that arrive at the same time."""

    running = 0
    most = 0

    def do_POST(self) -> None:
        kind = type(self)
        kind.running += 1
        kind.most = max(kind.most, kind.running)
        time.sleep(0.2)
        kind.running -= 1
        super().do_POST()


def test_many_incidents_are_sent_one_at_a_time_to_each_receiver(tmp_path: Path) -> None:
    got: list[Any] = []
    kind = type("", (Busy,), {"got": got})
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), kind)) as port:
        receiver = {"kind": "webhook", "url": f"http://127.0.0.1:{port}/"}
        with bridged(tmp_path, receivers={"slack": receiver}) as found, ThreadPoolExecutor(5) as pool:
            statuses = [status for status, _ in pool.map(lambda _: call(found, "/send/slack", FIRING), range(5))]
    assert (statuses, len(got), kind.most) == ([200] * 5, 5, 1)


@pytest.mark.parametrize("value", ["1.2.3", "e", "+", "1e", ".", "1e999"])
def test_unreadable_metric_of_a_pipeline_hides_no_other_one(value: str) -> None:
    text = f'homelab_pipeline_published_timestamp_seconds{{pipeline="prices",table=""}} {value}\n'
    assert list(incidents(text + metrics(0, 1, 99_000))) == ["PipelineFailed weather", "PipelineLate weather"]


def test_incident_of_a_pipeline_without_metrics_lasts(sink: tuple[str, list[Any]], tmp_path: Path) -> None:
    state: dict[str, Any] = {}
    with bridged(tmp_path, receivers={"slack": slack(sink[0], "good")}) as found:
        for text in (metrics(0, 1, 1), "", metrics(0, 1, 1)):
            sent(state, found, text, tmp_path / "incidents.json")
    assert len(sink[1]) == 1


def two_incidents() -> dict[str, Any]:
    """Return the incidents of a failed pipeline and of a missing Alertmanager."""
    return incidents(metrics(0, 1, 1), watched=1, watchdog=300)


def test_run_that_is_ended_early_repeats_no_message(sink: tuple[str, list[Any]], tmp_path: Path) -> None:
    silent = socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler)  # accepts, and is not served
    slow = {"kind": "webhook", "url": f"http://127.0.0.1:{silent.server_address[1]}/"}
    file = tmp_path / "incidents.json"
    state: dict[str, Any] = {}
    check.update(state, two_incidents(), "2026-11-27T06:46:01+00:00")
    with bridged(tmp_path, receivers={"webhook": slow, "slack": slack(sink[0], "good")}) as found:
        threading.Thread(target=check.Delivery(state, found, file).run, args=(1,), daemon=True).start()
        deadline, recorded = time.monotonic() + 10, list[Any]()
        while recorded != [["slack"], ["slack"]] and time.monotonic() < deadline:
            time.sleep(0.1)
            recorded = [each["begin_sent"] for each in check.read_state(file).values()]
    silent.server_close()
    assert len(sink[1]) == 2
    assert recorded == [["slack"], ["slack"]]


def test_message_that_a_receiver_refuses_delays_the_others_by_one_run(tmp_path: Path) -> None:
    state: dict[str, Any] = {}
    file = tmp_path / "incidents.json"
    check.update(state, two_incidents(), "2026-11-27T06:46:01+00:00")
    first, second = state
    refused = []

    def post(_found: object, _receiver: str, incident: dict[str, Any]) -> int:
        is_refused = incident is poison
        refused.append(is_refused)
        return 502 if is_refused else 200

    poison = state[first]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "_post", post)
        for _ in range(2):
            check.Delivery(state, {"receivers": ["slack"]}, file).run(1)
    assert refused == [True, False, True]
    assert (state[first]["begin_sent"], state[second]["begin_sent"]) == ([], ["slack"])


def test_incident_that_returns_before_its_end_was_taken_continues(tmp_path: Path) -> None:
    state: dict[str, Any] = {}
    taken: list[tuple[str, str]] = []
    down = False

    def post(_found: object, receiver: str, incident: dict[str, Any]) -> int:
        if down and receiver == "email":
            return 502
        taken.append((receiver, "end" if incident["endsAt"] else "begin"))
        return 200

    found = {"receivers": ["email", "slack"]}
    good, bad = metrics(1, 99_000, 99_000), metrics(0, 99_000, 99_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "_post", post)
        for text, is_down in ((bad, False), (good, True), (bad, True), (bad, False), (good, False)):
            down = is_down
            sent(state, found, text, tmp_path / "incidents.json")
    assert [kind for name, kind in taken if name == "slack"] == ["begin", "end", "begin", "end"]
    assert [kind for name, kind in taken if name == "email"] == ["begin", "end"]
    assert state == {}


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_repeats_no_message(sink: tuple[str, list[Any]], tmp_path: Path) -> None:
    file = tmp_path / "incidents.json"
    with bridged(tmp_path, receivers={"slack": slack(sink[0], "good")}) as found:
        sent({}, found, metrics(1, 99_000, 99_000), file)
        space = file.stat().st_blocks
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(check.os, "replace", full)
            for text in (metrics(0, 1, 1), metrics(0, 1, 1), metrics(1, 99_000, 99_000), metrics(1, 99_000, 99_000)):
                sent(check.read_state(file), found, text, file)
                assert file.stat().st_blocks == space
                assert not list(tmp_path.glob("*.new"))
    assert [each["text"].partition(" The")[0] for each in sink[1]] == ["*[home]", "*[home] Over:"]


def test_messages_that_cannot_be_recorded_are_sent_once_an_hour(
    sink: tuple[str, list[Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state: dict[str, Any] = {}
    check.update(state, incidents(metrics(0, 1, 1)), "2026-11-27T06:46:01+00:00")
    with bridged(tmp_path, receivers={"slack": slack(sink[0], "good")}) as found:
        for minute in range(60):
            assert check.Delivery(deepcopy(state), found, tmp_path / "missing" / "incidents.json").run(minute) is False
    assert len(sink[1]) == 1
    assert "messages are sent again once an hour" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "\x00"])
def test_damaged_record_of_incidents_stops_no_alert(text: str, tmp_path: Path) -> None:
    (tmp_path / "incidents.json").write_text(text)
    assert check.read_state(tmp_path / "incidents.json") == {}


def test_redirect_of_a_webhook_is_a_failure(tmp_path: Path) -> None:
    class Redirect(Sink):
        def do_POST(self) -> None:
            self.send_response(301)
            self.send_header("Location", "/elsewhere-secrettoken")
            self.end_headers()

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

    with (
        serving(HTTPServer(("127.0.0.1", 0), Redirect)) as port,
        pytest.raises(receivers.NotSent, match="answers 301") as raised,
    ):
        receivers.send({"kind": "webhook", "url": f"http://127.0.0.1:{port}/a"}, message_of(FIRING, "home"))
    assert "secrettoken" not in str(raised.value)


def test_webhook_with_a_user_logs_in() -> None:
    logins: list[str] = []

    class Login(Sink):
        def do_POST(self) -> None:
            logins.append(self.headers["Authorization"])
            super().do_POST()

    with serving(HTTPServer(("127.0.0.1", 0), type("", (Login,), {"got": []}))) as port:
        receivers.send({"kind": "webhook", "url": f"http://me:p%40ss@127.0.0.1:{port}/"}, message_of(FIRING, "home"))
    assert logins == ["Basic " + base64.b64encode(b"me:p@ss").decode()]


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("http://me:hunter2@[::1", "hunter2"),
        ("http://me:hunter2@home.arpa:x/", "hunter2"),
        ("http://127.0.0.1/first\nsecrettoken", "secrettoken"),
        ("http://127.0.0.1:1/secret%2Ftoken", "secret/token"),
    ],
)
def test_error_has_no_part_of_an_unusable_url(url: str, secret: str) -> None:
    with pytest.raises(receivers.NotSent) as raised:
        receivers.send({"kind": "webhook", "url": url}, message_of(FIRING, "home"))
    assert secret not in str(raised.value)


def test_mail_that_the_server_took_is_sent_although_the_server_ends_the_session_badly() -> None:
    class Rude(Mailbox):
        def _say(self, line: str) -> None:
            super()._say("421 busy" if line == "221 bye" else line)

    got: list[str] = []
    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), type("", (Rude,), {"got": got}))) as port:
        receivers.send(mail(port), message_of(FIRING, "home"))
    assert len(got) == 1


def test_apprise_gets_text_that_each_service_can_take(monkeypatch: pytest.MonkeyPatch) -> None:
    service = SimpleNamespace(overflow_mode="upstream")
    notified: dict[str, Any] = {}

    class Target(list[SimpleNamespace]):
        def add(self, urls: list[str]) -> bool:
            assert urls == ["ntfy://ntfy.sh/a,json://b"]  # Apprise would split a text at the comma
            self.append(service)
            return True

        def notify(self, **options: Any) -> bool:
            notified.update(options)
            return True

    fake = SimpleNamespace(
        Apprise=Target,
        NotifyType=SimpleNamespace(SUCCESS="success", FAILURE="failure"),
        NotifyFormat=SimpleNamespace(TEXT="text"),
        OverflowMode=SimpleNamespace(UPSTREAM="upstream", TRUNCATE="truncate"),
    )
    monkeypatch.setitem(sys.modules, "apprise", fake)
    receivers.send({"kind": "apprise", "url": "ntfy://ntfy.sh/a,json://b"}, message_of(FIRING, "home"))
    assert (notified["body_format"], notified["notify_type"]) == ("text", "failure")
    assert service.overflow_mode == "truncate"


def test_scripts_are_strictly_typed() -> None:
    mypy = [str(Path(sys.executable).with_name("mypy")), "--strict", "--ignore-missing-imports", "--no-error-summary"]
    done = subprocess.run([*mypy, str(SCRIPTS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(mypy)}\n{done.stdout}"
