#!/usr/bin/env python3
"""Every object of every value set before a real API server: its validation (with the rules that schemas can't say),
its admission, and Pod Security "restricted" for every pod but the documented exceptions.
"""
import copy
import json
import pathlib
import shutil
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "chart")]
# pylint: disable=wrong-import-position
import chart
import control_plane
from kubernetes_cluster import CRDS

EXTRA_SETS = ("extra-objects", )  # what a user adds is his own
# Who shares a folder with the node, and why that is refused: charts/tessera/README.md, Security.
EXCEPTIONS = {"sdc", "test-volume"}
REASONS = ("hostPath", "runAsNonRoot", "runAsUser=0")


class Admission(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        reason = control_plane.missing() or (None if chart.tool("helm") else "helm is not installed: tools/setup_kubernetes")
        if reason:
            raise unittest.SkipTest(reason)
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="tessera-admission-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.plane = control_plane.ControlPlane(cls.folder).start()
        cls.addClassCleanup(cls.plane.stop)
        for file in sorted(CRDS.glob("*.yaml")):
            cls.plane.kubectl("apply", "--server-side", "--filename", str(file))
        for name, level in ((chart.NAMESPACE, "privileged"), ("restricted", "restricted")):
            cls.plane.kubectl("create", "namespace", name)
            cls.plane.kubectl("label", "namespace", name, f"pod-security.kubernetes.io/enforce={level}")

    def apply(self, objects, *options):
        """What the server says of all of them, without keeping any."""
        return self.plane.kubectl("apply", "--dry-run=server", "--validate=strict", "--filename", "-", *options,
                                  input={"apiVersion": "v1", "kind": "List", "items": objects}, check=False)

    def test_the_server_takes_every_object_of_every_value_set(self):
        seen = set()
        for path in chart.SETS:
            new = []
            for item in chart.objects(path):
                text = json.dumps(item, sort_keys=True)
                if text not in seen:
                    seen.add(text)
                    # A namespace of the user's that is not here.
                    if item["metadata"].get("namespace") not in (None, chart.NAMESPACE):
                        item["metadata"]["namespace"] = chart.NAMESPACE
                    new.append(item)
            if not new:
                continue
            with self.subTest(values=path.stem):
                result = self.apply(new)
                self.assertEqual(0, result.returncode, result.stderr)
                self.assertNotIn("Warning", result.stderr.replace("would violate PodSecurity", ""), path)

    def pods(self):
        """(name of the part, pod) of each pod template, once."""
        seen = set()
        for path in chart.SETS:
            if path.stem.removesuffix("-values") in EXTRA_SETS:
                continue
            for name, template in chart.pods(path):
                spec = copy.deepcopy(template["spec"])
                text = json.dumps(spec, sort_keys=True)
                if text in seen:
                    continue
                seen.add(text)
                spec["serviceAccountName"] = "default"
                spec.pop("priorityClassName", None)
                # A StatefulSet adds the volumes of its claims.
                volumes = {each["name"] for each in spec.get("volumes", [])}
                claims = {mount["name"] for container in [*spec.get("initContainers", []), *spec["containers"]]
                          for mount in [*container.get("volumeMounts", []), *container.get("volumeDevices", [])]} - volumes
                spec["volumes"] = [*spec.get("volumes", []),
                                   *({"name": each, "persistentVolumeClaim": {"claimName": each}} for each in sorted(claims))]
                if spec.get("restartPolicy") is None:
                    spec["restartPolicy"] = "Always"
                yield path.stem, name, {"apiVersion": "v1", "kind": "Pod", "spec": spec,
                                        "metadata": {"name": f"pod-{len(seen)}", "namespace": "restricted"}}

    def test_pods_are_restricted_but_for_the_documented_exceptions(self):
        self.plane.kubectl("--namespace", "restricted", "get", "serviceaccount", "default", check=False)
        pods = list(self.pods())
        self.assertGreater(len(pods), 20)
        good = [pod for _, name, pod in pods if not any(name.endswith(f"-{each}") for each in EXCEPTIONS)]
        result = self.apply(good)
        self.assertEqual(0, result.returncode, result.stderr)
        exceptions = [(values, name, pod) for values, name, pod in pods if pod not in good]
        self.assertTrue(exceptions)
        for values, name, pod in exceptions:
            with self.subTest(values=values, pod=name):
                result = self.apply([pod])
                self.assertNotEqual(0, result.returncode)
                self.assertIn("violates PodSecurity", result.stderr)
                self.assertIn("hostPath", result.stderr)
                reasons = result.stderr.split('"restricted:latest": ')[1]
                for reason in reasons.split("), "):
                    self.assertTrue(any(known in reason for known in REASONS), reason)


if __name__ == "__main__":
    unittest.main(verbosity=2)
