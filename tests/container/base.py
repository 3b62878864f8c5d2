"""The base image `python:VERSION-slim-RELEASE`, made of the packages of this release of Debian."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.container.chroot import Chroot
from tests.container.host import borrowed

ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
PACKAGES = "ca-certificates,netbase,tzdata"
BUNDLED = ("pip==24.0", "setuptools==65.5.1")
"""What the Python of the base image installs, and puts into new environments."""
APT = """
APT::Keep-Downloaded-Packages "false";
DPkg::Post-Invoke {"rm -f /var/cache/apt/archives/*.deb || true";};
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Acquire::Languages "none";
"""
"""apt keeps no more than in Docker's images of Debian."""
RELEASES = {"3.11": "bookworm"}
"""The release of Debian with this Python. Its package can be installed in the next release too."""


def make(chroot: Chroot, image: str) -> None:
    """Make the root file system of a base image.

    The base image has a Python of its own in /usr/local. Here it is Debian's, seen as an environment in /usr/local, so
    that packages and commands are installed in the same places.
    """
    version, variant, release = image.removeprefix("python:").split("-")
    assert variant == "slim", image
    bootstrap = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", release, str(chroot.root)]
    done = subprocess.run(
        ["unshare", "--mount", *bootstrap], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, f"debootstrap {release}:\n{done.stdout[-8000:]}"
    apt = chroot.root / "etc" / "apt"
    (apt / "apt.conf.d" / "docker").write_text(APT)
    sources = (apt / "sources.list").read_text()
    other = apt / "sources.list.d" / "python.list"
    other.write_text(sources.replace(f" {release} ", f" {RELEASES[version]} "))
    # Debian's package of `venv` cannot be installed beside the Python of a later release, so it is only unpacked.
    script = f"""
        set -e
        apt-get update
        apt-get install --yes --no-install-recommends python{version}
        cd /tmp
        apt-get download python{version}-venv
        dpkg --extract python{version}-venv_*.deb /
        rm python{version}-venv_*.deb
        mkdir --parents /usr/share/python-wheels
        cp /run/wheels/*.whl /usr/share/python-wheels/
        python{version} -m venv /usr/local
        apt-get clean
        rm -r /var/lib/apt/lists/*
    """
    environment, lent = borrowed()
    with TemporaryDirectory() as wheels:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels, *BUNDLED]
        subprocess.run(download, check=True)
        lent[Path(wheels)] = "/run/wheels"
        chroot.run(["/bin/sh", "-c", script], environment | ENVIRONMENT | {"HOME": "/root"}, lent=lent)
    other.unlink()
