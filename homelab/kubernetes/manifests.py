"""The manifests of workloads: each object as a mapping, as Kubernetes' API describes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from homelab.kubernetes.schedules import cron
from homelab.kubernetes.workloads import SECRETS, Export, Mount, Process, Volume, Workload, content_hash

Manifest = dict[str, Any]
NAME, PART_OF, MANAGED_BY = (f"app.kubernetes.io/{name}" for name in ("name", "part-of", "managed-by"))
_CONFIG_HASH = "homelab/config-hash"
_DAY = 86400


def namespace_of(lab: str) -> Manifest:
    """Return the namespace; the cluster admits only pods without privileges in it."""
    level = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": lab, "labels": level}}


def kustomization(export: Export, files: Sequence[str]) -> Manifest:
    """Return kustomization.yaml, which puts all objects into the namespace."""
    labels = {PART_OF: export.lab, MANAGED_BY: "homelab"}
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": export.lab,
        "labels": [{"pairs": labels, "includeSelectors": False, "includeTemplates": True}],
        "resources": list(files),
    }


def shared_objects(export: Export) -> Sequence[Manifest]:
    """Return the CA's certificate, which all clients trust, and the policy that denies all other connections."""
    return (
        _object("v1", "ConfigMap", "lab-ca", data={"ca.crt": export.authority}),
        _object("networking.k8s.io/v1", "NetworkPolicy", "deny", {"podSelector": {}, "policyTypes": ["Ingress"]}),
    )


def objects_of(workload: Workload) -> Iterator[Manifest]:
    """Yield the objects of a workload."""
    if workload.files:
        yield _object("v1", "ConfigMap", workload.config, data=dict(workload.files))
    match workload.kind:
        case "server":
            yield from _server(workload)
        case "job":
            yield _object("batch/v1", "Job", workload.object_name, {**_job(workload), "ttlSecondsAfterFinished": _DAY})
        case "schedule":
            yield from (_claim(each.name, each.size) for each in workload.claims)
            yield _cron_job(workload)


def _server(workload: Workload) -> Iterator[Manifest]:
    name, port = workload.name, {"port": workload.port, "protocol": "TCP"}
    # Headless: a StatefulSet of one pod needs no load balancing, and clients reconnect by the name.
    service = {"clusterIP": "None", "selector": {NAME: name}, "ports": [{"name": "main", **port}]}
    yield _object("v1", "Service", name, service)
    yield _object(
        "apps/v1",
        "StatefulSet",
        name,
        {
            "serviceName": name,
            "replicas": 1,
            "selector": {"matchLabels": {NAME: name}},
            "template": _pod(workload, "Always"),
            "volumeClaimTemplates": [
                {"metadata": {"name": each.name}, "spec": _claim(each.name, each.size)["spec"]}
                for each in workload.claims
            ],
            # Kubernetes keeps the claim when the set is deleted or has no replicas.
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
        },
    )
    yield _object(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        name,
        {
            "podSelector": {"matchLabels": {NAME: name}},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": {"matchLabels": {NAME: each}}} for each in workload.clients], "ports": [port]}
            ],
        },
    )


def _cron_job(workload: Workload) -> Manifest:
    return _object(
        "batch/v1",
        "CronJob",
        workload.name,
        {
            "schedule": cron(workload.schedule) if workload.schedule else "0 0 1 1 *",
            "timeZone": "Etc/UTC",
            "suspend": not workload.schedule,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": 3600,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 5,
            "jobTemplate": {"spec": _job(workload)},
        },
    )


def _job(workload: Workload) -> Manifest:
    retries = workload.retries
    fail = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": sorted(retries.lasting)}}
    return {
        "backoffLimit": retries.attempts - 1,
        "activeDeadlineSeconds": retries.seconds,
        **({"podFailurePolicy": {"rules": [fail]}} if retries.lasting else {}),
        "template": _pod(workload, "Never"),
    }


def _pod(workload: Workload, restart: str) -> Manifest:
    *first, last = (_container(each) for each in workload.processes)
    annotations = {_CONFIG_HASH: content_hash(workload.files)}
    if workload.kind == "server":
        last["ports"] = [{"name": "main", "containerPort": workload.port}]
    spec = {
        "restartPolicy": restart,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": workload.user,
            "runAsGroup": workload.user,
            "fsGroup": workload.user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **({"initContainers": first} if first else {}),
        "containers": [last],
        "volumes": [_volume(each, workload) for each in workload.volumes if not _is_template(each, workload)],
    }
    return {"metadata": {"labels": {NAME: workload.name}, "annotations": annotations}, "spec": spec}


def _is_template(volume: Volume, workload: Workload) -> bool:
    """Return True for a volume of the claims of a StatefulSet, which it mounts by the name of its template."""
    return workload.kind == "server" and volume.kind == "claim"


def _container(process: Process) -> Manifest:
    limits = {"cpu": str(process.resources.cores), "memory": f"{process.resources.memory}Mi"}
    secrets = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": SECRETS, "key": key}}}
        for name, key in process.secrets.items()
    ]
    return {
        "name": process.name,
        "image": process.image,
        "command": [_literal(word) for word in process.command],
        **({"workingDir": process.folder} if process.folder else {}),
        "env": [*({"name": name, "value": _literal(text)} for name, text in process.environment.items()), *secrets],
        # Of the processor, only a small part is reserved: idle pods of a home share it.
        "resources": {"limits": limits, "requests": {"cpu": "100m", "memory": limits["memory"]}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [_mount(each) for each in process.mounts],
        **_probes(process.probe),
    }


def _literal(text: str) -> str:
    """Return a text that Kubernetes does not change: it replaces `$(NAME)`, and `$$` by `$`."""
    return text.replace("$", "$$") if "$$" in text or "$(" in text else text


def _probes(command: Sequence[str]) -> Manifest:
    """Return the probes of a server: ten minutes to start, as it may have to recover; then ready, and alive."""
    if not command:
        return {}
    probe = {"exec": {"command": list(command)}, "timeoutSeconds": 5}
    return {
        "startupProbe": {**probe, "periodSeconds": 5, "failureThreshold": 120},
        "readinessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 3},
        "livenessProbe": {**probe, "periodSeconds": 30, "failureThreshold": 10},
    }


def _mount(mount: Mount) -> Manifest:
    found = {"name": mount.volume, "mountPath": mount.path, "readOnly": not mount.writable}
    return {**found, "subPath": mount.file} if mount.file else found


def _volume(volume: Volume, workload: Workload) -> Manifest:
    match volume.kind:
        case "config":
            return {"name": volume.name, "configMap": {"name": volume.source or workload.config}}
        case "secret":
            items = [{"key": key, "path": path} for key, path in volume.keys.items()]
            # Readable for the group of the pod: PostgreSQL refuses a key with a wider mode.
            secret = {
                "secretName": volume.source or SECRETS,
                "defaultMode": 0o440,
                **({"items": items} if items else {}),
            }
            return {"name": volume.name, "secret": secret}
        case "claim":
            return {"name": volume.name, "persistentVolumeClaim": {"claimName": volume.source}}
        case "scratch":
            return {"name": volume.name, "emptyDir": {}}


def _claim(name: str, size: int) -> Manifest:
    storage = {"resources": {"requests": {"storage": f"{size}Gi"}}}
    return _object("v1", "PersistentVolumeClaim", name, {"accessModes": ["ReadWriteOnce"], **storage})


def _object(version: str, kind: str, name: str, spec: Mapping[str, Any] | None = None, **fields: Any) -> Manifest:
    found = {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **fields}
    return found if spec is None else {**found, "spec": dict(spec)}
