"""The Helm chart: its files agree with each other, and its renders are valid and what was reviewed. Needs helm.

  python3 integration/chart/chart_test.py regenerate     writes golden/ anew, to be reviewed by diff
"""
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import yaml

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent.parent / "charts" / "tessera")]
import generate_readme  # noqa: E402  pylint: disable=wrong-import-position,import-error
from chart import (  # noqa: E402  pylint: disable=wrong-import-position
    CACHE, CHART, HELM, NAMESPACE, PARTS, RELEASE, ROOT, SETS, helm, render_text, rendered, tool)

GOLDEN = ("default", "production", "minimal", "tls-cert-manager", "nbd-tcp", "monitoring")
SCHEMAS = CACHE / "kubernetes-schemas"
VERSIONS = sorted(re.sub(r"^v|-standalone-strict$", "", path.name) for path in SCHEMAS.glob("v*-standalone-strict"))


def golden_text(name):
    """A render without the dashboards' JSON and the rules, which are the files themselves."""
    documents = []
    for document in rendered(CHART / "ci" / f"{name}-values.yaml").split("\n---\n"):
        if "/dashboards.yaml" in document.split("\n", 2)[0] + document.split("\n", 2)[1]:
            document = re.sub(r"(\n  tessera-\S+\.json: \|)\n.*", r"\1\n    ..", document, flags=re.S)
        if "kind: PrometheusRule" in document:
            document = re.sub(r"\n  groups:\n.*", "\n  groups: ..", document, flags=re.S)
        documents.append(document.rstrip())
    return "\n---\n".join(documents).lstrip("-\n") + "\n"


class Files(unittest.TestCase):
    def test_the_readme_is_what_its_generator_writes_and_every_value_is_described(self):
        self.assertEqual(generate_readme.problems(), [])

    def test_every_value_is_in_the_schema_and_every_one_of_the_schema_has_a_default(self):
        schema = json.loads((CHART / "values.schema.json").read_text())
        values = yaml.safe_load((CHART / "values.yaml").read_text())

        def compare(values, schema, path):
            if (
                not isinstance(values, dict)
                or "properties" not in schema
                or schema.get("additionalProperties") is not False
            ):
                return []
            known = set(schema["properties"])
            optional = {
                "global",
                "claims",
                "name",
                "kind",
                "group",
                "rollingUpdate",
                "initialDelaySeconds",
                "successThreshold",
                "terminationGracePeriodSeconds",
            }
            found = [f"{path}.{key} is not in the schema" for key in set(values) - known]
            found += [f"{path}.{key} has no default" for key in known - set(values) - optional]
            for key in known & set(values):
                below = schema["properties"][key]
                if "$ref" in below:
                    below = definitions[below["$ref"].rsplit("/", 1)[1]]
                found += compare(values[key], below, f"{path}.{key}")
            return found

        definitions = schema["definitions"]
        self.assertEqual(compare(values, schema, ""), [])

    def test_parts_have_the_same_keys(self):
        values = yaml.safe_load((CHART / "values.yaml").read_text())
        same = {
            "config",
            "logLevel",
            "extraArgs",
            "extraEnv",
            "resources",
            "nodeSelector",
            "tolerations",
            "affinity",
            "priorityClassName",
            "podAnnotations",
            "podLabels",
            "terminationGracePeriodSeconds",
            "podSecurityContext",
            "securityContext",
            "probes",
            "serviceAccount",
        }
        for part in PARTS:
            self.assertLessEqual(same, set(values[part]), part)

    def test_what_the_chart_has_of_rules_and_dashboards_is_what_charts_has(self):
        for old, new in (("alerts/*.rules.yaml", "rules"), ("dashboards/*.json", "dashboards")):
            links = {path.name: path.resolve() for path in (ROOT / "charts").glob(old)}
            self.assertEqual(links, {path.name: path for path in (CHART / "files" / new).iterdir()})

    @unittest.skipUnless(tool("shellcheck"), "shellcheck is not installed")
    def test_shellcheck_has_nothing_to_say_of_the_script(self):
        result = subprocess.run(
            ["shellcheck", "--shell=sh", ROOT / "tools/image/kubernetes"], capture_output=True, text=True, check=False
        )
        self.assertEqual(result.returncode, 0, result.stdout)


