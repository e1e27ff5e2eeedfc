"""What errors promise to a program: fields, a chain of causes, hints as values; nothing of it changes later."""

from __future__ import annotations

import ast
import copy
import pickle
import re
import string
from functools import cache
from pathlib import Path

import pytest

from oci_binpkg import errors
from oci_binpkg.cli.hints import WORDS, words
from oci_binpkg.errors import (
    BinpkgError,
    ContentError,
    DamagedError,
    Hint,
    NotFoundError,
    RateLimitedError,
    RelocationError,
    Step,
    hinted,
)

PACKAGE = Path(errors.__file__).parent
ALL = sorted(
    (each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, BinpkgError)),
    key=lambda each: each.__name__,
)


# ---- an error says more by becoming another one


@pytest.mark.parametrize("kind", ALL)
def test_an_error_that_says_more_is_a_new_one_of_the_same_class(kind: type[BinpkgError]) -> None:
    first = kind("not found", hint="look elsewhere", operation="fetch apps:1.0", details=["a", "b"])
    more = first.within("base image apps", "[2 attempts]", side="source", status=404)
    assert type(more) is kind
    assert more.lines == ("base image apps: not found [2 attempts]", "a", "b")
    assert str(more) == "base image apps: not found [2 attempts]\n  a\n  b\n  look elsewhere"
    assert more.args == (more.message,)
    assert more.exit_code == first.exit_code
    assert more.fields == {"operation": "fetch apps:1.0", "side": "source", "status": 404}
    assert first.message == "not found\n  a\n  b"
    assert first.fields == {"operation": "fetch apps:1.0"}


def test_a_new_error_keeps_what_only_its_class_knows() -> None:
    assert RateLimitedError("later", seconds=3.5).within("push").seconds == 3.5
    moved = RelocationError("too long", longest_prefix=17, longest_root=9).within("greet")
    assert (moved.longest_prefix, moved.longest_root) == (17, 9)


def test_a_hint_can_be_replaced_or_taken_away() -> None:
    error = ContentError("damaged", hint="push it again")
    assert error.within().hint == "push it again"
    assert error.within(hint="leave it out").hint == "leave it out"
    assert error.within(hint="").hint == ""


def test_an_error_that_was_kept_is_raised_as_a_new_one() -> None:
    kept = NotFoundError("gone", host="reg.example")
    raised = [kept.again(), kept.again()]
    assert len({id(kept), *map(id, raised)}) == 3
    assert {(each.message, each.host) for each in raised} == {("gone", "reg.example")}


@pytest.mark.parametrize("name", ["message", "hint", "details", "lines", "fields", *errors.Fields.__annotations__])
def test_no_part_of_an_error_can_be_assigned(name: str) -> None:
    error = BinpkgError("no")
    with pytest.raises(AttributeError):
        setattr(error, name, "x")


def test_the_fields_that_an_error_hands_out_are_a_copy() -> None:
    error = BinpkgError("no", host="reg.example")
    error.fields["host"] = "elsewhere.example"
    assert error.host == "reg.example"


def test_damage_gets_a_next_step_and_keeps_one_from_who_knows_more() -> None:
    first = ContentError("bad")
    with pytest.raises(ContentError) as caught, hinted("push it again"):
        raise first
    assert (caught.value.hint, first.hint) == ("push it again", "")
    assert caught.value.__cause__ is first
    with pytest.raises(ContentError) as caught, hinted("push it again"):
        raise ContentError("bad", hint="ask the owner")
    assert caught.value.hint == "ask the owner"
    with pytest.raises(DamagedError) as damaged, hinted("push it again"):
        raise DamagedError("bad", hint="get it from elsewhere")
    assert damaged.value.hint == "push it again"


def test_errors_travel_between_processes() -> None:
    error = BinpkgError("no", hint=Hint(Step.LOG_IN, host="reg.example"), status=401, codes=("UNAUTHORIZED",))
    back = pickle.loads(pickle.dumps(error))
    assert (back.message, back.fields, str(back)) == (error.message, error.fields, str(error))
    assert back.hint.step is Step.LOG_IN


# ---- fields


def test_what_is_not_known_is_none() -> None:
    error = BinpkgError("no")
    assert [getattr(error, name) for name in errors.Fields.__annotations__ if name != "codes"] == [None] * 6
    assert error.codes == ()


