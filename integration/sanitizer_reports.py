"""Finds the reports of AddressSanitizer, LeakSanitizer, ThreadSanitizer and UndefinedBehaviorSanitizer in logs.

A daemon writes its reports to standard error, which the harness keeps in its log, and most tests would pass
over one: the servers are made to survive a lost process, and one that a test kills has no exit code to tell by.
"""
import os
import pathlib
import re

BEGIN = re.compile(r"(ERROR|WARNING|FATAL): (Address|Leak|Memory|Thread|UndefinedBehavior)Sanitizer|: runtime error: ")
END = re.compile(r"^==================$|^==\d+==ABORTING$|^SUMMARY: ")
LINES_OF_A_REPORT = 150


def sanitizer():
    """The sanitizers of the binaries under test, as -fsanitize= names them; "" in a plain build."""
    return os.environ.get("TESSERA_SANITIZER", "")


def reports_in(text):
    """Every report in a log, each as its own text."""
    lines = text.splitlines()
    reports, at = [], 0
    while at < len(lines):
        if not BEGIN.search(lines[at]):
            at += 1
            continue
        end = at + 1
        while end < min(len(lines), at + LINES_OF_A_REPORT) and not END.match(lines[end]):
            end += 1
        reports.append("\n".join(lines[at:end + 1]))
        at = end + 1
    return reports


def reports_in_folder(folder):
    """The same over every *.log of a folder, each headed by the file's name."""
    return [f"{path.name}: {report}" for path in sorted(pathlib.Path(folder).glob("*.log"))
            for report in reports_in(path.read_text(errors="replace"))]
