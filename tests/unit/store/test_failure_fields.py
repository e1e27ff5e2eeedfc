"""The fields of errors of real failures: who answered what, to which attempt, about which content."""

from __future__ import annotations

from dataclasses import replace

import pytest

from oci_binpkg.backoff import Backoff
from oci_binpkg.cli.hints import words
from oci_binpkg.errors import (
    AuthError,
    BinpkgError,
    ContentError,
    DeniedError,
    Hint,
    NetworkError,
    NotFoundError,
    RateLimitedError,
    ServerError,
    Step,
)
from oci_binpkg.store.copy import copy
from oci_binpkg.store.registry.api import DEFAULTS
from tests.support.fake_registry import RESET, Answer
from tests.support.memory_store import MemoryStore
from tests.support.registry_store import Bench, fetch, image, layer, placed

pytestmark = pytest.mark.parametrize("bench", ["real"], indirect=True)


def test_a_403_is_an_error_with_operation_host_status_and_codes(bench: Bench) -> None:
    bench.registry.fault("GET", "/(manifests|tags)/", times=0, answer=Answer.error(403, "DENIED"))
    with pytest.raises(DeniedError) as caught:
        bench.store().resolve("1.0")
    error = caught.value
    assert (error.host, error.status, error.codes) == (bench.registry.host, 403, ("DENIED",))
    assert error.operation == f"fetch manifest 1.0 of {bench.registry.host}/apps"
    assert error.message.startswith(f"{error.operation}: ")
    assert error.to_json()["error_fields"]["status"] == 403


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "NAME_UNKNOWN", NotFoundError),
        (500, "UNKNOWN", ServerError),
        (429, "TOOMANYREQUESTS", RateLimitedError),
        (401, "UNAUTHORIZED", AuthError),
    ],
)
def test_every_bad_answer_has_its_status(bench: Bench, status: int, code: str, kind: type[BinpkgError]) -> None:
    bench.registry.fault("GET", "/manifests/", times=0, answer=Answer.error(status, code))
    with pytest.raises(kind) as caught:
        bench.store().resolve("1.0")
    assert (caught.value.host, caught.value.status) == (bench.registry.host, status)


def test_a_login_that_is_asked_for_is_a_step_with_the_host(bench: Bench) -> None:
    challenge = [("WWW-Authenticate", 'Basic realm="r"')]
    bench.registry.fault("GET", "/manifests/", times=0, answer=Answer(401, challenge, b""))
    with pytest.raises(AuthError) as caught:
        bench.store().resolve("1.0")
    hint = caught.value.hint
    assert isinstance(hint, Hint)
    assert (hint.step, dict(hint.values)) == (Step.LOG_IN, {"host": bench.registry.host})
    assert words(hint) == f"log in with `oci-binpkg login {bench.registry.host}`"


def test_a_broken_connection_has_a_host_and_no_status(bench: Bench) -> None:
    bench.registry.fault("GET", "/manifests/", times=0, after=RESET)
    with pytest.raises(NetworkError) as caught:
        bench.store().resolve("1.0")
    assert (caught.value.host, caught.value.status, caught.value.codes) == (bench.registry.host, None, ())


def test_a_refused_upload_has_the_digest_and_its_cause(bench: Bench) -> None:
    blob = layer()
    bench.registry.fault("PUT", "/blobs/uploads/", times=0, answer=Answer.error(403, "DENIED"))
    with pytest.raises(DeniedError) as caught:
        bench.store().put(blob)
    error = caught.value
    assert (error.status, error.codes, error.digest) == (403, ("DENIED",), str(blob.descriptor.digest))
    assert error.host == bench.registry.host
    assert isinstance(error.__cause__, DeniedError)
    assert error.__cause__ is not error


def test_an_upload_that_was_tried_often_is_raised_from_its_last_failure(bench: Bench) -> None:
    bench.registry.fault("PUT", "/blobs/uploads/", times=0, answer=Answer.error(400, "BLOB_UPLOAD_INVALID"))
    with pytest.raises(ServerError, match=r"\[2 attempts in ") as caught:
        bench.store(settings=replace(DEFAULTS, backoff=Backoff(unit_delays=(1.0,)))).put(layer())
    cause = caught.value.__cause__
    assert isinstance(cause, ServerError)
    assert "attempts" not in cause.message
    assert caught.value.message.startswith(cause.message)


def test_damage_names_the_digest(bench: Bench) -> None:
    blob = placed(bench.registry, layer())
    digest = str(blob.descriptor.digest)
    bench.registry.repo("apps").blobs[digest] = b"x" * blob.descriptor.size
    with pytest.raises(ContentError) as caught:
        fetch(bench.store(), blob.descriptor)
    assert caught.value.digest == digest


def test_a_copy_says_which_side_failed_and_keeps_what_the_registry_said(bench: Bench) -> None:
    content = layer()
    manifest, config = image(content)
    for blob in (content, config, manifest):
        placed(bench.registry, blob, "apps", *(["1.0"] if blob is manifest else []))
    with pytest.raises(NotFoundError) as caught:
        copy(bench.store(), MemoryStore(), "2.0")
    assert (caught.value.side, caught.value.status) == ("source", 404)
    cause = caught.value.__cause__
    assert isinstance(cause, NotFoundError)
    assert (cause.side, cause.status) == (None, 404)
    bench.registry.fault("POST", "/elsewhere/blobs/uploads/", times=0, answer=Answer.error(403, "DENIED"))
    with pytest.raises(DeniedError) as refused:
        copy(bench.store(), bench.store("elsewhere"), "1.0")
    assert (refused.value.side, refused.value.status, refused.value.host) == ("target", 403, bench.registry.host)
