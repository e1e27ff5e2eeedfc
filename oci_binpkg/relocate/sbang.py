"""The script that stands in for interpreter lines longer than the kernel takes."""

from __future__ import annotations

import os
from typing import Final

from oci_binpkg.disk import disk_errors, make_folder, replace_file
from oci_binpkg.relocate.interpreter_lines import LAUNCHER

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
# perl obeys a first line that does not mention perl, unless an option makes it look for its own
case $interpreter in
    *perl*) exec $interpreter -x "$@" ;;
    *) exec $interpreter "$@" ;;
esac
"""


LAUNCHER_SCRIPT: Final = """\
#!/bin/sh
# Runs a script whose own interpreter line is too long for the kernel, as the kernel would. The script starts with
#     #!/bin/sh THIS-FILE
# and has its interpreter line anywhere in the second line, which is a comment in its language.
script=$1
if [ -z "$script" ]; then
    echo "usage: sbang-launch SCRIPT [ARGUMENT]..." >&2
    exit 2
fi
{ IFS= read -r line && IFS= read -r line; } < "$script" || [ -n "$line" ]
case $line in
    *'#!'*) line=${line#*'#!'}; line=${line%' ?>'} ;;
    *) echo "sbang-launch: the second line of $script names no interpreter" >&2; exit 2 ;;
esac
# the kernel takes one argument, whatever blanks and quotes are in it
line=${line#"${line%%[! \t]*}"}
line=${line%"${line##*[! \t]}"}
interpreter=${line%%[ \t]*}
argument=${line#"$interpreter"}
argument=${argument#"${argument%%[! \t]*}"}
# perl obeys a first line that does not mention perl, unless an option makes it look for its own
case $line in
    *perl*) set -- -x "$@" ;;
esac
if [ -n "$argument" ]; then
    exec "$interpreter" "$argument" "$@"
fi
exec "$interpreter" "$@"
"""


def ensure_launcher(sbang: str) -> bool:
    """Write the launcher beside the path `sbang` unless something is there; as `ensure_sbang`."""
    return _ensure(sbang + LAUNCHER.decode(), LAUNCHER_SCRIPT)


def ensure_sbang(path: str) -> bool:
    """Write the script to `path` unless something is there; return whether it was written. Raises `LocalDiskError`."""
    return _ensure(path, SCRIPT)


def _ensure(path: str, script: str) -> bool:
    if os.path.exists(path):
        return False
    with disk_errors(path, "written"):
        make_folder(os.path.dirname(path))
    replace_file(path, script.encode(), mode=0o755)  # programs of all users start with it
    return True
