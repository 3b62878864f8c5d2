"""Manifests, launcher files and image, checked against the schemas of KubeRay, Ray, EC2, Compute Engine and Docker."""

import copy
import importlib.metadata
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import botocore.validate
import jsonschema
import pytest
import ray
import typer.main
import yaml
from kubernetes.client import models

from side_ray.cli.app import app
from side_ray.config.file import load_config
from side_ray.errors import CheckFailed, RunError, UserError
from side_ray.studies.batch.plan import read_batch
from tests.container.dockerfile import stages
from tests.kustomize import containers, core_faults, load_all, render

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "cluster"
EXTRACT = ROOT / "tests" / "data" / "extract_crd.py"
KUBERAY = json.loads((ROOT / "tests" / "data" / "kuberay.json").read_text())
KUBERAY_VALIDATORS = {
    kind: jsonschema.Draft7Validator({**schema, "definitions": KUBERAY["definitions"]})
    for kind, schema in KUBERAY["kinds"].items()
}
GCE = jsonschema.Draft7Validator(json.loads((ROOT / "tests" / "data" / "gce.json").read_text()))
LAUNCHER = json.loads(Path(ray.__file__).with_name("autoscaler").joinpath("ray-schema.json").read_text())
IMAGE = "registry.example.com/side-ray"
FREE_FORM = ("labels", "annotations", "rayStartParams", "limits", "requests", "matchLabels", "nodeSelector", "data")


def load(path: Path) -> Any:
    (found,) = load_all(path.read_text())
    return found


def faults_of(manifest: Any) -> list[str]:
    """Errors of a manifest under KubeRay's CRDs, or Kubernetes' own models, including unknown keys."""
    kind = manifest.get("kind")
    if kind not in KUBERAY_VALIDATORS:
        return core_faults(manifest, models)
    return [f"{error.json_path}: {error.message}" for error in KUBERAY_VALIDATORS[kind].iter_errors(manifest)]


def paths(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every key of every mapping in a document."""
    for key, child in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if isinstance(node, dict):
            yield (*path, key)
        yield from paths(child, (*path, key))


def at(node: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        node = node[key]
    return node


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with `value` at `path`; `...` removes the key."""
    document = copy.deepcopy(document)
    parent = at(document, path[:-1])
    if value is ...:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return document


OVERLAYS = ("aws", "gcp", "minikube-cpu")
RENDERED = {name: render(CLUSTER / "overlays" / name) for name in OVERLAYS}
BASE = render(CLUSTER / "base")
ALL = [(name, each) for name, found in [("base", BASE), *RENDERED.items()] for each in found]
MANIFESTS = pytest.mark.parametrize("manifest", [each for _, each in ALL], ids=[f"{n}-{m['kind']}" for n, m in ALL])
OVERLAY = pytest.mark.parametrize("overlay", OVERLAYS)


def named(manifests: list[Any], kind: str, name: str = "side-ray") -> Any:
    (found,) = (each for each in manifests if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


JOB = named(BASE, "RayJob", "side-ray-audit")
SPEC = JOB["spec"]["rayClusterSpec"]
HEAD = SPEC["headGroupSpec"]["template"]["spec"]
(WORKERS,) = SPEC["workerGroupSpecs"]


LAUNCHED = {cloud: load(CLUSTER / f"{cloud}.yaml") for cloud in ("aws", "gcp")}
EACH_LAUNCHED = pytest.mark.parametrize("cloud", LAUNCHED)

# Kubernetes and KubeRay


@MANIFESTS
def test_every_key_of_the_manifest_is_known(manifest: Any) -> None:
    assert faults_of(manifest) == []


@pytest.mark.parametrize(
    "manifest", [*RENDERED["gcp"], named(RENDERED["minikube-cpu"], "NetworkPolicy")], ids=lambda each: each["kind"]
)
def test_a_misspelt_key_is_refused_wherever_it_stands(manifest: Any) -> None:
    for path in list(paths(manifest)):
        if path[1:2] == ("rayClusterSpec",) and len(path) > 2:
            continue  # as in the RayCluster
        parent = at(manifest, path[:-1])
        parent[f"{path[-1]}x"] = value = parent.pop(path[-1])
        is_free = len(path) > 1 and path[-2] in FREE_FORM
        assert bool(faults_of(manifest)) is not is_free, path
        del parent[f"{path[-1]}x"]
        parent[path[-1]] = value
    assert faults_of(manifest) == []


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="without kubectl")
@pytest.mark.parametrize("directory", ["base", *(f"overlays/{name}" for name in OVERLAYS)])
def test_kustomize_renders_the_same(directory: str) -> None:
    command = ["kubectl", "kustomize", str(CLUSTER / directory)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def name(manifest: Any) -> tuple[str, str]:
        return manifest["kind"], manifest["metadata"]["name"]

    # kustomize puts kinds that others need first.
    assert sorted(load_all(output), key=name) == sorted(render(CLUSTER / directory), key=name)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("resources:", "resource:"),
        ("name: registry.example.com/side-ray-cuda", "name: registry.example.com/side-ray-cud"),
        ("digest:", "digst:"),
        ("kind: PersistentVolumeClaim", "kind: PersistentVolume"),
        ("op: add", "op: ad"),
        (
            "/spec/headGroupSpec/template/spec/containers/0/env/-",
            "/spec/headGroupSpec/template/spec/containers/0/envs/-",
        ),
        ("fieldPath:", "fieldPth:"),
    ],
)
def test_a_misspelt_kustomization_is_refused(old: str, new: str, tmp_path: Path) -> None:
    shutil.copytree(CLUSTER, tmp_path / "cluster")
    path = tmp_path / "cluster" / "overlays" / "aws" / "kustomization.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises((AssertionError, TypeError, KeyError)):
        render(path.parent)


