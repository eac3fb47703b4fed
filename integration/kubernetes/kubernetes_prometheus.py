"""A real Prometheus that finds Tessera's parts as the Prometheus Operator would have it: from the ServiceMonitors and
PodMonitors in the cluster, with the rules of the PrometheusRules in it.

Debian's Prometheus is built without Kubernetes' service discovery, so its work is done here: targets with the labels
that it gives them go to files, which Prometheus reads. Who is scraped and under which names is up to the monitors.
"""
import json
import pathlib
import re
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "monitoring")]
import prometheus  # noqa: E402  pylint: disable=wrong-import-position

STEP_SECONDS = 2
# camelCase of a monitor's relabelings to Prometheus' own.
RELABELING = {"action": "action", "targetLabel": "target_label", "replacement": "replacement",
              "sourceLabels": "source_labels", "regex": "regex", "separator": "separator"}


def meta_label(kind, name):
    return f"__meta_kubernetes_{kind}_label_{re.sub(r'[^a-zA-Z0-9_]', '_', name)}"


def labels_of(kind, item):
    return {meta_label(kind, name): value for name, value in item["metadata"].get("labels", {}).items()}


class Discovery:
    """Targets of the roles pod and endpointslice, as Prometheus' Kubernetes discovery has them, kept in files."""

    def __init__(self, client, folder):
        self.client = client
        self.folder = folder
        self.done = threading.Event()
        self.fault = None
        self.refresh()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def file(self, role):
        return self.folder / f"{role}.json"

    def refresh(self):
        services = {(item["metadata"]["namespace"], item["metadata"]["name"]): item
                    for item in self.client.get("/api/v1/services")["items"]}
        slices = self.client.get("/apis/discovery.k8s.io/v1/endpointslices")["items"]
        pods = self.client.get("/api/v1/pods")["items"]
        for role, targets in (("endpointslice", self.of_slices(slices, services)), ("pod", self.of_pods(pods))):
            new = self.file(role).with_suffix(".new")
            new.write_text(json.dumps(list(targets)))
            new.rename(self.file(role))

    @staticmethod
    def of_pods(pods):
        for pod in pods:
            if pod["status"].get("phase") != "Running" or not pod["status"].get("podIP"):
                continue
            for container in pod["spec"]["containers"]:
                for port in container.get("ports", []):
                    yield {"targets": [f"{pod['status']['podIP']}:{port['containerPort']}"], "labels": {
                        "__meta_kubernetes_namespace": pod["metadata"]["namespace"],
                        "__meta_kubernetes_pod_name": pod["metadata"]["name"],
                        "__meta_kubernetes_pod_node_name": pod["spec"]["nodeName"],
                        "__meta_kubernetes_pod_container_port_name": port.get("name", ""), **labels_of("pod", pod)}}

    @staticmethod
    def of_slices(slices, services):
        for piece in slices:
            namespace = piece["metadata"]["namespace"]
            service = services.get((namespace, piece["metadata"]["labels"].get("kubernetes.io/service-name")))
            for endpoint in piece.get("endpoints") or [] if service else []:
                for port in piece.get("ports") or []:
                    yield {"targets": [f"{endpoint['addresses'][0]}:{port['port']}"], "labels": {
                        "__meta_kubernetes_namespace": namespace,
                        "__meta_kubernetes_endpointslice_port_name": port.get("name", ""),
                        "__meta_kubernetes_pod_name": endpoint.get("targetRef", {}).get("name", ""),
                        **labels_of("service", service)}}

    def _run(self):
        while not self.done.wait(STEP_SECONDS):
            try:
                self.refresh()
            except Exception as fault:  # pylint: disable=broad-except
                self.fault = fault

    def stop(self):
        self.done.set()
        self.thread.join()


class KubernetesPrometheus(prometheus.Prometheus):
    """plane: the control plane; client: a node_api.Client of it. start() reads what the cluster has then."""

    def __init__(self, plane, client):
        super().__init__([])
        self.plane = plane
        self.discovery = Discovery(client, self.folder)
        self.began = None

    def stop(self):
        self.discovery.stop()
        super().stop()

    def _listed(self, kind):
        return json.loads(self.plane.kubectl("get", kind, "--all-namespaces", "--output", "json"))["items"]

    def _jobs(self):
        for kind, role, owner, port in (
                ("servicemonitors", "endpointslice", "service", "__meta_kubernetes_endpointslice_port_name"),
                ("podmonitors", "pod", "pod", "__meta_kubernetes_pod_container_port_name")):
            for monitor in self._listed(kind):
                spec = monitor["spec"]
                for endpoint in spec.get("endpoints") or spec["podMetricsEndpoints"]:
                    wanted = {meta_label(owner, name): value for name, value in spec["selector"]["matchLabels"].items()}
                    relabelings = [{"action": "keep", "source_labels": [name], "regex": re.escape(value)}
                                   for name, value in wanted.items()]
                    relabelings.append({"action": "keep", "source_labels": ["__meta_kubernetes_namespace"],
                                        "regex": "|".join(spec["namespaceSelector"]["matchNames"])})
                    relabelings.append({"action": "keep", "source_labels": [port], "regex": endpoint["port"]})
                    relabelings += [{RELABELING[key]: value for key, value in each.items()}
                                    for each in endpoint["relabelings"]]
                    yield {"job_name": f"{kind}/{monitor['metadata']['name']}", "metrics_path": endpoint["path"],
                           "file_sd_configs": [{"files": [str(self.discovery.file(role))], "refresh_interval": "1s"}],
                           "relabel_configs": relabelings}

    def configuration(self):
        rules = self.folder / "rules"
        rules.mkdir(exist_ok=True)
        for rule in self._listed("prometheusrules"):
            (rules / f"{rule['metadata']['name']}.yaml").write_text(json.dumps(rule["spec"]))
        assert list(rules.iterdir()), "no PrometheusRule in the cluster"
        self.began = time.time()
        return {"global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(rules / "*.yaml")], "scrape_configs": list(self._jobs())}

    def targets(self):
        """Job and instance of what answers."""
        return {(each["labels"]["job"], each["labels"]["instance"]) for each in self.ask("targets")["activeTargets"]
                if each["health"] == "up"}

    def had_values(self, expression):
        """Whether the expression had a value at any time since the start."""
        answer = self.ask("query_range", query=expression, start=self.began, end=time.time(), step=STEP_SECONDS)
        return any(number == number for series in answer["result"] for _, text in series["values"]
                   for number in [float(text)])

    def dashboards(self):
        """Dashboard, panel and expression of the ConfigMaps that Grafana's sidecar would load."""
        for item in json.loads(self.plane.kubectl("get", "configmaps", "--all-namespaces", "--selector",
                                                  "grafana_dashboard=1", "--output", "json"))["items"]:
            for text in item["data"].values():
                board = json.loads(text)
                for panel in board["panels"]:
                    for target in panel.get("targets", []):
                        yield board["title"], panel["title"], target["expr"]
