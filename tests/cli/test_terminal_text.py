"""Nothing that strangers wrote drives a terminal: every command, with every field of every document hostile in turn.

The commands are taken from the command line itself, the fields from the documents: a command or a field that is added is
walked through, or a test fails that says so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import typer

from oci_binpkg.cli import terminal
from oci_binpkg.cli.app import app
from tests.support.command_line import Ended, binpkg, binpkg_on_terminal
from tests.support.hostile_text import HOSTILE_WORDS, RUDE_ANSWERS, SIGN, Field, Stage, places, rude_registry

DRIVES = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
OUR_DRAWING = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[[0-9]*[ABK]|\r")
"""What rich draws with: colours, the cursor hidden and shown, moved up and down, lines erased."""

LINES_OF_STRANGERS = re.compile(r"^\s*(?:\\x09|\\t|\t|\\u0009)", re.MULTILINE)
"""What follows the line feed in the hostile text, at the beginning of a line."""

Words = tuple[str, ...]

COMMANDS: dict[str, Sequence[tuple[Words, Words]]] = {
    # command: lines, and whose documents each reads
    "push": [
        (("push", "{target}", "--store", "{tree}", "--update-index"), ("tree",)),
        (("push", "{target}", "--store", "{toml}", "--update-index"), ("toml",)),
        (("push", "{layout}", "--store", "{source}", "--update-index", "--force"), ("layout",)),
        (("push", "lab", "--store", "{source}", "--dry-run"), ("settings",)),
    ],
    "image": [
        (("image", "{target}", "app", "--store", "{tree}", "--tag", "x"), ("tree",)),
        (
            ("image", "{target}", "tool", "--store", "{toml}", "--tag", "x", "--base-image", "{layout}:both"),
            ("toml", "layout"),
        ),
    ],
    "find": [
        (("find", "--from", "{layout}"), ("layout",)),
        (("find", "--from", "{mirror}", "--no-check-signature"), ("mirror",)),
        (("find", "--store", "{tree}"), ("tree",)),
        (("find", "--store", "{toml}"), ("toml",)),
        (("find", "--all-arch", "--ttl", "0"), ("settings", "layout", "mirror")),
    ],
    "show": [
        (("show", "app", "--from", "{layout}"), ("layout",)),
        (("show", "app", "--from", "{mirror}", "--no-check-signature"), ("mirror",)),
    ],
    "inspect": [(("inspect", "{layout}"), ("layout",)), (("inspect", "{layout}:both"), ("layout",))],
    "load": [(("load", "{layout}:both", "--engine", "docker"), ("layout",))],
    "run": [(("run", "{layout}:both", "--engine", "podman", "--", "true"), ("layout",))],
    "install": [
        (("install", "app", "--from", "{layout}", "--store", "{new}/s"), ("layout",)),
        (("install", "app", "--from", "{mirror}", "--no-check-signature", "--store", "{new}/s"), ("mirror",)),
        (("install", "app", "--from", "{good}", "--store", "{tree}", "--force"), ("tree",)),
    ],
    "install-image": [(("install-image", "{layout}:both", "--store", "{new}/s"), ("layout",))],
    "uninstall": [(("uninstall", "zlib", "--dependents", "--store", "{tree}"), ("tree",))],
    "verify-store": [(("verify-store", "{tree}"), ("tree",))],
    "download": [
        (("download", "app", "--from", "{layout}", "{new}/d"), ("layout",)),
        (("download", "app", "--from", "{mirror}", "--no-check-signature", "{new}/d"), ("mirror",)),
    ],
    "attach": [(("attach", "{layout}", "both", "{new}/f", "--type", "text/plain"), ("layout",))],
    "artifacts list": [(("artifacts", "list", "{layout}", "both"), ("layout",))],
    "artifacts get": [(("artifacts", "get", "{layout}", "both", "{new}/d"), ("layout",))],
    "login": [(("login", "127.0.0.1:1", "-u", "somebody", "--password-stdin"), ("settings",))],
    "logout": [(("logout", "registry.example"), ("settings",))],
    "index update": [
        (("index", "update", "{layout}"), ("layout",)),
        (("index", "update", "{mirror}", "--no-check-signature"), ("mirror",)),
    ],
    "index rebuild": [
        (("index", "rebuild", "{layout}"), ("layout",)),
        (("index", "rebuild", "{mirror}", "--no-check-signature", "--view", "v"), ("mirror",)),
    ],
    "index check": [
        (("index", "check", "{layout}"), ("layout",)),
        (("index", "check", "{mirror}", "--no-check-signature"), ("mirror",)),
    ],
    "keys list": [(("keys", "list"), ("settings",))],
    "keys fetch": [(("keys", "fetch", "{mirror}"), ())],
    "keys trust": [(("keys", "trust", "{new}/key.asc"), ())],
    "keys untrust": [(("keys", "untrust", "A" * 40), ())],
    "keys publish": [(("keys", "publish", "{mirror}", "--key", "nobody@example.org"), ())],
    "mirror add": [(("mirror", "add", "more", "oci-layout:/nowhere"), ("settings",))],
    "mirror set": [(("mirror", "set", "lab", "--push", "oci-layout:/nowhere"), ("settings",))],
    "mirror list": [(("mirror", "list"), ("settings",))],
    "mirror remove": [(("mirror", "remove", "lab"), ("settings",))],
    "copy": [
        (("copy", "{layout}", "{target}"), ("layout",)),
        (("copy", "{mirror}", "{target}", "--no-check-signature"), ("mirror",)),
        (("copy", "{good}", "{layout}"), ("layout",)),
    ],
    "check": [
        (("check", "--on", "{layout}", "--store", "{source}", "--thorough"), ("layout",)),
        (("check", "--on", "{good}", "--store", "{tree}", "--output", "{new}.json"), ("tree",)),
    ],
    "search": [(("search", "app", "--all-arch", "--ttl", "0"), ("settings", "layout", "mirror"))],
    "save-specs": [
        (("save-specs", "app", "--from", "{layout}", "--output-dir", "{new}/x"), ("layout",)),
        (("save-specs", "app", "--store", "{tree}", "--output-dir", "{new}/x"), ("tree",)),
    ],
    "version": [(("version",), ())],
}
THOROUGH = "find"
"""Where it reads one cache or tree it is run with every field of that; other lines with a share of them, each another."""
STRIDE = 12
EVERYTHING = os.environ.get("OCI_BINPKG_WALK") == "all"
"""`make nightly` takes every field and every answer."""
ALWAYS_QUOTES = {"keys list", "keys untrust", "logout", "mirror add", "mirror remove"}
"""What these show of strangers is written as Python and JSON write texts, and so without anything to clean."""
WRITES = {
    "push": ("layout",),
    "uninstall": ("tree",),
    "install": ("tree",),
    "copy": ("layout",),
    "attach": ("layout",),
    "index update": ("layout", "mirror"),
    "index rebuild": ("layout", "mirror"),
    "mirror add": ("config.toml",),
    "mirror set": ("config.toml",),
    "mirror remove": ("config.toml",),
    "keys publish": ("mirror",),
}
SHOWS_NOTHING_OF_STRANGERS = {"version"}
REGISTRY_COMMANDS: Sequence[Words] = (
    ("find", "--from", "{registry}"),
    ("show", "app", "--from", "{registry}"),
    ("inspect", "{registry}"),
    ("inspect", "{registry}:both"),
    ("install", "app", "--from", "{registry}", "--store", "{new}/s"),
    ("install-image", "{registry}:both", "--store", "{new}/s"),
    ("push", "{registry}", "--store", "{toml}", "--update-index"),
    ("copy", "{registry}", "{target}"),
    ("copy", "{good}", "{registry}"),
    ("index", "rebuild", "{registry}"),
    ("check", "--on", "{registry}", "--store", "{source}"),
    ("download", "app", "--from", "{registry}", "{new}/d"),
    ("login", "{host}", "-u", "somebody", "--password-stdin"),
)


def commands(of: typer.Typer) -> Iterator[tuple[str, Any]]:
    """Every command there is, by its words."""

    def below(command: Any, words: Words) -> Iterator[tuple[str, Any]]:
        if not hasattr(command, "commands"):
            yield " ".join(words), command
        for name, each in getattr(command, "commands", {}).items():
            yield from below(each, (*words, name))

    return below(typer.main.get_command(of), ())


VERBS = dict(commands(app))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, isolated_session: None) -> Stage:
    folder = tmp_path_factory.mktemp("hostile") / "stage"
    folder.mkdir()
    return Stage(folder)


@pytest.fixture
def stage(built: Stage, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setenv("OCI_BINPKG_RETRIES", "0")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{built.folder}/no-docker")
    monkeypatch.setenv("CONTAINER_HOST", f"unix://{built.folder}/no-podman")
    monkeypatch.setenv("OCI_BINPKG_CONFIG", str(built.folder / "config.toml"))
    built.restore_all()
    return built


def raw_in(text: str) -> list[str]:
    """What a terminal would obey; what we draw ourselves is not looked at."""
    return DRIVES.findall(OUR_DRAWING.sub("", text))


def has_json(command: str) -> bool:
    return any("--json" in parameter.opts for parameter in VERBS[command].params)


def ended_badly(ended: Ended) -> str:
    """What is wrong with what a command printed, "" if nothing is."""
    if LINES_OF_STRANGERS.search(ended.out + ended.err):
        return f"a line feed in {(ended.out + ended.err)!r}"
    if found := raw_in(ended.out) + DRIVES.findall(ended.err):
        return f"{found} in {(ended.out + ended.err)!r}"
    if ended.code == 70 or "Traceback" in ended.err + ended.out:
        return (ended.out + ended.err)[-2000:]
    return ""


def steps(stage: Stage, command: str) -> Iterator[tuple[Words, list[str], Field | None]]:
    """The lines of a command, each with a field hostile that it reads, or one of its words."""
    for number, (line, sources) in enumerate(COMMANDS[command]):
        words = [word.format(**stage.names) for word in line]
        thorough = EVERYTHING or (command == THOROUGH and len(sources) == 1)
        every = 1 if thorough else STRIDE
        for at in range(len(command.split()), len(words)):
            for text in HOSTILE_WORDS:
                yield line, [*words[:at], words[at] + text, *words[at + 1 :]], None
        # another share of the fields for each line
        for field in stage.fields(*sources)[(list(COMMANDS).index(command) + number) % every :: every]:
            yield line, words, field


def walk(stage: Stage, command: str) -> Iterator[tuple[str, Ended]]:
    """Run a command with hostile fields and words, on a terminal and with pipes in turn."""
    for number, (line, words, field) in enumerate(steps(stage, command)):
        if field is not None:
            stage.spoil(field)
        on_terminal = bool((number + number // STRIDE) % 2)
        yield f"{' '.join(line)}: {field or 'a word'}", run(command, words, on_terminal=on_terminal)
        stage.restore(*WRITES.get(command, ()))
        if field is not None and field.source not in WRITES.get(command, ()):
            stage.mend(field)


def run(command: str, words: Sequence[str], *, on_terminal: bool) -> Ended:
    if on_terminal:
        return binpkg_on_terminal(*words, stdin="secret\n")
    end = words.index("--") if "--" in words else len(words)
    return binpkg(*words[:end], *(["--json"] if has_json(command) else []), *words[end:], stdin="secret\n")


def test_every_command_is_walked_through() -> None:
    assert set(COMMANDS) == set(VERBS)


def test_a_command_that_is_added_is_found() -> None:
    more = typer.Typer()
    more.add_typer(app)
    more.command("undone")(lambda: None)
    assert "undone" in dict(commands(more))


@pytest.mark.timeout(900)  # some hundred runs of a command
@pytest.mark.parametrize("command", VERBS)
def test_no_field_drives_a_terminal(stage: Stage, command: str) -> None:
    shown, bad = 0, []
    for what, ended in walk(stage, command):
        bad += [f"{what}: {fault}" for fault in [ended_badly(ended)] if fault]
        shown += SIGN in ended.out + ended.err
    assert bad == []
    assert shown or command in SHOWS_NOTHING_OF_STRANGERS


@pytest.mark.parametrize("command", sorted(set(VERBS) - SHOWS_NOTHING_OF_STRANGERS - ALWAYS_QUOTES))
def test_a_command_whose_text_is_not_cleaned_is_noticed(
    stage: Stage, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "cleaned", lambda text: text)
    monkeypatch.setattr(terminal, "escaped_json", lambda text: text)
    monkeypatch.setattr(terminal, "DRIVING", re.compile(r"(?!)"))
    assert any(ended_badly(ended) for _, ended in walk(stage, command))


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("layout", "name version platform platform_os target namespace parameters shared api cflags flavours hash mediaType"),
        ("layout", "digest size annotations org.opencontainers.image.ref.name comment created_by Env diff_ids"),
        ("mirror", "name version platform_os target namespace checksum contentLength mediaType compression signing"),
        ("tree", "name version platform_os target namespace path dependencies deptypes virtuals annotations installed"),
        ("toml", "package name version platform os target prefix defaults arch"),
        ("settings", "lab files url fetch push view profile access_token_variable ca_file servers jobs compression"),
        ("settings", "mirrors theirs signed access_pair id_variable secret_variable"),
    ],
)  # fmt: skip
def test_the_fields_that_strangers_write_are_among_those(stage: Stage, source: str, names: str) -> None:
    fields = stage.fields(source)
    walked = {str(field.path[-1]) for field in fields} | {str(step) for field in fields for step in field.path}
    assert set(names.split()) - walked == set()


def test_a_field_that_is_added_is_found() -> None:
    document = {"nodes": [{"name": "app", "new": {"deep": ["x"]}}]}
    assert {(("nodes", 0, "new", "deep", 0), False), (("nodes", 0, "new"), True)} <= set(places(document))


@pytest.mark.parametrize("line", REGISTRY_COMMANDS, ids=" ".join)
def test_no_answer_of_a_registry_drives_a_terminal(stage: Stage, line: Words) -> None:
    command = next(each for each in (" ".join(line[:2]), line[0]) if each in VERBS)
    shown, bad = 0, []
    with rude_registry(stage.folder / "layout") as registry:
        names = {**stage.names, "registry": f"oci://{registry.host}/apps", "host": registry.host}
        words = [word.format(**names) for word in line]
        # each command gets another share of the answers
        answers = list(RUDE_ANSWERS.items())[
            slice(None) if EVERYTHING else slice(REGISTRY_COMMANDS.index(line) % 3, None, 3)
        ]
        for number, (what, fault) in enumerate(answers):
            registry.fault("GET|HEAD|POST|PUT|PATCH", "/v2/.+|/v2/?$", times=0, **fault)
            ended = run(command, words, on_terminal=bool(number % 2))
            registry.clear()
            stage.restore()
            bad += [f"{what}: {each}" for each in [ended_badly(ended)] if each]
            shown += SIGN in ended.out + ended.err
    assert bad == []
    assert shown
