"""What the tests of the console need: node, its packages, a browser, the built console."""
import functools
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

from cluster import ROOT

GUI = ROOT / "gui"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@functools.cache
def missing(browser=True):
    """Why the tests can't run here; empty when they can."""
    for program in ("node", "npm", "protoc"):
        if shutil.which(program) is None:
            return f"{program} is not installed (tools/setup)"
    if browser and not os.environ.get("CHROMIUM") and not any(map(shutil.which, BROWSERS)):
        return "no chromium is installed (tools/setup)"
    installed = subprocess.run(["node", "build/install.mjs"], cwd=GUI, capture_output=True, text=True, check=False)
    if installed.returncode != 0:
        return f"the console's packages could not be installed: {installed.stderr.strip()[-300:]}"
    return ""


@functools.cache
def built_console():
    """A folder with the console as it is built now."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tessera-console-")) / "console"
    result = subprocess.run(["node", "build/build.mjs", folder], cwd=GUI, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise AssertionError(f"the console does not build:\n{result.stdout}{result.stderr}")
    return folder


def remove_built_console():
    if built_console.cache_info().currsize:
        shutil.rmtree(built_console().parent, ignore_errors=True)
        built_console.cache_clear()


def node_environment(**more):
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), "")
    return {**os.environ, "CHROMIUM": browser, **more}


def tests_of(tap):
    """(name, passed, words) of every test in what node's test runner wrote as TAP."""
    found, name, passed, words = [], None, True, []
    for line in tap.splitlines():
        match = re.match(r"^(not ok|ok) \d+ - (.*?)(?: # .*)?$", line)
        if match:
            if name is not None:
                found.append((name, passed, "\n".join(words)))
            name, passed, words = match.group(2), match.group(1) == "ok", []
        elif name is not None and not line.startswith("#"):
            words.append(line)
    if name is not None:
        found.append((name, passed, "\n".join(words)))
    return found
