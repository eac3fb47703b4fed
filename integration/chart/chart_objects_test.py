"""Rules that hold for every object that every value set renders: references, security, rights, networks."""
import json
import pathlib
import re
import sys
import tempfile
import unittest

import yaml

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from chart import (  # noqa: E402  pylint: disable=wrong-import-position
    CHART, HELM, PARTS, SETS, containers, name_of, objects, pod_template, pods, render_text)

# What uses a folder of the host, which Pod Security "restricted" and "baseline" forbid. Nothing else may.
HOST_PODS = re.compile("DaemonSet/.*-sdc|Pod/.*-test-volume")


@HELM
class Objects(unittest.TestCase):
    """Rules that hold for every object of every value set."""

    values = ""

    def each(self):
        for path in SETS:
            self.values = path.name
            yield path, objects(path)

    def _formatMessage(self, msg, standardMsg):
        return super()._formatMessage(f"{self.values}: {msg or ''}", standardMsg)

    def test_names_are_unique_and_namespaces_and_labels_are_there(self):
        cluster_wide = {"ClusterRole", "ClusterRoleBinding", "PriorityClass"}
        for _, found in self.each():
            names = [(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in found]
            self.assertEqual(len(names), len(set(names)))
            for item in found:
                if item["metadata"]["name"].endswith(("-extra", "-more")):
                    continue
                self.assertEqual("namespace" in item["metadata"], item["kind"] not in cluster_wide, name_of(item))
                for label in ("name", "instance", "component", "part-of", "managed-by", "version"):
                    self.assertIn(f"app.kubernetes.io/{label}", item["metadata"]["labels"], name_of(item))
                self.assertIn("helm.sh/chart", item["metadata"]["labels"])

    def test_selectors_match_their_pods_and_never_change_with_a_version(self):
        for _, found in self.each():
            for item in found:
                selector = item.get("spec", {}).get("selector", {})
                if item["kind"] in ("StatefulSet", "DaemonSet", "Deployment"):
                    labels = pod_template(item)["metadata"]["labels"]
                    self.assertLessEqual(selector["matchLabels"].items(), labels.items(), name_of(item))
                    self.assertFalse({"helm.sh/chart", "app.kubernetes.io/version"} & set(labels))
                for claim in item.get("spec", {}).get("volumeClaimTemplates", []):
                    self.assertFalse({"helm.sh/chart", "app.kubernetes.io/version"} & set(claim["metadata"]["labels"]))

    def test_services_lead_to_ports_that_pods_have(self):
        for _, found in self.each():
            templates = [pod_template(item) for item in found if pod_template(item) and item["kind"] != "Pod"]
            for service in (item for item in found if item["kind"] == "Service"):
                matching = [
                    template
                    for template in templates
                    if service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
                ]
                self.assertEqual(len(matching), 1, name_of(service))
                names = {port["name"] for container in containers(matching[0]) for port in container.get("ports", [])}
                self.assertLessEqual({port["targetPort"] for port in service["spec"]["ports"]}, names, name_of(service))

    def test_every_mount_has_a_volume_and_every_volume_is_used(self):
        for path, found in self.each():
            claims = {
                name_of(item): {claim["metadata"]["name"] for claim in item["spec"].get("volumeClaimTemplates", [])}
                for item in found
                if item["kind"] == "StatefulSet"
            }
            for name, template in pods(path):
                volumes = {volume["name"] for volume in template["spec"].get("volumes", [])} | claims.get(name, set())
                mounted = {
                    mount["name"]
                    for container in containers(template)
                    for mount in container.get("volumeMounts", []) + container.get("volumeDevices", [])
                }
                self.assertEqual(mounted, volumes, name)

    def test_what_is_referred_to_exists_or_is_made_by_the_secrets_job(self):
        for path, found in self.each():
            there = {name_of(item) for item in found}
            made = {
                f"Secret/{name}"
                for item in found
                if item["kind"] == "Role"
                for rule in item["rules"]
                for name in rule.get("resourceNames", [])
            }
            made |= {f"Secret/{item['spec']['secretName']}" for item in found if item["kind"] == "Certificate"}
            values = yaml.safe_load(path.read_text()) or {}
            given = re.findall(r"(?:our-[a-z-]+|nbd-public|console-public|tessera-notifications)", json.dumps(values))
            made |= {f"Secret/{name}" for name in given}
            accounts = {"default", "storage"} | {
                item["metadata"]["name"] for item in found if item["kind"] == "ServiceAccount"
            }
            for name, template in pods(path):
                self.assertIn(template["spec"]["serviceAccountName"], accounts, name)
                for volume in template["spec"].get("volumes", []):
                    for source in volume.get("projected", {}).get(
                        "sources", [{k: v for k, v in volume.items() if k == "secret"}]
                    ):
                        if "secret" in source:
                            self.assertIn(
                                f"Secret/{source['secret'].get('name') or source['secret']['secretName']}", made, name
                            )
                        if source.get("configMap", {}).get("name", "kube-root-ca.crt") != "kube-root-ca.crt":
                            self.assertIn(f"ConfigMap/{source['configMap']['name']}", there, name)

    def test_every_container_has_resources_probes_and_a_security_context(self):
        for path, _ in self.each():
            for name, template in pods(path):
                self.assertFalse(
                    template["spec"].get("hostNetwork")
                    or template["spec"].get("hostPID")
                    or template["spec"].get("hostIPC")
                )
                for container in containers(template):
                    where = f"{name} {container['name']}"
                    self.assertIn("memory", container["resources"]["limits"], where)
                    self.assertIn("cpu", container["resources"]["requests"], where)
                    self.assertRegex(container["image"], r"^([a-z.]+/)?([a-z]+/)?tessera[:@]", where)
                    self.assertTrue(container["command"][0].startswith("/"), where)
                    if container["name"] in PARTS:
                        health = next(port["containerPort"] for port in container["ports"] if port["name"] == "health")
                        for kind in ("startup", "readiness", "liveness"):
                            self.assertEqual(
                                container[f"{kind}Probe"]["grpc"], {"port": health, "service": kind}, where
                            )
                    elif name.startswith("Deployment"):
                        self.assertIn("readinessProbe", container, where)

    def test_pods_are_restricted_and_the_exceptions_are_those_that_are_argued(self):
        for path, _ in self.each():
            for name, template in pods(path):
                spec = template["spec"]
                pod = spec["securityContext"]
                host = [volume["name"] for volume in spec.get("volumes", []) if "hostPath" in volume]
                self.assertEqual(bool(host), bool(HOST_PODS.fullmatch(name)), name)
                self.assertEqual(pod["seccompProfile"], {"type": "RuntimeDefault"}, name)
                self.assertEqual(pod["runAsNonRoot"], not name.startswith("DaemonSet"), name)
                self.assertEqual(
                    (pod["runAsUser"], pod["runAsGroup"]), (0 if name.startswith("DaemonSet") else 65532, 65532), name
                )
                self.assertEqual((pod["fsGroup"], pod["fsGroupChangePolicy"]), (65532, "OnRootMismatch"), name)
                self.assertFalse(spec["automountServiceAccountToken"], name)
                self.assertFalse(spec["enableServiceLinks"], name)
                for container in containers(template):
                    self.assertEqual(
                        container["securityContext"],
                        {
                            "allowPrivilegeEscalation": False,
                            "readOnlyRootFilesystem": True,
                            "capabilities": {"drop": ["ALL"]},
                        },
                        name,
                    )
                    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
                    self.assertNotIn("/etc/tessera", writable, name)

    def test_servers_with_block_devices_are_in_the_group_disk_and_others_are_not(self):
        for path, found in self.each():
            server = next(
                item for item in found if item["kind"] == "StatefulSet" and item["metadata"]["name"].endswith("-sds")
            )
            block = [
                claim for claim in server["spec"]["volumeClaimTemplates"] if claim["spec"].get("volumeMode") == "Block"
            ]
            spec = pod_template(server)["spec"]
            self.assertEqual(spec["securityContext"].get("supplementalGroups", []), [6] if block else [], path.name)
            self.assertEqual(
                {device["name"] for device in spec["containers"][0].get("volumeDevices", [])},
                {claim["metadata"]["name"] for claim in block},
            )

    def test_the_token_of_kubernetes_is_where_it_is_used_and_nowhere_else(self):
        wanted = {"secrets", "renewal", "fault-set"}
        for path, _ in self.each():
            for name, template in pods(path):
                for container in containers(template):
                    has = any("serviceaccount" in mount["mountPath"] for mount in container["volumeMounts"])
                    self.assertEqual(has, container["name"] in wanted, name)

    def test_rights_are_the_least(self):
        for _, found in self.each():
            for role in (item for item in found if item["kind"] in ("Role", "ClusterRole")):
                for rule in role["rules"]:
                    self.assertNotIn("*", rule["verbs"] + rule["resources"] + rule["apiGroups"])
                    if rule["resources"] == ["secrets"]:
                        self.assertTrue(
                            rule["verbs"] == ["create"]
                            or (rule["verbs"] == ["get", "update"] and rule["resourceNames"])
                        )
                    else:
                        self.assertEqual(rule["resources"], ["nodes"])
                        self.assertIn(rule["verbs"], (["get"], ["list"]))

    def test_config_maps_hold_no_secret(self):
        for _, found in self.each():
            for item in found:
                self.assertNotEqual(
                    item["kind"], "Secret", "the chart makes none: they would be in the release and in every render"
                )
                if item["kind"] == "ConfigMap":
                    self.assertNotRegex(
                        json.dumps(item.get("data")), r"PRIVATE KEY|BEGIN CERT|join_token = |password *=", name_of(item)
                    )
            for container in (
                container for item in found if pod_template(item) for container in containers(pod_template(item))
            ):
                for item in container.get("env", []):
                    self.assertNotIn(
                        "secretKeyRef",
                        item.get("valueFrom", {}),
                        "secrets come as files, which are replaced without a restart",
                    )

    def test_a_part_restarts_for_its_own_settings_alone(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "values.yaml"
            before = self.checksums(CHART / "ci" / "default-values.yaml")
            self.assertEqual(set(before), set(PARTS))
            for part in PARTS:
                path.write_text(json.dumps({part: {"logLevel": "debug"}}))
                after = self.checksums(path)
                self.assertEqual([name for name in PARTS if after[name] != before[name]], [part])

    @staticmethod
    def checksums(path):
        found = yaml.safe_load_all(render_text(path))
        return {
            item["metadata"]["name"].rsplit("-", 1)[1]: pod_template(item)["metadata"]["annotations"]["checksum/config"]
            for item in found
            if item
            and item["kind"] in ("StatefulSet", "DaemonSet", "Deployment")
            and not item["metadata"]["name"].endswith("toolbox")
        }

    def test_hooks_come_in_the_right_order(self):
        found = {
            name_of(item): item["metadata"].get("annotations", {})
            for item in objects(CHART / "ci" / "default-values.yaml")
        }
        weight = {
            name: int(annotations["helm.sh/hook-weight"])
            for name, annotations in found.items()
            if "helm.sh/hook-weight" in annotations
        }
        account, secrets, check = (
            weight[name]
            for name in ("RoleBinding/rel-tessera-secrets", "Job/rel-tessera-secrets", "Job/rel-tessera-upgrade-check")
        )
        self.assertTrue(account < secrets < check)
        hooks = {
            name: annotations["helm.sh/hook"] for name, annotations in found.items() if "helm.sh/hook" in annotations
        }
        self.assertEqual(
            {name: hook for name, hook in hooks.items() if name.startswith(("Job", "Pod"))},
            {
                "Job/rel-tessera-secrets": "pre-install,pre-upgrade",
                "Job/rel-tessera-upgrade-check": "pre-upgrade",
                "Job/rel-tessera-objects": "post-install,post-upgrade",
                "Job/rel-tessera-delete-check": "pre-delete",
                "Pod/rel-tessera-test-volume": "test",
            },
        )
        for name in hooks:
            if name.startswith("Job"):
                self.assertEqual(
                    found[name]["helm.sh/hook-output-log-policy"],
                    "hook-failed",
                    "whoever runs helm is to see the reason",
                )
        # What a hook before the first install needs has to be a hook, too.
        self.assertEqual(hooks["ServiceAccount/rel-tessera-secrets"], "pre-install,pre-upgrade")
        self.assertNotIn("ServiceAccount/rel-tessera-renewal", hooks)

    def test_without_something_to_make_there_is_no_job_for_secrets(self):
        names = {name_of(item) for item in objects(CHART / "ci" / "tls-existing-secret-values.yaml")}
        self.assertFalse({name for name in names if "secrets" in name or "renewal" in name or name.startswith("Role")})
        names = {name_of(item) for item in objects(CHART / "ci" / "tls-cert-manager-values.yaml")}
        self.assertIn("Job/rel-tessera-secrets", names)
        self.assertNotIn("CronJob/rel-tessera-renewal", names)


@HELM
class Certificates(unittest.TestCase):
    def test_both_ways_of_making_certificates_give_them_the_same_names(self):
        generated = next(
            template
            for name, template in pods(CHART / "ci" / "default-values.yaml")
            if name == "CronJob/rel-tessera-renewal"
        )
        environment = {item["name"]: item.get("value") for item in containers(generated)[0]["env"]}
        for item in objects(CHART / "ci" / "tls-cert-manager-values.yaml"):
            if item["kind"] != "Certificate" or item["spec"].get("isCA"):
                continue
            role = item["spec"]["commonName"]
            self.assertEqual(item["spec"]["secretName"], f"rel-tessera-{role}-tls")
            self.assertEqual(item["spec"]["uris"], [f"spiffe://rel/{role}/rel-tessera"])
            self.assertEqual(item["spec"]["dnsNames"], environment[f"TESSERA_DNS_NAMES_{role.upper()}"].split())
            self.assertEqual(
                item["spec"]["privateKey"], {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"}
            )
            self.assertLessEqual({"server auth", "client auth"}, set(item["spec"]["usages"]))

    def test_names_by_which_parts_are_called_are_in_their_certificates(self):
        for path in SETS:
            found = objects(path)
            config = next(
                item for item in found if item["metadata"]["name"].endswith("-config") and item["kind"] == "ConfigMap"
            )
            address = re.search(r'^mdm = "(.*):8001"$', config["data"]["sds.toml"], re.M).group(1)
            job = next((template for name, template in pods(path) if name.startswith("CronJob")), None)
            if job is None:
                continue
            environment = {item["name"]: item.get("value") for item in containers(job)[0]["env"]}
            self.assertIn("*." + address.split(".", 1)[1], environment["TESSERA_DNS_NAMES_MDM"].split(), path.name)
            server = next(template for name, template in pods(path) if name.endswith("-sds"))
            host = next(
                item["value"]
                for item in server["spec"]["containers"][0]["env"]
                if item["name"] == "TESSERA_SDS_ADVERTISE_HOST"
            )
            self.assertIn(host.replace("$(POD_NAME)", "*"), environment["TESSERA_DNS_NAMES_SDS"].split(), path.name)


@HELM
class Network(unittest.TestCase):
    """Who may connect to whom is who has to, and nobody else of the release."""

    WANTED = {
        ("mdm", 8001): {"sds", "sdc", "mgmt", "jobs", "toolbox"},
        ("sds", 9100): {"mdm", "toolbox"},
        ("sds", 9200): {"mgmt"},
        ("sds", 9700): {"sds", "sdc"},
        ("sdc", 8003): {"mdm", "sdc"},
        ("sdc", 8004): {"mgmt"},
    }
    HEALTH = {"mdm": 8007, "sds": 9500, "sdc": 8008, "mgmt": 5003}
    METRICS = {"mdm": 8002, "sds": 9400, "sdc": 8006, "mgmt": 5002}

    def rules(self, values):
        """(part, port) to the components, or None for everybody."""
        allowed = {}
        for policy in objects(CHART / "ci" / f"{values}-values.yaml"):
            if policy["kind"] != "NetworkPolicy":
                continue
            part = policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
            for rule in policy["spec"]["ingress"]:
                peers = (
                    None
                    if "from" not in rule
                    else {
                        peer.get("podSelector", {}).get("matchLabels", {}).get("app.kubernetes.io/component", "outside")
                        for peer in rule["from"]
                    }
                )
                for port in rule["ports"]:
                    allowed[part, port["port"]] = peers
        return allowed

    def test_planes(self):
        allowed = self.rules("network-policies")
        self.assertEqual(
            allowed,
            {
                **self.WANTED,
                **{(part, port): None for part, port in self.HEALTH.items()},
                ("mgmt", 5000): None,
                ("mgmt", 5001): None,
            },
        )

    def test_from_outside_come_those_that_are_named(self):
        allowed = self.rules("production")
        self.assertEqual(
            allowed,
            {
                **self.WANTED,
                **{(part, port): None for part, port in self.HEALTH.items()},
                **{(part, port): {"outside"} for part, port in self.METRICS.items()},
                ("mgmt", 5000): {"outside", "toolbox"},
                ("mgmt", 5001): {"outside", "toolbox"},
            },
        )
        self.assertEqual(self.rules("nbd-tcp")["sdc", 8005], {"outside"})

    def test_every_port_of_a_part_has_a_rule(self):
        allowed = self.rules("production")
        for name, template in pods(CHART / "ci" / "production-values.yaml"):
            for container in containers(template):
                for port in container.get("ports", []):
                    self.assertIn((container["name"], port["containerPort"]), allowed, name)


if __name__ == "__main__":
    unittest.main()