def test_the_json_of_an_error_has_its_fields_and_its_next_step() -> None:
    assert NotFoundError("gone").to_json() == {"error": "gone", "exit_code": 6}
    error = NotFoundError("gone", hint=Hint(Step.LOG_IN, host="reg.example"), host="reg.example", status=404)
    assert error.to_json() == {
        "error": "gone",
        "exit_code": 6,
        "error_fields": {"host": "reg.example", "status": 404, "hint": "log in to reg.example", "step": "log_in"},
    }


# ---- hints


def test_a_hint_reads_as_plain_words_and_knows_its_step() -> None:
    hint = Hint(Step.LOG_IN, host="reg.example")
    assert hint == "log in to reg.example"
    assert (hint.step, dict(hint.values)) == (Step.LOG_IN, {"host": "reg.example"})
    assert copy.deepcopy(hint).step is Step.LOG_IN
    with pytest.raises(KeyError):
        Hint(Step.LOG_IN)


def test_the_command_line_has_words_for_every_step() -> None:
    def places(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    assert set(WORDS) == set(Step)
    assert {step: places(text) for step, text in WORDS.items() if places(text) - places(step.value)} == {}


def test_the_command_line_names_the_command_and_the_flag() -> None:
    assert words(Hint(Step.LOG_IN, host="reg.example")) == "log in with `oci-binpkg login reg.example`"
    assert words("check the disk") == "check the disk"
    assert words("") == ""
    signed = Hint(Step.WITH_REBUILT_SIGNED_INDEX, first=Hint(Step.SIGN_WITH_SHA512))
    assert words(signed).startswith("sign it again with --digest-algo SHA512; `oci-binpkg index rebuild")


def test_every_command_and_flag_that_a_hint_names_exists() -> None:
    import typer

    from oci_binpkg.cli.app import app

    def known(command: object) -> set[str]:
        flags = {name for each in getattr(command, "params", ()) for name in (*each.opts, *each.secondary_opts)}
        return flags.union(*(known(each) for each in getattr(command, "commands", {}).values()))

    root = typer.main.get_command(app)
    flags = known(root) | {"--user", "--digest-algo", "--export", "--armor", "--list-secret-keys"}  # of gpg, systemctl
    named = {flag for text in WORDS.values() for flag in re.findall(r"--[a-z][a-z-]*", text)}
    assert named <= flags


# ---- the code


@cache
def nodes() -> list[tuple[Path, ast.AST]]:
    return [
        (module, node)
        for module in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
    ]


def test_nobody_edits_an_error() -> None:
    edited = [
        f"{module.relative_to(PACKAGE)}:{target.lineno}"
        for module, node in nodes()
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Attribute)
        and target.attr in {"message", "hint", "args", "details"}
        and module.name != "errors.py"
    ]
    assert edited == []


def test_nobody_raises_an_error_that_was_kept() -> None:
    """`raise self._failure` would add to one traceback from several places and threads."""
    raised = [
        f"{module.relative_to(PACKAGE)}:{node.lineno}"
        for module, node in nodes()
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Attribute | ast.Subscript)
        if ast.unparse(node.exc) != "work.observer.failure"  # the caller's own, which comes back to the caller
    ]
    assert raised == []


OTHER_PROGRAMS = {"signing", "runs", "namespaces"}
"""Rooms that start gpg or bubblewrap, and that read how scripts start programs: there, options of others are text without blanks."""
FILES_OF_OTHER_PROGRAMS = {"installs/module_files.py", "ops/spack_load.py", "relocate/interpreter_lines.py"}
"""All flags in them are those of modules, of Spack, of `env`."""
NAMES_A_FLAG = re.compile(r"(?<![\w-])--[a-z]")
NAMES_A_COMMAND = re.compile(r"`oci-binpkg [a-z]")


@cache
def texts() -> list[tuple[str, str]]:
    """Return the string literals below the command line, but options of other programs."""
    return [
        (f"{module.relative_to(PACKAGE)}:{node.lineno}", node.value)
        for module, node in nodes()
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and module.relative_to(PACKAGE).parts[0] != "cli"
        and not (module.parent.name in OTHER_PROGRAMS and " " not in node.value)
        and str(module.relative_to(PACKAGE)) not in FILES_OF_OTHER_PROGRAMS
    ]


def test_below_the_command_line_no_text_names_a_flag_or_a_command() -> None:
    found = [
        f"{where}: {text[:80]!r}"
        for where, text in texts()
        if NAMES_A_FLAG.search(text) or NAMES_A_COMMAND.search(text)
    ]
    assert len(texts()) > 5000
    assert found == []
