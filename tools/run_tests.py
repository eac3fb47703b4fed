#!/usr/bin/env python3
"""Runs every test of a finished build and counts: checks, ctest (unit, sim), integration, conformance.

One line a test; a failed one with its output. The last line is "N passed, N failed, N skipped".

Tests that mostly wait for others (Kubernetes' controllers, a package manager) and live in namespaces of their own run
in a second process beside the checks and unit tests; what they found is told when both are done.
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
ASIDE = ("chart", "image", "kubernetes")  # folders of integration/
sys.path.insert(0, str(ROOT / "tools" / "sanitizers"))
import environment as sanitizers  # noqa: E402  pylint: disable=wrong-import-position


class Tally:
    def __init__(self):
        self.passed = self.failed = 0
        self.skipped = []
        self.failures = []
        self.told = []  # all that add() was called with

    def add(self, name, outcome, detail="", output=""):
        self.told.append((name, outcome, detail, output))
        mark = {"passed": "ok", "failed": "FAIL", "skipped": "skip"}[outcome]
        print(f"{mark:4} {name}" + (f": {detail}" if detail else ""), flush=True)
        if outcome == "passed":
            self.passed += 1
        elif outcome == "skipped":
            self.skipped.append((name, detail))
        else:
            self.failed += 1
            self.failures.append(name)
            if output:
                print(output, flush=True)


def run_checks(tally):
    result = subprocess.run([ROOT / "tools" / "check"], capture_output=True, text=True)
    name, output = None, []
    for line in result.stdout.splitlines() + ["ok "]:
        match = re.match(r"^(ok|FAIL|skip) ?(\S*)", line)
        if match is None:
            output.append(line)
            continue
        if name:
            tally.add(f"check/{name}", "failed", output="\n".join(output))
        name, output = None, []
        kind, subject = match.groups()
        if kind == "ok" and subject:
            tally.add(f"check/{subject}", "passed")
        elif kind == "FAIL":
            name = subject
        elif kind == "skip":
            tally.add(f"check/{subject.rstrip(':')}", "skipped", line.split(": ", 1)[-1])


def run_ctest(tally, build):
    listing = subprocess.run(["ctest", "--test-dir", build, "--show-only=json-v1"],
                             capture_output=True, text=True, check=True)
    names = [test["name"] for test in json.loads(listing.stdout)["tests"]]
    for name in names:
        result = subprocess.run(
            ["ctest", "--test-dir", build, "-R", f"^{re.escape(name)}$", "--output-on-failure"],
            capture_output=True, text=True)
        seconds = re.search(r"(\d+\.\d+) sec", result.stdout)
        detail = f"{seconds.group(1)} s" if seconds else ""
        if "***Skipped" in result.stdout:
            tally.add(f"unit/{name}", "skipped", "the test said so")
        elif result.returncode == 0:
            tally.add(f"unit/{name}", "passed", detail)
        else:
            tally.add(f"unit/{name}", "failed", detail, result.stdout[-20000:] + result.stderr[-2000:])


class CountingResult(unittest.TestResult):
    def __init__(self, tally):
        super().__init__()
        self.tally = tally

    @staticmethod
    def name(test):
        return test.id() if hasattr(test, "id") else str(test)

    def addSuccess(self, test):
        self.tally.add(self.name(test), "passed")

    def addSkip(self, test, reason):
        self.tally.add(self.name(test), "skipped", reason)

    def addFailure(self, test, error):
        self.tally.add(self.name(test), "failed", output=self._exc_info_to_string(error, test))

    addError = addFailure

    def addSubTest(self, test, subtest, error):
        if error is not None:
            self.tally.add(self.name(subtest), "failed", output=self._exc_info_to_string(error, test))


class Aside:
    """The second process. It is started at once, and its tests are added by finish()."""

    def __init__(self, pattern):
        self.folder = tempfile.TemporaryDirectory(prefix="tessera-tests-")
        self.results = pathlib.Path(self.folder.name) / "results.json"
        self.log = pathlib.Path(self.folder.name) / "log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, __file__, "--integration-only", "--aside",
                 "--results", self.results, "--pattern", pattern],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def finish(self, tally):
        code = self.process.wait()
        try:
            for name, outcome, detail, output in json.loads(self.results.read_text()):
                tally.add(name, outcome, detail, output)
        except (OSError, ValueError):
            tally.add("run_tests/aside", "failed", f"it ended with {code}", self.log.read_text(errors="replace")[-20000:])
        self.folder.cleanup()


def run_python(tally, pattern, aside):
    """aside: True: the tests of these folders alone; False: all others; None: all."""
    sys.path.insert(0, str(ROOT))
    sys.path.insert(0, str(ROOT / "integration"))
    suite = unittest.TestSuite()
    for path in sorted((ROOT / "integration").rglob("*_test.py")):
        # ctest runs the NBD suites against their own server; nbd_on_sdc_test.py against the SDC.
        if path.parent.name == "nbd" or (pattern and pattern not in str(path)):
            continue
        if aside is not None and aside != (path.parent.name in ASIDE):
            continue
        folder = str(path.parent)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        module = path.stem
        suite.addTests(unittest.defaultTestLoader.loadTestsFromName(module))
    suite.run(CountingResult(tally))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--integration-only", action="store_true")
    parser.add_argument("--skip-checks", action="store_true", help="no checks of the source")
    parser.add_argument("--pattern", default="", help="only integration files whose path has this in it")
    parser.add_argument("--aside", action="store_true", help="of integration tests only those of the second process")
    parser.add_argument("--results", help="file for the results, as JSON")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    os.environ.setdefault("TESSERA_BIN", str(ROOT / "build/release/bin"))
    cache = os.environ.get("TESSERA_CACHE", os.path.expanduser("~/.cache/tessera"))
    os.environ["PATH"] = os.pathsep.join(
        [os.environ["TESSERA_BIN"], cache + "/bin", cache + "/npm/node_modules/.bin", os.environ["PATH"],
         "/usr/sbin", "/sbin"])
    build = pathlib.Path(os.environ["TESSERA_BIN"]).parent
    os.environ.update(sanitizers.environment(build))
    tally = Tally()
    if arguments.integration_only:
        run_python(tally, arguments.pattern, True if arguments.aside else None)
    else:
        aside = Aside(arguments.pattern)
        if not arguments.skip_checks:
            run_checks(tally)
        run_ctest(tally, build)
        aside.finish(tally)
        run_python(tally, arguments.pattern, False)
    if arguments.results:
        pathlib.Path(arguments.results).write_text(json.dumps(tally.told))
    if tally.skipped:
        print("\nskipped:")
        for name, reason in tally.skipped:
            print(f"  {name}: {reason}")
    if tally.failures:
        print("\nfailed:")
        for name in tally.failures:
            print(f"  {name}")
    print(f"\n{tally.passed} passed, {tally.failed} failed, {len(tally.skipped)} skipped")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
