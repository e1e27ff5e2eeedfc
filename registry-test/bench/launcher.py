"""Run commands one after the other and tell how long they took and the largest of their processes.

    python launcher.py '[["COMMAND", "ARGUMENT", ...], ...]'

Prints one line of JSON: seconds, and the peak resident set of the largest process in KiB. A process of its own, and a
small one, because what a process measures of its children begins with its own size.
"""

import json
import resource
import subprocess
import sys
import time


def main() -> int:
    commands = json.loads(sys.argv[1])
    started = time.perf_counter()
    for command in commands:
        done = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if done.returncode:
            sys.stderr.write(f"{' '.join(command)[:500]}\nended with status {done.returncode}\n")
            sys.stderr.write(done.stdout.decode(errors="replace")[-3000:])
            return 1
    seconds = time.perf_counter() - started
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
