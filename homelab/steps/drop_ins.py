"""Drop-ins that an administrator wrote for a unit: those that override or weaken it are errors, all others stay."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from homelab.host import argv

_Settings = Sequence[tuple[str, str]]  # names and values, in order

_ORDER = ("After", "Wants")  # of the start: additions remove nothing
_COMMANDS = re.compile(r"Exec(Condition|StartPre|StartPost|Reload|Stop|StopPost)")
_WITHOUT_LIMITS = re.compile(r"[-@:|]*[+!]")  # prefixes of a command that runs as root
_RESTRICTIONS = ("SystemCallFilter", "CapabilityBoundingSet", "RestrictAddressFamilies")  # `~` removes something
# They loosen the processes' limits, or change the environment after homelab's files have set it.
_WEAKENING = re.compile(
    r"AppArmorProfile|BindPaths|BindReadOnlyPaths|CacheDirectory|Capabilities|ConfigurationDirectory|Delegate|"
    r"DeviceAllow|DevicePolicy|DynamicUser|EnvironmentFile|ExtensionDirectories|ExtensionImages|ImportCredential|"
    r"JoinsNamespaceOf|LoadCredential|LoadCredentialEncrypted|LogsDirectory|MountImages|NetworkNamespacePath|"
    r"OpenFile|PAMName|PermissionsStartOnly|ReadWriteDirectories|ReadWritePaths|RootDirectory|"
    r"RootDirectoryStartOnly|RootImage|RuntimeDirectory|SELinuxContext|SecureBits|SmackProcessLabel|StateDirectory|"
    r"SupplementaryGroups|TemporaryFileSystem|UnsetEnvironment"
)


def drop_ins(unit: str) -> str:
    """Return shell text that prints the lines of the unit's drop-ins in /etc as `FILE:LINE`."""
    paths = argv("systemctl", "show", "--value", "--property=DropInPaths", unit)
    return f"for each in $({paths}); do case $each in /etc/*) grep -H '' \"$each\";; esac; done; true"


def overrides(printed: str, ours: Mapping[str, str]) -> list[str]:
    """Return the drop-ins that override or weaken our files of the unit, each with the settings.

    `printed` is the output of `drop_ins`, `ours` the texts of our files by path. Without one, the unit is not ours.
    """
    files: dict[str, list[str]] = {}
    for line in printed.splitlines():
        path, _, text = line.partition(".conf:")
        files.setdefault(f"{path}.conf", []).append(text)
    wanted: dict[str, list[str]] = {}
    for text in ours.values():
        for name, value in _settings(text.splitlines()):
            wanted.setdefault(name, []).append(value)
    found = []
    for path, lines in files.items():
        settings = () if not ours or path in ours else _settings(lines)
        names = list(dict.fromkeys(name for name, value in settings if not _is_harmless(name, value, wanted)))
        if overridden := [name for name in names if name in wanted]:
            found.append(f"{path} overrides {', '.join(overridden)}")
        if weakening := [name for name in names if name not in wanted]:
            found.append(f"{path} weakens the unit with {', '.join(weakening)}")
    return found


def _settings(lines: Sequence[str]) -> _Settings:
    """Return the settings in the lines of a unit file, as systemd reads them."""
    return [
        (name.strip(), value.strip())
        for line in _joined(lines)
        for name, equals, value in [line.partition("=")]
        if equals
    ]


def _joined(lines: Sequence[str]) -> Iterator[str]:
    """Yield the lines without comments; one that ends with a backslash continues on the next."""
    begun = ""
    for line in lines:
        if line.lstrip().startswith(("#", ";")):
            continue
        begun += line.removesuffix("\\")
        if line.endswith("\\"):
            begun += " "
        else:
            yield begun
            begun = ""
    yield begun


def _is_harmless(name: str, value: str, wanted: Mapping[str, Sequence[str]]) -> bool:
    """Return True if a setting takes nothing from our settings, and admits the unit to nothing more."""
    ours = wanted.get(name)
    if not value:
        # It resets all earlier values of this name.
        return ours is None or not any(ours)
    if _COMMANDS.fullmatch(name):
        return not _WITHOUT_LIMITS.match(value)
    if name == "Environment":
        return not _variables([value]) & _variables(ours or ())
    if name in _RESTRICTIONS and value.startswith("~"):
        return True
    if ours is None:
        return not _WEAKENING.fullmatch(name)
    same = {_normal(word) for text in ours for word in text.split()}
    return name in _ORDER or (name != "ExecStart" and {_normal(word) for word in value.split()} <= same)


def _variables(assignments: Sequence[str]) -> set[str]:
    """Return the names that values of `Environment=` assign."""
    return {name for text in assignments for name in re.findall(r"""(?:^|[\s"'])([A-Za-z_]\w*)=""", text)}


def _normal(word: str) -> str:
    """Return a word, or one form of a boolean."""
    forms = {"1": "yes", "true": "yes", "on": "yes", "0": "no", "false": "no", "off": "no"}
    return forms.get(word.lower(), word)
