"""The script that a reader of the documents writes first, as it is written, with places of this machine in it."""

from __future__ import annotations

import contextlib
import io

SCRIPT = """
from oci_binpkg import Client
client = Client()
report = client.push("oci://registry.example/apps", "/opt/spack/opt", ["greet@2.0"], update_index=True)
for package in client.find("zlib +shared", cache="oci-layout:cache"): print(package.name, package.version, package.hash)
client.install("oci-layout:cache", ["greet"], root="/tmp/apps")
"""


def run_script(*, cache: str, store: str, root: str) -> tuple[dict[str, object], str]:
    """Run the script with one cache in the place of both; return its variables and what it printed."""
    places = {
        "oci://registry.example/apps": cache,
        "oci-layout:cache": cache,
        "/opt/spack/opt": store,
        "/tmp/apps": root,
    }
    text = SCRIPT
    for written, actual in places.items():
        text = text.replace(f'"{written}"', repr(actual))
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(text, "script", "exec"), names)
    return names, out.getvalue()
