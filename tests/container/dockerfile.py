"""The Dockerfile as the tests read it: the instructions of each stage, and which files reach the builder."""

import re
from collections.abc import Mapping

from tests.audits import ROOT

DOCKERFILE = ROOT / "cluster" / "Dockerfile"
IGNORED = DOCKERFILE.with_name("Dockerfile.dockerignore")
INSTRUCTION = re.compile(r"^(FROM|ARG|ENV|RUN|COPY|WORKDIR|USER|CMD)\s+(.*)$")


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage of the Dockerfile, preceded by those of its base stages."""
    text = re.sub(r"(?m)^\s*#.*\n", "", DOCKERFILE.read_text())
    found: dict[str, list[tuple[str, str]]] = {"": []}
    name = ""
    for line in filter(None, re.sub(r"\\\n\s*", "", text).splitlines()):
        match = INSTRUCTION.match(line)
        assert match, f"not an instruction this file uses: {line}"
        instruction, rest = match.groups()
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = [*found.get(base, found[""]), ("FROM", base)]
        else:
            found[name].append((instruction, rest))
    return found


def expanded(text: str, values: Mapping[str, str]) -> str:
    """`text` with `$NAME` and `${NAME}` replaced, as the builder does it outside of RUN and CMD."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: values.get(found[1] or found[2], ""), text)


def reaches_the_builder(path: str) -> bool:
    """Whether the file of this path, relative to the root of the repository, is sent to the builder.

    The last line that matches the path, or a folder above it, decides. Source: Docker's reference, ".dockerignore file".
    """
    parts = path.split("/")
    above = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    sent = True
    for line in IGNORED.read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = re.escape(line.removeprefix("!"))
            pattern = pattern.replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
            if any(re.fullmatch(pattern, each) for each in above):
                sent = line.startswith("!")
    return sent
