"""An identity of its own for a clone: SSH host keys and a machine-id."""

from __future__ import annotations

from homelab.errors import HomelabError
from homelab.host import check
from homelab.known_hosts import KnownHosts, Pin, fingerprint
from homelab.model import Container
from homelab.runtime.connections import BOOT_DEADLINE
from homelab.runtime.session import Session
from homelab.ssh import HostKeyMismatch

_NEW = "/etc/ssh/homelab-new"
_OWED = "/run/homelab-restart"  # in memory: a restart of the container removes it

# New keys are made next to those in use, and all again if an earlier run was interrupted. Prints the ed25519 one.
PREPARE = f"""set -eu; umask 077
rm -rf {_NEW}; mkdir -p {_NEW}/etc/ssh
ssh-keygen -A -f {_NEW} >/dev/null
cat {_NEW}/etc/ssh/ssh_host_ed25519_key.pub"""

# The ed25519 key comes last: once a container shows the new one, all the rest is done. Logs, shell history,
# and the TLS key that Debian's packages make once are those of the source. A service could exchange a log in its own
# folder for a link: such logs are removed, which follows no link, and the others are emptied. The next start makes a
# machine-id where the file is empty.
TAKE = f"""set -eu
: >{_OWED}
apt-get clean 2>/dev/null || true
find /var/log -xdev -type f \\( -name '*.gz' -o -name '*.[0-9]' -o -path '/var/log/journal/*' \\) -delete
find /var/log -xdev -mindepth 2 -type f -delete
find /var/log -xdev -maxdepth 1 -type f -exec truncate --size=0 {{}} +
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
    """The only accepted host key of one container, in memory."""

    def __init__(self, name: str, fingerprint: str) -> None:
        self._only = {name: Pin(fingerprint)}

    def pins(self) -> dict[str, Pin]:
        """See KnownHosts."""
        return self._only

    def pin(self, name: str, pin: Pin) -> None:
        """See KnownHosts."""
        self._only = {name: pin}


def renew_identity(session: Session, container: Container, source_key: str) -> bool:
    """Give a running clone its own keys and machine-id; return True if it needs a restart. Raises HomelabError.

    Accepts only `source_key`, the host key fingerprint of the clone's source, or the key that an interrupted run
    has pinned.
    """
    name, known_hosts = container.name, session.known_hosts
    try:
        with session.connect(container, BOOT_DEADLINE, SingleHostKey(name, source_key)) as host:
            line = check(host, PREPARE, "generate the SSH host keys").text
            # Pinned before it is in use: from here on either key may answer, and both are known.
            known_hosts.pin(name, Pin(fingerprint(line), " ".join(line.split()[:2])))
            check(host, TAKE, "install the SSH host keys")
            return True
    except HostKeyMismatch as mismatch:
        if name not in known_hosts.pins():
            raise HomelabError(
                f"Cannot connect to {name}: it shows an unknown SSH host key",
                mismatch.details,
                f"If another machine has run `homelab up`, run it there again. If not, `homelab destroy --limit {name}`"
                " and `homelab up` make it again.",
            ) from mismatch
        with session.connect(container, BOOT_DEADLINE) as host:
            return not host.run(RESTARTED).ok


def verify_identity(session: Session, container: Container) -> None:
    """Wait until a clone answers with its own key. Raises HomelabError if its machine-id is missing."""
    with session.connect(container, BOOT_DEADLINE) as host:
        check(host, WHOLE, "check the machine-id")
