"""Interpreter lines that grow too long for the kernel: what stands in the script instead. Pure.

A script keeps its name, so that `$0` and what lies beside it stay as they are. Its first line calls a small program
beside the tree, and its own interpreter line becomes the second one. What that may be is up to the language: `#!` is no
comment in most of those whose comments begin with another sign, and some read meaning from the second line.

Sources: Linux, fs/binfmt_script.c; ld.so(8), "Dynamic string tokens"; Python, PEP 263; Guile manual, "The Meta Switch";
OCaml, parsing/lexer.mll, `skip_hash_bang`; escript(1); PHP, `declare(strict_types=1)` is the first statement; Emacs
manual, "Specifying File Variables".
"""

from __future__ import annotations

import re
import shlex
from typing import Final

from oci_binpkg.errors import RelocationError

LONGEST_INTERPRETER_LINE: Final = 127
"""Bytes of a line `#!...` that every kernel reads: Linux before 5.1 takes 127, other systems 64 to 512."""
LONGEST_ON_LINUX: Final = 255
"""Bytes that Linux reads since 5.1; no version of it reads more."""
LAUNCHER: Final = b"-launch"
"""Appended to the path of sbang: the program for languages that sbang, Spack's or ours, does not know."""

_QUOTES: Final = "\"'`\\"
_LONGEST_LINE: Final = 64 * 1024
_SH: Final = b"#!/bin/sh"
_ENDS: Final = b"!#"
_VERSIONED: Final = rb"[\d.\-]*$"
_KNOWN_TO_SBANG: Final = (
    (rb"(tex)?lua|luajit|luau", b"--", b""),
    (rb"node(js)?|deno|bun|ts-node|tsx|qjs|gjs|d8|java|groovy|scala|kotlin|rdmd|swift", b"//", b""),
    (rb"php(-cli|-cgi)?", b"<?php #", b" ?>"),
)
"""What makes the second line a comment that sbang looks into; in all other languages that is `#`."""
_OTHERS: Final = (
    (rb"escript|swipl|yap|gprolog|gs", b"%%"),
    (rb"sbcl|clisp|ecl|ccl|abcl|ros|gosh|chibi-scheme|gsi|csi|csi-script|scheme|petite|emacs|clojure|bb|fennel", b";;"),
    (rb"runghc|runhaskell|stack|psql|sqlite3?|duckdb|idris2?", b"--"),
    (rb"rust-script|go|dart|cling|root|tcc|dotnet|jshell|zig|v", b"//"),
)
"""Languages whose comments sbang does not know: the launcher finds `#!` anywhere in the second line."""
_GUILE: Final = re.compile(rb"(guile|scsh)" + _VERSIONED)
_OCAML: Final = re.compile(rb"(ocaml|utop|ocamltop)" + _VERSIONED)
_PYTHON: Final = re.compile(rb"(python|pypy)" + _VERSIONED)
_PHP_BEGINS: Final = re.compile(rb"<\?php(?=\s)")
_CODING: Final = re.compile(rb"[ \t\f]*#.*?coding[:=][ \t]*[-\w.]+")
"""PEP 263: Python looks for it in the first two lines."""
_MODE: Final = b"-*-"
_COMMENT_SIGNS: Final = (b"%", b";", b"/", b"#", b"--")
_NOT_FOR_SH: Final = re.compile(rb"""["'\\$`*?\[#]""")
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_ENV_TAKES: Final = frozenset(("-u", "--unset", "-C", "--chdir"))


def with_sbang(script: bytes, sbang: bytes) -> bytes:
    """Return a script whose interpreter line is too long for the kernel with one that starts it all the same.

    `sbang` is the path of the small script that reads line 2 of a file; the launcher for other languages lies beside
    it. Unchanged if the line is short enough, or is not improved.
    """
    line, _, _ = script[:_LONGEST_LINE].partition(b"\n")
    if len(line) == _LONGEST_LINE or not line.startswith(b"#!") or len(line) <= LONGEST_INTERPRETER_LINE:
        return script
    interpreter, argument = split_line(line)
    language, rest = language_of(interpreter, argument), script[len(line) + 1 :]
    begins_comment = _GUILE.match(language) is not None
    if begins_comment or _OCAML.match(language):
        return _as_shell_script(interpreter, argument, rest, closes=not begins_comment)
    by_shell = _PYTHON.match(language) and (
        _CODING.match(rest.partition(b"\n")[0]) or len(_SH) + len(sbang) >= LONGEST_ON_LINUX
    )
    if by_shell:
        return _starts_python(interpreter, argument, rest)
    made = _through_sbang(line[2:].strip(), argument, language, rest, _SH + b" " + sbang)
    return made if len(made.partition(b"\n")[0]) < len(line) else script


def split_line(line: bytes) -> tuple[bytes, bytes]:
    """Return the interpreter and its argument as the kernel takes them from a line `#!...`: one argument, or none."""
    interpreter, *rest = re.split(rb"[ \t]+", line[2:].strip(b" \t\r"), maxsplit=1)
    return interpreter, b"".join(rest)


