"""Send a message through one receiver: by mail, to Slack, to a webhook, or over Apprise."""

from __future__ import annotations

import base64
import json
import logging
import re
import smtplib
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any

from messages import Message

_TIMEOUT = 15  # seconds
_SECRET = 8  # characters from which a part of a URL may be a token


class NotSent(Exception):
    """A message that a receiver did not take; the text is the reason, without secrets."""


class PartlySent(NotSent):
    """A message that some recipients took, so that it must not be repeated; the text names the others."""


def send(receiver: Mapping[str, Any], message: Message) -> None:
    """Send a message. Raises NotSent."""
    try:
        _SENDERS[receiver["kind"]](receiver, message)
    except NotSent as error:
        raise type(error)(_redacted(str(error), receiver)) from None
    except Exception as error:  # noqa: BLE001 - a plugin of Apprise may raise anything
        raise NotSent(_redacted(f"{type(error).__name__}: {error}", receiver)) from None


def _mail(receiver: Mapping[str, Any], message: Message) -> None:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = receiver["from"], ", ".join(receiver["to"]), message.title
    mail["Date"], mail["Message-ID"] = formatdate(), make_msgid(domain=receiver["from"].rpartition("@")[2])
    mail.set_content(message.text)
    address = f"{receiver['host']}:{receiver['port']}"
    try:
        server = _connected(receiver)
        if receiver["user"]:
            log_in(server, receiver)
        refused = server.send_message(mail)
        with suppress(OSError, smtplib.SMTPException):  # the server has the message already
            server.quit()
        if refused:
            raise PartlySent(f"{address} refuses some recipients: {_recipients(refused)}")
    except smtplib.SMTPAuthenticationError as error:
        raise NotSent(f"{address} refuses the user or the password: {_answer(error)}") from None
    except smtplib.SMTPRecipientsRefused as error:
        raise NotSent(f"{address} refuses the recipients: {_recipients(error.recipients)}") from None
    except smtplib.SMTPResponseException as error:
        raise NotSent(f"{address} refuses the message: {_answer(error)}") from None
    except ssl.SSLCertVerificationError as error:
        raise NotSent(f"the certificate of {address} is not valid: {error.verify_message}") from None
    except (OSError, smtplib.SMTPException) as error:
        raise NotSent(f"cannot send over {address}: {_reason(error)}") from None


def _recipients(refused: Mapping[str, tuple[int, bytes]]) -> str:
    return "; ".join(f"{to}: {code} {_text(text)}" for to, (code, text) in refused.items())


class _Utf8(str):
    """A text that smtplib sends in UTF-8, as servers expect it (RFC 4616), though it asks for ASCII."""

    __slots__ = ()

    def encode(self, encoding: str = "", errors: str = "strict") -> bytes:
        """Encode in UTF-8."""
        return super().encode("utf-8", errors)


class Smtp(smtplib.SMTP):
    """A client that logs in with any user and password."""

    def auth(
        self, mechanism: str, authobject: Callable[..., str | None], *, initial_response_ok: bool = True
    ) -> tuple[int, bytes]:
        """See smtplib.SMTP.auth."""

        def answer(challenge: bytes | None = None) -> str | None:
            found = authobject(challenge)
            return None if found is None else _Utf8(found)

        return super().auth(mechanism, answer, initial_response_ok=initial_response_ok)  # type: ignore[arg-type]


class _SmtpOverTls(Smtp, smtplib.SMTP_SSL):
    """The same, with TLS from the start."""


def log_in(server: Smtp, receiver: Mapping[str, Any]) -> None:
    """Log in. Raises SMTPException."""
    server.login(receiver["user"], _Utf8(receiver["password"]))


def _connected(receiver: Mapping[str, Any]) -> Smtp:
    """Connect, over TLS if the server has it. With a password, the server's certificate has to be valid."""
    host, port, context = receiver["host"], receiver["port"], ssl.create_default_context()
    if not receiver["user"]:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if port == smtplib.SMTP_SSL_PORT:
        return _SmtpOverTls(host, port, timeout=_TIMEOUT, context=context)
    server = Smtp(host, port, timeout=_TIMEOUT)
    server.ehlo()
    if server.has_extn("starttls"):
        server.starttls(context=context)
    elif receiver["user"]:
        raise NotSent(f"{host}:{port} has no TLS: the password is not sent")
    return server