CONTAINER = ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("apiVersion",), "ray.io/v1alpha1"),
        (("kind",), "RayJobs"),
        (("spec", "entrypoint"), ["python", "x.py"]),
        (("spec", "backoffLimit"), "3"),
        (("spec", "shutdownAfterJobFinishes"), "true"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "tokens"),
        (("spec", "rayClusterSpec", "autoscalerOptions", "upscalingMode"), "Fast"),
        (("spec", "rayClusterSpec", "headGroupSpec", "template"), ...),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "minReplicas"), ...),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"), 8.5),
        ((*CONTAINER, "name"), ...),
        ((*CONTAINER, "resources", "limits", "cpu"), "four"),
        ((*CONTAINER, "env", 1, "valueFrom", "secretKeyRef", "key"), ...),
        ((*CONTAINER, "ports", 0, "containerPort"), "6379"),
    ],
)
def test_a_wrong_type_value_or_missing_field_is_refused(path: tuple[Any, ...], value: Any) -> None:
    assert faults_of(replaced(named(RENDERED["gcp"], "RayJob", "side-ray-audit"), path, value))


@pytest.mark.parametrize("value", [4, "4", "500m"])
def test_a_quantity_is_a_number_or_a_string(value: int | str) -> None:
    assert faults_of(replaced(JOB, (*CONTAINER, "resources", "limits", "cpu"), value)) == []


@pytest.mark.parametrize("manifests", [BASE, *RENDERED.values()], ids=["base", *OVERLAYS])
def test_jobs_and_standing_cluster_are_the_same_cluster(manifests: list[Any]) -> None:
    for job in ("side-ray-audit", "side-ray-sweep"):
        assert named(manifests, "RayJob", job)["spec"]["rayClusterSpec"] == named(manifests, "RayCluster")["spec"]


def test_what_is_applied_is_chosen_by_a_label() -> None:
    found = {each["kind"]: each["metadata"]["labels"]["app.kubernetes.io/component"] for each in BASE}
    assert found.pop("RayCluster") == "cluster"
    assert (found.pop("CronJob"), found.pop("ConfigMap")) == ("reaudit", "reaudit")
    del found["RayJob"]
    assert set(found.values()) == {"shared"}
    jobs = [each for each in BASE if each["kind"] == "RayJob"]
    assert [each["metadata"]["labels"]["app.kubernetes.io/component"] for each in jobs] == ["audit", "sweep"]


def test_the_job_ends_and_takes_its_cluster_with_it() -> None:
    spec = JOB["spec"]
    assert spec["submissionMode"] in ("K8sJobMode", "HTTPMode", "SidecarMode")
    assert spec["shutdownAfterJobFinishes"] is True
    assert 0 < spec["ttlSecondsAfterFinished"] <= 3_600
    assert spec["backoffLimit"] >= 1
    assert spec["activeDeadlineSeconds"] >= 86_400


def test_the_cluster_asks_for_a_token() -> None:
    assert SPEC["authOptions"] == {"mode": "token"}


