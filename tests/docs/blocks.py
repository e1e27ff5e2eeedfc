"""What stands in fenced blocks of a document, and running it in a world."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from tests.docs.world import World, without_columns
from tests.support.command_line import Ended, binpkg

ROOT = Path(__file__).parents[2]
KINDS = ("console", "sh", "toml", "yaml", "json", "python", "text")
NOT_RUN: Mapping[str, str] = {
    r"pip install ": "it would install packages into this environment",
    r"docker ": "it needs an engine: registry-test/test_documented_images.py runs it",
    r"make |\.venv/bin/python ": "it is about a checkout, and takes minutes",
}
"""Commands that documents show and this suite does not run: how they begin, and why."""

_FENCE = re.compile(r"^( *)```(\S*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"`([^`\s]+\.toml)`")
_SIMPLE = re.compile(r'(?:echo "\$(?P<variable>\w+)" \| )?(?P<command>oci-binpkg [^>]*)(?: > (?P<file>\S+))?')
"""What is run in this process, because starting Python costs more than most commands."""
_QUOTED = re.compile(r"'[^']*'")
_SHELL = re.compile(r"[|<>$*;&`(]")


@dataclass(frozen=True)
class Block:
    """A fenced block. `file` is the last file that the line before it names."""

    kind: str
    text: str
    line: int
    file: str = ""


@dataclass(frozen=True)
class Shown:
    """A command in a console, and what a document says that it prints."""

    command: str
    expected: str


def blocks(document: str) -> Iterator[Block]:
    """Yield the fenced blocks of a document in Markdown."""
    for found in _FENCE.finditer(document):
        before = document[: found.start()]
        said = before.rstrip().rpartition("\n")[2]
        names = _FILE.findall(said)
        yield Block(
            found[2],
            textwrap.dedent(found[3]),
            before.count("\n") + 1,
            names[-1] if names and said.endswith(":") else "",
        )


def commands_of(console: str) -> Iterator[Shown]:
    """Yield what stands behind each `$ `, with the lines below it."""
    for part in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]:
        command, _, expected = part.replace("\\\n", " ").partition("\n")
        yield Shown(command, expected)


def is_not_run(command: str) -> bool:
    """Tell whether a command is one of `NOT_RUN`."""
    return any(re.match(pattern, command.strip()) for pattern in NOT_RUN)


class Runner:
    """Runs the blocks of one document one after the other. `last` is how the last command ended."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.last = Ended(0, "", "")
        self.names: dict[str, Any] = {"__name__": "__main__"}

    def run(self, block: Block) -> None:
        """Run a block; an assertion fails where it does not do what the document says."""
        getattr(self, f"_{block.kind}")(block)

    def command(self, command: str) -> Ended:
        """Run one command as it stands in a document, in this process unless it needs a shell."""
        words = self.world.to_world(command)
        simple = _SIMPLE.fullmatch(words)
        if simple and not _SHELL.search(_QUOTED.sub("", simple["command"])):
            split = [re.sub(r"^~(?=/)", str(self.world.home), word) for word in shlex.split(simple["command"])[1:]]
            stdin = os.environ[simple["variable"]] if simple["variable"] else "ci\nsecret\n"
            self.last = binpkg(*split, stdin=stdin, terminal=not simple["variable"])
            if simple["file"]:
                Path(simple["file"]).write_text(self.last.out)
        else:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", words], capture_output=True, text=True, timeout=60, check=False
            )
            self.last = Ended(done.returncode, done.stdout, done.stderr)
        return self.last

    def _console(self, block: Block) -> None:
        shown = list(commands_of(block.text))
        assert shown, "a console without a command"
        for number, each in enumerate(shown):
            if each.command == "echo $?":
                assert self.last.code == int(each.expected), self._said(shown[number - 1].command)
                continue
            if is_not_run(each.command):
                continue
            self.command(each.command)
            if number + 1 == len(shown) or shown[number + 1].command != "echo $?":
                assert self.last.code == 0, self._said(each.command)
            self._compare(each)

    def _compare(self, shown: Shown) -> None:
        if not shown.expected.strip():
            return
        wanted = "".join(map(_pattern, shown.expected.rstrip().split("\n")))
        texts = [
            "".join(f"{without_columns(line)}\n" for line in self.world.to_document(text).splitlines())
            for text in (self.last.out, self.last.err, self.last.out + self.last.err)
        ]
        assert any(re.fullmatch(wanted, text) for text in texts), self._said(shown.command)

    def _said(self, command: str) -> str:
        out, err = self.world.to_document(self.last.out), self.world.to_document(self.last.err)
        return f"$ {command}\n{out}{err}[{self.last.code}]"

    def _sh(self, block: Block) -> None:
        for line in block.text.splitlines():
            if line and not line.startswith("#") and not is_not_run(line):
                self.command(line)
                assert self.last.code == 0, self._said(line)

    def _yaml(self, block: Block) -> None:
        found = [line for text in _scripts(yaml.safe_load(block.text)) for line in text.splitlines()]
        assert found, "a pipeline without commands"
        for line in found:
            if not is_not_run(line):
                self.command(line)
                assert self.last.code == 0, self._said(line)

    def _toml(self, block: Block) -> None:
        text = self.world.to_world(block.text)
        if block.file:
            path = Path(block.file.replace("~", str(self.world.home)))
        elif "[[package]]" in text:
            path = self.world.home / "of-a-document" / "packages.toml"
        else:
            path = self.world.home / "of-a-document.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if "[[package]]" in text:
            for prefix in re.findall(r'^prefix = "([^"]+)"', text, re.MULTILINE):
                (path.parent / prefix).mkdir(parents=True, exist_ok=True)
            self.command(f"oci-binpkg find --store {path.parent}")
        else:
            with mock.patch.dict(os.environ, {"OCI_BINPKG_CONFIG": str(path)}):
                self.command("oci-binpkg mirror list")
        assert self.last.code == 0, self._said(block.text)

    def _json(self, block: Block) -> None:
        documented, actual = shape(json.loads(block.text)), shape(json.loads(self.last.out))
        assert documented == actual

    def _python(self, block: Block) -> None:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(self.world.to_world(block.text), f"line {block.line}", "exec"), self.names)
        self.last = Ended(0, out.getvalue(), "")

    def _text(self, block: Block) -> None:
        """Nothing is run of a drawing or a form."""


def _pattern(line: str) -> str:
    if line.strip() == "...":
        return r"(?:.*\n)*"
    return re.escape(without_columns(line)).replace(r"\.\.\.", ".*") + "\n"


def _scripts(node: object) -> Iterator[str]:
    """Yield what a pipeline runs: the values of `run` and `script`."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("run", "script"):
                yield from [value] if isinstance(value, str) else value
            else:
                yield from _scripts(value)
    elif isinstance(node, list):
        for value in node:
            yield from _scripts(value)


def shape(value: object, path: str = "") -> set[str]:
    """Return the keys of a JSON document with their paths: what a reader of it may rely on."""
    if isinstance(value, dict):
        return {each for key, inner in value.items() for each in {f"{path}.{key}", *shape(inner, f"{path}.{key}")}}
    if isinstance(value, list):
        return {each for inner in value for each in shape(inner, f"{path}[]")}
    return set()
