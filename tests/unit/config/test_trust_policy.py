"""The section `[trust]`: which rule and which keys hold for a cache, however it is written."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from oci_binpkg.cache.open import parse_base, parse_location
from oci_binpkg.config.caches import CacheEndpoint, CacheSettings, parse_caches
from oci_binpkg.config.settings import load_settings
from oci_binpkg.config.trust_policy import Rule, TrustPolicy, address_of, parse_trust
from oci_binpkg.errors import UsageError

A, B, C = ("A" * 40, "B" * 40, "C" * 40)
PATH = "/home/me/config.toml"


def policy(text: str) -> tuple[TrustPolicy, dict[str, CacheSettings]]:
    document = tomllib.loads(text)
    caches = parse_caches(document, PATH)
    return parse_trust(document, PATH, caches), caches


def rule(text: str, address: str, name: str = "") -> Rule:
    read, caches = policy(text)
    return read.rule(parse_base(address) if ":" not in address else parse_location(address), name, caches)


@pytest.mark.parametrize(
    ("address", "require"),
    [("oci://registry.example/apps", False), ("oci-layout:/srv/l", False), ("file:///srv/m", True), ("s3://b/m", True)],
)
def test_without_a_section_mirrors_are_signed_and_nothing_is_firm(address, require):
    assert rule("", address) == Rule(require)


@pytest.mark.parametrize(
    ("default", "required"),
    [
        ('"require-signature"', {"registry", "layout", "mirror"}),
        ('"accept-unsigned"', set()),
        ('{ registry = "require-signature" }', {"registry", "mirror"}),
        ('{ layout = "require-signature", mirror = "accept-unsigned" }', {"layout"}),
    ],
)
def test_the_default_is_said_for_all_or_by_kind(default, required):
    addresses = {"registry": "oci://registry.example/apps", "layout": "oci-layout:/srv/l", "mirror": "file:///srv/m"}
    found = {kind: rule(f"[trust]\ndefault = {default}", address) for kind, address in addresses.items()}
    assert {kind for kind, each in found.items() if each.require} == required
    said = {kind for kind, each in found.items() if each.firm}
    assert said == required - ({"mirror"} if "registry" in default else set())


@pytest.mark.parametrize(
    ("scope", "inside", "outside"),
    [
        ("registry.example", "oci://registry.example/apps", "oci://registry.example.org/apps"),
        ("registry.example", "oci+http://REGISTRY.example:80/apps", "oci://registry.example:5000/apps"),
        ("registry.example:5000", "oci://registry.example:5000/a/b", "oci://registry.example/a/b"),
        ("registry.example:443", "oci://registry.example/a", "oci://registry.example:444/a"),
        ("registry.example/team", "oci://registry.example/team/apps", "oci://registry.example/teams"),
        ("oci://registry.example/team/", "docker://registry.example/team:tag", "oci://registry.example/other"),
        ("docker.io", "debian", "oci://registry.example/library/debian"),
        ("docker.io/library/debian", "oci://registry-1.docker.io/debian", "oci://docker.io/me/debian"),
        ("https://mirror.example/apps", "http://Mirror.EXAMPLE:80/apps/", "https://mirror.example/apps2"),
        ("https://mirror.example/apps", "https://mirror.example/x/../%61pps/v1", "https://mirror.example/"),
        ("https://mirror.example/apps", "https://mirror.example.:443//apps", "https://mirror.example:8443/apps"),
        ("s3://bucket/apps", "s3://bucket/apps/v1", "s3://bucket/other"),
        ("gs://bucket", "gcs://bucket/apps", "s3://bucket/apps"),
        ("sftp://host.example/srv", "ssh://me@HOST.example/srv/m", "sftp://host.example/other"),
        ("abfs://container@account/apps", "az://container@account/apps", "abfs://other@account/apps"),
        ("file:///srv/mirrors", "file:///srv/./mirrors/x/../%61", "file:///srv/mirror"),
        ("oci-layout:/srv/l", "oci-layout:/srv//x/../l:tag", "oci-layout:/srv/lay"),
        ("127.0.0.1:5000", "oci://localhost:5000/apps", "oci://localhost:5001/apps"),
    ],
)
def test_a_scope_holds_what_is_below_it_however_it_is_written(scope, inside, outside):
    text = f'[trust.scopes."{scope}"]\nrule = "require-signature"'
    assert rule(text, inside).firm
    assert not rule(text, outside).firm


def test_a_link_is_no_way_out_of_a_scope(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for scope, other in (("real", "link"), ("link", "real")):
        for form in ("oci-layout:", "file://"):
            text = f'[trust.scopes."{form}{tmp_path}/{scope}"]\nrule = "require-signature"'
            assert rule(text, f"{form}{tmp_path}/{other}/in/it").firm
    assert address_of(parse_location(f"file://{tmp_path}/link")) == address_of(
        parse_location(f"file://{tmp_path}/real")
    )


def test_the_longest_scope_decides_and_inherits_nothing():
    text = f"""
