"""The receivers of alerts, and the hours in which they get none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from homelab.model.endpoints import LAST_PORT
from homelab.model.options import Option, SecretName

_SMTP = r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[1-9][0-9]{0,4})?"
_ADDRESS = r"[^\s@<>,\"();:\[\]\\]+@[^\s@<>,\"();:\[\]\\]+"  # no other one is read as it is in a header
_TIME, _A_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]", 'a time in quotes such as "22:00"'
BRIDGE = "alert_bridge"  # the service that sends to the receivers


@dataclass(frozen=True, slots=True, kw_only=True)
class Email:
    """Messages by mail. With a password, homelab requires TLS with a valid certificate."""

    smtp: Annotated[
        str,
        Option(
            "Mail server and its port, by default 587; 465 is TLS from the start.",
            pattern=_SMTP,
            expected="a host with a port, such as mail.home.arpa:587",
            examples=("mail.home.arpa:587",),
        ),
    ]
    from_: Annotated[
        str, Option("Address of the sender.", pattern=_ADDRESS, expected="an address such as homelab@home.arpa")
    ]
    to: Annotated[
        tuple[Annotated[str, Option(pattern=_ADDRESS, expected="an address such as me@home.arpa")], ...],
        Option("Addresses of the recipients.", expected="a list of addresses", empty="needs an address"),
    ]
    user: Annotated[str | None, Option("User of the mail server.")] = None
    password: Annotated[SecretName | None, Option("Password of the user, as `{secret: NAME}`.")] = None

    def __post_init__(self) -> None:
        """Check the combination. Raises ValueError."""
        if (self.user is None) != (self.password is None):
            raise ValueError("needs both user and password, or neither")
        if self.server[1] > LAST_PORT:
            raise ValueError(f"has the port {self.server[1]} in smtp, and the last one is {LAST_PORT}")

    @property
    def server(self) -> tuple[str, int]:
        """The host and the port of the mail server."""
        host, _, port = self.smtp.partition(":")
        return host, int(port or 587)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slack:
    """Messages to Slack, or to a chat that takes the messages of Slack's webhooks, such as Mattermost."""

    webhook: Annotated[SecretName, Option("URL of an incoming webhook, as `{secret: NAME}`.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quiet:
    """The hours without messages, in the containers' time zone."""

    from_: Annotated[str, Option("Start.", pattern=_TIME, expected=_A_TIME, examples=("22:00",))]
    to: Annotated[str, Option("End.", pattern=_TIME, expected=_A_TIME, examples=("07:00",))]
    except_: Annotated[
        Literal["critical"] | None, Option("Severity of the alerts that are sent in these hours as well.")
    ] = None

    def __post_init__(self) -> None:
        """Check the times. Raises ValueError."""
        if self.from_ == self.to:
            raise ValueError("`from` and `to` are the same time")


@dataclass(frozen=True, slots=True, kw_only=True)
class Alerts:
    """The receivers; each gets every message."""

    email: Annotated[Email | None, Option("Messages by mail.")] = None
    slack: Annotated[Slack | None, Option("Messages to Slack.")] = None
    webhook: Annotated[
        str | SecretName | None,
        Option(
            "URL that gets each message as JSON, in Alertmanager's format; may be `{secret: NAME}`.",
            pattern=r"https?://[^\s\"'\\]+",
            expected="a URL such as http://192.168.2.5:8000/alerts, or {secret: NAME}",
            examples=("http://192.168.2.5:8000/alerts",),
            hidden=True,
        ),
    ] = None
    urls: Annotated[
        tuple[
            Annotated[
                str | SecretName,
                Option(
                    pattern=r"[a-z][a-z0-9+.-]*://\S+",
                    expected="a URL of Apprise such as ntfy://ntfy.sh/my-topic, or {secret: NAME}",
                    hidden=True,
                ),
            ],
            ...,
        ],
        Option(
            "URLs of Apprise: ntfy, Telegram, Discord, Matrix, Gotify and others; each may be `{secret: NAME}`.",
            expected="a list of URLs",
            examples=(["ntfy://ntfy.sh/my-topic"],),
        ),
    ] = ()
    quiet: Annotated[Quiet | None, Option("Hours without messages; those about open incidents follow afterwards.")] = (
        None
    )

    def __post_init__(self) -> None:
        """Check that there is a receiver. Raises ValueError."""
        if not self.receivers:
            raise ValueError("needs a receiver: email, slack, webhook or urls")

    @property
    def receivers(self) -> Sequence[str]:
        """The names of the receivers: `email`, `slack`, `webhook`, `url-1` and so on."""
        found = [name for name in ("email", "slack", "webhook") if getattr(self, name)]
        return (*found, *(f"url-{number}" for number, _ in enumerate(self.urls, start=1)))

    @property
    def secrets(self) -> Sequence[SecretName]:
        """The secrets of all receivers."""
        values = [self.email and self.email.password, self.slack and self.slack.webhook, self.webhook, *self.urls]
        return [value for value in values if isinstance(value, SecretName)]
