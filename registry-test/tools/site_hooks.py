"""What mkdocs does besides: the documents at the top of the repository become pages, and links to them lead there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TOP = {"SECURITY.md": "security.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """Add a page for each document at the top."""
    from mkdocs.structure.files import File

    for name, page in TOP.items():
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=_at_home(text, "")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links to documents at the top to their pages."""
    return _at_home(markdown, "../" * (page.file.src_uri.count("/") + 1))


def _at_home(text: str, up: str) -> str:
    for name, page in TOP.items():
        text = re.sub(rf"\]\({re.escape(up + name)}(#[^)]*)?\)", rf"]({up.removeprefix('../')}{page}\1)", text)
    return text
