#!/usr/bin/env python3
"""Writes README.md of README.md.in and the "# --" comments of values.yaml.

generate_readme.py           writes it
generate_readme.py --check   says whether it differs or a value has no comment, and ends with 1 then
"""

import json
import pathlib
import re
import sys

import yaml

FOLDER = pathlib.Path(__file__).resolve().parent


def descriptions(text):
    """Path of a value, such as ("tls", "mode"), to its comment."""
    found, stack, comment = {}, [], None
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        content = line.strip()
        if content.startswith("# -- "):
            comment = content[5:]
        elif content.startswith("# ") and comment is not None:
            comment += " " + content[2:]
        elif match := re.match(r"([A-Za-z][A-Za-z0-9]*):", content):
            del stack[indent // 2 :]
            stack.append(match.group(1))
            if comment is not None:
                found[tuple(stack)] = comment
            comment = None
        elif not content:
            comment = None
    return found


def undescribed(values, described, path=()):
    """Paths of values that no comment covers."""
    if path in described:
        return []
    if isinstance(values, dict) and values:
        return [found for key, value in values.items() for found in undescribed(value, described, path + (key,))]
    return [".".join(path)]


def table(text):
    values = yaml.safe_load(text)
    lines = ["| value | default | what |", "|---|---|---|"]
    for path, description in descriptions(text).items():
        value = values
        for key in path:
            value = value[key]
        default = json.dumps(value, ensure_ascii=False)
        lines.append(f"| `{'.'.join(path)}` | `{default}` | {description} |")
    return "\n".join(lines)


def readme():
    text = (FOLDER / "values.yaml").read_text()
    return (FOLDER / "README.md.in").read_text().replace("<!-- values -->", table(text))


def problems():
    text = (FOLDER / "values.yaml").read_text()
    found = [
        f"values.yaml: {path} has no '# --' comment" for path in undescribed(yaml.safe_load(text), descriptions(text))
    ]
    path = FOLDER / "README.md"
    if not path.exists() or path.read_text() != readme():
        found.append("README.md is not what generate_readme.py writes: run it")
    return found


def main():
    if sys.argv[1:] == ["--check"]:
        print("\n".join(problems()))
        return 1 if problems() else 0
    (FOLDER / "README.md").write_text(readme())
    return 0


if __name__ == "__main__":
    sys.exit(main())
