"""Turn Kubernetes CustomResourceDefinitions into one compact JSON Schema that refuses keys the CRDs do not know.

    python tests/data/extract_crd.py --release 1.7 CRD.yaml … > tests/data/kuberay.json

A CRD has no `additionalProperties: false`: the API server silently drops what it does not know, so a misspelt key is lost
without a word. Here every object whose keys are known is closed. Subtrees that occur more than once (pod templates,
mostly) are written once, under `definitions`.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

KEPT = ("type", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "required")
# The API server knows the keys of an object's own metadata; the CRD leaves them out.
OBJECT_META = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        **{name: {"type": "string"} for name in ("name", "generateName", "namespace")},
        **{name: {"type": "object", "additionalProperties": {"type": "string"}} for name in ("labels", "annotations")},
    },
}


def strict(node: dict[str, Any]) -> dict[str, Any]:
    """One node of a CRD's structural schema as JSON Schema, closed where its keys are known."""
    result = {key: node[key] for key in KEPT if key in node}
    types = (
        ["integer", "string"] if node.get("x-kubernetes-int-or-string") else [node["type"]] if "type" in node else []
    )
    if types:
        types += ["null"] if node.get("nullable") else []
        result["type"] = types[0] if len(types) == 1 else types
    if "items" in node:
        result["items"] = strict(node["items"])
    if "properties" in node:
        result["properties"] = {key: strict(child) for key, child in node["properties"].items()}
    extra = node.get("additionalProperties")
    if isinstance(extra, dict):
        result["additionalProperties"] = strict(extra)
    elif node.get("type") == "object" and not node.get("x-kubernetes-preserve-unknown-fields") and extra is not True:
        result["additionalProperties"] = False
    return result


def resource(crd: dict[str, Any], version: str) -> tuple[str, dict[str, Any]]:
    """The kind that a CRD defines and its strict schema in that version, without `status`, which the operator writes."""
    (found,) = (each for each in crd["spec"]["versions"] if each["name"] == version)
    schema = strict(found["schema"]["openAPIV3Schema"])
    kind = crd["spec"]["names"]["kind"]
    schema["properties"].pop("status", None)
    schema["properties"] |= {
        "apiVersion": {"const": f"{crd['spec']['group']}/{version}"},
        "kind": {"const": kind},
        "metadata": OBJECT_META,
    }
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return kind, schema


def folded(kinds: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The schemas with every repeated subtree of some size replaced by a reference to one definition."""
    uses: Counter[str] = Counter()
    seen: set[str] = set()

    def count(node: Any) -> None:
        if isinstance(node, dict):
            text = json.dumps(node, sort_keys=True)
            uses[text] += 1
            if text in seen:
                return
            seen.add(text)
            for child in node.values():
                count(child)

    names: dict[str, str] = {}
    definitions: dict[str, Any] = {}

    def fold(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        text = json.dumps(node, sort_keys=True)
        is_schema = "type" in node and not isinstance(node["type"], dict)
        if not (is_schema and uses[text] > 1 and len(text) > 60):
            return {key: fold(child) for key, child in node.items()}
        if text not in names:
            names[text] = str(len(names))
            definitions[names[text]] = {key: fold(child) for key, child in node.items()}
        return {"$ref": f"#/definitions/{names[text]}"}

    for schema in kinds.values():
        count(schema)
    return {"kinds": {kind: fold(schema) for kind, schema in kinds.items()}, "definitions": definitions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("crds", nargs="+", type=Path, help="YAML files, one CustomResourceDefinition each")
    parser.add_argument("--release", required=True, help="the release of KubeRay they come from")
    parser.add_argument("--version", default="v1", help="the API version to extract")
    options = parser.parse_args()
    kinds = dict(resource(yaml.safe_load(path.read_text()), options.version) for path in options.crds)
    comment = (
        f"Keys, types and required fields of the CRDs of KubeRay {options.release} (Apache-2.0), by extract_crd.py"
    )
    print(json.dumps({"$comment": comment, **folded(kinds)}, separators=(",", ":"), sort_keys=True))


if __name__ == "__main__":
    main()
