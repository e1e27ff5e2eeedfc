"""The next steps after an error, with the commands and flags that do them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from oci_binpkg.errors import Hint, Step

WORDS: Final[Mapping[Step, str]] = {
    Step.SET_CACHE: "`oci-binpkg mirror set {name}`",
    Step.SET_SOMETHING: "try `oci-binpkg mirror set -h`",
    Step.REMOVE_CACHE: "`oci-binpkg mirror remove {name}`",
    Step.LIST_ARTIFACTS: "`oci-binpkg artifacts list` shows what is attached",
    Step.LIST_CACHES: "`oci-binpkg mirror list` shows their names",
    Step.ADD_OWN_CACHE: "change it there, or `oci-binpkg mirror add {name} URL` to have one of your own in its place",
    Step.ACCEPT_OLDER: "leave out --pin-newest if the older one is meant",
    Step.ALLOW_MISSING: "name another cache with --from, or leave dependencies out with --allow-missing",
    Step.ALLOW_PLAIN_HTTP: "write https://, or say insecure = true (`mirror add --insecure`) if it is meant",
    Step.ANOTHER_CACHE: "name another cache with --from",
    Step.ANY_ARCHITECTURE: "with --all-arch there is: {found}",
    Step.ASK_AGAIN: Step.ASK_AGAIN.value,
    Step.ASK_FOR_ARCH: "add --arch {arch} if it is meant",
    Step.ASK_ONLINE: "run once without --offline",
    Step.BASE_WITH_LOADER: "name a base image that has it with --base-image",
    Step.BUILD_ANEW: "--force builds them anew",
    Step.CHECK_ADDRESS_OR_REBUILD_INDEX: (
        "check the address; `oci-binpkg index rebuild` writes an index, where the mirror is written"
    ),
    Step.COPY_CACHE: "copy it to a new cache with `oci-binpkg copy OLD NEW`, and push there",
    Step.DESCRIBE_KEY_FILE: "a key file is made with `gpg --export --armor`",
    Step.EXPORT_PUBLIC_KEY: "export the public key alone: `gpg --export`",
    Step.FETCH_KEYS: "`oci-binpkg keys fetch {mirror}`",
    Step.FIND_IN_INDEX: "an index of packages? try `oci-binpkg find`",
    Step.GZIP_FOR_MIRROR: "use --compression gzip for a mirror",
    Step.INSPECT_IMAGE: "look at it with `oci-binpkg inspect`",
    Step.KEEP_RULE_READING: (
        'leave out --no-check-signature, or give that cache a scope of its own there with rule = "accept-unsigned"'
    ),
    Step.KEEP_RULE_WRITING: (
        'leave out --unsigned, or give that cache a scope of its own there with rule = "accept-unsigned"'
    ),
    Step.LIST_CATALOG: "`oci-binpkg search` lists what there is",
    Step.LIST_INSTALLED: "`oci-binpkg find --store DIR` lists them",
    Step.LIST_KEYS: "write all 40 digits, as `oci-binpkg keys list` shows them",
    Step.LIST_PACKAGES: "`oci-binpkg find` lists what there is",
    Step.LIST_PACKAGES_IN_CACHE: "`oci-binpkg find --from CACHE` lists what there is",
    Step.NAME_SIGNING_KEY: "name a key of `gpg --list-secret-keys`",
    Step.LIST_TAGS: "`oci-binpkg inspect {cache}` lists them",
    Step.NAME_USABLE_SIGNING_KEY: "name a key of `gpg --list-secret-keys` that may sign and has not expired",
    Step.LOG_IN: "log in with `oci-binpkg login {host}`",
    Step.LOG_IN_APART: "use `oci-binpkg login HOST` for credentials; a digest is sha256: and 64 digits of 0-9 a-f",
    Step.LOG_IN_OR_CHECK_NAME: "log in with `oci-binpkg login {host}`, or check the name of the repository",
    Step.LOG_IN_OR_CONFIGURE: (
        "log in with `oci-binpkg login HOST`, or name a login for this cache in the configuration"
    ),
    Step.MAKE_VIEW: "`oci-binpkg index update --view` makes one",
    Step.NAME_ARTIFACT: "add --type TYPE, or --digest DIGEST",
    Step.NAME_CACHE: "use --from CACHE (`check`: --on CACHE), or give caches names with `oci-binpkg mirror add`",
    Step.NAME_DEPENDENTS: "name these too, or add --dependents",
    Step.NAME_KEY_FILE: "name a key file, or add --from MIRROR",
    Step.NAME_PACKAGES: "name the packages: `oci-binpkg find` lists them",
    Step.NAME_TREE: "use --store DIR, or set store in the configuration",
    Step.NAME_VIEW: "add --view NAME",
    Step.NO_VIEW: "leave out --view",
    Step.PUSH_AGAIN: "push the package again with --force, or leave this cache out",
    Step.PUSH_AND_REBUILD: "push the package again, and then `oci-binpkg index rebuild CACHE`",
    Step.PUSH_TO_SAME_CACHE: "push its packages to the same cache, with `oci-binpkg push`",
    Step.REBUILD_INDEX: "`oci-binpkg index rebuild` writes a new index, where this cache is written",
    Step.REBUILD_SIGNED_INDEX: "`oci-binpkg index rebuild CACHE --key KEY` makes the index anew from the packages",
    Step.REBUILD_UNSIGNED: "see the warnings for why; if they are not signed, say --no-check-signature",
    Step.REINSTALL: "install it again with `oci-binpkg install --force {packages}`, or add --accept-present",
    Step.REMOVE_FIRST: "remove it with `oci-binpkg uninstall /{hash}`, then install again",
    Step.SEARCH_OFFLINE: "`oci-binpkg mirror list` shows their addresses; --offline searches what was read before",
    Step.SET_ASIDE: "move it away, or add --force: it then gets another name beside the package",
    Step.SET_LOGIN: "set `profile` or `access_key_id_variable` of the cache in the settings (`mirror set`)",
    Step.SIGN_ANEW_FOR_COPY: (
        "if this cache is a copy of that one, {settle}, or sign it anew with `oci-binpkg copy --key KEY`"
    ),
    Step.SIGN_INDEX: "add --key KEY to sign it",
    Step.SIGN_INDEX_OR_ACCEPT: "add --key KEY, or do not ask for a signed index",
    Step.SIGN_PACKAGES: "add --key KEY to sign them, or --unsigned",
    Step.SIGN_WITH_SHA512: "sign it again with --digest-algo SHA512",
    Step.START_ENGINE: "start the engine (`systemctl --user start podman.socket` for Podman), or name its socket",
    Step.UPDATE_INDEX: "`oci-binpkg index update`",
    Step.UPDATE_INDEX_AGAIN: "the packages themselves are there; run `oci-binpkg index update` to enter them",
    Step.UPDATE_INDEX_ON_PUSH: "push with --update-index writes one",
    Step.USE_LESS: "raise the limits (`ulimit -a` shows them), or use a smaller --jobs",
    Step.VOUCH_OR_NAME: "a signature vouches for it (--check-signature); without one, name it as NAME@VERSION/HASH",
    Step.WITH_REBUILT_SIGNED_INDEX: (
        "{first}; `oci-binpkg index rebuild CACHE --key KEY` makes the index anew from the packages"
    ),
}
"""The words of every step; the values of its hints go into the braces."""


def words(hint: str) -> str:
    """Return a next step as this program's user takes it. Plain text stays as it is."""
    if not isinstance(hint, Hint):
        return hint
    return WORDS[hint.step].format(**{name: words(value) for name, value in hint.values.items()})
