"""The features of kustomize that `cluster/` uses; a test compares the two where `kubectl` is installed."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

KNOWN = {"apiVersion", "kind", "resources", "images", "patches", "replacements"}
Manifest = dict[str, Any]


class UniqueKeys(yaml.SafeLoader):
    """PyYAML silently keeps the last of two equal keys; this loader refuses them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key stands twice among {keys}"
        return super().construct_mapping(node, deep)


def load_all(text: str) -> list[Any]:
    """Documents without shared parts, so that a change of one place changes no other."""
    return [copy_of(each) for each in yaml.load_all(text, Loader=UniqueKeys)]


def copy_of(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: copy_of(child) for key, child in node.items()}
    return [copy_of(child) for child in node] if isinstance(node, list) else node


def render(directory: Path) -> list[Manifest]:
    """The manifests of a kustomization. Raises AssertionError for what kustomize would refuse."""
    (own,) = load_all((directory / "kustomization.yaml").read_text())
    assert set(own) <= KNOWN, f"unknown: {set(own) - KNOWN}"
    assert (own["apiVersion"], own["kind"]) == ("kustomize.config.k8s.io/v1beta1", "Kustomization")
    found: list[Manifest] = []
    for name in own["resources"]:
        path = directory / name
        found += render(path) if path.is_dir() else load_all(path.read_text())
    for patch in own.get("patches", []):
        _only(patch, {"target", "patch"})
        for manifest in _selected(found, patch["target"]):
            for operation in yaml.safe_load(patch["patch"]):
                apply(manifest, **operation)
    for image in own.get("images", []):
        _only(image, {"name", "newName", "newTag", "digest"})
        assert sum(_set_image(manifest, image) for manifest in found), f"no image {image['name']}"
    for replacement in own.get("replacements", []):
        _replace(found, **replacement)
    return found


def apply(manifest: Any, op: str, path: str, value: Any = None) -> None:
    """One operation of a JSON patch (RFC 6902)."""
    *parents, last = (part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:])
    target = manifest
    for part in parents:
        target = target[int(part)] if isinstance(target, list) else _child(target, part, op)
    key = last if isinstance(target, dict) else len(target) if last == "-" else int(last)
    if op == "add" and isinstance(target, list):
        target.insert(int(key), copy.deepcopy(value))
    elif op == "add":
        target[key] = copy.deepcopy(value)
    else:
        assert op in ("replace", "remove"), op
        assert isinstance(target, list) or key in target, f"{path} is not there"
        del target[key]
        if op == "replace":
            apply(manifest, "add", path, value)


def _child(target: Manifest, part: str, op: str) -> Any:
    assert part in target, f"{part} is not there"
    return target[part]


def _only(mapping: Manifest, known: set[str]) -> None:
    assert set(mapping) <= known, f"unknown: {set(mapping) - known}"


def _selected(manifests: list[Manifest], target: Manifest) -> list[Manifest]:
    _only(target, {"kind", "name"})
    found = [
        each
        for each in manifests
        if each["kind"] == target["kind"] and target.get("name", each["metadata"]["name"]) == each["metadata"]["name"]
    ]
    assert found, f"nothing is {target}"
    return found


def containers(node: Any) -> Iterator[Manifest]:
    """Every container in a manifest."""
    for key, child in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if key in ("containers", "initContainers"):
            yield from child
        yield from containers(child)


def _set_image(manifest: Manifest, image: Manifest) -> int:
    changed = 0
    for container in containers(manifest):
        if re.split(r"[:@]", container["image"], maxsplit=1)[0] == image["name"]:
            name = image.get("newName", image["name"])
            container["image"] = f"{name}@{image['digest']}" if "digest" in image else f"{name}:{image['newTag']}"
            changed += 1
    return changed


def _replace(manifests: list[Manifest], source: Manifest, targets: list[Manifest]) -> None:
    (found,) = _selected(manifests, {key: value for key, value in source.items() if key != "fieldPath"})
    for target in targets:
        _only(target, {"select", "fieldPaths", "options"})
        for manifest in _selected(manifests, target["select"]):
            for path in target["fieldPaths"]:
                apply(manifest, "add", "/" + path.replace(".", "/"), found[source["fieldPath"]])


def core_faults(manifest: Manifest, models: Any) -> list[str]:
    """Errors of a manifest of Kubernetes itself, including unknown keys, by the models of its official client.

    Args:
        models: the module `kubernetes.client.models`.
    """
    faults = list[str]()
    kind = f"V1{manifest.get('kind')}"
    if not hasattr(models, kind):
        return [f"no such kind: {manifest.get('kind')}"]

    def build(kind: str, value: Any, path: str) -> Any:
        if found := re.fullmatch(r"List\[(.+)\]", kind):
            return [build(found[1], each, f"{path}/{i}") for i, each in enumerate(_a(list, value, path))]
        if found := re.fullmatch(r"Dict\[str, (.+)\]", kind):
            return {key: build(found[1], each, f"{path}/{key}") for key, each in _a(dict, value, path).items()}
        if not hasattr(models, kind):
            types: dict[str, Any] = {"str": str, "int": int, "bool": bool, "object": (str, int)}
            return _a(types[kind], value, path)
        model = getattr(models, kind)
        names = {key: name for name, key in model.attribute_map.items()}
        given = _a(dict, value, path)
        faults.extend(f"{path}/{key}: unknown" for key in given if key not in names)
        known = {names[key]: each for key, each in given.items() if key in names}
        arguments = {
            name: build(model.openapi_types[name], each, f"{path}/{model.attribute_map[name]}")
            for name, each in known.items()
        }
        try:
            return model(**arguments)
        except ValueError as error:  # a required key is missing, or a value is not one of those allowed
            faults.append(f"{path}: {error}")

    def _a(expected: Any, value: Any, path: str) -> Any:
        if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
            faults.append(f"{path}: {value!r} has the wrong type")
            return expected() if isinstance(expected, type) else value
        return value

    build(kind, manifest, "")
    return faults
