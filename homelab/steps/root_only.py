"""A guard for the folders in which root writes: no other user can redirect the write.

A user who can write a folder can replace an entry with a link between any check and the write. So root writes only
below folders that only root can change: then no entry on the way can change meanwhile.
"""

from __future__ import annotations

from shlex import quote

# A folder with the sticky bit, such as /tmp, is accepted if its next folder on the way exists: only the owner can
# replace that. Root's own user and group are compared by number, so that tests run without root.
ONLY_ROOT = r"""only_root() {
    stat -c '%u %g %A %n' -- "$@" 2>/dev/null | {
        user=$(id -u) team=$(id -g) open=
        while read -r owner group mode folder; do
            open="$folder can be changed by a user other than root"
            case $mode in l*) open="$folder is a link"; break;; esac
            [ "$owner" = 0 ] || [ "$owner" = "$user" ] || break
            case $mode in
                d????-??-?) open= ;;
                d????w??-?) [ "$group" != 0 ] && [ "$group" != "$team" ] || open= ;;
            esac
            case ${open:+$mode} in ''|d????????[tT]) ;; *) break;; esac
        done
        [ -z "$open" ] || { echo "homelab: refused to write: $open" >&2; exit 1; }
    }
}"""


def root_only(path: str) -> str:
    """Return shell text that fails unless only root can change the entry at an absolute path; needs ONLY_ROOT."""
    parts = path.rstrip("/").split("/")
    folders = ["/", *("/".join(parts[:count]) for count in range(2, len(parts)))]
    return f"only_root {' '.join(map(quote, folders))}"


def guarded(text: str, *paths: str) -> str:
    """Return shell text that runs `text` only if no other user than root can redirect a write to these paths."""
    guards = [f"{root_only(path)} || exit" for path in paths]
    return "\n".join([f"# writing {paths[0]}", ONLY_ROOT, *guards, text])


def refuse_link(path: str) -> str:
    """Return shell text that fails if a path is a link, for programs that would follow it."""
    return f"[ ! -L {quote(path)} ] || {{ echo 'homelab: refused to write:' {quote(path)} 'is a link' >&2; exit 1; }}"
