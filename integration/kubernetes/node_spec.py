"""Which fields of a pod's spec the node agent honours, which it knows to be without effect here, and what else it
refuses; and the parts of a spec that are computed: $(NAME), fieldRef, resourceFieldRef, quantities.
"""
import math
import re

HONOURED = "honoured"
NO_EFFECT = "no effect"


class Only:
    """Honoured when it is one of these values, refused otherwise."""

    def __init__(self, *values):
        self.values = values


class Lists:
    """A list whose items follow the rules."""

    def __init__(self, rules):
        self.rules = rules


KEY_SELECTOR = {"name": HONOURED, "key": HONOURED, "optional": HONOURED}
OBJECT_SELECTOR = {"name": HONOURED, "optional": HONOURED}
FIELD = {"fieldPath": HONOURED, "apiVersion": Only("v1")}
RESOURCE_FIELD = {"containerName": HONOURED, "resource": HONOURED, "divisor": HONOURED}
ITEMS = Lists({"key": HONOURED, "path": HONOURED, "mode": HONOURED})
DOWNWARD_ITEMS = Lists({"path": HONOURED, "mode": HONOURED, "fieldRef": FIELD, "resourceFieldRef": RESOURCE_FIELD})
HTTP_GET = {"path": HONOURED, "port": HONOURED, "host": HONOURED, "scheme": HONOURED,
            "httpHeaders": Lists({"name": HONOURED, "value": HONOURED})}
PROBE = {
    "grpc": {"port": HONOURED, "service": HONOURED}, "httpGet": HTTP_GET, "exec": {"command": HONOURED},
    "tcpSocket": {"port": HONOURED, "host": HONOURED}, "initialDelaySeconds": HONOURED, "timeoutSeconds": HONOURED,
    "periodSeconds": HONOURED, "successThreshold": HONOURED, "failureThreshold": HONOURED,
    "terminationGracePeriodSeconds": HONOURED}
SECCOMP = {"type": NO_EFFECT, "localhostProfile": NO_EFFECT}

CONTAINER = {
    "name": HONOURED, "image": HONOURED, "imagePullPolicy": NO_EFFECT, "command": HONOURED, "args": HONOURED,
    "workingDir": HONOURED,
    "env": Lists({"name": HONOURED, "value": HONOURED, "valueFrom": {
        "fieldRef": FIELD, "resourceFieldRef": RESOURCE_FIELD, "secretKeyRef": KEY_SELECTOR,
        "configMapKeyRef": KEY_SELECTOR}}),
    "envFrom": Lists({"prefix": HONOURED, "secretRef": OBJECT_SELECTOR, "configMapRef": OBJECT_SELECTOR}),
    "ports": Lists({"name": HONOURED, "containerPort": HONOURED, "protocol": Only("TCP", "UDP")}),
    # Limits are what resourceFieldRef shows; nothing is held to them, and there are no extended resources here.
    "resources": {"limits": {"cpu": NO_EFFECT, "memory": NO_EFFECT, "ephemeral-storage": NO_EFFECT},
                  "requests": {"cpu": NO_EFFECT, "memory": NO_EFFECT, "ephemeral-storage": NO_EFFECT}},
    "securityContext": {
        "runAsUser": HONOURED, "runAsGroup": HONOURED, "runAsNonRoot": HONOURED, "readOnlyRootFilesystem": HONOURED,
        "allowPrivilegeEscalation": HONOURED, "capabilities": {"add": HONOURED, "drop": HONOURED},
        "privileged": Only(False), "seccompProfile": SECCOMP},
    "volumeMounts": Lists({"name": HONOURED, "mountPath": HONOURED, "readOnly": HONOURED, "subPath": HONOURED,
                           "mountPropagation": Only("None")}),
    "volumeDevices": Lists({"name": HONOURED, "devicePath": HONOURED}),
    "startupProbe": PROBE, "readinessProbe": PROBE, "livenessProbe": PROBE,
    "lifecycle": {"preStop": {"exec": {"command": HONOURED}, "httpGet": HTTP_GET, "sleep": {"seconds": HONOURED}},
                  "postStart": {"exec": {"command": HONOURED}, "httpGet": HTTP_GET, "sleep": {"seconds": HONOURED}}},
    "terminationMessagePath": HONOURED, "terminationMessagePolicy": HONOURED}

VOLUME = {
    "name": HONOURED,
    "emptyDir": {"medium": Only("", "Memory"), "sizeLimit": HONOURED},  # only in memory is the limit held
    "configMap": {**OBJECT_SELECTOR, "items": ITEMS, "defaultMode": HONOURED},
    "secret": {"secretName": HONOURED, "optional": HONOURED, "items": ITEMS, "defaultMode": HONOURED},
    "downwardAPI": {"items": DOWNWARD_ITEMS, "defaultMode": HONOURED},
    "hostPath": {"path": HONOURED, "type": HONOURED},
    "persistentVolumeClaim": {"claimName": HONOURED, "readOnly": HONOURED},
    "projected": {"defaultMode": HONOURED, "sources": Lists({
        "configMap": {**OBJECT_SELECTOR, "items": ITEMS}, "secret": {**OBJECT_SELECTOR, "items": ITEMS},
        "downwardAPI": {"items": DOWNWARD_ITEMS},
        "serviceAccountToken": {"audience": HONOURED, "expirationSeconds": HONOURED, "path": HONOURED}})}}

