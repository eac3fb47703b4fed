#!/usr/bin/env python3
"""The environment that the programs of a sanitizer build run in: options, suppressions, longer time-outs.

Usage: environment.py BUILD-FOLDER     prints it as shell assignments; nothing for a plain build
"""
import pathlib
import re
import shlex
import sys

FOLDER = pathlib.Path(__file__).resolve().parent

# Tests wait this many times as long. The unit is a plain build on the same machine.
TIMEOUT_FACTOR = {"address,undefined": "3", "thread": "6"}

OPTIONS = {
    "address,undefined": {
        "ASAN_OPTIONS": [
            "detect_leaks=1",
            "detect_stack_use_after_return=1",
            "check_initialization_order=1",
            "strict_init_order=1",
            "strict_string_checks=1",
            # Five daemons and their clients share the machine.
            "quarantine_size_mb=64",
        ],
        "LSAN_OPTIONS": [f"suppressions={FOLDER}/leaks.txt", "print_suppressions=0"],
        "UBSAN_OPTIONS": ["print_stacktrace=1", "halt_on_error=1"],
    },
    "thread": {
        "TSAN_OPTIONS": [
            f"suppressions={FOLDER}/threads.txt",
            "print_suppressions=0",
            "second_deadlock_stack=1",
            # Keeps the older access's stack long enough to be printed.
            "history_size=4",
        ],
    },
}


def sanitizer_of(build):
    """What -fsanitize= the build was made with, "" for none."""
    cache = pathlib.Path(build) / "CMakeCache.txt"
    found = re.search(r"^TESSERA_SANITIZE:\w+=(.*)$", cache.read_text(), re.MULTILINE) if cache.exists() else None
    return found.group(1) if found else ""


def environment(build):
    """Variables to set for the programs of this build."""
    sanitizer = sanitizer_of(build)
    if not sanitizer:
        return {}
    variables = {name: ":".join(options) for name, options in OPTIONS[sanitizer].items()}
    return {**variables, "TESSERA_SANITIZER": sanitizer, "TESSERA_TIMEOUT_FACTOR": TIMEOUT_FACTOR[sanitizer]}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for variable, value in environment(sys.argv[1]).items():
        print(f"export {variable}={shlex.quote(value)}")
