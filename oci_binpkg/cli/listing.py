"""Long lists as JSON, an item at a time: the text of a hundred thousand packages is larger than they are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def json_list(items: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Return a list as `json.dumps` writes it with an indent of two, and a line feed, in pieces."""
    before = "[\n  "
    for item in items:
        # a line feed within a text is escaped: those that there are stand between members
        yield before + json.dumps(item, indent=2, ensure_ascii=False).replace("\n", "\n  ")
        before = ",\n  "
    yield "[]\n" if before.startswith("[") else "\n]\n"