def test_the_head_has_no_gpu_takes_no_tasks_and_stays_off_spot_machines() -> None:
    assert SPEC["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in json.dumps(HEAD)
    assert "tolerations" not in HEAD
    (term,) = HEAD["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    refused = {rule["key"]: rule["values"] for rule in term["matchExpressions"] if rule["operator"] == "NotIn"}
    assert refused == {
        "karpenter.sh/capacity-type": ["spot"],
        "eks.amazonaws.com/capacityType": ["SPOT"],
        "cloud.google.com/gke-spot": ["true"],
        "kubernetes.azure.com/scalesetpriority": ["spot"],
    }


def test_workers_come_and_go() -> None:
    assert SPEC["enableInTreeAutoscaling"] is True
    assert WORKERS["minReplicas"] == WORKERS["replicas"] == 0 < WORKERS["maxReplicas"]


def pods(manifests: list[Any]) -> dict[str, Any]:
    """The pods of the audit's job, and the one that submits a re-audit."""
    job = named(manifests, "RayJob", "side-ray-audit")["spec"]
    (workers,) = job["rayClusterSpec"]["workerGroupSpecs"]
    return {
        "head": job["rayClusterSpec"]["headGroupSpec"]["template"],
        "worker": workers["template"],
        "submitter": job["submitterPodTemplate"],
        "reaudit": named(manifests, "CronJob", "side-ray-reaudit")["spec"]["jobTemplate"]["spec"]["template"],
    }


EVERY_POD = pytest.mark.parametrize(
    "template",
    [template for found in RENDERED.values() for template in pods(found).values()],
    ids=[f"{overlay}-{role}" for overlay, found in RENDERED.items() for role in pods(found)],
)


@EVERY_POD
def test_pods_have_no_rights_and_a_read_only_root(template: Any) -> None:
    pod, (container,) = template["spec"], template["spec"]["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert f"--uid {pod['securityContext']['runAsUser']} " in (CLUSTER / "Dockerfile").read_text()
    volumes = {each["name"] for each in pod["volumes"]}
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    assert set(mounts.values()) == volumes
    assert "/tmp" in mounts  # Ray's sessions
    assert container["resources"]["limits"]["memory"]
    for each in container.get("env", []):
        if re.search("KEY|TOKEN", each["name"]):
            assert set(each["valueFrom"]) == {"secretKeyRef"}


@pytest.mark.parametrize(("overlay", "keys"), [("aws", False), ("gcp", True), ("minikube-cpu", True)])
def test_storage_is_reached_by_an_identity_or_by_a_secret(overlay: str, keys: bool) -> None:
    account = named(RENDERED[overlay], "ServiceAccount")
    assert ("eks.amazonaws.com/role-arn" in account["metadata"].get("annotations", {})) is not keys
    for role in ("head", "worker"):
        pod = pods(RENDERED[overlay])[role]["spec"]
        assert pod["serviceAccountName"] == account["metadata"]["name"]
        env = {each["name"]: each for each in pod["containers"][0]["env"]}
        assert ({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= set(env)) is keys
        assert env["SIDE_RAY_CACHE"]["value"] in {
            each["mountPath"] for each in pod["containers"][0]["volumeMounts"] if each["name"] == "cache"
        }


@OVERLAY
def test_workers_are_spot_machines_where_there_are_some(overlay: str) -> None:
    selector = pods(RENDERED[overlay])["worker"]["spec"].get("nodeSelector", {})
    spot = {"aws": "karpenter.sh/capacity-type", "gcp": "cloud.google.com/gke-spot"}.get(overlay)
    assert (spot in selector) is (spot is not None)
    gpus = pods(RENDERED[overlay])["worker"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")
    assert gpus == (None if overlay == "minikube-cpu" else "1")
    assert "nodeSelector" not in pods(RENDERED[overlay])["head"]["spec"]


@pytest.mark.parametrize("overlay", ["aws", "gcp"])
def test_images_are_named_by_digest(overlay: str) -> None:
    for manifest in RENDERED[overlay]:
        for container in containers(manifest):
            assert re.fullmatch(rf"{IMAGE}-(cpu|cuda)@sha256:[0-9a-f]{{64}}", container["image"])


@OVERLAY
def test_policies_cover_the_pods(overlay: str) -> None:
    labels = {role: template["metadata"]["labels"] for role, template in pods(RENDERED[overlay]).items()}
    policy = named(RENDERED[overlay], "NetworkPolicy")["spec"]
    chosen = policy["podSelector"]["matchLabels"].items()
    assert all(chosen <= each.items() for each in labels.values())
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    own = [rule for rule in policy["ingress"] if "ports" not in rule]
    assert [each["from"] for each in own] == [[{"podSelector": policy["podSelector"]}]]
    ports = {port["port"] for rule in policy["ingress"] for port in rule.get("ports", [])}
    declared = {each["name"]: each["containerPort"] for each in HEAD["containers"][0]["ports"]}
    assert ports == {declared["dashboard"], declared["metrics"]}
    to_all = [each["ipBlock"] for rule in policy["egress"] for each in rule.get("to", []) if "ipBlock" in each]
    assert to_all == [{"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}]
    budget = named(RENDERED[overlay], "PodDisruptionBudget", "side-ray-head")["spec"]
    covered = [role for role, each in labels.items() if budget["selector"]["matchLabels"].items() <= each.items()]
    assert (covered, budget["maxUnavailable"]) == (["head"], 0)


def test_everybody_runs_the_same_ray() -> None:
    pinned = dict(re.findall(r"(?m)^([A-Za-z0-9_.-]+)==(\S+)", (ROOT / "constraints.txt").read_text()))
    assert SPEC["rayVersion"] == pinned["ray"] == importlib.metadata.version("ray")


# Commands


def commands() -> list[list[str]]:
    """Every `python jobs/….py …` in the manifests and in the comments of the launcher's files."""
    found = [shlex.split(each["spec"]["entrypoint"]) for _, each in ALL if each["kind"] == "RayJob"]
    texts = [re.sub(r"\\\n#\s*", "", (CLUSTER / f"{cloud}.yaml").read_text()) for cloud in LAUNCHED]
    return found + [shlex.split(line) for text in texts for line in re.findall(r"-- (python jobs/.*)", text)]


@pytest.mark.parametrize("command", commands(), ids=lambda command: command[1])
def test_the_command_names_a_script_and_a_config_that_loads(command: list[str]) -> None:
    python, script, option, path, *overrides = command
    assert (python, option) == ("python", "--config")
    assert (ROOT / script).is_file()
    config = load_config(ROOT / path, overrides)
    assert config.run.uri.startswith("s3://")
    assert config.cluster.gpus == (0 if "cluster.gpus=0" in overrides else 1)


def test_the_job_has_as_many_actors_as_there_can_be_gpus() -> None:
    _, _, _, path, *overrides = commands()[0]
    assert load_config(ROOT / path, overrides).cluster.actors == (1, WORKERS["maxReplicas"])


@OVERLAY
def test_the_reaudit_submits_a_batch_to_the_cluster_that_stays(overlay: str, tmp_path: Path) -> None:
    cluster = named(RENDERED[overlay], "RayCluster")
    pod = pods(RENDERED[overlay])["reaudit"]["spec"]
    (container,) = pod["containers"]
    program, verb, *words = container["args"]
    assert (program, verb) == ("side-ray", "submit")
    given = typer.main.get_command(app).commands[verb].make_context(verb, words).params  # type: ignore[attr-defined]
    assert (given["verb"], given["fail_worse"], given["attach_running"], given["wait"]) == ("batch", True, True, True)
    ports = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"]
    (port,) = (each["containerPort"] for each in ports if each["name"] == "dashboard")
    name = cluster["metadata"]["name"]
    assert given["address"] == f"http://{name}-head-svc:{port}"
    env = {each["name"]: each for each in container["env"]}
    assert env["RAY_AUTH_MODE"]["value"] == cluster["spec"]["authOptions"]["mode"]
    assert env["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": name, "key": "auth_token"}
    assert pod["serviceAccountName"] == named(RENDERED[overlay], "ServiceAccount")["metadata"]["name"]

    (volume,) = (each for each in pod["volumes"] if "configMap" in each)
    (mount,) = (each for each in container["volumeMounts"] if each["name"] == volume["name"])
    folder, file = given["config"].rsplit("/", 1)
    assert mount["mountPath"] == folder
    text = named(RENDERED[overlay], "ConfigMap", volume["configMap"]["name"])["data"][file]
    assert "WORKDIR /opt/side-ray" in (CLUSTER / "Dockerfile").read_text()
    (tmp_path / file).write_text(text.replace("/opt/side-ray", str(ROOT)))
    batch, planned = read_batch(str(tmp_path / file), given["overrides"])
    assert {each.config.run.uri.startswith("s3://") for each in planned} == {True}
    (workers,) = cluster["spec"]["workerGroupSpecs"]
    assert {each.config.cluster.actors[1] for each in planned} == {workers["maxReplicas"]}
    assert {each.config.cluster.gpus for each in planned} == {0 if overlay == "minikube-cpu" else 1}
    # The batch ends before the pod that follows it, and this before the next one.
    spec = named(RENDERED[overlay], "CronJob", "side-ray-reaudit")["spec"]
    assert 3600 * (batch.hours or 0) < spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] < 7 * 86_400
    assert spec["concurrencyPolicy"] == "Forbid"


def test_a_reaudit_that_found_more_is_not_repeated_and_one_that_is_not_complete_is() -> None:
    spec = named(BASE, "CronJob", "side-ray-reaudit")["spec"]
    job = spec["jobTemplate"]["spec"]
    codes = {
        code for rule in job["podFailurePolicy"]["rules"] for code in rule.get("onExitCodes", {}).get("values", [])
    }
    assert codes == {UserError.exit_code, CheckFailed.exit_code}
    assert RunError.exit_code not in codes
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # a policy for failed pods asks for that
    assert job["backoffLimit"] >= 1
    assert spec["successfulJobsHistoryLimit"] >= 1 <= spec["failedJobsHistoryLimit"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "schedule"), ...),
        (("spec", "schedule"), 3),
        (("spec", "failedJobsHistoryLimit"), "4"),
        (("spec", "jobTemplate"), ...),
        (("spec", "jobTemplate", "spec", "template"), ...),
        (("spec", "jobTemplate", "spec", "podFailurePolicy", "rules"), ...),
        (("spec", "jobTemplate", "spec", "podFailurePolicy", "rules", 0, "onExitCodes", "values"), ["2"]),
        (("spec", "jobTemplate", "spec", "template", "spec", "containers", 0, "args"), "side-ray submit"),
    ],
)
def test_a_wrong_type_or_missing_field_of_the_reaudit_is_refused(path: tuple[Any, ...], value: Any) -> None:
    assert faults_of(replaced(named(BASE, "CronJob", "side-ray-reaudit"), path, value))


# The cluster launcher

RUN_INSTANCES = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape


def machine_faults(cloud: str, machine: Any) -> list[str]:
    """Errors of a machine under EC2's API model, or Compute Engine's."""
    if cloud == "gcp":
        return [f"{error.json_path}: {error.message}" for error in GCE.iter_errors(machine)]
    report = botocore.validate.ParamValidator().validate({"MinCount": 1, "MaxCount": 1, **machine}, RUN_INSTANCES)
    return [report.generate_report()] if report.has_errors() else []


def launcher_faults(config: Any, cloud: str) -> list[str]:
    """Errors of a launcher file under Ray's schema, and of its machines under that of the cloud."""
    faults = [
        f"{error.json_path}: {error.message}" for error in jsonschema.Draft7Validator(LAUNCHER).iter_errors(config)
    ]
    faults += [
        f"provider: {key}" for key in config["provider"].keys() - LAUNCHER["properties"]["provider"]["properties"]
    ]
    for name, node in config["available_node_types"].items():
        faults += [f"{name}: {fault}" for fault in machine_faults(cloud, node.get("node_config", {}))]
    return faults


@EACH_LAUNCHED
def test_ray_and_the_cloud_know_every_key_of_the_launcher_file(cloud: str) -> None:
    assert launcher_faults(LAUNCHED[cloud], cloud) == []
    assert LAUNCHED[cloud]["provider"]["type"] == cloud


@EACH_LAUNCHED
def test_a_misspelt_key_of_the_launcher_file_is_refused_wherever_it_stands(cloud: str) -> None:
    free = {("available_node_types",), ("file_mounts",)}
    tried = 0
    for path in paths(LAUNCHED[cloud]):
        misspelt = replaced(LAUNCHED[cloud], path, ...)
        at(misspelt, path[:-1])[f"{path[-1]}x"] = at(LAUNCHED[cloud], path)
        if path[:-1] in free or path[-2:-1] == ("resources",):
            continue
        if path[0] in ("provider", "available_node_types") and len(path) == 1:
            continue
        assert launcher_faults(misspelt, cloud), path
        tried += 1
    assert tried > 40


@pytest.mark.parametrize(
    ("cloud", "path", "value"),
    [
        ("aws", ("cluster_name",), ...),
        ("aws", ("max_workers",), "8"),
        ("aws", ("provider", "type"), ...),
        ("aws", ("available_node_types", "gpu", "resources", "GPU"), -1),
        ("aws", ("available_node_types", "gpu", "min_workers"), 0.5),
        ("aws", ("available_node_types", "gpu", "node_config", "IamInstanceProfile"), "side-ray-worker"),
        ("gcp", ("provider", "project_id"), 8),
        ("gcp", ("available_node_types", "gpu", "node_config", "scheduling", "provisioningModel"), "spot"),
        ("gcp", ("available_node_types", "gpu", "node_config", "scheduling", "automaticRestart"), "no"),
        ("gcp", ("available_node_types", "gpu", "node_config", "serviceAccounts"), "side-ray-worker"),
        ("gcp", ("available_node_types", "head", "node_config", "disks", 0, "initializeParams", "diskSizeGb"), 1.5),
    ],
)
def test_a_wrong_value_in_the_launcher_file_is_refused(cloud: str, path: tuple[Any, ...], value: Any) -> None:
    assert launcher_faults(replaced(LAUNCHED[cloud], path, value), cloud)


@EACH_LAUNCHED
def test_ray_itself_accepts_the_launcher_file(cloud: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(copy.deepcopy(LAUNCHED[cloud]))
    validate_config(config)
    assert config["available_node_types"]["gpu"]["max_workers"] == config["max_workers"] == 8


@EACH_LAUNCHED
def test_machines_of_the_launcher_are_as_those_of_kubernetes(cloud: str) -> None:
    head, gpu = (LAUNCHED[cloud]["available_node_types"][name] for name in (LAUNCHED[cloud]["head_node_type"], "gpu"))
    assert (head["resources"], gpu["resources"]["GPU"], gpu["min_workers"]) == ({"CPU": 0}, 1, 0)
    if cloud == "aws":
        assert "InstanceMarketOptions" not in head["node_config"]
        assert gpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert all(node["node_config"]["MetadataOptions"]["HttpTokens"] == "required" for node in (head, gpu))
    else:
        scheduling = [node["node_config"]["scheduling"] for node in (head, gpu)]
        assert [each["provisioningModel"] for each in scheduling] == ["STANDARD", "SPOT"]
        # Machines with a GPU cannot be moved, and a spot machine that is only stopped would keep its disk.
        assert scheduling[1]["onHostMaintenance"] == "TERMINATE"
        assert scheduling[1]["instanceTerminationAction"] == "DELETE"
        zone = LAUNCHED[cloud]["provider"]["availability_zone"]
        for node in (head, gpu):
            assert f"zones/{zone}/" in node["node_config"]["disks"][0]["initializeParams"]["diskType"]


@EACH_LAUNCHED
def test_the_launched_cluster_asks_for_a_token_and_shows_its_dashboard_to_nobody(cloud: str) -> None:
    assert "--env RAY_AUTH_MODE=token" in LAUNCHED[cloud]["docker"]["run_options"]
    assert LAUNCHED[cloud]["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    assert "--dashboard-host=127.0.0.1" in LAUNCHED[cloud]["head_start_ray_commands"][-1]


def test_keys_of_a_bucket_of_gcp_are_copied_from_the_user_and_weights_are_cached() -> None:
    assert LAUNCHED["gcp"]["file_mounts"]["/home/ray/.aws/credentials"] == "~/.aws/side-ray-gcs"
    options = dict(option.split(" ", 1) for option in LAUNCHED["gcp"]["docker"]["run_options"])
    host, _, inside = options["--volume"].partition(":")
    assert f"--env SIDE_RAY_CACHE={inside}" in LAUNCHED["gcp"]["docker"]["run_options"]
    assert all(host in command for command in LAUNCHED["gcp"]["initialization_commands"])


@pytest.mark.parametrize("path", sorted(CLUSTER.rglob("*.yaml")), ids=lambda path: path.parent.name + path.name)
def test_no_file_holds_a_key(path: Path) -> None:
    assert not re.search(r"AKIA[0-9A-Z]{16}|(?i:secret_?access_?key\S*[:=]\s*[A-Za-z0-9/+]{20})", path.read_text())


# The image

TARGETS = pytest.mark.parametrize(("target", "extra"), [("cpu", "cpu"), ("cuda", "gpu")])


def test_the_targets_are_those_that_the_manifests_run() -> None:
    assert stages().keys() == {"", "base", "cpu", "cuda"}
    assert HEAD["containers"][0]["image"] == f"{IMAGE}-cpu"
    assert WORKERS["template"]["spec"]["containers"][0]["image"] == f"{IMAGE}-cuda"
    for each in LAUNCHED.values():
        for role, name in (("head", "cpu"), ("worker", "cuda")):
            assert re.fullmatch(rf"{IMAGE}-{name}@sha256:[0-9a-f]{{64}}", each["docker"][f"{role}_image"])
    for target in ("cpu", "cuda"):
        assert re.search(rf"docker build -f cluster/Dockerfile --target {target} +-t {IMAGE}-{target} \.", dockerfile())


def dockerfile() -> str:
    return (CLUSTER / "Dockerfile").read_text()


@TARGETS
def test_every_package_is_installed_under_the_constraints_with_the_right_extra(target: str, extra: str) -> None:
    installs = [
        rest for instruction, rest in stages()[target] if instruction == "RUN" and rest.startswith("pip install")
    ]
    assert len(installs) == 2
    assert all("--constraint constraints.txt" in each for each in installs)
    assert [name for each in installs for name in re.findall(r"\.\[(\w+)\]", each)] == [extra]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extra in project["optional-dependencies"]
    pinned = re.findall(r"(?m)^torch==(.*)$", (ROOT / "constraints.txt").read_text())
    assert len(pinned) == 1
    assert "+" not in pinned[0], "a local version is of one kind of wheel only"


@TARGETS
def test_the_packages_are_listed_once_all_are_installed_by_a_tool_that_is_not_one_of_them(
    target: str, extra: str
) -> None:
    runs = [rest for instruction, rest in stages()[target] if instruction == "RUN"]
    assert runs[-2] == f"pip install --constraint constraints.txt '.[{extra}]'"
    made, installed, listed, removed = runs[-1].split(" && ")
    environment = made.removeprefix("python -m venv ")
    assert re.fullmatch(rf"{environment}/bin/pip install cyclonedx-bom==\S+", installed)
    tool, verb, *options, python = shlex.split(listed)
    assert (tool, verb, python) == (f"{environment}/bin/cyclonedx-py", "environment", "/usr/local/bin/python")
    assert options[-2:] == ["-o", "sbom.json"]
    assert removed == f"rm -r {environment}"
    (workdir,) = (rest for instruction, rest in stages()[target] if instruction == "WORKDIR")
    docs = (ROOT / "docs" / "cluster.md").read_text()
    assert f"docker run --rm {IMAGE}-cpu cat {workdir}/sbom.json" in docs


@TARGETS
def test_what_is_copied_is_there_and_reaches_the_builder(target: str, extra: str) -> None:
    lines = (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
    let_through = {line[1:] for line in lines if line.startswith("!")}
    copied = [name for instruction, rest in stages()[target] if instruction == "COPY" for name in rest.split()[:-1]]
    assert {"constraints.txt", "pyproject.toml", "side_ray", "jobs"} <= set(copied)
    assert set(copied) == let_through
    assert "*" in lines
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["readme"] in copied


@TARGETS
def test_what_the_wheel_is_made_of_is_copied_before_it_is_built(target: str, extra: str) -> None:
    instructions = stages()[target]
    (build,) = (place for place, (_, rest) in enumerate(instructions) if ".[" in rest)
    copied = {name for instruction, rest in instructions[:build] if instruction == "COPY" for name in rest.split()[:-1]}
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {path.partition("/")[0] for path in [*wheel["packages"], *wheel["force-include"]]} <= copied


@TARGETS
def test_build_arguments_are_declared_where_they_are_used(target: str, extra: str) -> None:
    declared = {"PYTHON"}
    for instruction, rest in stages()[target][1:]:
        if instruction == "ARG":
            declared.add(rest.partition("=")[0])
        elif instruction in ("RUN", "FROM"):
            assert set(re.findall(r"\$\{?(\w+)", rest)) <= declared, rest
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert stages()[target][0] == ("ARG", f"PYTHON={project['requires-python'].removeprefix('>=')}")


@TARGETS
def test_the_image_runs_as_a_user_without_rights_where_the_jobs_are(target: str, extra: str) -> None:
    instructions = stages()[target]
    assert [rest for instruction, rest in instructions if instruction == "USER"] == ["ray"]
    last = {instruction: index for index, (instruction, _) in enumerate(instructions)}
    assert last["USER"] > last["RUN"]
    assert ("COPY", "jobs jobs") in instructions
    assert not any("ENTRYPOINT" in line for line in dockerfile().splitlines())


@TARGETS
def test_the_shell_understands_what_is_run(target: str, extra: str) -> None:
    for instruction, rest in stages()[target]:
        if instruction == "RUN":
            subprocess.run(["sh", "-n", "-c", rest], check=True)


def test_an_index_of_wheels_is_used_only_if_given() -> None:
    (line,) = (rest for instruction, rest in stages()["cpu"] if "TORCH_INDEX" in rest and instruction == "RUN")
    command = line.replace("pip", "printf '%s '", 1)
    for given, options in (("", ""), ("https://wheels.example/cpu", "--index-url https://wheels.example/cpu ")):
        output = subprocess.run(["sh", "-c", command], env={"TORCH_INDEX": given}, capture_output=True, text=True)
        assert output.stdout == f"install {options}--constraint constraints.txt torch "


# The extraction of the schema

CRD = {
    "kind": "CustomResourceDefinition",
    "spec": {
        "group": "example.com",
        "names": {"kind": "Thing"},
        "versions": [
            {"name": "v1alpha1", "schema": {"openAPIV3Schema": {"type": "object"}}},
            {
                "name": "v1",
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "apiVersion": {"type": "string"},
                            "kind": {"type": "string"},
                            "metadata": {"type": "object"},
                            "status": {"type": "object"},
                            "spec": {
                                "type": "object",
                                "required": ["size"],
                                "properties": {
                                    "size": {
                                        "anyOf": [{"type": "integer"}, {"type": "string"}],
                                        "x-kubernetes-int-or-string": True,
                                    },
                                    "note": {"type": "string", "nullable": True},
                                    "map": {"type": "object", "additionalProperties": {"type": "integer"}},
                                    "raw": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                                    "closed": {"type": "object"},
                                    "type": {"type": "string", "enum": ["a", "b"]},
                                    "many": {
                                        "type": "array",
                                        "items": {"type": "object", "properties": {"x": {"type": "boolean"}}},
                                    },
                                    "more": {
                                        "type": "array",
                                        "items": {"type": "object", "properties": {"x": {"type": "boolean"}}},
                                    },
                                },
                            },
                        },
                    }
                },
            },
        ],
    },
}


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("crd") / "thing.yaml"
    path.write_text(yaml.safe_dump(CRD))
    command = [sys.executable, str(EXTRACT), "--release", "9", str(path)]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return result


@pytest.mark.parametrize(
    ("spec", "passes"),
    [
        ({"size": 1}, True),
        ({"size": "1Gi"}, True),
        ({"size": 1.5}, False),
        ({}, False),
        ({"size": 1, "sizes": 1}, False),
        ({"size": 1, "note": None}, True),
        ({"size": None}, False),
        ({"size": 1, "map": {"any": 1}}, True),
        ({"size": 1, "map": {"any": "1"}}, False),
        ({"size": 1, "raw": {"any": {"thing": []}}}, True),
        ({"size": 1, "closed": {"any": 1}}, False),
        ({"size": 1, "type": "a"}, True),
        ({"size": 1, "type": "c"}, False),
        ({"size": 1, "many": [{"x": True}], "more": [{"x": False}]}, True),
        ({"size": 1, "many": [{"y": True}]}, False),
        ({"size": 1, "more": [{"y": True}]}, False),
    ],
)
def test_the_extracted_schema_is_the_crds_and_closed(extracted: dict[str, Any], spec: Any, passes: bool) -> None:
    schema = {**extracted["kinds"]["Thing"], "definitions": extracted["definitions"]}
    thing = {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "x"}, "spec": spec}
    assert jsonschema.Draft7Validator(schema).is_valid(thing) is passes


def test_what_repeats_is_written_once(extracted: dict[str, Any]) -> None:
    assert json.dumps(extracted).count('"x"') == 1
    assert (ROOT / "tests" / "data" / "kuberay.json").stat().st_size < 100_000
