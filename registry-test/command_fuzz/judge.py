"""What a command must never do, whatever it was given, and how one sees that it did."""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from command_fuzz.sandbox import STORE, Entry, Place, changes
from command_fuzz.values import SECRET
from oci_binpkg import errors

if TYPE_CHECKING:
    from command_fuzz.runner import Ended

MIB, CPU = 256, 5.0
_OWN = ("cachehome/oci-binpkg", "data/oci-binpkg", "data/oci-binpkg/keyring", "state/oci-binpkg", "config/oci-binpkg")
INTERRUPTED = 130
_UNEXPECTED = 70
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\udc80-\udc9f]")
_OF_A_TERMINAL = re.compile(
    r"\r|\x1b\[(?:\?25[lh]|[0-9]*[ABGJK]|[0-9]?K|0?m|(?:[1-79]|[349][0-7]|38;[0-9;]+)(?:;[0-9]+)*m)"
)
"""What progress and colours are made of; the sequences in our vocabulary are others."""
_LEFTOVER = re.compile(r"(^|/)\.(tmp-|oci-binpkg|install|staging|new-)[^/]*$|\.tmp$|\.new$|\.part(ial)?$")
_FRAME = re.compile(r'(?:File "[^"]*?|^  (?:\S*/)?)([a-z_]+/[a-z_]+\.py)(?:", line \d+, in |:\d+ )(\S+)', re.MULTILINE)
_LAST_LINE = re.compile(r"^([A-Za-z_.]+(?:Error|Exception|Exit|Interrupt|Warning)[A-Za-z_]*)", re.MULTILINE)


@dataclass(frozen=True)
class Finding:
    """What is wrong. Findings of one `signature` are likely one fault."""

    kind: str
    signature: str
    detail: str


@dataclass(frozen=True)
class Evidence:
    """A call and all that is known of it."""

    place: Place
    words: list[str]
    call: dict[str, Any]
    before: dict[str, Entry]
    after: dict[str, Entry]
    ended: Ended

    @property
    def text(self) -> str:
        return (self.ended.out + b"\n" + self.ended.err).decode("utf-8", "surrogateescape")


def documented() -> frozenset[int]:
    """Return the exit codes of the documented set."""
    found = [errors.BinpkgError]
    for each in found:
        found += each.__subclasses__()
    return frozenset({0, INTERRUPTED, *(each.exit_code for each in found)})


def findings(evidence: Evidence) -> list[Finding]:
    """Return all that is wrong with a call."""
    return [*_crashes(evidence), *_costs(evidence), *_writes(evidence), *_halves(evidence), *_shows(evidence)]


def _crashes(evidence: Evidence) -> list[Finding]:
    ended, text = evidence.ended, evidence.text
    if "Traceback (most recent" in text:
        return [Finding("traceback", f"traceback {_place_of(text)}", text[-3000:])]
    if ended.code == _UNEXPECTED or (ended.code < 0 and not ended.hung):
        report = _reports(evidence)
        where = _place_of(report) if report else f"exit {ended.code}"
        return [Finding("crash", f"crash {where}", f"exit {ended.code}\n{text[-2000:]}\n{report[-3000:]}")]
    if ended.hung:
        return [Finding("hang", f"hang {evidence.words[0]}", f"{ended.seconds:.0f} s\n{text[-1000:]}")]
    if evidence.words[0] != "run" and ended.code not in documented():
        return [Finding("exit code", f"exit {ended.code} {evidence.words[0]}", text[-1000:])]
    return []


def _reports(evidence: Evidence) -> str:
    """Return the newest report of a crash that the command wrote."""
    new = [name for name in evidence.after if name not in evidence.before and ("crash" in name or "traceback" in name)]
    texts = []
    for name in new:
        path = os.path.join(evidence.place.root, name)
        if os.path.isfile(path):
            with open(path, encoding="utf-8", errors="replace") as file:
                texts.append(file.read())
    return "\n".join(texts)


