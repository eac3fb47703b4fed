"""Rules, their tests, runbooks and dashboards agree with each other. Needs promtool and no cluster."""
import collections
import json
import pathlib
import re
import shutil
import subprocess
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ALERTS = ROOT / "charts" / "alerts"
DASHBOARDS = ROOT / "charts" / "dashboards"
TESTS = sorted((ALERTS / "tests").glob("*.test.yaml"))
SEVERITIES = {"critical", "warning", "info"}
sys.path[:0] = [str(DASHBOARDS), str(HERE.parent)]
import cluster as tessera  # noqa: E402  pylint: disable=wrong-import-position
import generate  # noqa: E402  pylint: disable=wrong-import-position,import-error


def promtool(*arguments):
    return subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)


def alert_blocks():
    """Each alert of the rules with its lines."""
    text = (ALERTS / "alerts.rules.yaml").read_text()
    parts = re.split(r"^      - alert: (\S+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def cases():
    """Alert to how many times a test says that it is silent, and that it fires."""
    found = collections.defaultdict(lambda: [0, 0])
    for path in TESTS:
        for name, expected in re.findall(r"alertname: (\S+)\n +exp_alerts:(.*)", path.read_text()):
            found[name][0 if expected.strip() == "[]" else 1] += 1
    return found


def anchors():
    """Of the runbooks' headings, as Markdown viewers make them."""
    text = (ROOT / "docs/operations/runbooks.md").read_text()
    return {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@unittest.skipUnless(shutil.which("promtool"), "promtool is not installed (Debian package prometheus)")
class Promtool(unittest.TestCase):
    def test_rules_are_valid(self):
        result = promtool("check", "rules", *ALERTS.glob("*.rules.yaml"))
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_the_unit_tests_of_the_rules_pass(self):
        result = promtool("test", "rules", *TESTS)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_the_example_configuration_is_valid(self):
        result = promtool("check", "config", ROOT / "charts/prometheus.yaml")
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)


class Alerts(unittest.TestCase):
    def test_each_is_tested_silent_and_firing(self):
        counted = cases()
        for alert in alert_blocks():
            with self.subTest(alert=alert):
                silent, firing = counted[alert]
                self.assertGreaterEqual(silent, 1, "no test says when it is silent")
                self.assertGreaterEqual(firing, 1, "no test says when it fires")

    def test_tests_are_of_alerts_that_exist(self):
        self.assertEqual(set(cases()) - set(alert_blocks()), set())

    def test_each_says_what_it_is_about_how_bad_it_is_and_what_to_do(self):
        for alert, block in alert_blocks().items():
            with self.subTest(alert=alert):
                severity = re.search(r"severity: (\w+)", block)
                self.assertTrue(severity and severity.group(1) in SEVERITIES, f"severity is one of {SEVERITIES}")
                self.assertRegex(block, r"\n        for: [1-9]", "it waits a while, so that nothing flaps")
                for name in ("summary", "description"):
                    self.assertRegex(block, rf"\n          {name}: \S", f"there is no {name}")
                self.assertIn("{{ $labels.cluster }}", block, "the summary names the cluster")
                self.assertRegex(block, r"description: .*(\$labels\.|\$value)", "the description names the objects")
                page, anchor = re.search(r"runbook_url: (\S+)#(\S+)", block).groups()
                self.assertTrue((ROOT / page).is_file(), f"{page} does not exist")
                self.assertIn(anchor, anchors(), "the runbooks lack this section")
                self.assertEqual(anchor, alert.lower())

    def test_each_runbook_is_of_an_alert_that_exists(self):
        text = (ROOT / "docs/operations/runbooks.md").read_text()
        self.assertEqual(re.findall(r"^### (\S+)$", text, re.MULTILINE), list(alert_blocks()))

    def test_runbooks_say_what_it_means_how_to_check_and_what_to_do(self):
        text = (ROOT / "docs/operations/runbooks.md").read_text()
        for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
            for word in ("**Means**", "**Check**", "**Do**"):
                self.assertIn(word, section, section.splitlines()[0])
            for link in re.findall(r"\]\(([^)#]+)", section):
                self.assertTrue((ROOT / "docs/operations" / link).exists(), link)

    def test_commands_of_the_runbooks_exist_with_their_options(self):
        text = (ROOT / "docs/operations/runbooks.md").read_text()
        commands = set(re.findall(r"`tessera ([^`]+)`", text))
        self.assertGreater(len(commands), 10)
        for command in commands:
            words = re.match(r"((?:--endpoint MDM )?)([a-z ]+)", command).group(2).split()
            with self.subTest(command=command):
                help_text = tessera.run([tessera.BIN / "tessera", *words, "--help"])
                self.assertIn(" ".join(words), help_text.replace("tessera ", "", 1))
                for option in re.findall(r"--[a-z-]+", command.replace("--endpoint", "")):
                    self.assertIn(option, help_text)


class Dashboards(unittest.TestCase):
    def setUp(self):
        self.dashboards = {path.name: json.loads(path.read_text()) for path in DASHBOARDS.glob("*.json")}

    def test_the_committed_files_are_what_the_generator_writes(self):
        self.assertEqual(generate.differing(), [], "run charts/dashboards/generate.py")

    def test_there_is_one_for_each_kind_of_part(self):
        self.assertEqual(set(self.dashboards), {f"{name}.json" for name in
                                                ("cluster", "volumes", "sds", "sdc", "mdm", "grpc", "console")})

    def test_ids_are_unique_and_panels_do_not_overlap(self):
        self.assertEqual(len({board["uid"] for board in self.dashboards.values()}), len(self.dashboards))
        for name, board in self.dashboards.items():
            taken = set()
            ids = [panel["id"] for panel in board["panels"]]
            self.assertEqual(len(set(ids)), len(ids), name)
            for panel in board["panels"]:
                place = panel["gridPos"]
                self.assertLessEqual(place["x"] + place["w"], 24, panel["title"])
                cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                         for y in range(place["y"], place["y"] + place["h"])}
                self.assertEqual(cells & taken, set(), f"{name}: {panel['title']}")
                taken |= cells

    def test_each_has_the_variables_and_the_link_to_the_others(self):
        for name, board in self.dashboards.items():
            with self.subTest(dashboard=name):
                names = [variable["name"] for variable in board["templating"]["list"]]
                self.assertEqual(names[:3], ["datasource", "cluster", "instance"])
                link, = board["links"]
                self.assertEqual((link["type"], link["tags"], link["includeVars"], link["keepTime"]),
                                 ("dashboards", ["tessera"], True, True))
                self.assertIn("tessera", board["tags"])

    def test_every_query_has_no_exemplars_goes_to_the_chosen_source_and_picks_the_cluster(self):
        for name, board in self.dashboards.items():
            for panel in board["panels"]:
                if panel["type"] == "row":
                    continue
                self.assertTrue(panel["description"], f"{name}: {panel['title']} is not explained")
                for query in panel["targets"]:
                    with self.subTest(dashboard=name, panel=panel["title"], query=query["refId"]):
                        self.assertIs(query["exemplar"], False)
                        self.assertEqual(query["datasource"], {"type": "prometheus", "uid": "${datasource}"})
                        selectors = re.findall(r"\{([^{}]*)\}", query["expr"])
                        self.assertTrue(selectors)
                        for selector in selectors:
                            self.assertIn('cluster="$cluster"', selector, query["expr"])
                        known = {variable["name"] for variable in board["templating"]["list"]}
                        used = set(re.findall(r"\$(\w+)", query["expr"])) - {"__rate_interval", "__range"}
                        self.assertLessEqual(used, known)


if __name__ == "__main__":
    unittest.main()
