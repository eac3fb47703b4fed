"""What the Helm chart tells the parts, Prometheus and Grafana: the real binaries and promtool read it."""
import base64
import gzip
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import yaml

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from chart import (  # noqa: E402  pylint: disable=wrong-import-position
    CHART, HELM, NAMESPACE, PARTS, SETS, name_of, objects, pod_template, rendered, tool)
from cluster import BIN  # noqa: E402  pylint: disable=wrong-import-position



@HELM
class Settings(unittest.TestCase):
    """The TOML of every render is read by the real binaries."""

    def texts(self):
        for path in SETS:
            config = next(
                item
                for item in objects(path)
                if item["kind"] == "ConfigMap" and item["metadata"]["name"].endswith("-config")
            )
            yield path, config["data"]

    def test_values_become_toml_by_their_types(self):
        data = dict(self.texts())[CHART / "ci" / "config-values.yaml"]
        self.assertIn('stale-after = "45s"\n', data["mdm.toml"])
        self.assertIn('log-level = "trace"\n', data["mdm.toml"])
        self.assertIn("budget-mib = 512\n", data["sds.toml"])
        self.assertIn('device = ["/mnt/tessera/disk0,pool=pool1"]\n', data["sds.toml"])
        self.assertIn("replica-timeout = 2.5\n", data["sdc.toml"])
        self.assertIn("unflushed-mib = 1000000\n", data["sdc.toml"])
        self.assertNotIn("io-timeout", data["sdc.toml"])
        data = dict(self.texts())[CHART / "ci" / "mixed-devices-values.yaml"]
        self.assertIn(
            f'"/dev/tessera/fast,pool=pool1,capacity={400 << 30}", "/mnt/tessera/slow,pool=pool1,capacity={1 << 40}"',
            data["sds.toml"],
        )

    @unittest.skipUnless((BIN / "tessera-mdm").exists(), "there is no build")
    def test_the_binaries_are_content_with_the_settings(self):
        for part in PARTS:
            text = subprocess.run(
                [BIN / f"tessera-{part}", "--help"], capture_output=True, text=True, check=False
            ).stdout
            if not {"--config", "--check-config"} <= set(re.findall(r"--[a-z-]+", text)):
                self.skipTest(f"this build's tessera-{part} has no --config")
        checked = set()
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            self.make_files(folder)
            for path, data in self.texts():
                for part in PARTS:
                    text = data.get(f"{part}.toml")
                    if text is None or (part, text) in checked:
                        continue
                    checked.add((part, text))
                    with self.subTest(values=path.name, part=part):
                        self.check(part, text, data, folder)
        self.assertGreaterEqual(len(checked), 25)

    @staticmethod
    def make_files(folder):
        (folder / "etc/tls").mkdir(parents=True)
        tls = folder / "etc/tls"
        subprocess.run(
            [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=test",
                "-keyout",
                tls / "tls.key",
                "-out",
                tls / "tls.crt",
            ],
            check=True,
            capture_output=True,
        )
        (tls / "ca.crt").write_text((tls / "tls.crt").read_text())
        for other in ("nbd-tls", "console-tls"):
            (folder / "etc" / other).symlink_to("tls")
        (folder / "etc/join_token").write_text("0" * 64)
        (folder / "etc/notifications.toml").write_text("")
        (folder / "fault_set").write_text("zone-a\n")
        for name in ("state", "run", "devices", "console"):
            (folder / name).mkdir()

    def check(self, part, text, data, folder):
        for old, new in (
            ("/etc/tessera", "etc"),
            ("/var/lib/tessera", "state"),
            ("/run/tessera/fault_set", "fault_set"),
            ("/run/tessera", "run"),
            ("/mnt/tessera", "devices"),
            ("/dev/tessera", "devices"),
            ("/var/cache/tessera", "state"),
            ("/usr/share/tessera/console", "console"),
        ):
            text = text.replace(old, str(folder / new))
        (folder / "etc/alert_rules.toml").write_text(data.get("alert_rules.toml", ""))
        path = folder / f"{part}.toml"
        path.write_text(text)
        result = subprocess.run(
            [BIN / f"tessera-{part}", "--config", path, "--check-config"],
            capture_output=True,
            text=True,
            check=False,
            env={
                "PATH": "/usr/bin",
                "TESSERA_SDS_NAME": "rel-tessera-sds-0",
                "TESSERA_SDC_NAME": "node-1.example.org",
                "TESSERA_SDC_ADVERTISE_HOST": "10.1.2.3",
                "TESSERA_SDS_ADVERTISE_HOST": "rel-tessera-sds-0.x.svc",
                "TESSERA_SDS_HOST_ID": "a-b",
                "TESSERA_SDC_HOST_ID": "c-d",
            },
        )
        self.assertEqual(result.returncode, 0, text + result.stdout + result.stderr)


