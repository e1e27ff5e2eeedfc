"""The error texts that the tests of the faults and profiles meet: kept word for word in `error_texts.txt`, and held to rules.

There, `HOST` is any host and port, `REPOSITORY` the repository, `DIGEST` any digest. Titles in a row share what
follows. README.md says how the file is written anew; it is read before it is kept.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from oci_binpkg.cli.hints import words
from oci_binpkg.config import caches as mirrors
from oci_binpkg.config import settings
from oci_binpkg.errors import BinpkgError
from tests.support.command_line import Ended

EXPECTED = Path(__file__).with_name("error_texts.txt")
HEAD = "What users are told by faults and profiles; `error_texts.py` says how to read and write this.\n"
_REPLACED = (
    (r"(https?://)?(127\.0\.0\.1|registry\.example):[0-9]+", "HOST"),
    (r"\b(faults/[0-9]+|(team|faults)[0-9]+/apps)\b", "REPOSITORY"),
    (r"/tmp/[^\s:]+", "PATH"),
    (r"sha256:[0-9a-f]{12,64}", "DIGEST"),
    (r"\b[0-9a-f]{64}\b", "DIGEST"),
    (r"blobs/uploads/[0-9a-f-]{36}[^\s,;)]*", "blobs/uploads/SESSION"),
    (r"artifacts-uploads/[^\s,;)]*", "artifacts-uploads/SESSION"),
    (r"until 20[0-9-]{8} [0-9:]{8}", "until TIME"),
    (r"in [0-9]+\.[0-9] s\b", "in N s"),
    (r"attempts in [0-9]+ s\b", "attempts in N s"),
    (r"[0-9.]+ (bytes|B|kB|KiB|MB|MiB)\b", "SIZE"),
)
_ATTEMPTED = re.compile(
    r"\b(GET|HEAD|download|upload|begin the upload|push manifest|fetch manifest|list the tags|remove|get a token)\b"
)
SETTINGS = frozenset({*settings._KEYS, *settings._REGISTRY, *mirrors.KEYS})
"""The keys that a step may name."""
LONGEST = 500
"""Of a line; servers have up to 300 characters of it."""
_THING = re.compile(r"REPOSITORY|DIGEST|HOST/\w+")


def normalised(text: str) -> str:
    """Return a text without what differs from run to run."""
    for pattern, new in _REPLACED:
        text = re.sub(pattern, new, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


@functools.cache
def expected() -> dict[str, list[str]]:
    """Return what stands in the file: test -> its texts."""
    found: dict[str, list[str]] = {}
    text = EXPECTED.read_text(encoding="utf-8") if EXPECTED.exists() else ""
    for titles, block in re.findall(r"^((?:== .*\n)+)((?:(?!== ).*\n?)+)", text, re.MULTILINE):
        texts = sorted(one.strip("\n") for one in block.strip("\n").split("\n--\n"))
        found |= dict.fromkeys(titles.removeprefix("== ").rstrip("\n").split("\n== "), texts)
    return found


def written(found: dict[str, list[str]]) -> str:
    """Return the file for what was found; tests that were not run keep what they have."""
    titles = defaultdict(list)
    for title, texts in {**expected(), **found}.items():
        if texts:
            titles["\n--\n".join(sorted(texts))].append(title)
    blocks = sorted(("".join(f"== {title}\n" for title in sorted(which)), text) for text, which in titles.items())
    return "\n".join([HEAD, *(f"{which}{text}\n" for which, text in blocks)])


class Told:
    """What one test lets out: errors that it expects, and what failing commands print."""

    def __init__(self) -> None:
        self.texts: set[str] = set()

    def raises(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """Return `pytest.raises` that also listens."""

        @contextmanager
        def listening(*arguments: Any, **more: Any) -> Iterator[Any]:
            with real(*arguments, **more) as caught:
                yield caught
            if isinstance(caught.value, BinpkgError):
                kind = f"{type(caught.value).__name__}, exit {caught.value.exit_code}"
                step = f"\n  {words(caught.value.hint)}" if caught.value.hint else ""
                self.texts.add(normalised(f"{kind}\n{caught.value.message}{step}"))

        return listening

    def command(self, real: Callable[..., Ended]) -> Callable[..., Ended]:
        """Return `binpkg` that also listens."""

        def listening(*arguments: Any, **more: Any) -> Ended:
            ended = real(*arguments, **more)
            if ended.code:
                # packages are dealt with side by side: the order of their lines is not always the same
                self.texts.add(
                    normalised(f"{arguments[0]}, exit {ended.code}\n{_failures(ended.err + _hints(ended.out))}")
                )
            return ended

        return listening


def _hints(text: str) -> str:
    """Return what to do next, as it stands among the lines about packages."""
    return "".join(f"{line}\n" for line in text.splitlines() if re.match(r" {4}\w", line))


def _failures(text: str) -> str:
    """Leave out lines about what went well, and retries."""
    went_well = re.compile(r"(\[\d+/\d+\] )?pushed |\d+ packages for |retry|\s*$")
    # the number of a line depends on which package was dealt with first
    lines = (re.sub(r"^\[\d+/\d+\] ", "", line) for line in text.splitlines() if not went_well.match(line))
    return "\n".join(lines)


def wrong_with(text: str) -> Iterable[str]:
    """Yield what an error text lacks: what was attempted, where, on which thing, why, and what to do next."""
    command, _, rest = text.partition("\n")
    said = " ".join(line for line in rest.splitlines() if not line.startswith("  "))
    if not _ATTEMPTED.search(said) and "Error" in command:
        yield "what was attempted"
    if "HOST" not in said:
        yield "the host"
    if not _THING.search(said):
        yield "the repository, digest or file"
    if not re.search(r"answered without|: (HOST|the|it|SIZE|more|no|[0-9])[^:]* .{4,}|\(HOST.* not have it\)", said):
        yield "the reason"
    yield from _wrong_steps(command, said, re.findall(r"(?m)^ {2,4}(\S.*)$", rest))
    if re.search(r"\bNone\b|<class|Traceback|\bb'|  |\(\)|: :|;;", said):
        yield "words for people"
    if max(map(len, rest.splitlines()), default=0) > LONGEST:
        yield "brevity"


def _wrong_steps(command: str, said: str, steps: list[str]) -> Iterable[str]:
    """Yield what is wrong with what to do next: none, several for one error, or one that cannot help."""
    if not steps:
        yield "a next step"
    if "Error" in command and len(steps) > 1:
        yield "a single next step"
    for step in steps:
        if step.endswith(".") or step[0].isupper():
            yield "a step written like the others"
        keys = re.findall(r"`([a-z_]+)`|\[([a-z_]+)\.", step)
        if "in the settings" in step and not keys:
            yield "the key that is to be set"
        if {key for pair in keys for key in pair if key} - SETTINGS:
            yield "a key that there is"
        if re.search(r"HTTP (4(?!08|29|99)|50[15])", said) and re.search(r"side: try again later", step):
            yield "a step other than waiting, for what waiting does not change"
        if "log in" in step and not re.search(r"exit 2[234]", command) and "401" not in said:
            yield "a step that has to do with the login only where the error has"


def listen(request: pytest.FixtureRequest, patch: pytest.MonkeyPatch) -> Told:
    """Listen to one test."""
    told = Told()
    patch.setattr(pytest, "raises", told.raises(pytest.raises))
    if hasattr(request.module, "binpkg"):
        patch.setattr(request.module, "binpkg", told.command(request.module.binpkg))
    return told


def title_of(node: pytest.Item) -> str:
    """Return `F06 passing_errors[500]`, or `profiles: copy_and_install[ghcr]`."""
    name = node.name.removeprefix("test_")
    return name.replace("_", " ", 1) if re.match(r"F\d\d_", name) else f"profiles: {name}"
