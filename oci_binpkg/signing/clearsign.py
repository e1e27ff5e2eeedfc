"""The clear-signed form of a document, against a template that leaves one way to read it.

A clear-signed file mixes signed text with text that is not signed. Programs have been led to read another part of it
than the one gpg checked: text before, after or between blocks, header lines that only one of two readers takes for one,
white space at line ends (which no signature covers), escapes. So nothing but the plainest form passes, and gpg is asked
only then. Source: RFC 4880 section 7, and what has been done to readers of it.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from oci_binpkg.errors import Hint, SignatureError, Step
from oci_binpkg.signing.armor import BEGIN_SIGNATURE, MAX_SIGNATURE_BYTES, read_signature

MAX_DOCUMENT_BYTES: Final = 64 * 1024 * 1024
MAX_LINE_BYTES: Final = 19_000
"""gpg cuts text lines somewhat below 20,000 bytes and then finds the signature wrong."""

UNSIGNED_HINT: Final = "sign it, or allow unsigned packages for this cache if you trust who can write to it"

_MARK: Final = b"-----BEGIN PGP SIGNED MESSAGE-----"
_BEGIN: Final = _MARK + b"\n"
_HEADER: Final = re.compile(rb"Hash: (SHA256|SHA384|SHA512)\n\n")
_ANY_HEADER: Final = re.compile(rb"([ -~]{1,40}?):")
_ANEW: Final = "it may have been tampered with; sign it again from the original"
_TEXT_CLASS: Final = 1
_PLAIN: Final = frozenset(" \t\n")
_UNSEEN: Final = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})


def is_clearsigned(data: bytes) -> bool:
    """Return whether a document claims to be clear-signed: it starts, after blanks at most, with the mark of one."""
    return data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n\v\f").startswith(_MARK)


def unsigned(data: bytes, what: str, *, strip: bool = False) -> bytes:
    """Return a plain document as it is. A clear-signed one is refused, or with `strip` believed without its signature.

    Raises `SignatureError`.
    """
    if not is_clearsigned(data):
        return data
    if not strip:
        raise SignatureError(
            f"{what} is signed, and signatures are not checked here", hint="trust its key, or say that none is needed"
        )
    return split(data, what)[0]


def plain(data: bytes, what: str) -> tuple[bytes, None]:
    """Return an unsigned document. Raises `SignatureError` for a signed one."""
    return unsigned(data, what), None


def stripped(data: bytes, what: str) -> tuple[bytes, None]:
    """Return a document, believed without its signature if it has one."""
    return unsigned(data, what, strip=True), None


def split(data: bytes, what: str) -> tuple[bytes, bytes]:
    """Return (signed text, armored signature). The text ends with a line end, as gpg gives it.

    Nothing is verified but the form. Raises `SignatureError` for every document that is not exactly: the opening line,
    one `Hash` header of SHA256, SHA384 or SHA512, an empty line, text as `check_text` wants it, one signature.
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        raise SignatureError(f"{what}: a signed document of {len(data)} bytes; at most {MAX_DOCUMENT_BYTES} are read")
    if not data.startswith(_BEGIN):
        raise _no_opening(data, what)
    body = _after_header(data, what)
    position = data.find(b"\n" + BEGIN_SIGNATURE, body)
    if position < 0:
        raise SignatureError(f"{what}: clear-signed, but no signature follows the text", hint=_ANEW)
    signature = data[position + 1 :]
    if len(signature) <= MAX_SIGNATURE_BYTES and _BEGIN.rstrip() in signature:
        raise SignatureError(f"{what}: more than one signed block; exactly one is expected", hint=_ANEW)
    facts = read_signature(signature, what)
    named = data[len(_BEGIN) : body].removeprefix(b"Hash: ").strip().decode("ascii")
    if facts.hash_name != named:
        raise SignatureError(f"{what}: the header says {named}, the signature {facts.hash_name}", hint=_ANEW)
    if facts.signature_class != _TEXT_CLASS:
        raise SignatureError(f"{what}: not a signature over text (class {facts.signature_class})", hint=_ANEW)
    text = data[body : position + 1]
    check_text(text, what)
    return text, signature


def check_text(text: bytes, what: str) -> None:
    """Raise `SignatureError` for text that a clear-signed document cannot hold faithfully.

    It must be UTF-8 without control characters, invisible ones or odd blanks, without blanks at line ends, with lines
    of at most 19,000 bytes, and none that needs an escape: JSON documents have no line that starts with a dash.
    """
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SignatureError(f"{what}: the signed text is not UTF-8 (byte {error.start})") from None
    _refuse_characters(decoded, what)
    if "-----BEGIN PGP" in decoded or "-----END PGP" in decoded:
        # some readers look for the marks anywhere in a line
        raise SignatureError(f"{what}: the text itself holds the mark of a PGP block", hint=_ANEW)
    for number, line in enumerate(decoded.split("\n"), start=1):
        where = f"{what}, line {number} of the text"
        if len(line) * 4 > MAX_LINE_BYTES and len(line.encode()) > MAX_LINE_BYTES:
            raise SignatureError(
                f"{where}: longer than {MAX_LINE_BYTES} bytes, which gpg does not sign",
                hint="write the document with a line per value",
            )
        if line != line.rstrip():
            raise SignatureError(f"{where}: ends with a blank, which no signature covers")
        if line.startswith(("-", "From ")):
            raise SignatureError(f"{where}: starts with a dash (or From), which readers undo in different ways")


def _no_opening(data: bytes, what: str) -> SignatureError:
    if _MARK not in data:
        if data.startswith(b"-----BEGIN PGP MESSAGE-----"):
            return SignatureError(f"{what}: an ordinary PGP message, not a clear-signed document", hint=_ANEW)
        return SignatureError(f"{what} is not signed", hint=UNSIGNED_HINT)
    if data.startswith(_MARK):
        return SignatureError(
            f"{what}: the opening line has characters at its end that do not belong there", hint=_ANEW
        )
    return SignatureError(f"{what}: text stands before the signed block", hint=_ANEW)


def _after_header(data: bytes, what: str) -> int:
    """Return where the text begins."""
    match = _HEADER.match(data, len(_BEGIN))
    if match is not None:
        return match.end()
    block = data[len(_BEGIN) :][:2000].partition(b"\n\n")[0].split(b"\n")
    names = [found[1].decode() for line in block if (found := _ANY_HEADER.match(line))]
    if len(names) == len(block) and names.count("Hash") != len(names):
        other = next(name for name in names if name != "Hash")
        raise SignatureError(f"{what}: the header {other!r} is not accepted in a signed document", hint=_ANEW)
    if len(names) == len(block) and len(names) > 1:
        raise SignatureError(f"{what}: several Hash headers; exactly one is expected", hint=_ANEW)
    if names == ["Hash"]:
        raise SignatureError(
            f"{what}: {block[0][:60].decode('ascii', 'replace')!a} is not one of SHA256, SHA384 and SHA512",
            hint=Hint(Step.SIGN_WITH_SHA512),
        )
    raise SignatureError(f"{what}: no proper Hash header follows the opening line", hint=_ANEW)


def _refuse_characters(decoded: str, what: str) -> None:
    for character in set(decoded):
        if character not in _PLAIN and unicodedata.category(character) in _UNSEEN:
            name = unicodedata.name(character, f"U+{ord(character):04X}")
            raise SignatureError(f"{what}: the signed text holds {name}, which readers may take for something else")
