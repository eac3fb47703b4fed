"""tessera-verify-io as an object: a verifying load that runs while the cluster is broken."""
import json
import subprocess

import cluster as tessera
from hosts import tied_to_us

ANSWER_SECONDS = 120


class VerifyingLoad:
    """Started at once. verdict() ends it; a load that is not ended is killed with the test."""

    def __init__(self, uris, seed, connections=4, depth=16, blocks=16384, rate=600, **flags):
        if isinstance(uris, str):
            uris = [uris]
        options = [word for uri in uris for word in ("--uri", uri)]
        for name, value in flags.items():
            options += [f"--{name.replace('_', '-')}", value]
        self.process = subprocess.Popen(
            tied_to_us([tessera.BIN / "tessera-verify-io", *options, "--seed", seed, "--connections", connections,
                        "--depth", depth, "--blocks", blocks, "--rate", rate]),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the load ended with {self.process.wait(10)} at '{line}'")
        return json.loads(answer)

    def window(self):
        return self.ask("window")

    def wait_for_progress(self, operations=200, timeout=60):
        """Until that many more operations have come back."""
        done = 0

        def enough():
            nonlocal done
            done += self.window()["completed"]
            return done >= operations
        tessera.wait_until(enough, f"{operations} operations", timeout)

    def crashed(self):
        """All servers have lost power. Answers that were on their way belong to the time before."""
        quiet = 0

        def silent():
            nonlocal quiet
            quiet = quiet + 1 if self.window()["completed"] == 0 else 0
            return quiet >= 10
        tessera.wait_until(silent, "the last answers", 60)
        self.ask("crash")

    def verdict(self, timeout=600):
        """Ends the load. The judge's findings."""
        self.process.stdin.write("stop\n")
        self.process.stdin.close()
        self.process.stdin = None
        try:
            output, _ = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return json.loads(output.splitlines()[-1])

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)