POD = {
    "containers": Lists(CONTAINER), "initContainers": Lists(CONTAINER), "volumes": Lists(VOLUME),
    "restartPolicy": HONOURED, "terminationGracePeriodSeconds": HONOURED, "hostname": HONOURED, "subdomain": HONOURED,
    "serviceAccountName": HONOURED, "serviceAccount": HONOURED, "enableServiceLinks": HONOURED,
    "dnsPolicy": Only("ClusterFirst", "Default", "None", "ClusterFirstWithHostNet"),
    "dnsConfig": {"nameservers": HONOURED, "searches": HONOURED,
                  "options": Lists({"name": HONOURED, "value": HONOURED})},
    "hostAliases": Lists({"ip": HONOURED, "hostnames": HONOURED}),
    "securityContext": {
        "runAsUser": HONOURED, "runAsGroup": HONOURED, "runAsNonRoot": HONOURED, "supplementalGroups": HONOURED,
        "fsGroup": HONOURED, "fsGroupChangePolicy": HONOURED, "seccompProfile": SECCOMP},
    # The work of the scheduler and of admission, which are the real ones.
    **{name: NO_EFFECT for name in (
        "nodeName", "nodeSelector", "affinity", "tolerations", "topologySpreadConstraints", "schedulerName",
        "priority", "priorityClassName", "preemptionPolicy", "automountServiceAccountToken")},
    # The registry is not there.
    "imagePullSecrets": NO_EFFECT,
    "hostNetwork": Only(False), "hostPID": Only(False), "hostIPC": Only(False), "shareProcessNamespace": Only(False)}


def refusals(value, rules=None, path="spec"):
    """What the agent does not do though the spec asks for it: a list of sentences."""
    rules = POD if rules is None else rules
    if rules in (HONOURED, NO_EFFECT) or value is None:
        return []
    if isinstance(rules, Only):
        return [] if value in rules.values else [f"{path}: {value!r} is not supported"]
    if isinstance(rules, Lists):
        return [text for index, item in enumerate(value) for text in refusals(item, rules.rules, f"{path}[{index}]")]
    found = []
    for key, item in value.items():
        if key not in rules:
            found.append(f"{path}.{key} is not supported")
        else:
            found += refusals(item, rules[key], f"{path}.{key}")
    return found


def expand(text, values):
    """$(NAME) where NAME is known; $$ is one $."""
    def replace(match):
        if match.group(0) == "$$":
            return "$"
        return values.get(match.group(1), match.group(0))
    return re.sub(r"\$\$|\$\(([^()]*)\)", replace, text)


_SUFFIXES = {"": 1, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
             "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}


def quantity(text):
    """500m, 1Gi, ... as a number."""
    match = re.fullmatch(r"([0-9.]+(?:[eE][0-9]+)?)([a-zA-Z]*)", str(text))
    if match is None or match.group(2) not in _SUFFIXES:
        raise ValueError(f"{text!r} is no quantity")
    return float(match.group(1)) * _SUFFIXES[match.group(2)]


def resource_field(reference, container, allocatable):
    """The value of a resourceFieldRef."""
    kind, _, name = reference["resource"].partition(".")
    if kind not in ("limits", "requests") or name not in ("cpu", "memory", "ephemeral-storage"):
        raise ValueError(f"resourceFieldRef {reference['resource']} is not supported")
    value = container.get("resources", {}).get(kind, {}).get(name)
    if value is None:
        value = allocatable[name] if kind == "limits" else "0"
    divisor = reference.get("divisor", "1")
    return str(math.ceil(quantity(value) / quantity("1" if divisor == "0" else divisor)))


def pod_field(path, pod, node_ip, pod_ip):
    """The value of a fieldRef."""
    metadata, spec = pod["metadata"], pod["spec"]
    plain = {
        "metadata.name": metadata["name"], "metadata.namespace": metadata["namespace"], "metadata.uid": metadata["uid"],
        "spec.nodeName": spec["nodeName"], "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.hostIP": node_ip, "status.hostIPs": node_ip, "status.podIP": pod_ip, "status.podIPs": pod_ip}
    if path in plain:
        return plain[path]
    match = re.fullmatch(r"metadata\.(labels|annotations)(?:\['([^']+)'\])?", path)
    if match is None:
        raise ValueError(f"fieldRef {path} is not supported")
    values = metadata.get(match.group(1)) or {}
    if match.group(2):
        return values.get(match.group(2), "")
    return "\n".join(f'{key}="{escape(value)}"' for key, value in sorted(values.items()))


def escape(value):
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def selects(selector, labels):
    """Whether a LabelSelector takes these labels. An empty one takes all."""
    labels = labels or {}
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for term in selector.get("matchExpressions") or []:
        present, value = term["key"] in labels, labels.get(term["key"])
        holds = {"In": present and value in term.get("values", []), "NotIn": value not in term.get("values", []),
                 "Exists": present, "DoesNotExist": not present}[term["operator"]]
        if not holds:
            return False
    return True
