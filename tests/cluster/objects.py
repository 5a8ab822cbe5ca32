"""Kubernetes objects with a history: what an API server keeps, and how it answers. No controllers and no kubelet."""

from __future__ import annotations

import base64
import copy
import itertools
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple

import jsonschema
import referencing
from kubernetes_validate import utils as schemas  # type: ignore[import-untyped]

Document = dict[str, Any]
Key = tuple[str, str, str]  # plural, namespace (empty for what the whole cluster has), name

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
# Which field tells the items of a list apart in a strategic merge patch.
_MERGE_KEYS = {
    "conditions": "type",
    "containers": "name",
    "env": "name",
    "ephemeralContainers": "name",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ownerReferences": "uid",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
_FIELDS = {
    "events": ("involvedObject.kind", "involvedObject.name", "involvedObject.uid", "reason", "type"),
    "jobs": ("status.successful",),
    "nodes": ("spec.unschedulable",),
    "pods": ("spec.nodeName", "spec.restartPolicy", "spec.serviceAccountName", "status.phase"),
}


class ApiError(Exception):
    """An answer that is an error; `status` is that of HTTP."""

    def __init__(self, status: int, reason: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.details = details

    def document(self) -> Document:
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message}
        return {**status, "reason": self.reason, "details": self.details, "code": self.status}


class Resource(NamedTuple):
    """A kind of object.

    Attributes:
      core: Kubernetes' own, so its schema is known and a strategic merge patch is taken.
      parts: its subresources.
    """

    plural: str
    kind: str
    group: str
    version: str
    namespaced: bool = True
    core: bool = True
    parts: tuple[str, ...] = ("status",)

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """How messages call it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


RESOURCES = [
    Resource("nodes", "Node", "", "v1", namespaced=False),
    Resource("namespaces", "Namespace", "", "v1", namespaced=False),
    Resource("persistentvolumes", "PersistentVolume", "", "v1", namespaced=False),
    Resource("pods", "Pod", "", "v1", parts=("status", "log", "eviction")),
    Resource("events", "Event", "", "v1", parts=()),
    Resource("configmaps", "ConfigMap", "", "v1", parts=()),
    Resource("secrets", "Secret", "", "v1", parts=()),
    Resource("services", "Service", "", "v1"),
    Resource("serviceaccounts", "ServiceAccount", "", "v1", parts=()),
    Resource("resourcequotas", "ResourceQuota", "", "v1"),
    Resource("persistentvolumeclaims", "PersistentVolumeClaim", "", "v1"),
    Resource("jobs", "Job", "batch", "v1"),
    Resource("networkpolicies", "NetworkPolicy", "networking.k8s.io", "v1", parts=()),
    Resource("deployments", "Deployment", "apps", "v1"),
    Resource("workflows", "Workflow", "argoproj.io", "v1alpha1", core=False, parts=()),
    Resource("seldondeployments", "SeldonDeployment", "machinelearning.seldon.io", "v1", core=False),
    Resource("inferenceservices", "InferenceService", "serving.kserve.io", "v1beta1", core=False),
]


class Change(NamedTuple):
    version: int
    key: Key
    before: Document | None
    after: Document | None


class Objects:
    """All objects, by plural, namespace and name. One that changes is replaced, never edited.

    Attributes:
      objects: the objects.
      changed: is notified of each change, and of whatever else a watch must see to.
      version: the resourceVersion of the last change.
      oldest: a watch from before this version gets 410.
      checks: what else looks at an object of a plural before it is taken; raises `ApiError`.
      quotas: how many objects of a plural a namespace may have.
    """

    def __init__(self, kubernetes: str) -> None:
        self.objects: dict[Key, Document] = {}
        self.resources = list(RESOURCES)
        self.changed = threading.Condition(threading.RLock())
        self.version = 1000
        self.oldest = 1000
        self.checks: dict[str, list[Callable[[Document], None]]] = {"jobs": [_check_job]}
        self.quotas: dict[str, int] = {}
        self._kubernetes = kubernetes
        self._history: list[Change] = []
        self._lists: dict[str, list[Document]] = {}

    def compact(self) -> None:
        """Forget the history: watches from before get 410, and so do lists that are half read."""
        with self.changed:
            self.oldest = self.version
            self._history.clear()
            self._lists.clear()

    def read(self, key: Key) -> Document:
        with self.changed:
            if key not in self.objects:
                raise ApiError(404, "NotFound", f'{self._named(key)} "{key[2]}" not found', name=key[2], kind=key[0])
            return self.objects[key]

    def create(self, resource: Resource, namespace: str, document: Document) -> Document:
        new = copy.deepcopy(document)
        metadata = new.setdefault("metadata", {})
        if "generateName" in metadata and "name" not in metadata:
            metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
        self._check(resource, namespace, new)
        with self.changed:
            if namespace:
                self.read(("namespaces", "", namespace))
            key = (resource.plural, namespace, str(metadata["name"]))
            if key in self.objects:
                raise ApiError(409, "AlreadyExists", f'{resource.qualified} "{key[2]}" already exists', name=key[2])
            self._check_quota(resource, key)
            if "status" in resource.parts:
                new.pop("status", None)
            metadata.update(uid=str(uuid.uuid4()), creationTimestamp=now(), generation=1)
            metadata.pop("resourceVersion", None)
            _default(resource, new)
            return self.write(key, new)

    def replace(self, resource: Resource, key: Key, document: Document, part: str = "") -> Document:
        """Put a whole object, or its status alone, in the place of what is there."""
        with self.changed:
            old = self.read(key)
            given = (document.get("metadata") or {}).get("resourceVersion")
            if given is None and not resource.core:
                text = f'{resource.qualified} "{key[2]}" is invalid: metadata.resourceVersion: must be specified'
                raise ApiError(422, "Invalid", f"{text} for an update")
            if given not in (None, old["metadata"]["resourceVersion"]):
                text = "the object has been modified; please apply your changes to the latest version and try again"
                message = f'Operation cannot be fulfilled on {resource.qualified} "{key[2]}": {text}'
                raise ApiError(409, "Conflict", message, name=key[2])
            new = _merged_part(resource, old, document, part)
            self._check(resource, key[1], new)
            self._check_job_is_kept(resource, old, new)
            if new.get("spec") != old.get("spec"):
                new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
            return self._finalized(key, new)

    def patch(self, resource: Resource, key: Key, patch: Any, kind: str, part: str = "") -> Document:
        """Merge a patch into an object; `kind` is the patch's media type."""
        allowed = ["application/merge-patch+json"]
        if resource.core:
            allowed.append("application/strategic-merge-patch+json")
        if kind not in allowed:
            text = "the body of the request was in an unknown format - accepted media types include: "
            raise ApiError(415, "UnsupportedMediaType", text + ", ".join(allowed))
        with self.changed:
            old = self.read(key)
            new = merge(old, patch, strategic="strategic" in kind)
            if "resourceVersion" not in (patch.get("metadata") or {}):
                new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
            return self.replace(resource, key, new, part)

    def delete(self, resource: Resource, key: Key, options: Document) -> Document:
        """Delete an object, and what it owns unless that is to be orphaned.

        As on a cluster, a Job that is deleted through batch/v1 leaves its pods unless something else is asked for.
        """
        with self.changed:
            old = self.read(key)
            wanted = (options.get("preconditions") or {}).get("uid")
            if wanted and wanted != old["metadata"]["uid"]:
                text = f"the UID in the precondition ({wanted}) does not match the UID in record"
                message = (
                    f'Operation cannot be fulfilled on {resource.qualified} "{key[2]}": Precondition failed: {text}'
                )
                raise ApiError(409, "Conflict", message, name=key[2])
            policy = options.get("propagationPolicy") or ("Orphan" if resource.plural == "jobs" else "Background")
            return self.remove(key, orphan=policy == "Orphan")

    def remove(self, key: Key, orphan: bool = False) -> Document:
        """Take an object away; one with finalizers is only marked."""
        with self.changed:
            old = self.objects[key]
            if old["metadata"].get("finalizers"):
                return self.write(key, merge(old, {"metadata": {"deletionTimestamp": now()}}))
            self._record(key, old, None)
            del self.objects[key]
            for other, document in list(self.objects.items()):
                if other in self.objects:
                    self._release(other, document, str(old["metadata"].get("uid")), orphan)
            return old

    def write(self, key: Key, document: Document) -> Document:
        """Keep an object as it is, with a new version."""
        with self.changed:
            self.version += 1
            document["metadata"]["resourceVersion"] = str(self.version)
            before = self.objects.get(key)
            self.objects[key] = document
            self._record(key, before, document)
            return document

    def select(self, plural: str, namespace: str, matches: Callable[[Document], bool]) -> list[Document]:
        """Find objects, in the order of their names; an empty namespace is all of them."""
        with self.changed:
            found = [
                (key, document)
                for key, document in self.objects.items()
                if key[0] == plural and namespace in ("", key[1]) and matches(document)
            ]
        return [document for _, document in sorted(found, key=lambda entry: entry[0])]

    def page(self, found: Callable[[], list[Document]], limit: int, token: str) -> tuple[list[Document], Document]:
        """Return a page of a list as it was when its first page was read, and the list's metadata."""
        with self.changed:
            version, rest = str(self.version), None
            if token:
                version, name = json.loads(base64.urlsafe_b64decode(token))
                rest = self._lists.pop(name, None)
                if rest is None:
                    text = "The provided continue parameter is too old to display a consistent list result."
                    raise ApiError(410, "Expired", text)
            documents = found() if rest is None else rest
            metadata: Document = {"resourceVersion": version}
            if limit and len(documents) > limit:
                name = uuid.uuid4().hex
                self._lists[name] = documents[limit:]
                metadata["continue"] = base64.urlsafe_b64encode(json.dumps([version, name]).encode()).decode()
                metadata["remainingItemCount"] = len(documents) - limit
            return (documents[:limit] if limit else documents), metadata

    def since(
        self, version: int, plural: str, namespace: str, matches: Callable[[Document], bool]
    ) -> Iterator[Document]:
        """Yield what a watch tells of the changes after a version. To be called with `changed` held."""
        newer = itertools.takewhile(lambda change: change.version > version, reversed(self._history))
        for change in reversed(list(newer)):
            if change.key[0] != plural or namespace not in ("", change.key[1]):
                continue
            if event := _event(change, matches):
                yield event

    def _record(self, key: Key, before: Document | None, after: Document | None) -> None:
        if after is None:
            self.version += 1
        self._history.append(Change(self.version, key, before, after))
        self.changed.notify_all()

    def _release(self, key: Key, document: Document, owner: str, orphan: bool) -> None:
        """Do with an object what becomes of it when its owner is gone."""
        owners = document["metadata"].get("ownerReferences") or []
        left = [reference for reference in owners if reference["uid"] != owner]
        if len(left) == len(owners):
            return
        if orphan or left:
            new = copy.deepcopy(document)
            new["metadata"]["ownerReferences"] = left
            self.write(key, new)
        else:
            self.remove(key)

    def _finalized(self, key: Key, document: Document) -> Document:
        if document["metadata"].get("deletionTimestamp") and not document["metadata"].get("finalizers"):
            self.objects[key] = document
            return self.remove(key)
        return self.write(key, document)

    def _named(self, key: Key) -> str:
        return next(resource.qualified for resource in self.resources if resource.plural == key[0])

    def _check(self, resource: Resource, namespace: str, document: Document) -> None:
        metadata = document["metadata"]
        name = str(metadata.get("name", ""))
        if not _NAME.fullmatch(name) or len(name) > 253:
            text = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'"
            message = f'{resource.kind} "{name}" is invalid: metadata.name: Invalid value: "{name}": {text}'
            raise ApiError(422, "Invalid", message)
        if metadata.get("namespace", namespace) != namespace:
            text = "the namespace of the provided object does not match the namespace sent on the request"
            raise ApiError(400, "BadRequest", text)
        if resource.namespaced:
            metadata["namespace"] = namespace
        if (document.get("apiVersion"), document.get("kind")) != (resource.api_version, resource.kind):
            text = f"does not match the expected {resource.kind} of {resource.api_version}"
            raise ApiError(400, "BadRequest", f"the API version or kind in the data {text}")
        if resource.core:
            self._check_schema(document)
        for check in self.checks.get(resource.plural, []):
            check(document)

    def _check_schema(self, document: Document) -> None:
        validator = _validator(document["apiVersion"], document["kind"], self._kubernetes)
        if error := next(validator.iter_errors(document), None):
            where = ".".join(str(step) for step in error.absolute_path)
            message = (
                f"{document['kind']} in version {document['apiVersion']} cannot be handled: {where}: {error.message}"
            )
            raise ApiError(400, "BadRequest", message)

    def _check_job_is_kept(self, resource: Resource, old: Document, new: Document) -> None:
        """Refuse to change what a Job cannot change."""
        if resource.plural != "jobs":
            return
        for field in ("completions", "completionMode", "template", "selector", "podFailurePolicy", "successPolicy"):
            if old["spec"].get(field) != new["spec"].get(field):
                text = (
                    f'Job.batch "{new["metadata"]["name"]}" is invalid: spec.{field}: Invalid value: field is immutable'
                )
                raise ApiError(422, "Invalid", text)

    def _check_quota(self, resource: Resource, key: Key) -> None:
        used = sum(other[:2] == key[:2] for other in self.objects)
        limit = self.quotas.get(resource.plural)
        if limit is not None and used >= limit:
            what = f"count/{resource.qualified}"
            text = f"exceeded quota: fededge, requested: {what}=1, used: {what}={used}, limited: {what}={limit}"
            raise ApiError(403, "Forbidden", f'{resource.qualified} "{key[2]}" is forbidden: {text}', name=key[2])


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def merge(old: Any, patch: Any, strategic: bool = False, field: str = "") -> Any:
    """Return a copy of `old` with a patch in it (RFC 7386); a strategic one also merges lists, by their keys."""
    if strategic and isinstance(patch, list) and isinstance(old, list) and field in _MERGE_KEYS:
        return _merged_list(old, patch, _MERGE_KEYS[field])
    if strategic and isinstance(patch, list) and isinstance(old, list) and field == "finalizers":
        return [*old, *(name for name in patch if name not in old)]
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    new = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            new.pop(name, None)
        else:
            new[name] = merge(new.get(name), value, strategic, name)
    return new


def _merged_list(old: list[Document], patch: list[Document], name: str) -> list[Document]:
    items = {item.get(name): item for item in old}
    for item in patch:
        if item.get("$patch") == "delete":
            items.pop(item.get(name), None)
        else:
            items[item.get(name)] = merge(items.get(item.get(name)), item, strategic=True)
    return list(items.values())


def selector(labels: str, fields: str, plural: str) -> Callable[[Document], bool]:
    """Read a labelSelector and a fieldSelector."""
    wanted = [_label_term(term) for term in re.split(r",(?![^(]*\))", labels) if term.strip()]
    wanted += [_field_term(term, plural) for term in fields.split(",") if term.strip()]
    return lambda document: all(term(document) for term in wanted)


def _label_term(term: str) -> Callable[[Document], bool]:
    def labels(document: Document) -> Document:
        return document["metadata"].get("labels") or {}

    if match := re.fullmatch(r"\s*(\S+)\s+(in|notin)\s*\(([^)]*)\)\s*", term):
        values = [value.strip() for value in match[3].split(",")]
        return lambda document: (labels(document).get(match[1]) in values) == (match[2] == "in")
    if match := re.fullmatch(r"\s*([^\s!=]+)\s*(==|!=|=)\s*([^\s!=]*)\s*", term):
        return lambda document: (labels(document).get(match[1]) == match[3]) == (match[2] != "!=")
    if match := re.fullmatch(r"\s*(!?)\s*([\w./-]+)\s*", term):
        return lambda document: (match[2] in labels(document)) == (not match[1])
    raise ApiError(400, "BadRequest", f'unable to parse requirement: found "{term}"')


def _field_term(term: str, plural: str) -> Callable[[Document], bool]:
    match = re.fullmatch(r"\s*([\w.]+)\s*(==|!=|=)\s*(.*?)\s*", term)
    if not match or match[1] not in ("metadata.name", "metadata.namespace", *_FIELDS.get(plural, ())):
        raise ApiError(400, "BadRequest", f"field label not supported: {match[1] if match else term}")

    def value(document: Any) -> str:
        for step in match[1].split("."):
            document = (document or {}).get(step)
        return {None: "", True: "true", False: "false"}.get(document, str(document))

    return lambda document: (value(document) == match[3]) == (match[2] != "!=")


def _event(change: Change, matches: Callable[[Document], bool]) -> Document | None:
    """Tell of a change to who watches only some objects: one that no longer matches is deleted for them."""
    was = change.before is not None and matches(change.before)
    if change.after is not None and matches(change.after):
        return {"type": "MODIFIED" if was else "ADDED", "object": change.after}
    if was and change.before is not None:
        metadata = {**change.before["metadata"], "resourceVersion": str(change.version)}
        return {"type": "DELETED", "object": {**change.before, "metadata": metadata}}
    return None


def _merged_part(resource: Resource, old: Document, document: Document, part: str) -> Document:
    """Return what a put makes of an object: a status is written on its own, and everything else without it."""
    if part == "status":
        return {**copy.deepcopy(old), "status": copy.deepcopy(document.get("status") or {})}
    new = copy.deepcopy(document)
    kept = {
        name: old["metadata"][name] for name in ("uid", "creationTimestamp", "generation") if name in old["metadata"]
    }
    new["metadata"] = {**new.get("metadata", {}), **kept}
    if "status" in resource.parts:
        new.pop("status", None)
        if "status" in old:
            new["status"] = old["status"]
    return new


@cache
def _validator(api_version: str, kind: str, kubernetes: str) -> Any:
    """Load a strict schema; kubernetes-validate itself reads its files anew for each object."""
    folder = f"kubernetes-json-schema/v{kubernetes}-local-strict"
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    schema = schemas.schema_contents(f"{folder}/{kind.lower()}-{group}.json", kubernetes)
    return jsonschema.Draft202012Validator(schema, registry=_definitions(folder, kubernetes))


@cache
def _definitions(folder: str, kubernetes: str) -> Any:
    contents = schemas.schema_contents(f"{folder}/_definitions.json", kubernetes)
    return referencing.Resource.from_contents(contents) @ referencing.Registry()


def _default(resource: Resource, document: Document) -> None:
    """Fill in what the API server fills in, as far as somebody looks at it."""
    if resource.plural == "pods":
        document["spec"].setdefault("restartPolicy", "Always")
        document["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
    if resource.plural == "persistentvolumeclaims":
        document["status"] = {"phase": "Pending"}
    if resource.plural == "jobs":
        _default_job(document)


def _default_job(job: Document) -> None:
    spec, uid = job["spec"], job["metadata"]["uid"]
    if "completions" not in spec and "parallelism" not in spec:
        spec["completions"] = 1
    spec.setdefault("parallelism", 1)
    spec.setdefault("completionMode", "NonIndexed")
    spec.setdefault("backoffLimit", 2147483647 if "backoffLimitPerIndex" in spec else 6)
    spec.setdefault("podReplacementPolicy", "Failed" if "podFailurePolicy" in spec else "TerminatingOrFailed")
    spec.setdefault("suspend", False)
    spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    names = {"batch.kubernetes.io/job-name": job["metadata"]["name"], "job-name": job["metadata"]["name"]}
    own = {"batch.kubernetes.io/controller-uid": uid, "controller-uid": uid, **names}
    metadata = spec["template"].setdefault("metadata", {})
    metadata["labels"] = {**(metadata.get("labels") or {}), **own}
    job["status"] = {}


def _check_job(job: Document) -> None:
    """Refuse what the API server refuses in a Job, beside its schema."""
    for wrong, where, text in _job_faults(job["metadata"]["name"], job["spec"]):
        if wrong:
            raise ApiError(422, "Invalid", f'Job.batch "{job["metadata"]["name"]}" is invalid: {where}: {text}')


def _job_faults(name: str, spec: Document) -> Iterator[tuple[bool, str, str]]:
    indexed = spec.get("completionMode") == "Indexed"
    restart = spec["template"]["spec"].get("restartPolicy", "Always")
    longest = len(f"{name}-{max(int(spec.get('completions') or 1) - 1, 0)}") if indexed else len(name)
    rules = (spec.get("podFailurePolicy") or {}).get("rules") or []
    per_index = "backoffLimitPerIndex" in spec
    yield longest > 63, "metadata.name", "must be no more than 63 characters, with an index"
    yield (
        restart not in ("Never", "OnFailure"),
        "spec.template.spec.restartPolicy",
        "Required value: valid values: Never",
    )
    yield (
        indexed and spec.get("completions") is None,
        "spec.completions",
        "Required value: when completionMode is Indexed",
    )
    yield per_index and not indexed, "spec.backoffLimitPerIndex", "Invalid value: requires indexed completion mode"
    yield "maxFailedIndexes" in spec and not per_index, "spec.backoffLimitPerIndex", "Required value"
    yield spec.get("maxFailedIndexes", 0) > (spec.get("completions") or 0), "spec.maxFailedIndexes", "Invalid value"
    yield "successPolicy" in spec and not indexed, "spec.successPolicy", "requires indexed completion mode"
    yield bool(rules) and restart != "Never", "spec.podFailurePolicy", "only restartPolicy=Never is supported"
    yield any(rule["action"] == "FailIndex" for rule in rules) and not per_index, "spec.podFailurePolicy", "FailIndex"
    yield (
        spec.get("ttlSecondsAfterFinished", 0) < 0,
        "spec.ttlSecondsAfterFinished",
        "must be greater than or equal to 0",
    )
