"""Turn the discovery document of Google's Compute Engine into a compact JSON Schema of a machine, closed to unknown keys.

    python tests/data/extract_gce.py compute.v1.json > tests/data/gce.json

The document is in the package google-api-python-client, at googleapiclient/discovery_cache/documents.
"""

import json
import sys
from pathlib import Path
from typing import Any

NOT_OF_A_REQUEST = ("resourceStatus", "upcomingMaintenance")


def strict(node: dict[str, Any]) -> dict[str, Any]:
    """A node of the document as JSON Schema. Numbers of 64 bits are strings in the document, and accepted as numbers."""
    if "$ref" in node:
        return {"$ref": f"#/definitions/{node['$ref']}"}
    result = {key: node[key] for key in ("type", "enum") if key in node and node[key] != "any"}
    if node.get("format") in ("int64", "uint64"):
        result["type"] = ["string", "integer"]
    if "items" in node:
        result["items"] = strict(node["items"])
    if node.get("type") == "object":
        properties = {key: each for key, each in node.get("properties", {}).items() if key not in NOT_OF_A_REQUEST}
        result["properties"] = {key: strict(each) for key, each in properties.items()}
        extra = node.get("additionalProperties")
        result["additionalProperties"] = strict(extra) if extra else False
    return result


def references(node: Any) -> set[str]:
    """The definitions that a schema refers to itself."""
    if isinstance(node, dict):
        own = {node["$ref"].rpartition("/")[2]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*map(references, node.values()))
    return set()


def main() -> None:
    document = json.loads(Path(sys.argv[1]).read_text())
    definitions: dict[str, Any] = {}
    left = {"Instance"}
    while left:
        name = left.pop()
        definitions[name] = strict(document["schemas"][name])
        left |= references(definitions[name]) - definitions.keys()
    schema = {"revision": document["revision"], "$ref": "#/definitions/Instance", "definitions": definitions}
    print(json.dumps(schema, indent=None, separators=(",", ":"), sort_keys=True))


if __name__ == "__main__":
    main()
