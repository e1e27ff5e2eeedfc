"""Draws the terminal picture of the README from a real run: `python registry-test/tools/terminal_picture.py`.

The commands run against the golden install tree and a registry in this process. A test compares the picture's words with
another run; sizes and digests depend on the compression library and are not compared.
"""

from __future__ import annotations

import html
import io
import re
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from rich._export_format import CONSOLE_SVG_FORMAT  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.text import Text  # noqa: E402

from tests.docs.world import World, parts, world  # noqa: E402
from tests.support.command_line import binpkg  # noqa: E402

PICTURE = ROOT / "docs" / "images" / "terminal.svg"
COLUMNS = 108
COMMANDS = (
    "oci-binpkg find greet --store /opt/spack/opt",
    "oci-binpkg push oci://registry.example/apps greet@2.0 --store /opt/spack/opt --tag greet --update-index",
    "oci-binpkg inspect oci://registry.example/apps:greet",
    "oci-binpkg install greet@2.0 --from oci://registry.example/apps --store ~/apps",
)
# the usual format loads a font from the network
_FORMAT = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def lines(here: World) -> list[Text]:
    """Run the commands and return what a terminal shows, without the progress."""
    shown = []
    for command in COMMANDS:
        words = shlex.split(here.to_world(command.replace("~/", "/home/me/")))
        ended = binpkg(*words[1:])
        if ended.code != 0:
            raise RuntimeError(ended.err)
        summary = ended.err.splitlines()[-1:]
        shown.append(Text.assemble(("$ ", "bold green"), (command, "bold")))
        shown += [Text(here.to_document(line)) for line in [*ended.out.splitlines(), *summary]]
        shown.append(Text())
    for line in shown[:-1]:
        line.truncate(COLUMNS, overflow="ellipsis")
    return shown[:-1]


def picture() -> str:
    """Return the picture as SVG."""
    with parts() as shared, world(shared) as here:
        console = Console(record=True, width=COLUMNS, file=io.StringIO(), color_system="truecolor", highlight=False)
        for line in lines(here):
            console.print(line)
    return console.export_svg(title="oci-binpkg", code_format=_FORMAT, unique_id="terminal")


def words(svg: str) -> str:
    """Return the text of a picture, without what differs between two runs."""
    text = html.unescape(" ".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg))).replace("\u00a0", " ")
    text = re.sub(r"[0-9.]+ k?B\b", "SIZE", re.sub(r"\b(sha256:)?[0-9a-f]{12,64}", "DIGEST", text))
    return re.sub(r"\S*…", "…", re.sub(r"\s+", " ", text))


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
