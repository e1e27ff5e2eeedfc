"""The script that stands in for interpreter lines longer than the kernel takes."""

from __future__ import annotations

import os
from typing import Final

from oci_binpkg.errors import LocalDiskError

SCRIPT: Final = """\
#!/bin/sh
# Runs a script whose own interpreter line is too long for the kernel. The script starts with
#     #!/bin/sh THIS-FILE
# and names its interpreter in the second line, after the comment sign of its language.
script=$1
if [ -z "$script" ]; then
    echo "usage: sbang SCRIPT [ARGUMENT]..." >&2
    exit 2
fi
{ IFS= read -r line && IFS= read -r line; } < "$script" || [ -n "$line" ]
case $line in
    '#!'*) interpreter=${line#'#!'} ;;
    '//!'*) interpreter=${line#'//!'} ;;
    '--!'*) interpreter=${line#'--!'} ;;
    '<?php #!'*) interpreter=${line#'<?php #!'}; interpreter=${interpreter%'?>'} ;;
    *) echo "sbang: the second line of $script names no interpreter" >&2; exit 2 ;;
esac
# perl obeys a first line that does not mention perl, unless it is told to look for its own
case $interpreter in
    *perl*) exec $interpreter -x "$@" ;;
    *) exec $interpreter "$@" ;;
esac
"""


def ensure_sbang(path: str) -> bool:
    """Write the script to `path` unless something is there; return whether it was written. Raises `LocalDiskError`."""
    if os.path.exists(path):
        return False
    staged = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(staged, "w", encoding="utf-8") as file:
            file.write(SCRIPT)
        os.chmod(staged, 0o755)  # noqa: S103 - programs of all users start with it
        os.replace(staged, path)
    except OSError as error:
        raise LocalDiskError(
            f"{path}: cannot be written: {error.strerror}", hint="check the free space and the permissions there"
        ) from error
    return True