[trust]
default = "require-signature"
keys = ["{C}"]
[trust.scopes."registry.example"]
rule = "accept-unsigned"
[trust.scopes."registry.example/lab"]
keys = ["{A}"]
[trust.scopes."registry.example/lab/open"]
rule = "accept-unsigned"
"""
    assert not rule(text, "oci://registry.example/apps").require
    lab = rule(text, "oci://registry.example/lab/apps")
    assert (lab.require, lab.firm, lab.keys) == (True, True, {A})
    inner = rule(text, "oci://registry.example/lab/open/x")
    assert (inner.require, inner.keys) == (False, {C})
    assert rule(text, "oci-layout:/srv/l").keys == {C}


def test_keys_of_a_scope_count_only_where_they_are_named():
    read, _ = policy(f"""
[trust]
keys = ["{C}", "{B}"]
[trust.scopes."registry.example"]
keys = ["{A}", "{B}"]
""")
    assert read.reserved == {A}
    read, _ = policy(f'[trust.scopes."registry.example"]\nkeys = ["{A[:20]} {A[20:].lower()}"]')
    assert read.reserved == {A}
    assert read.rule(parse_location("oci-layout:/x")).keys is None


NAMES = """
[caches.lab]
url = "oci://registry.example/lab"
push = "oci://registry.example/incoming"
[caches.same]
url = "oci://registry.example/lab"
[caches.other]
url = "oci://registry.example/lab/other"
"""


@pytest.mark.parametrize(
    ("said", "firm"), [("[caches.x]\nurl = 'oci://registry.example/lab'\nsigned = true\n", False), ("", True)]
)
def test_a_rule_by_name_holds_for_the_address_and_for_its_other_names(said, firm):
    scope = "" if said else "[trust.scopes.lab]\nrule = 'require-signature'\n"
    text = NAMES + said + scope
    for address, name in (
        ("oci://registry.example/lab", "lab"),
        ("oci://REGISTRY.example:443/lab", ""),
        ("oci://registry.example/lab", "same"),
    ):
        found = rule(text, address, name)
        assert (found.require, found.explicit, found.firm) == (True, True, firm)
    assert not rule(text, "oci://registry.example/lab/other", "other").require
    assert rule(text, "oci://registry.example/incoming").require is not bool(said)


def test_two_names_of_one_cache_have_the_stricter_rule():
    text = (
        NAMES
        + f"""
