"""The configuration of Caddy as the gateway: one server for each web UI, and one for the start page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from homelab.model.web_uis import WebUi

HTTP, HTTPS = 80, 443
_STATUS, _ERROR = "{http.reverse_proxy.status_code}", "{http.error.status_code}"
HEALTH = "/health"  # below it, the start page and the blackbox exporter ask for the health of each web UI
# With it, a browser sends the cookie of a login over https only.
_SECURE = {"search_regexp": "$", "replace": "; Secure"}
# The start page loads its own files only.
_HEADERS = {
    "Content-Security-Policy": ["default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'"],
    "Cache-Control": ["no-cache"],
    "Referrer-Policy": ["no-referrer"],
    "X-Content-Type-Options": ["nosniff"],
    "X-Frame-Options": ["DENY"],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """The gateway's address, its files, and the login in front of the web UIs that have none."""

    address: str
    name: str
    data: str
    certificate: str  # a file with the key, too
    ca_file: str
    pages: str  # the folder of the start page
    user: str
    password_hash: str
    http: int = HTTP
    https: int = HTTPS


def caddy_config(gateway: Gateway, uis: Sequence[WebUi]) -> bytes:
    """Return the configuration as JSON, Caddy's own format."""
    location = {"Location": ["https://{http.request.host}{http.request.uri}"]}
    redirect = _handle({"handler": "static_response", "status_code": 308, "headers": location})
    servers: dict[str, dict[str, Any]] = {
        "http": _server(gateway, gateway.http, [redirect]),
        "start": _tls_server(gateway, gateway.https, [*_named(gateway, uis), *_start_page(gateway, uis)]),
        **{
            f"{ui.service}-{ui.port}": {
                **_tls_server(gateway, ui.port, list(_web_ui(gateway, ui))),
                "errors": {"routes": [_no_answer(ui)]},
            }
            for ui in uis
            if not ui.domain
        },
    }
    servers["start"]["errors"] = {"routes": [_for_name(ui, [_no_answer(ui)]) for ui in uis if ui.domain]}
    pem = {"certificate": gateway.certificate, "key": gateway.certificate}
    config = {
        "admin": {"disabled": True},
        "logging": {"logs": {"default": {"level": "WARN"}}},
        "storage": {"module": "file_system", "root": gateway.data},
        "apps": {"tls": {"certificates": {"load_files": [pem]}}, "http": {"servers": servers}},
    }
    return (json.dumps(config, indent=1) + "\n").encode()


def _server(gateway: Gateway, port: int, routes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "listen": [f"{gateway.address}:{port}"],
        "automatic_https": {"disable": True},
        "protocols": ["h1", "h2"],
        "routes": routes,
    }


def _tls_server(gateway: Gateway, port: int, routes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        **_server(gateway, port, routes),
        "listener_wrappers": [{"wrapper": "http_redirect"}, {"wrapper": "tls"}],
        "tls_connection_policies": [{"default_sni": gateway.name}],
    }


def _named(gateway: Gateway, uis: Sequence[WebUi]) -> Iterator[Mapping[str, Any]]:
    """Yield a route for each web UI with a name of its own."""
    yield from (_for_name(ui, list(_web_ui(gateway, ui))) for ui in uis if ui.domain)


def _for_name(ui: WebUi, routes: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return {"match": [{"host": [ui.name]}], "terminal": True, **_handle({"handler": "subroute", "routes": routes})}


def _no_answer(ui: WebUi) -> Mapping[str, Any]:
    """Return the route with the message for people if a web UI does not answer."""
    text = f"{ui.endpoint.web_ui} on {ui.container.name} does not answer.\nSee `homelab status`.\n"
    message = {"handler": "static_response", "status_code": _ERROR, "body": text}
    return {"match": [{"expression": f"{_ERROR} >= 502"}], **_handle(message)}


def _start_page(gateway: Gateway, uis: Sequence[WebUi]) -> Iterator[Mapping[str, Any]]:
    for ui in uis:
        # The `?` removes the query of the request.
        request = {"handler": "rewrite", "uri": f"{ui.endpoint.health_path or '/'}?"}
        # Only the status: the page needs no more.
        answer = {"handle_response": [{"routes": [_handle({"handler": "static_response", "status_code": _STATUS})]}]}
        match = [{"method": ["GET"], "path": [health_path(ui)]}]
        yield {"match": match, **_handle(request, {**_proxy(gateway, ui), **answer})}
    files = {"handler": "file_server", "root": gateway.pages}
    yield _handle({"handler": "headers", "response": {"set": _HEADERS}}, files)


def health_path(ui: WebUi) -> str:
    """Return the path at which the start page asks for the health of a web UI."""
    return f"{HEALTH}/{ui.container.name}/{ui.endpoint.port}"


def _web_ui(gateway: Gateway, ui: WebUi) -> Iterator[Mapping[str, Any]]:
    if not ui.endpoint.credentials:
        accounts = [{"username": gateway.user, "password": gateway.password_hash}]
        login = {"hash": {"algorithm": "bcrypt"}, "accounts": accounts, "hash_cache": {}, "realm": ui.endpoint.web_ui}
        # For each path: the blackbox exporter asks the start page for the health.
        yield _handle({"handler": "authentication", "providers": {"http_basic": login}})
    yield _handle(_proxy(gateway, ui))


def _proxy(gateway: Gateway, ui: WebUi) -> dict[str, Any]:
    proxy: dict[str, Any] = {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": f"{ui.container.address}:{ui.endpoint.port}"}],
        "headers": {"response": {"replace": {"Set-Cookie": [_SECURE]}}},
    }
    if not ui.endpoint.credentials:
        proxy["headers"]["request"] = {"delete": ["Authorization"]}
    # A connection for each request. A server ends an idle one without a warning (gunicorn after 2 seconds): a request
    # on it in the same moment would be lost, and only a GET can be sent again.
    transport: dict[str, Any] = {"protocol": "http", "keep_alive": {"enabled": False}}
    if ui.endpoint.tls:
        transport["tls"] = {"root_ca_pem_files": [gateway.ca_file]}
    return {**proxy, "transport": transport}


def _handle(*handlers: Mapping[str, Any]) -> dict[str, Any]:
    return {"handle": list(handlers)}