@HELM
class Monitoring(unittest.TestCase):
    def setUp(self):
        self.found = objects(CHART / "ci" / "monitoring-values.yaml")

    def test_scrapes_have_the_labels_that_rules_and_dashboards_go_by(self):
        jobs = {}
        for item in self.found:
            if item["kind"] in ("ServiceMonitor", "PodMonitor"):
                (endpoint,) = item["spec"].get("endpoints") or item["spec"]["podMetricsEndpoints"]
                labels = {rule["targetLabel"]: rule for rule in endpoint["relabelings"]}
                jobs[labels["job"]["replacement"]] = item
                self.assertEqual(labels["cluster"]["replacement"], "berlin")
                self.assertIn("sourceLabels", labels["instance"])
                self.assertEqual(item["metadata"]["namespace"], "monitoring")
                self.assertEqual(item["spec"]["namespaceSelector"], {"matchNames": [NAMESPACE]})
        self.assertEqual(set(jobs), {f"tessera-{part}" for part in PARTS})
        used = set(
            re.findall(
                r'job=~?"([^"]+)"', "".join(path.read_text() for path in (CHART / "files").rglob("*") if path.is_file())
            )
        )
        self.assertLessEqual(
            {name for name in used if name.startswith("tessera-") and re.fullmatch("[a-z-]+", name)}, set(jobs)
        )

    def test_monitors_select_what_has_a_port_called_metrics(self):
        plain = objects(CHART / "ci" / "default-values.yaml")
        for item in self.found:
            if item["kind"] in ("ServiceMonitor", "PodMonitor"):
                selector = item["spec"]["selector"]["matchLabels"].items()
                matching = [
                    other
                    for other in plain
                    if other["kind"] == "Service"
                    and selector <= other["metadata"]["labels"].items()
                    and any(port["name"] == "metrics" for port in other["spec"]["ports"])
                ]
                matching += [
                    other
                    for other in plain
                    if other["kind"] == "DaemonSet" and selector <= pod_template(other)["metadata"]["labels"].items()
                ]
                self.assertEqual(len(matching), 1, name_of(item))

    @unittest.skipUnless(tool("promtool"), "promtool is not installed (Debian package prometheus)")
    def test_rules_are_those_of_the_files_and_promtool_is_content(self):
        names = []
        with tempfile.TemporaryDirectory() as folder:
            for item in self.found + objects(CHART / "ci" / "production-values.yaml"):
                if item["kind"] != "PrometheusRule":
                    continue
                base = item["metadata"]["name"].removeprefix("rel-tessera-")
                names.append(base)
                path = pathlib.Path(folder) / f"{len(names)}.yaml"
                path.write_text(yaml.safe_dump(item["spec"]))
                result = subprocess.run(
                    ["promtool", "check", "rules", path], capture_output=True, text=True, check=False
                )
                self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
                original = yaml.safe_load((CHART / "files/rules" / f"{base}.rules.yaml").read_text())
                text = json.dumps(item["spec"]).replace("https://docs.example.org/tessera/docs/", "docs/")
                self.assertEqual(json.loads(text), original)
                if "https://docs" in json.dumps(item["spec"]):
                    self.assertNotIn('"docs/', json.dumps(item["spec"]))
        self.assertEqual(sorted(names), ["alerts", "alerts", "recording", "recording"])

    def test_dashboards_are_those_of_the_files(self):
        boards = [
            item for item in self.found if item["kind"] == "ConfigMap" and "dashboard" in item["metadata"]["name"]
        ]
        self.assertEqual(len(boards), len(list((CHART / "files/dashboards").iterdir())))
        for item in boards:
            ((key, text),) = item["data"].items()
            self.assertEqual(
                json.loads(text), json.loads((CHART / "files/dashboards" / key.removeprefix("tessera-")).read_text())
            )
            self.assertEqual(item["metadata"]["labels"]["grafana_dashboard"], "1")
            self.assertEqual(item["metadata"]["labels"]["grafana"], "main")
            self.assertEqual(item["metadata"]["annotations"]["grafana_folder"], "Storage")
            self.assertLess(len(text), 1 << 20, "a ConfigMap holds 1 MiB")

    def test_a_release_fits_into_its_secret(self):
        # Helm keeps the chart and the render in one Secret of 1 MiB, compressed and encoded twice.
        files = b"".join(path.read_bytes() for path in CHART.rglob("*") if path.is_file() and path.parent.name != "ci")
        text = base64.b64encode(files) + rendered(CHART / "ci" / "monitoring-values.yaml").encode()
        self.assertLess(len(gzip.compress(text)) * 16 // 9, 700_000)


if __name__ == "__main__":
    unittest.main()
