"""Registries as lists of their quirks.

What a registry does now and then strikes once here, so that one push meets it. Not imitated: what only shows after
gigabytes.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from proxy import quirks as q
from proxy.log import Log
from proxy.quirks import Quirk, Stage
from proxy.rules import Action, Answer, Asked, Rule, refusal
from proxy.server import FaultProxy
from proxy.tokens import TokenPolicy, Tokens, basic_gate

MIB: Final = 1024 * 1024
DEFAULT_USERS: Final = {"user": "secret"}
IMAGE_CONFIGS: Final = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
)
IMAGE_LAYERS: Final = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
)


@dataclass(frozen=True, slots=True)
class Profile:
    """How one registry differs from the one behind. `quirks` are pairs: what it mimics, and the rules.

    `login`: bearer, basic, or nothing. `realm` is the path of the token server, at the registry's own address unless
    `own_realm` is false. `storage`: blobs lie at another address.
    """

    title: str
    login: str = ""
    tokens: TokenPolicy = field(default_factory=TokenPolicy)
    realm: str = "/token"
    own_realm: bool = True
    storage: bool = False
    quirks: tuple[tuple[str, Quirk], ...] = ()


DOCKER_HUB = Profile(
    "Docker Hub",
    login="bearer",
    tokens=TokenPolicy(service="docker-hub", post=True),
    own_realm=False,
    storage=True,
    quirks=(
        ("the pull quota stands in headers of manifests; only GET counts", q.pull_quota(200, 21600)),
        ("the other limit, against abuse: 429 in plain text with bare line feeds", q.busy_text(nth=2)),
        ("a mount from a repository that is not of this registry fails",
         q.mount_refused(lambda asked: ":" in asked.parameters.get("from", [""])[0], 400, "NAME_INVALID")),
        ("the token of a long push is over when the manifest comes", q.login_ends("PUT", q.MANIFEST, nth=1)),
        ("blobs are at a CDN", q.blobs_elsewhere()),
    ),
)  # fmt: skip

GHCR = Profile(
    "GitHub Container Registry",
    login="bearer",
    tokens=TokenPolicy(service="ghcr", names=("token",), told=None, post=False),
    storage=True,
    quirks=(
        ("a commit is slow, and its answer lost", q.rule(Action(drop=True), "PUT", q.COMMIT, nth=2)),
        ("chunks above 4 MiB are refused with 416", q.large_chunks_refused(4 * MIB)),
        ("nothing is deleted", q.always(405, "UNSUPPORTED", "The operation is unsupported.", "DELETE", "")),
        ("blobs are in storage, where HEAD is not signed", q.blobs_elsewhere(head=403)),
        ("a blob that is there is unknown for a moment",
         q.once(404, "BLOB_UNKNOWN", "blob unknown to registry", "PUT", q.MANIFEST, nth=2)),
        ("a manifest is not found while an index that names it is refreshed",
         q.once(404, "MANIFEST_UNKNOWN", "manifest unknown", "GET|HEAD", q.MANIFEST + "sha256:")),
    ),
)  # fmt: skip

QUAY = Profile(
    "Quay",
    login="bearer",
    tokens=TokenPolicy(service="quay", names=("token",), told=None, post=False),
    realm="/v2/auth",
    storage=True,
    quirks=(
        ("a mount wants `from`", q.mount_refused(lambda asked: "from" not in asked.parameters, 400, "NAME_INVALID")),
        ("types of config and layers are listed", q.manifest_types(415, IMAGE_CONFIGS, IMAGE_LAYERS, artifacts=True)),
        ("pages of tags are linked by long words, once without <>", q.tag_pages(opaque=True, bare_nth=2)),
        ("a blob is collected between its upload and its manifest",
         q.collects_garbage(nth=2, status=400, code="MANIFEST_BLOB_UNKNOWN")),
        ("blobs are in storage", q.blobs_elsewhere()),
    ),
)  # fmt: skip

ECR = Profile(
    "Amazon ECR",
    login="basic",
    storage=True,
    quirks=(
        ("repositories are made by hand", q.made_by_hand()),
        ("no more than 1000 tags a page",
         q.when(lambda asked: int(asked.parameters.get("n", ["0"])[0]) > 1000,
                refusal(400, "UNSUPPORTED", "Invalid parameter at 'maxResults'"), "GET", q.TAGS)),
        ("a bad tag is 400 without a body, also to HEAD",
         q.when(lambda asked: len(asked.path.rpartition("/")[2]) > 128, Answer(400), "GET|HEAD", q.TAG)),
        ("parts have 5 to 10 MiB, and one sent twice is an error of its own", q.parts(5 * MIB, 10 * MIB)),
        ("the answer to a part is lost", q.rule(Action(drop=True), "PATCH", q.UPLOAD)),
        ("PATCH is answered 201 with a Range that stands still", q.upload_range("0-0", "PATCH", 201)),
        ("an upload's state says that nothing is there", q.rule(
            Action(answer=lambda asked: Answer(204, (("Location", asked.origin + asked.target), ("Range", "0-0")))),
            "GET", q.UPLOAD, times=0)),
        ("the port stands in upload addresses, though it is the usual one", q.usual_port_written_out()),
        ("tags are immutable, even with the same content; the index is excepted",
         q.immutable(400, "TAG_INVALID", "The image tag '{tag}' already exists and cannot be overwritten because the "
                     "repository is immutable.", even_same=True, but=r"index\.spack")),
        ("blobs are in S3", q.blobs_elsewhere(head=403)),
    ),
)  # fmt: skip

GAR = Profile(
    "Google Artifact Registry",
    login="bearer",
    tokens=TokenPolicy(service="gar", names=("token",), post=False),
    realm="/v2/token",
    quirks=(
        ("an upload is one PUT", q.always(405, "UNSUPPORTED", "chunked uploads are not supported", "PATCH", "")),
        ("upload addresses are long and opaque", q.opaque_uploads("/artifacts-uploads/namespaces/p/uploads/")),
        ("a blob is collected between HEAD and the manifest", q.collects_garbage(nth=2, status=400,
                                                                               code="BLOB_UNKNOWN")),
    ),
)  # fmt: skip

ACR = Profile(
    "Azure Container Registry",
    login="bearer",
    tokens=TokenPolicy(service="acr", names=("access_token",), told=None, mixed=True),
    realm="/oauth2/token",
    storage=True,
    quirks=(
        ("upload addresses are relative and have a query of their own",
         q.upload_location(lambda url: "/" + url.split("/", 3)[3] + "&_nouploadcache=false")),
        ("an upload cannot be resumed", q.always(404, "BLOB_UPLOAD_INVALID", "blob upload invalid", "GET", q.UPLOAD)),
        ("a session is unknown now and then",
         q.once(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry", "PUT", q.COMMIT, nth=2)),
        ("the login is over at the last PUT", q.login_ends("PUT", q.COMMIT, nth=4)),
        ("blobs are in storage that takes no Authorization", q.blobs_elsewhere()),
    ),
)  # fmt: skip

GITLAB = Profile(
    "GitLab",
    login="bearer",
    tokens=TokenPolicy(service="container_registry", names=("token",), told=None, lifetime=300, post=False),
    realm="/jwt/auth",
    own_realm=False,
    quirks=(
        ("the token of a long layer is over at its end", q.login_ends("PUT", q.COMMIT, nth=2)),
        ("types of configs and artifacts are listed, and must be those of the header",
         q.manifest_types(400, IMAGE_CONFIGS, None, artifacts=False)),
    ),
)  # fmt: skip

HARBOR = Profile(
    "Harbor",
    login="bearer",
    tokens=TokenPolicy(service="harbor-registry", lifetime=1800),
    realm="/service/token",
    quirks=(
        ("a cookie that comes back is an attack", q.session_cookie("sid", "FORBIDDEN", "CSRF token invalid")),
        ("a rule keeps released tags", q.immutable(412, "PRECONDITION", "Failed to process request due to '{tag}' "
                                                   "configured as immutable.", but=r"index\.spack|.*latest")),
        ("manifests side by side fail", q.crowded()),
        ("a project has a quota", q.storage_quota(10 * 1024 * MIB)),
    ),
)  # fmt: skip

ARTIFACTORY = Profile(
    "JFrog Artifactory",
    login="basic",
    quirks=(
        ("a manifest that is not there is denied", q.absent_is_denied("DENIED", "The requested resource is not "
                                                                      "available to this user")),
        ("PATCH does not find a session that is alive",
         q.once(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry", "PATCH", q.UPLOAD)),
    ),
)  # fmt: skip

ARTIFACTORY_6 = replace(
    ARTIFACTORY,
    title="JFrog Artifactory 6",
    quirks=(*ARTIFACTORY.quirks, ("an upload is not found before its first PATCH", q.patched_first())),
)

ZOT = Profile(
    "zot",
    quirks=(
        ("the Range of a chunk is that of the chunk", q.patch_range_of_last_chunk()),
        ("a question for a blob mounts it", q.mounts_on_head()),
        ("a chunk of nothing is refused",
         q.when(lambda asked: asked.headers.get("content-length") == "0", refusal(400, "BLOB_UPLOAD_INVALID"),
                "PATCH", q.UPLOAD)),
    ),
)  # fmt: skip

DISTRIBUTION = Profile(
    "CNCF Distribution",
    quirks=(
        ("a repository without tags has `null`", q.no_tags_is_null()),
        ("nothing is deleted unless that is switched on",
         q.always(405, "UNSUPPORTED", "The operation is unsupported.", "DELETE", q.MANIFEST + "|" + q.BLOB)),
        ("another replica does not know the session",
         q.once(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry", "PUT", q.COMMIT, nth=2)),
        ("on Azure, a commit fails when another one of the same blob is under way",
         q.once(500, "UNKNOWN", "unknown error", "PUT", q.COMMIT, nth=4)),
        ("the state of an upload is told wrong", q.upload_range("0-0", "GET")),
        ("a collected blob still looks present", q.collects_garbage(nth=2, ghost=True)),
        ("2.x takes a subject in a manifest of Docker's type for a missing blob",
         q.when(lambda asked: "docker" in asked.headers.get("content-type", "") and b'"subject"' in asked.body,
                refusal(404, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry"), "PUT", q.MANIFEST)),
    ),
)  # fmt: skip

GITEA = Profile(
    "Gitea and Forgejo",
    login="bearer",
    tokens=TokenPolicy(service="container_registry", names=("token",), told=None, post=False),
    realm="/v2/token",
    quirks=(
        ("a second PATCH wants Content-Range", q.one_stream()),
        ("an empty upload has the range 0--1", q.upload_range("0--1")),
        ("a name has an owner",
         q.when(lambda asked: bool(asked.repository) and "/" not in asked.repository,
                refusal(404, "NAME_UNKNOWN", "repository name not known to registry"))),
    ),
)  # fmt: skip

PROFILES: Final[Mapping[str, Profile]] = {
    "docker-hub": DOCKER_HUB,
    "ghcr": GHCR,
    "quay": QUAY,
    "ecr": ECR,
    "gar": GAR,
    "acr": ACR,
    "gitlab": GITLAB,
    "harbor": HARBOR,
    "artifactory": ARTIFACTORY,
    "artifactory-6": ARTIFACTORY_6,
    "zot": ZOT,
    "distribution": DISTRIBUTION,
    "gitea": GITEA,
}


@dataclass(frozen=True, slots=True)
class Standing:
    """A profile in play: where it is, who gives tokens, and what was asked of all its servers."""

    proxy: FaultProxy
    storage: FaultProxy | None
    tokens: Tokens | None
    realm: FaultProxy | None
    log: Log


@contextlib.contextmanager
def standing(
    profile: Profile,
    upstream: str,
    *,
    users: Mapping[str, str] = DEFAULT_USERS,
    repositories: Collection[str] | None = None,
    wait: int = 60,
    page: int = 50,
    address: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
    log: Log | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Standing]:
    """Play a profile before `upstream`, which asks for no login itself. `wait`, `page`: see `Stage`."""
    log = log if log is not None else Log()
    with contextlib.ExitStack() as stack:
        place: dict[str, Any] = {"address": address, "port": port}
        proxy = FaultProxy(upstream, role="registry", log=log, tls=tls, keep_login=not profile.login, **place)
        stage = Stage(upstream.rstrip("/"), proxy.url, wait=wait, page=page, repositories=repositories, clock=clock)
        rules: list[Rule] = []
        storage = realm = None
        if profile.storage:
            storage = FaultProxy(upstream, role="storage", log=log, tls=tls)
            stage.storage = storage.url
        if profile.login == "bearer":
            stage.tokens, realm, gate = _bearer(profile, proxy, users, clock)
            rules += gate
        elif profile.login == "basic":
            rules.append(Rule(Action(answer=basic_gate(users, proxy.host)), role="registry", times=0))
        for why, quirk in profile.quirks:
            rules += [replace(one, role=one.role or "registry", why=why) for one in quirk(stage)]
        for server in filter(None, (proxy, storage, realm)):
            server.add(*(one for one in rules if one.role in {"", server.role}))
            stack.enter_context(server)
        yield Standing(proxy, storage, stage.tokens, realm, log)


def _bearer(
    profile: Profile, proxy: FaultProxy, users: Mapping[str, str], clock: Callable[[], float]
) -> tuple[Tokens, FaultProxy | None, list[Rule]]:
    """Return who gives tokens, the server they are had from if it is another, and the rules."""
    tokens = Tokens(replace(profile.tokens, users=users), clock=clock)
    realm = None if profile.own_realm else FaultProxy(role="tokens", log=proxy.log, tls=proxy.tls)
    check = tokens.gate(f"{(realm or proxy).url}{profile.realm}")

    def gate(asked: Asked) -> Answer | None:
        return None if asked.path == profile.realm else check(asked)

    give = Rule(Action(answer=tokens.give), path=rf"^{profile.realm}(\?|$)", role=(realm or proxy).role, times=0)
    return tokens, realm, [give, Rule(Action(answer=gate), role=proxy.role, times=0)]