def _slack(receiver: Mapping[str, Any], message: Message) -> None:
    text = f"*{message.title}*\n{message.text}"
    for character, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(character, escaped)
    _post(receiver["url"], {"text": text})


def _webhook(receiver: Mapping[str, Any], message: Message) -> None:
    _post(receiver["url"], message.payload)


def _post(url: str, content: Mapping[str, Any]) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise NotSent("the URL is not one of http or https")
    headers = {"Content-Type": "application/json", "User-Agent": "homelab"}
    if parts.username:
        login = urllib.parse.unquote(f"{parts.username}:{parts.password or ''}")
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()
    request = urllib.request.Request(address, json.dumps(content).encode(), headers)  # noqa: S310 - checked above
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=_TIMEOUT):
            pass
    except urllib.error.HTTPError as error:
        raise NotSent(f"{parts.hostname} answers {error.code}: {_text(error.read(200)) or error.reason}") from None
    except OSError as error:
        raise NotSent(f"cannot reach {parts.hostname}: {_reason(getattr(error, 'reason', error))}") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A handler that follows no redirect: urllib would ask the new address without the message."""

    def redirect_request(self, *_: Any) -> None:
        """Make the redirect an error."""


def _apprise(receiver: Mapping[str, Any], message: Message) -> None:
    import apprise  # only here: it needs more memory than all the rest

    target, seen = apprise.Apprise(), _Warnings()
    logging.getLogger("apprise").addHandler(seen)
    if not target.add([receiver["url"]]):  # it would split a text at a comma
        raise NotSent("; ".join(["Apprise cannot read the URL", *seen.texts]))
    for service in target:
        if service.overflow_mode == apprise.OverflowMode.UPSTREAM:  # the service would refuse a long message
            service.overflow_mode = apprise.OverflowMode.TRUNCATE
    kind = apprise.NotifyType.SUCCESS if message.over else apprise.NotifyType.FAILURE
    # As text: Apprise escapes it for services that read HTML.
    form = apprise.NotifyFormat.TEXT
    if not target.notify(title=message.title, body=message.text, notify_type=kind, body_format=form):
        raise NotSent("; ".join(seen.texts) or "Apprise does not name a reason")


class _Warnings(logging.Handler):
    """The warnings and errors that Apprise logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


_SENDERS: Mapping[str, Callable[[Mapping[str, Any], Message], None]] = {
    "email": _mail,
    "slack": _slack,
    "webhook": _webhook,
    "apprise": _apprise,
}


def _answer(error: smtplib.SMTPResponseException) -> str:
    return f"{error.smtp_code} {_text(error.smtp_error)}"


def _text(answer: bytes | str) -> str:
    return " ".join((answer.decode(errors="replace") if isinstance(answer, bytes) else answer).split())


def _reason(error: object) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {_TIMEOUT} s"
    return str(getattr(error, "strerror", None) or error)


def _redacted(text: str, receiver: Mapping[str, Any]) -> str:
    for secret in sorted(_secrets(receiver), key=len, reverse=True):
        text = text.replace(secret, "***")
    return " ".join(text.split())[:500]


def _secrets(receiver: Mapping[str, Any]) -> Iterator[str]:
    """Yield the parts of a receiver that may be secrets: all of a URL but names of hosts and short words.

    Errors may have them as in the URL, or decoded.
    """
    _, _, rest = receiver.get("url", "").partition("://")
    host, *parts = re.split(r"[/?#\s]", rest) if rest else [""]
    credentials, _, name = host.rpartition("@")
    parts += [*credentials.split(":"), *([] if "." in name else name.split(":"))]
    words = {part for whole in parts for part in {whole, *re.split("[&=,]", whole)} if len(part) >= _SECRET}
    passwords = {receiver.get("password"), credentials.partition(":")[2]}  # of any length
    for each in filter(None, words | passwords):
        yield from {each, urllib.parse.unquote(each)}