def _place_of(text: str) -> str:
    frames = [f"{file}:{function}" for file, function in _FRAME.findall(text) if "site-packages" not in file]
    ours = [each for each in frames if not each.startswith("command_fuzz")]
    names = _LAST_LINE.findall(text)
    return f"{names[-1] if names else '?'} {' < '.join(reversed(ours[-3:]))}"


def _costs(evidence: Evidence) -> list[Finding]:
    ended, verb = evidence.ended, evidence.words[0]
    found = []
    if ended.mib > MIB and not evidence.call.get("process"):
        found.append(Finding("memory", f"memory {verb}", f"{ended.mib:.0f} MiB over the baseline"))
    if ended.cpu > CPU:
        found.append(Finding("cpu", f"cpu {verb}", f"{ended.cpu:.1f} s"))
    return found


def _writes(evidence: Evidence) -> list[Finding]:
    """Look for what changed where nothing may, and for canaries that did not stay as they were."""
    allowed = (*evidence.call["writes"], *_named(evidence), *_linked(evidence))
    wrong = []
    for name in changes(evidence.before, evidence.after):
        inside = any(name == area or name.startswith(f"{area}/") or area.startswith(f"{name}/") for area in allowed)
        if not inside or (os.path.basename(name) == "kept" and name in evidence.before):
            wrong.append(name)
    found = [Finding("escape", f"escape {evidence.words[0]} {_area(wrong[0])}", "\n".join(wrong[:20]))] if wrong else []
    if "Read-only file system" in evidence.text:
        found.append(Finding("escape", f"escape {evidence.words[0]} outside of the place", evidence.text[-1500:]))
    return found


def _named(evidence: Evidence) -> list[str]:
    """Return the paths that somebody typed: what is written there was asked for."""
    paths = [word.rpartition("://")[2] for word in evidence.words]
    paths = [os.path.join(evidence.place.root, "out", path.removeprefix("oci-layout:")) for path in paths]
    paths += [os.path.realpath(path) for path in paths]
    return [os.path.relpath(path, evidence.place.root) for path in paths]


def _linked(evidence: Evidence) -> list[str]:
    """Return where folders of the user's own lead that are links: who links a cache elsewhere wants it there."""
    root = os.path.realpath(evidence.place.root)
    own = [*evidence.call["writes"], *_OWN]
    return [os.path.relpath(os.path.realpath(os.path.join(root, each)), root) for each in own]


def _area(name: str) -> str:
    return name.split("/", maxsplit=1)[0]


def _halves(evidence: Evidence) -> list[Finding]:
    """Look for what is left of something that did not come to its end."""
    new = [name for name in evidence.after if name not in evidence.before]
    left = [name for name in new if name.startswith("tmp/") or (_LEFTOVER.search(name) and "/.spack/" not in name)]
    found = []
    if left and not evidence.ended.hung and evidence.ended.code >= 0:
        found.append(Finding("leftover", f"leftover {evidence.words[0]} {_area(left[0])}", "\n".join(left[:20])))
    for root in (STORE, "tree"):
        path = os.path.join(evidence.place.root, root, ".spack-db/index.json")
        if evidence.before.get(f"{root}/.spack-db/index.json") != evidence.after.get(f"{root}/.spack-db/index.json"):
            problem = _unreadable(path)
            if problem:
                found.append(Finding("leftover", f"database {evidence.words[0]}", f"{path}: {problem}"))
    return found


def _unreadable(path: str) -> str:
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return "not a file"
        with open(path, "rb") as file:
            json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        return str(error)
    return ""


def _shows(evidence: Evidence) -> list[Finding]:
    text = evidence.text
    if evidence.call.get("terminal"):
        text = _OF_A_TERMINAL.sub("", text)
    found = []
    raw = _CONTROLS.search(text)
    if raw:
        around = ascii(text[max(0, raw.start() - 200) : raw.end() + 200])
        found.append(Finding("raw", f"raw {evidence.words[0]} {raw[0]!a}", around))
    if SECRET in text and SECRET not in " ".join(evidence.words):
        at = text.index(SECRET)
        found.append(Finding("secret", f"secret {evidence.words[0]}", ascii(text[max(0, at - 200) : at + 100])))
    return found
