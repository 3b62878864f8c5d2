"""What the steps of a build borrow from this machine: the ways in which pip and apt find packages here."""

import ast
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

SOURCES = {
    "index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "constraint", "proxy", "cert", "client-cert",
    "timeout", "default-timeout", "retries",
}  # fmt: skip
"""pip's settings of where packages come from. The others say how to install, which is for the Dockerfile to say."""
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
NAMES = {Path(name).resolve(): name for name in ("/etc/resolv.conf", "/etc/hosts") if Path(name).exists()}
"""What tells the addresses of other machines, and where it is expected."""


def borrowed() -> tuple[dict[str, str], dict[Path, str]]:
    """Environment variables for a step, and the files and folders that they need, with the paths where it finds them."""
    lent = dict(NAMES)
    environment = {each: os.environ[each] for name in PROXIES for each in (name, name.upper()) if each in os.environ}
    for name, value in pip_settings().items():
        variable = f"PIP_{name.upper().replace('-', '_')}"
        environment[variable] = " ".join(_lent(each, lent) for each in value.split())
    return environment, lent


def pip_settings() -> dict[str, str]:
    """pip's own view of its configuration files and environment variables, limited to `SOURCES`."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, dict[str, str]] = {}
    for line in printed.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if key in SOURCES:
            found.setdefault(section, {})[key] = ast.literal_eval(value)
    # In the order in which pip lets one win over the other.
    return {key: value for section in ("global", "install", ":env:.") for key, value in found.get(section, {}).items()}


def _lent(value: str, lent: dict[Path, str]) -> str:
    """`value` with the path of a file or folder of this machine replaced by that of its place in the chroot."""
    url = urlsplit(value)
    path = Path(url.path)
    if url.scheme not in ("", "file") or not path.is_absolute() or not path.exists():
        return value
    # The pages of an index link to files beside it.
    above = path.parent if url.scheme == "file" and path.parent != path.parent.parent else path
    place = lent.setdefault(above.resolve(), f"/run/host/{len(lent)}/{above.name}")
    inside = place if above == path else f"{place}/{path.name}"
    return f"file://{inside}" if url.scheme else inside