@HELM
class Renders(unittest.TestCase):
    def test_there_are_enough_value_sets(self):
        self.assertGreaterEqual(len(SETS), 20)

    def test_lint_is_content_with_all_value_sets(self):
        for path in SETS:
            result = helm("lint", "--strict", CHART, "--values", path)
            self.assertEqual(result.returncode, 0, f"{path.name}: {result.stdout}{result.stderr}")

    def test_a_second_render_is_the_same(self):
        for name in ("production", "monitoring"):
            path = CHART / "ci" / f"{name}-values.yaml"
            self.assertEqual(render_text(path), rendered(path))

    def test_golden_renders(self):
        for name in GOLDEN:
            with self.subTest(values=name):
                self.assertEqual(
                    golden_text(name),
                    (HERE / "golden" / f"{name}.yaml").read_text(),
                    "a wanted change: python3 integration/chart/chart_test.py regenerate, and look at the diff",
                )

    def test_an_old_kubernetes_is_refused(self):
        result = helm("template", RELEASE, CHART, "--kube-version", "1.27.9")
        self.assertIn("requires kubeVersion: >=1.28.0", result.stderr)

    @unittest.skipUnless(
        tool("kubeconform") and len(VERSIONS) >= 3,
        "kubeconform or the schemas of three versions of Kubernetes are missing: tools/setup_kubernetes",
    )
    def test_every_object_is_valid_for_three_versions_of_kubernetes(self):
        with tempfile.TemporaryDirectory() as folder:
            for path in SETS:
                (pathlib.Path(folder) / path.name).write_text(rendered(path))
            for version in VERSIONS:
                result = subprocess.run(
                    [
                        tool("kubeconform"),
                        "-strict",
                        "-summary",
                        "-schema-location",
                        SCHEMAS,
                        "-kubernetes-version",
                        version,
                        folder,
                    ],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                self.assertEqual(result.returncode, 0, f"{version}: {result.stdout}{result.stderr}")
                self.assertRegex(result.stdout, r"Invalid: 0, Errors: 0, Skipped: 0")

    def test_wrong_values_are_refused_with_words_that_help(self):
        cases = yaml.safe_load((HERE / "wrong_values.yaml").read_text())
        self.assertGreaterEqual(len(cases), 20)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "values.yaml"
            for case in cases:
                with self.subTest(values=case["values"]):
                    path.write_text(json.dumps(case["values"]))
                    result = helm("template", RELEASE, CHART, "--values", path)
                    self.assertNotEqual(result.returncode, 0, "it was not refused")
                    self.assertIn(case["says"], result.stderr)

    def test_notes_say_how_to_go_on(self):
        # Without a cluster Helm shows no notes, so a template of a copy does.
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder) / "tessera"
            shutil.copytree(CHART, copy)
            (copy / "templates" / "notes.yaml").write_text(
                'notes: {{ include (print .Template.BasePath "/NOTES.txt") . | toJson }}'
            )
            result = helm("template", RELEASE, copy, "--namespace", NAMESPACE, "--show-only", "templates/notes.yaml")
        self.assertEqual(result.returncode, 0, result.stderr)
        notes = yaml.safe_load(result.stdout)["notes"]
        for words in (
            "exec deploy/rel-tessera-toolbox -- tessera status",
            "volume map data1 --sdc NODE",
            "8443:443",
            "nbd+unix:///data1?socket=/run/tessera/nbd.sock",
            "helm -n storage test rel",
        ):
            self.assertIn(words, notes)
        self.assertNotIn("<no value>", notes)
        self.assertNotRegex(notes, r"\n\n\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["regenerate"]:
        for each in GOLDEN:
            (HERE / "golden" / f"{each}.yaml").write_text(golden_text(each))
    else:
        unittest.main()
