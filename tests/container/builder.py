"""Carries out a Dockerfile in a chroot: the instructions that `cluster/Dockerfile` uses, with Docker's semantics."""

import json
import os
import shlex
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from tests.audits import ROOT
from tests.container import base
from tests.container.chroot import Chroot
from tests.container.dockerfile import expanded, reaches_the_builder, stages
from tests.container.host import NAMES, borrowed


class Image:
    """A root file system that instructions are carried out in, and what they set for those that follow.

    Args:
        root: a folder that does not exist yet.
        arguments: values of ARG, as by `--build-arg`.
    """

    def __init__(self, root: Path, arguments: Mapping[str, str]) -> None:
        self.chroot = Chroot(root)
        self.given = arguments
        self.declared: dict[str, str] = {}
        self.environment = dict(base.ENVIRONMENT)
        self.directory = "/"
        self.user = "root"
        self.command: list[str] = []

    def build(self, target: str) -> "Image":
        """Carry out all instructions of a stage and of its base stages."""
        for instruction, rest in stages()[target]:
            self.carry_out(instruction, rest)
        return self

    def carry_out(self, instruction: str, rest: str) -> None:
        getattr(self, f"_{instruction.lower()}")(rest)

    def step(self, script: str, user: str) -> str:
        """What a script prints, run as by RUN: with ARG, ENV and the ways to packages, all of the root writable."""
        environment, lent = borrowed()
        environment |= {**self.declared, **self.environment, "HOME": self._home(user)}
        return self.chroot.run(["/bin/sh", "-c", script], environment, directory=self.directory, user=user, lent=lent)

    def run(self, *command: str, writable: Collection[str] | None = ("/tmp",)) -> str:
        """What a container of the image prints, by default for its own command.

        Args:
            writable: folders; all else is read-only. With None, all can be written to that the user may write to.
        """
        environment = {**self.environment, "HOME": self._home(self.user)}
        return self.chroot.run(
            list(command or self.command),
            environment,
            directory=self.directory,
            user=self.user,
            lent=NAMES,
            writable=writable,
        )

    def path(self, name: str = "") -> Path:
        """Where a path of the image, relative to WORKDIR, is on this machine."""
        return self.chroot.root / self.directory.lstrip("/") / name

    def _from(self, rest: str) -> None:
        image = expanded(rest, self.declared)
        self.declared = {}
        if image not in stages():
            base.make(self.chroot, image)

    def _arg(self, rest: str) -> None:
        name, _, default = rest.partition("=")
        self.declared[name] = self.given.get(name, expanded(default, self.declared))

    def _env(self, rest: str) -> None:
        known = {**self.declared, **self.environment}
        for each in shlex.split(rest):
            name, _, value = each.partition("=")
            self.environment[name] = expanded(value, known)

    def _workdir(self, rest: str) -> None:
        self.directory = str(Path(self.directory, expanded(rest, self.environment)))
        self.path().mkdir(parents=True, exist_ok=True)

    def _user(self, rest: str) -> None:
        self.user = expanded(rest, self.environment)

    def _cmd(self, rest: str) -> None:
        self.command = json.loads(rest)

    def _copy(self, rest: str) -> None:
        *sources, target = rest.split()
        place = self.path(target)
        for source in sources:
            if (ROOT / source).is_dir():
                self._copy_folder(source, place)
            else:
                assert reaches_the_builder(source), f"COPY {rest}: {source} is not sent to the builder"
                copied(ROOT / source, place / source if target.endswith("/") else place)

    def _copy_folder(self, source: str, place: Path) -> None:
        files = [path for path in sorted((ROOT / source).rglob("*")) if path.is_file()]
        sent = [path for path in files if reaches_the_builder(str(path.relative_to(ROOT)))]
        assert sent, f"COPY {source}: nothing of it is sent to the builder"
        for path in sent:
            copied(path, place / path.relative_to(ROOT / source))

    def _run(self, rest: str) -> None:
        self.step(rest, self.user)

    def _home(self, user: str) -> str:
        for line in (self.chroot.root / "etc" / "passwd").read_text().splitlines():
            name, *_, home, _ = line.split(":")
            if name == user:
                return home
        raise AssertionError(f"the image has no user {user}")


def copied(source: Path, target: Path) -> None:
    """Copy a file with its rights, as root's."""
    missing = [each for each in (target.parent, *target.parent.parents) if not each.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    for each in missing:
        each.chmod(0o755)
    shutil.copy2(source, target)
    os.chown(target, 0, 0)
