#!/usr/bin/env python3
"""Who may include whom: the folder rules of docs/ARCHITECTURE.md, checked on every #include line."""
import pathlib
import re
import subprocess
import sys

# Folder -> prefixes of project headers that it may include, itself aside.
RULES = {
    "libtoken": [],
    "libchunk": [],
    "services/common": ["libtoken", "tessera/v1", "google/rpc", "grpc/health"],
    "services/mdm": ["services/common", "libtoken", "tessera/v1", "google/rpc"],
    "services/sds": ["services/common", "libtoken", "libchunk", "tessera/v1", "google/rpc"],
    "services/sdc/nbd": ["services/sdc/event_loop.h", "services/sdc/block_device.h"],
    "services/sdc": ["services/common", "libtoken", "tessera/v1", "google/rpc"],
    "services/mgmt": ["services/common", "tessera/v1", "google/rpc"],
    "tools/cli": ["services/common", "libchunk", "tessera/v1", "google/rpc"],
    "integration": ["services", "libtoken", "libchunk", "tessera/v1", "google/rpc"],
    "tools/verify_io": [],
    "tools/bench": ["services", "libtoken", "libchunk", "tessera/v1", "google/rpc"],
}
# Headers of other libraries that only some folders may see.
RESTRICTED = {
    "grpc": ["services", "tools", "integration", "libtoken/tls_coexistence_test.cc"],
    "google/protobuf/": ["services", "tools", "integration"],
    "openssl/": ["services/sdc/nbd", "libtoken", "integration", "services/common"],
    "SQLiteCpp/": ["services", "libchunk", "integration"],
    "spdlog/": ["services/common"],
    "sodium.h": ["services/mgmt/people"],
    "curl/": ["services/mgmt/alerts"],
    "muParser": ["services/mgmt/alerts"],
    "toml++/": ["services/mgmt", "services/common/settings"],
}
# Headers without a library behind them that any test may use.
TEST_HEADERS = {"libchunk/seeded_random.h"}
PROJECT = re.compile(r"^(libtoken|libchunk|services|tools|integration|tessera/v1|google/rpc|grpc/health)/")
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')


def folder_of(path):
    best = ""
    for folder in RULES:
        if path.startswith(folder + "/") and len(folder) > len(best):
            best = folder
    return best


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.cc", "*.h"],
        cwd=root, capture_output=True, text=True, check=True).stdout.split()
    problems = []
    for name in files:
        folder = folder_of(name)
        for number, line in enumerate((root / name).read_text(errors="replace").splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            header = match.group(1)
            if header in TEST_HEADERS and name.endswith("_test.cc"):
                continue
            if PROJECT.match(header) and folder:
                allowed = [folder] + RULES[folder]
                if folder == "services/common" and header.startswith("services/common/"):
                    continue
                if not any(header == a or header.startswith(a + "/") for a in allowed):
                    problems.append(f"{name}:{number}: {folder} may not include {header}")
            for prefix, where in RESTRICTED.items():
                if header.startswith(prefix) and not PROJECT.match(header):
                    if folder and not any(name.startswith(w) for w in where):
                        problems.append(f"{name}:{number}: {folder} may not include {header}")
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
