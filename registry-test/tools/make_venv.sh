#!/usr/bin/env bash
# Create $VENV with Python 3.11 or newer and install the project into it, editable, with its development tools; with the
# argument `demo` only what the command itself needs.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ "${1:-}" = demo ] && "$VENV/bin/oci-binpkg" version >/dev/null 2>&1; then exit 0; fi

python=
for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        python=$candidate
        break
    fi
done

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif sudo -n true 2>/dev/null; then sudo -n "$@"; else return 1; fi
}

# Debian keeps the part of Python that makes environments in a package of its own.
if [ -z "$python" ] || ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    if command -v apt-get >/dev/null && as_root true; then
        echo "installing python3 and python3-venv"
        as_root apt-get -q update >/dev/null
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install --yes --no-install-recommends \
            python3 python3-venv >/dev/null
        python=${python:-python3}
    else
        echo "Python 3.11 or newer with its venv module is needed (Debian: apt-get install python3 python3-venv)" >&2
        exit 1
    fi
fi

# An environment whose interpreter is gone or was made elsewhere is made anew.
if ! "$VENV/bin/python" -c '' 2>/dev/null; then
    rm -rf "$VENV"
    "$python" -m venv "$VENV"
fi
if [ "${1:-}" = demo ]; then
    echo "installing oci-binpkg and the packages that it needs into $VENV (about 10 s, once)"
    exec "$VENV/bin/python" -m pip install -qq --disable-pip-version-check .
fi
"$VENV/bin/python" -m pip install -qq --disable-pip-version-check --editable '.[dev]'
# The fuzzer is there for some platforms only; without it `make test` says so.
"$VENV/bin/python" -m pip install -qq --disable-pip-version-check --only-binary atheris --editable '.[fuzz]' 2>/dev/null \
    || echo "atheris cannot be installed here: nothing will be fuzzed" >&2
touch "$VENV/.installed"
