#!/usr/bin/env python3
"""clang-tidy on what matters: the checks of .clang-tidy over the code in which a mistake loses data.

That is tokens, the chunk store, the rule classes, the planners and what reads NBD clients' bytes. None of it
includes gRPC, so that it needs no build (protobuf code is generated here) and takes about two minutes on two
cores; with --all every source is looked at, which takes long. A file that was clean is not looked at again
before it, a project header it includes, the checks or clang-tidy change.
"""
import argparse
import concurrent.futures
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
TIDY = "clang-tidy-19"
CACHE = pathlib.Path(os.environ.get("TESSERA_CACHE", os.path.expanduser("~/.cache/tessera")))
MATTERS = re.compile(
    r"^(libtoken|libchunk|services/sdc/(rules|nbd))/|^services/\w+/\w+_(rules|planner)\.cc$|^services/sdc/event_loop\.cc$")
BESIDE = re.compile(r"_(test|fuzz|bench)\.cc$|/(test_client\.cc$|testdata/|testing/)")
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.M)


def sources():
    return subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.cc"],
                          cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def project_files(name, known):
    """The file and the project's headers and protos that it includes, directly or not."""
    found, open_names = set(), [name]
    while open_names:
        current = open_names.pop()
        if current in found:
            continue
        found.add(current)
        if current not in known:
            text = (ROOT / current).read_text(errors="replace")
            known[current] = INCLUDE.findall(text)
        for header in known[current]:
            if header.endswith(".pb.h"):
                header = "proto/" + re.sub(r"(\.grpc)?\.pb\.h$", ".proto", header)
            if (ROOT / header).is_file():
                open_names.append(header)
    return sorted(found)


def fingerprint(name, known, base):
    digest = hashlib.sha256(base)
    for part in project_files(name, known):
        digest.update(part.encode() + b"\0" + (ROOT / part).read_bytes())
    return digest.hexdigest()


def generate_protos(folder):
    protos = [str(path.relative_to(ROOT / "proto")) for path in sorted((ROOT / "proto").rglob("*.proto"))]
    grpc = shutil.which("grpc_cpp_plugin")
    subprocess.run(["protoc", f"--cpp_out={folder}", f"--grpc_out={folder}", f"--plugin=protoc-gen-grpc={grpc}",
                    *protos], cwd=ROOT / "proto", check=True)
    version = (ROOT / "services/common/version.h.in").read_text()
    target = pathlib.Path(folder, "services/common/version.h")
    target.parent.mkdir(parents=True)
    target.write_text(re.sub(r"@\w+@", "0", version))


def look(name, generated):
    command = [TIDY, "--quiet", name, "--", "-std=c++20", f"-I{ROOT}", f"-isystem{generated}",
               f"-isystem{CACHE}/boringssl/src/include", "-DSQLITE_ENABLE_COLUMN_METADATA"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return result.returncode, re.sub(r"^\d+ warnings? .*\n", "", result.stdout + result.stderr, flags=re.M)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every source, tests and gRPC services too")
    parser.add_argument("files", nargs="*", metavar="FILE", help="only these sources")
    arguments = parser.parse_args()
    names = [str(pathlib.Path(name).resolve().relative_to(ROOT)) for name in arguments.files] or sources()
    if not arguments.all and not arguments.files:
        names = [name for name in names if MATTERS.search(name) and not BESIDE.search(name)]

    cache = CACHE / "tidy"
    cache.mkdir(parents=True, exist_ok=True)
    version = subprocess.run([TIDY, "--version"], capture_output=True, check=True).stdout
    base = version + (ROOT / ".clang-tidy").read_bytes() + pathlib.Path(__file__).read_bytes()
    known = {}
    waiting = [(name, fingerprint(name, known, base)) for name in names]
    waiting = [(name, mark) for name, mark in waiting if not (cache / mark).exists()]
    failed = 0
    with tempfile.TemporaryDirectory() as generated:
        if waiting:
            generate_protos(generated)
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for (name, mark), (code, output) in zip(waiting, pool.map(lambda one: look(one[0], generated), waiting)):
                if code == 0:
                    (cache / mark).touch()
                else:
                    failed += 1
                    print(output.replace(f"{ROOT}/", ""), flush=True)
    print(f"clang-tidy: {len(names)} files, {len(waiting)} looked at, {failed} with findings")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