[trust.scopes.lab]
rule = "accept-unsigned"
keys = ["{A}", "{B}"]
[trust.scopes.same]
rule = "require-signature"
keys = ["{B}", "{C}"]
"""
    )
    for name in ("", "lab", "same"):
        found = rule(text, "oci://registry.example/lab", name)
        assert (found.require, found.keys) == (True, {B})
    assert ".same" in found.where or "'same'" in found.where


def test_that_a_cache_is_unsigned_holds_by_the_name_that_says_so_and_not_against_the_section():
    text = "[caches.m]\nurl = 'file:///srv/m'\nsigned = false\n"
    assert not rule(text, "file:///srv/m", "m").require
    assert rule(text, "file:///srv/m").require
    for more in (
        "[trust]\ndefault = 'require-signature'\n",
        "[trust.scopes.'file:///srv']\nrule = 'require-signature'",
    ):
        assert rule(text + more, "file:///srv/m", "m").firm
    assert not rule(text + "[trust]\ndefault = 'accept-unsigned'\n", "file:///srv/m").require
    signed = text.replace("false", "true") + "[trust]\ndefault = 'accept-unsigned'\n"
    found = rule(signed, "file:///srv/m")
    assert (found.require, found.firm) == (True, False)


def test_an_entry_of_spacks_speaks_for_its_name_alone():
    theirs = {
        name: CacheSettings(name, CacheEndpoint("file:///srv/m"), CacheEndpoint("file:///srv/m"), signed, "/spack.yaml")
        for name, signed in (("open", False), ("closed", True))
    }
    layout = {"closed": CacheSettings("closed", CacheEndpoint("oci-layout:/l"), CacheEndpoint("oci-layout:/l"), True)}
    read = TrustPolicy(path=PATH)
    location = parse_location("file:///srv/m")
    assert not read.rule(location, "open", theirs).require
    assert read.rule(location, "", theirs) == Rule(True)
    assert not read.rule(parse_location("oci-layout:/l"), "", layout).require
    firm, _ = policy("[trust]\ndefault = 'require-signature'")
    assert firm.rule(location, "open", theirs).firm


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[trust]\nother = 1", ("unknown key 'trust.other'", "allowed: default, keys, scopes")),
        ("[trust]\ndefault = 1", ("trust.default must be text or a table",)),
        ("[trust]\ndefault = 'maybe'", ("trust.default: 'maybe' is not a rule", "require-signature, accept-unsigned")),
        ("[trust.default]\nmirrors = 'accept-unsigned'", ("'trust.default.mirrors'", "registry, layout, mirror")),
        ("[trust.default]\nmirror = true", ("trust.default.mirror must be text",)),
        ("[trust.default]\nmirror = 'no'", ("trust.default.mirror: 'no' is not a rule", "require-signature")),
        ("[trust]\nkeys = 'x'", ("trust.keys must be a list",)),
        ("[trust]\nkeys = []", ("trust.keys is empty",)),
        ("[trust]\nkeys = ['01234567']", ("trust.keys: '01234567' is not a fingerprint", "40 digits")),
        ("[trust]\nkeys = [1]", ("trust.keys: '1' is not a fingerprint",)),
        ("[trust]\nscopes = 1", ("trust.scopes must be a table",)),
        ("[trust.scopes]\n'a.example' = 1", ("trust.scopes.'a.example' must be a table", "keys: rule, keys")),
        ("[trust.scopes.'a.example']", ("trust.scopes.'a.example' says nothing", "set rule")),
        ("[trust.scopes.'a.example']\nsigned = true", ("unknown key", "allowed: rule, keys")),
        ("[trust.scopes.'a.example']\nrule = 'no'", ("trust.scopes.'a.example'.rule: 'no' is not a rule",)),
        ("[trust.scopes.'a.example']\nrule = true", ("rule must be text",)),
        ("[trust.scopes.lab]\nrule = 'accept-unsigned'", ("no cache is named 'lab'", "name of a configured cache")),
        ("[trust.scopes.'team/x']\nrule = 'accept-unsigned'", ("'team/x'", "write HOST")),
        ("[trust.scopes.'a.example/UPPER']\nrule = 'accept-unsigned'", ("UPPER", "lower case")),
        ("[trust.scopes.'*.example']\nrule = 'accept-unsigned'", ("*.example",)),
        ("[trust.scopes.'oci-layout:x']\nrule = 'accept-unsigned'", ("a relative path", "the whole path")),
        ("[trust.scopes.'oci-layout:/x:tag']\nrule = 'accept-unsigned'", ("not an image",)),
        ("[trust.scopes.'https://me:hush@h/x']\nrule = 'accept-unsigned'", ("holds no credentials",)),
        ("trust = 1", ("trust must be a table",)),
    ],
)
def test_what_is_not_understood_is_refused_with_file_key_and_what_is_allowed(text, words, tmp_path: Path):
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as failure:
        load_settings({"HOME": str(tmp_path), "OCI_BINPKG_CONFIG": str(path), "SPACK_DISABLE_LOCAL_CONFIG": "1"})
    said = str(failure.value)
    assert str(path) in said
    for word in words:
        assert word in said