def language_of(interpreter: bytes, argument: bytes) -> bytes:
    """Return the name of the program that reads a script: behind `env` it is the one that env starts."""
    name = interpreter.rpartition(b"/")[2]
    if name != b"env":
        return name
    text = re.sub(rb"^(-v?S|--split-string=?)", b"", argument).decode("utf-8", "surrogateescape")
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.split()
    skip = False
    for word in words:
        if skip or word.startswith("-") or _ASSIGNMENT.match(word):
            skip = word in _ENV_TAKES
            continue
        return word.rpartition("/")[2].encode("utf-8", "surrogateescape")
    return name


def interpreter_line_is_too_long(head: bytes, longest: int = LONGEST_INTERPRETER_LINE) -> bool:
    """Return whether the first bytes of a file are an interpreter line that a kernel which takes `longest` cuts."""
    line, _, _ = head.partition(b"\n")
    return line.startswith(b"#!") and len(line) > longest


def _through_sbang(command: bytes, argument: bytes, language: bytes, rest: bytes, first: bytes) -> bytes:
    """Return a script with `first`, which starts sbang or the launcher, and its own line as a comment."""
    sign, needs_launcher = b"#", False
    for names, mark in _OTHERS:
        if re.match(b"(?:" + names + b")" + _VERSIONED, language):
            sign, needs_launcher = mark, True
    for names, mark, end in _KNOWN_TO_SBANG:
        if re.match(b"(?:" + names + b")" + _VERSIONED, language):
            if mark.startswith(b"<?php") and _PHP_BEGINS.match(rest):
                end, rest = b"", rest[len(b"<?php") :]  # noqa: PLW2901 - nothing may stand before the first statement
            if not _NOT_FOR_SH.search(argument):
                return first + b"\n" + mark + b"!" + command + end + b"\n" + rest
            sign, needs_launcher = mark, True
            if end:
                return first + LAUNCHER + b"\n" + mark + b" #!" + command + end + b"\n" + rest
    if not needs_launcher and not _NOT_FOR_SH.search(argument):
        return first + b"\n#!" + command + b"\n" + rest
    second, _, others = rest.partition(b"\n")
    if needs_launcher and second.count(_MODE) > 1 and second.lstrip().startswith(_COMMENT_SIGNS):
        # what it says of the file counts in the first two lines only
        return first + LAUNCHER + b"\n" + second.rstrip() + b" #!" + command + b"\n" + others
    return first + LAUNCHER + b"\n" + sign + b" #!" + command + b"\n" + rest


def _as_shell_script(interpreter: bytes, argument: bytes, rest: bytes, *, closes: bool) -> bytes:
    """Return a script for both: sh runs its second line, the language takes all up to `!#` for a comment."""
    words = shlex.quote(argument.decode("utf-8", "surrogateescape")) + " " if argument else ""
    if argument == b"\\":  # Guile's own sign for arguments in line 2
        second, _, rest = rest.partition(b"\n")
        words = second.decode("utf-8", "surrogateescape").strip() + " "
    command = b"exec " + _quoted(interpreter) + b" " + words.encode("utf-8", "surrogateescape") + b'"$0" "$@"\n'
    return _SH + b"\n" + command + (_ENDS + b"\n" if closes else b"") + rest


def _starts_python(interpreter: bytes, argument: bytes, rest: bytes) -> bytes:
    """Return a script for both: sh runs Python with it, and to Python what sh reads is a string."""
    coding, body = b"", rest
    if _CODING.match(rest.partition(b"\n")[0]):
        coding, _, body = rest.partition(b"\n")
        coding += b"\n"
    command = _quoted(interpreter) + b" " + (_quoted(argument) + b" " if argument else b"")
    if _NOT_FOR_SH.search(argument):
        words = shlex.quote(argument.decode("utf-8", "surrogateescape"))
        command = _quoted(interpreter) + b" " + words.encode("utf-8", "surrogateescape") + b" "
    return _SH + b"\n" + coding + b"'''exec' " + command + b'"$0" "$@"' + b"\n' '''\n" + body


def _quoted(word: bytes) -> bytes:
    return b'"' + word + b'"'


def check_root(root: str) -> None:
    """Raise `RelocationError` for a root that programs, interpreter lines or scripts could not name."""
    reason = _why_not(root)
    if reason:
        raise RelocationError(
            f"{root!r}: packages cannot be relocated to a root that {reason}", hint="choose another folder"
        )


def _why_not(root: str) -> str:
    for character in root:
        if character.isspace():
            return "holds a blank, where the interpreter line of a script ends its path"
        if character == ":":
            return "holds a colon, which separates the paths that a program's libraries are looked for in"
        if character == "$":
            return "holds a dollar sign, where search paths of programs and shell scripts begin a variable"
        if character in _QUOTES:
            return f"holds the character {character!r}, with which scripts quote"
        if not character.isprintable() and not "\udc80" <= character <= "\udcff":
            return "holds a control character, which no interpreter line and no search path can hold"
    return ""
