"""What makes a clone a container of its own: SSH host keys and a machine-id that no other one has."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from homelab.errors import HomelabError
from homelab.host import Host, check
from homelab.known_hosts import KnownHosts, Pin, fingerprint
from homelab.model import Container, Secret
from homelab.ssh import HostKeyMismatch, Ssh

# How a container is reached, its host key held against these pins. Raises HostKeyMismatch, HomelabError.
Reach = Callable[[Container, KnownHosts], AbstractContextManager[Host]]

_NEW = "/etc/ssh/homelab-new"
_OWED = "/run/homelab-restart"  # in memory: it is gone once the container has started again
_DEADLINE = 120.0  # seconds that a container has to boot and answer

# Beside the keys in use, and from the start if an earlier run was cut off; prints the ed25519 one.
PREPARE = f"""set -eu; umask 077
rm -rf {_NEW}; mkdir -p {_NEW}/etc/ssh
ssh-keygen -A -f {_NEW} >/dev/null
cat {_NEW}/etc/ssh/ssh_host_ed25519_key.pub"""

# The ed25519 key comes last: whoever is shown the new one knows that all the rest is done. Logs and shell history are
# the other container's, and so is the TLS key that Debian's packages make once (PostgreSQL shows it). The next start
# makes a machine-id where the file is empty.
TAKE = f"""set -eu
: >{_OWED}
apt-get clean 2>/dev/null || true
find /var/log -xdev -type f \\( -name '*.gz' -o -name '*.[0-9]' -o -path '/var/log/journal/*' \\) -delete
find /var/log -xdev -type f -exec truncate --size=0 {{}} +
rm -f /root/.bash_history /var/lib/systemd/random-seed
[ ! -x /usr/sbin/make-ssl-cert ] || make-ssl-cert generate-default-snakeoil --force-overwrite
[ -L /var/lib/dbus/machine-id ] || rm -f /var/lib/dbus/machine-id
: >/etc/machine-id
cd {_NEW}/etc/ssh
for key in ssh_host_*; do
    case $key in ssh_host_ed25519_key*) ;; *) mv -f "$key" /etc/ssh/ ;; esac
done
mv -f ssh_host_ed25519_key.pub /etc/ssh/
sync
mv -f ssh_host_ed25519_key /etc/ssh/
rm -rf {_NEW}
sync"""

RESTARTED = f"test ! -e {_OWED}"
WHOLE = f"test -s /etc/machine-id && rm -rf {_NEW}"


class SingleHostKey(KnownHosts):
    """The only key that is right for one container, in memory."""

    def __init__(self, name: str, fingerprint: str) -> None:
        self._only = {name: Pin(fingerprint)}

    def pins(self) -> dict[str, Pin]:
        """See KnownHosts."""
        return self._only

    def pin(self, name: str, pin: Pin) -> None:
        """See KnownHosts."""
        self._only = {name: pin}


def reach_over_ssh(private_key: Secret) -> Reach:
    """Reach containers over SSH, waiting while they boot."""

    def reach(container: Container, known_hosts: KnownHosts) -> Ssh:
        host = Ssh(container.name, str(container.address), private_key, known_hosts)
        host.connect(_DEADLINE)
        return host

    return reach


def renew_identity(reach: Reach, container: Container, others_key: str, known_hosts: KnownHosts) -> bool:
    """Give a running clone its own keys and machine-id; whether it has to be restarted. Raises HomelabError.

    Only `others_key`, the host key's fingerprint of what it was cloned from, is accepted, or the one that an earlier
    run pinned before it was cut off.
    """
    name = container.name
    try:
        with reach(container, SingleHostKey(name, others_key)) as host:
            line = check(host, PREPARE, "making its SSH host keys").text
            # Pinned before it is in use: from here on, either key may answer, and both are known.
            known_hosts.pin(name, Pin(fingerprint(line), " ".join(line.split()[:2])))
            check(host, TAKE, "taking over its SSH host keys")
            return True
    except HostKeyMismatch as mismatch:
        if name not in known_hosts.pins():
            raise HomelabError(
                f"{name}: a key is shown that nobody has told us of",
                mismatch.details,
                f"If another machine has run `homelab up`, run it there again. If not, `homelab destroy --limit {name}`"
                " and `homelab up` begin anew.",
            ) from mismatch
        with reach(container, known_hosts) as host:
            return not host.run(RESTARTED).ok


def verify_identity(reach: Reach, container: Container, known_hosts: KnownHosts) -> None:
    """Wait until it answers with its own key. Raises HomelabError if something is missing in it."""
    with reach(container, known_hosts) as host:
        check(host, WHOLE, "looking for its machine-id")
