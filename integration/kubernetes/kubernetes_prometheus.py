"""A real Prometheus that finds Tessera's parts as the Prometheus Operator would have it: from the ServiceMonitors and
PodMonitors in the cluster, by Kubernetes' service discovery, with the rules of the PrometheusRules in it.
"""
import json
import pathlib
import re
import sys
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


class KubernetesPrometheus(prometheus.Prometheus):
    """plane: the control plane. start() reads what the cluster has then."""

    def __init__(self, plane):
        super().__init__([])
        self.plane = plane
        self.began = None

    def _listed(self, kind):
        return json.loads(self.plane.kubectl("get", kind, "--all-namespaces", "--output", "json"))["items"]

    def _jobs(self):
        for kind, role, owner, port in (
                ("servicemonitors", "endpointslice", "service", "__meta_kubernetes_endpointslice_port_name"),
                ("podmonitors", "pod", "pod", "__meta_kubernetes_pod_container_port_name")):
            for monitor in self._listed(kind):
                spec = monitor["spec"]
                for endpoint in spec.get("endpoints") or spec["podMetricsEndpoints"]:
                    relabelings = [{"action": "keep", "source_labels": [meta_label(owner, name)], "regex": re.escape(value)}
                                   for name, value in spec["selector"]["matchLabels"].items()]
                    relabelings.append({"action": "keep", "source_labels": [port], "regex": endpoint["port"]})
                    relabelings += [{RELABELING[key]: value for key, value in each.items()}
                                    for each in endpoint["relabelings"]]
                    yield {"job_name": f"{kind}/{monitor['metadata']['name']}", "metrics_path": endpoint["path"],
                           "kubernetes_sd_configs": [{"role": role, "kubeconfig_file": str(self.plane.kubeconfig),
                                                      "namespaces": {"names": spec["namespaceSelector"]["matchNames"]}}],
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
