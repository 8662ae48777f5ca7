"""`homelab lab up` and `down`: idempotent, and they clean up after a crash."""

from __future__ import annotations

import hashlib
import http.client
import json
import shutil
import ssl
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from homelab.errors import HomelabError
from homelab.lab import credentials, dhcp, machine, network, process, template_build
from homelab.lab.lxc import Runtime
from homelab.lab.settings import GUARDED, NODE, STATE_ROOT, TOKEN_ID, Lab
from homelab.progress import Progress

# The lab's processes, named like their pid and log files.
API, REPLAY, DHCP = "node", "replay", "dhcp"
_READY_WITHIN = 30  # seconds


def up(lab: Lab, progress: Progress) -> Path:
    """Start the lab and return the path of its inventory overlay. Raises HomelabError."""
    machine.require()
    with machine.exclusive(progress):
        machine.make_folder(lab.state_dir)
        with progress.step(lab.name, f"set up network {lab.subnet} on {lab.bridge}"):
            machine.prepare()
            network.create_bridge(lab)
            network.apply_rules(lab)
        templates = [argument for made in _templates(lab, progress) for argument in ("--template", str(made))]
        credentials.ensure(lab)
        Runtime(lab).prepare()
        lab.records.mkdir(mode=0o700, exist_ok=True)
        _keep_running(
            lab,
            API,
            [sys.executable, "-m", "homelab.lab.daemon", "--lab", lab.to_json(), *templates],
            inputs=[lab.certificate, lab.token_file, lab.monitoring_token_file],
        )
        _keep_running(lab, DHCP, dhcp.command(lab, network.nameservers()), inputs=[])
        _keep_running(
            lab,
            REPLAY,
            [
                sys.executable,
                "-m",
                "homelab.lab.openweather",
                "--host",
                str(lab.gateway),
                "--port",
                str(lab.replay_port),
                "--key-file",
                str(lab.api_key_file),
                "--state",
                str(lab.replay_state),
                "--messages",
                str(lab.messages_file),
            ],
            inputs=[lab.api_key_file],
        )
        with progress.step(lab.name, f"start the Proxmox node at {lab.api_url}"):
            _wait(lab, API, lambda: api_answers(lab))
        credentials.write_overlay(lab, network.nameservers())
        with progress.step(lab.name, f"start the DHCP server on {lab.bridge}"):
            _wait(lab, DHCP, lambda: process.running(lab.pid_file(DHCP)) is not None and dhcp.listens())
        with progress.step(lab.name, f"start the OpenWeather replay at {lab.replay_url}"):
            _wait(lab, REPLAY, lambda: _replay_answers(lab))
    return lab.overlay


def down(lab: Lab, progress: Progress, *, purge: bool = False) -> None:
    """Remove the lab with all its files. Raises HomelabError.

    The last lab's `down` also removes the shared changes of this machine; with `purge`, also the cached templates and
    the guard route, if homelab added it.
    """
    machine.require_root()
    with machine.exclusive(progress):
        with progress.step(lab.name, "stop the node and its containers"):
            process.stop(lab.pid_file(API))
            process.stop(lab.pid_file(REPLAY))
            process.stop(lab.pid_file(DHCP))
            _remove_containers(lab)
        with progress.step(lab.name, f"remove {lab.bridge} and its rules"):
            network.delete_bridge(lab)
            network.remove_rules(lab)
            shutil.rmtree(lab.state_dir, ignore_errors=not lab.state_dir.exists())
            others = _others_up(lab)
            guarded = network.guarded() if others else machine.restore(guard_too=purge)
        if guarded:
            progress.note(
                lab.name, f"the route `unreachable {GUARDED}` is kept, so that no packet for a lab leaves this machine"
            )
        if purge and not others:
            shutil.rmtree(lab.cache, ignore_errors=not lab.cache.exists())
        else:
            template_build.clean(lab.cache)


def _templates(lab: Lab, progress: Progress) -> Iterator[Path]:
    """Yield the default release's template, which is built if it is not cached, and the other cached templates."""
    first, *others = map(template_build.recipe, template_build.RELEASES)
    if made := template_build.cached(lab.cache, first):
        yield made
    else:
        with progress.step(lab.name, "build the Debian 12 template (once; it is cached)"):
            yield template_build.build(lab.cache, first)
    yield from filter(None, (template_build.cached(lab.cache, other) for other in others))


def _keep_running(lab: Lab, name: str, argv: Sequence[str], inputs: Sequence[Path]) -> None:
    """Start a process, unless it already runs with the same arguments, inputs and code."""
    code = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256("\0".join(argv).encode())
    for file in [*inputs, *code]:
        digest.update(file.read_bytes())
    spec = lab.state_dir / f"{name}.spec"
    if process.running(lab.pid_file(name)) and spec.exists() and spec.read_text() == digest.hexdigest():
        return
    process.stop(lab.pid_file(name))
    spec.write_text(digest.hexdigest())
    process.spawn(argv, lab.pid_file(name), lab.log_file(name))


def _wait(lab: Lab, name: str, ready: Callable[[], bool]) -> None:
    def answered_or_ended() -> bool:
        return ready() or (lab.pid_file(name).exists() and process.running(lab.pid_file(name)) is None)

    if not process.wait_until(answered_or_ended, _READY_WITHIN) or not ready():
        log = lab.log_file(name)
        lines = log.read_text(errors="replace").splitlines()[-8:] if log.exists() else []
        raise HomelabError(
            f"Cannot start the lab: its {name} process does not answer",
            "\n".join(lines),
            f"See {log}. To start again from nothing: `homelab lab down`, then `homelab lab up`.",
        )


def api_answers(lab: Lab) -> bool:
    """Check that the node answers an authenticated request over TLS with the lab's own certificate."""
    try:
        context = ssl.create_default_context(cafile=str(lab.certificate))
        secret = lab.token_file.read_text().strip()
    except FileNotFoundError:
        return False
    connection = http.client.HTTPSConnection("127.0.0.1", lab.api_port, timeout=5, context=context)
    return _answers(connection, f"/api2/json/nodes/{NODE}/lxc", {"Authorization": f"PVEAPIToken={TOKEN_ID}={secret}"})


def _replay_answers(lab: Lab) -> bool:
    return _answers(http.client.HTTPConnection(str(lab.gateway), lab.replay_port, timeout=5), "/healthz", {})


def skip_weather(lab: Lab, hours: int) -> None:
    """Move the replay past the first hours of its data set. Raises HomelabError if it does not answer."""
    path = f"/_skip?appid={lab.api_key_file.read_text().strip()}"
    connection = http.client.HTTPConnection(str(lab.gateway), lab.replay_port, timeout=5)
    if not _answers(connection, path, {}, json.dumps({"hours": hours})):
        raise HomelabError(
            "Cannot set the time of the replayed weather: the replay server does not answer",
            f"Its log is {lab.log_file(REPLAY)}.",
            "Run `homelab lab up`, which starts it again.",
        )


def _answers(connection: http.client.HTTPConnection, path: str, headers: dict[str, str], body: str = "") -> bool:
    try:
        connection.request("POST" if body else "GET", path, body or None, headers)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _remove_containers(lab: Lab) -> None:
    runtime = Runtime(lab)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(runtime.remove, runtime.known()))
    runtime.sweep()
    machine.unmount_below(lab.state_dir)


def _others_up(lab: Lab) -> bool:
    return STATE_ROOT.is_dir() and any(path.is_dir() and path.name != lab.name for path in STATE_ROOT.iterdir())
