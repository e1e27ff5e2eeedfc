"""Spack's configuration scopes: which files are read, which goes first, and how their mirrors are merged."""

import pytest

from oci_binpkg.config.settings import load_settings
from oci_binpkg.errors import UsageError
from tests.support.command_line import binpkg

NEW_ROOT = """include:
  - {name: user, path: ~/.spack, path_override_env_var: SPACK_USER_CONFIG_PATH, optional: true,
     when: '"SPACK_DISABLE_LOCAL_CONFIG" not in env'}
  - {name: site, path: $spack/etc/spack/site, optional: true}
  - {name: system, path: /nowhere/at/all, path_override_env_var: SPACK_SYSTEM_CONFIG_PATH, optional: true,
     when: '"SPACK_DISABLE_LOCAL_CONFIG" not in env'}
"""
SCOPES = {
    "env": "env/spack.yaml",
    "included": "env/more/mirrors.yaml",
    "user": ".spack/mirrors.yaml",
    "root": "spack/etc/spack/mirrors.yaml",
    "site": "spack/etc/spack/site/mirrors.yaml",
    "system": "system/mirrors.yaml",
    "defaults": "spack/etc/spack/defaults/mirrors.yaml",
}
OLD = ["env", "included", "user", "root", "system", "defaults"]
NEW = ["env", "included", "root", "user", "site", "system", "defaults"]


def write(home, file, text):
    path = home / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def settings(home, **env):
    places = {
        "SPACK_ROOT": f"{home}/spack",
        "SPACK_SYSTEM_CONFIG_PATH": f"{home}/system",
        "SPACK_ENV": f"{home}/env",
    }
    return load_settings({"HOME": str(home), **places, **env})


def urls(home, **env):
    return {name: cache.fetch_url for name, cache in settings(home, **env).caches.items()}


@pytest.mark.parametrize(("is_new", "order"), [(False, OLD), (True, NEW)], ids=["before 1.1", "since 1.1"])
def test_the_order_of_the_scopes(tmp_path, is_new, order):
    """Each scope has its own mirror, and one of each scope that is lower than it."""
    for scope, file in SCOPES.items():
        if scope not in order:
            continue
        below = order[order.index(scope) :]
        mirrors = "".join(f"  {name}: https://{scope}\n" for name in below)
        if scope == "env":
            indented = mirrors.replace("  ", "    ")
            write(tmp_path, file, f"spack:\n  specs: [zlib]\n  include: [more]\n  mirrors:\n{indented}")
        else:
            write(tmp_path, file, f"mirrors:\n{mirrors}")
    if is_new:
        write(tmp_path, "spack/etc/spack/include.yaml", NEW_ROOT)
    assert urls(tmp_path) == dict.fromkeys(order, "https://env")
    assert urls(tmp_path, SPACK_ENV="") == dict.fromkeys(order[2:], f"https://{order[2]}")
    (tmp_path / SCOPES[order[2]]).unlink()
    assert urls(tmp_path, SPACK_ENV="") == dict.fromkeys(order[3:], f"https://{order[3]}")
    (tmp_path / SCOPES[order[3]]).unlink()
    assert urls(tmp_path, SPACK_ENV="") == dict.fromkeys(order[4:], f"https://{order[4]}")


@pytest.mark.parametrize("is_new", [False, True])
@pytest.mark.parametrize("value", ["", "1"])
def test_local_configuration_can_be_left_out(tmp_path, is_new, value):
    for scope in ("user", "system", "defaults", "root"):
        write(tmp_path, SCOPES[scope], f"mirrors: {{{scope}: https://h}}\n")
    if is_new:
        write(tmp_path, "spack/etc/spack/include.yaml", NEW_ROOT)
    assert set(urls(tmp_path)) == {"user", "system", "defaults", "root"}
    assert set(urls(tmp_path, SPACK_DISABLE_LOCAL_CONFIG=value)) == {"defaults", "root"}


def test_the_users_folder_may_be_named_or_be_the_newer_one(tmp_path):
    write(tmp_path, ".config/spack/mirrors.yaml", "mirrors: {newer: https://h}\n")
    assert set(urls(tmp_path)) == {"newer"}
    write(tmp_path, SCOPES["user"], "mirrors: {usual: https://h}\n")
    assert set(urls(tmp_path)) == {"usual"}
    write(tmp_path, "elsewhere/mirrors.yaml", "mirrors: {named: https://h}\n")
    assert set(urls(tmp_path, SPACK_USER_CONFIG_PATH=f"{tmp_path}/elsewhere")) == {"named"}
    assert set(urls(tmp_path, SPACK_USER_CONFIG_PATH="")) == {"usual"}


def test_entries_of_one_name_are_merged_key_by_key(tmp_path):
    site = write(
        tmp_path,
        SCOPES["root"],
        "mirrors: {lab: {url: 's3://b/site', signed: false, push: {url: 's3://b/in', profile: site},"
        " access_pair: {id: me, secret_variable: S}}}\n",
    )
    user = write(
        tmp_path,
        SCOPES["user"],
        "mirrors: {lab: {url: 's3://b/mine', push: {view: v}, access_pair: {secret_variable: T}}}\n",
    )
    lab = settings(tmp_path, S="site's", T="mine").caches["lab"]
    assert (lab.fetch_url, lab.signed) == ("s3://b/mine", False)
    assert (lab.push_url, lab.push.profile, lab.push.view) == ("s3://b/in", "site", "v")
    assert (lab.push.access.key_id, lab.push.access.secret) == ("me", "mine")
    assert (lab.origin_file, lab.merged_files) == (user, (site,))


@pytest.mark.parametrize(
    ("high", "url", "signed", "push"),
    [
        ("{lab: {view: v}}", "https://low", False, "s3://low"),
        ("{lab: https://high}", "https://high", None, "https://high"),
        ("{lab: {url: https://high}}", "https://high", False, "s3://low"),
        ("{'lab:': {url: https://high}}", "https://high", None, "https://high"),
        ("{lab: {'push:': {profile: p}}}", "https://low", False, "https://low"),
        ("{lab: {push: null}}", "https://low", False, "https://low"),
        ("{lab: {push: s3://high}}", "https://low", False, "s3://high"),
        ("{lab: {url-: /sub}}", "https://low/sub", False, "s3://low"),
        ("{lab: {binary: false}}", None, None, None),
        ("{other: https://h}", "https://low", False, "s3://low"),
    ],
)
def test_what_a_higher_file_says_of_a_lower_ones_mirror(tmp_path, high, url, signed, push):
    write(tmp_path, SCOPES["root"], "mirrors: {lab: {url: https://low, signed: false, push: {url: s3://low}}}\n")
    write(tmp_path, SCOPES["user"], f"mirrors: {high}\n")
    lab = settings(tmp_path).caches.get("lab")
    assert (lab and lab.fetch_url, lab and lab.signed, lab and lab.push_url) == (url, signed, push)


def test_two_colons_behind_mirrors_leave_out_all_lower_files(tmp_path):
    write(tmp_path, SCOPES["root"], "mirrors: {low: https://h}\n")
    write(tmp_path, SCOPES["user"], "mirrors:: {only: https://h}\n")
    write(tmp_path, SCOPES["env"], "spack: {mirrors: {mine: https://h}}\n")
    assert set(urls(tmp_path)) == {"mine", "only"}
    write(tmp_path, SCOPES["env"], "spack:\n  mirrors:: {}\n")
    assert urls(tmp_path) == {}


def test_a_path_is_relative_to_the_file_that_says_it(tmp_path):
    write(tmp_path, SCOPES["root"], "mirrors: {lab: {url: m, push: p}}\n")
    write(tmp_path, SCOPES["env"], "spack: {mirrors: {lab: {push: $env/out}}}\n")
    lab = settings(tmp_path).caches["lab"]
    assert lab.fetch_url == f"file://{tmp_path}/spack/etc/spack/m"
    assert lab.push_url == f"file://{tmp_path}/env/out"


def test_includes_of_an_environment(tmp_path):
    write(tmp_path, "env/a.yaml", "mirrors: {a: https://a, both: https://a}\ninclude: [deeper/b.yaml]\n")
    write(tmp_path, "env/deeper/b.yaml", "mirrors: {b: https://b, both: https://b}\n")
    write(tmp_path, "shared/mirrors.yaml", "mirrors: {shared: https://c, both: https://c}\n")
    write(tmp_path, "other/spack.yaml", "spack: {mirrors: {other: https://d}}\n")
    write(
        tmp_path,
        SCOPES["env"],
        "spack:\n  include:\n  - a.yaml\n  - path: ~/shared\n  - file://$env/../other/spack.yaml\n"
        "  - {path: absent, optional: true}\n  - {path: a.yaml, when: false}\n  - {path: x, when: '\"NO\" in env'}\n",
    )
    found = settings(tmp_path)
    assert {name: cache.fetch_url for name, cache in found.caches.items()} == {
        "a": "https://a",
        "b": "https://b",
        "shared": "https://c",
        "other": "https://d",
        "both": "https://a",
    }
    assert found.remarks == ()


@pytest.mark.parametrize(
    ("include", "remark"),
    [
        ("https://h/mirrors.yaml", "the include https://h/mirrors.yaml is not read: it is not on this machine"),
        ("{path: https://h/m.yaml, sha256: ab}", "the include https://h/m.yaml is not read"),
        ("{git: https://h/r.git, paths: [m.yaml]}", "an include without a path on this machine is not read"),
        ("absent.yaml", "the include {env}/absent.yaml does not exist"),
        ("{path: x.yaml, when: os == 'ventura'}", "x.yaml is not read: its condition is not understood here"),
    ],
)
def test_what_is_not_included_is_told_where_names_are_used(tmp_path, include, remark, monkeypatch):
    file = write(tmp_path, SCOPES["env"], f"spack:\n  include:\n  - {include}\n  mirrors: {{lab: /m}}\n")
    (found,) = settings(tmp_path).remarks
    remark = remark.format(env=f"{tmp_path}/env")
    assert remark in found
    assert found.startswith(f"{file}: ")
    monkeypatch.setenv("SPACK_ENV", f"{tmp_path}/env")
    assert remark in binpkg("mirror", "list").err
    assert remark in binpkg("find", "--from", "lab").err
    assert remark not in binpkg("find", "--from", f"file://{tmp_path}/none").err


def test_includes_that_go_in_a_circle_end(tmp_path):
    write(tmp_path, "env/a.yaml", "include: [spack.yaml, a.yaml]\nmirrors: {a: https://a}\n")
    write(tmp_path, SCOPES["env"], "spack: {include: [a.yaml]}\n")
    assert set(urls(tmp_path)) == {"a"}


@pytest.mark.covers("B42")
@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("env/spack.yaml", "spack: [a]", "spack must be a mapping, not a list"),
        ("env/spack.yaml", "spack: {mirrors: a}", "mirrors must be a mapping, not text"),
        ("env/spack.yaml", "spack: {include: a}", "include must be a list, not text"),
        ("env/spack.yaml", "spack: {mirrors: {lab: {url: 3}}}", "mirrors.lab.url must be text, not a number"),
        (
            "env/spack.yaml",
            "spack: {mirrors: {lab: {push: {signed: 3}}}}",
            "mirrors.lab.push.signed must be true or false",
        ),
        ("system/mirrors.yaml", "mirrors: {lab: {view: v}}", "mirrors.lab has no url"),
        ("system/include.yaml", "include: {a: b}", "include must be a list"),
    ],
)
def test_a_mistake_names_its_own_file(tmp_path, file, text, message):
    path = write(tmp_path, file, text + "\n")
    with pytest.raises(UsageError) as caught:
        settings(tmp_path)
    assert caught.value.message.startswith(f"{path}: ")
    assert message in caught.value.message


def test_the_list_tells_the_files(tmp_path, monkeypatch):
    site = write(tmp_path, SCOPES["root"], "mirrors: {lab: {url: https://h/m}, other: https://h/o}\n")
    mine = write(tmp_path, SCOPES["env"], "spack: {mirrors: {lab: {view: v}}}\n")
    monkeypatch.setenv("SPACK_ROOT", f"{tmp_path}/spack")
    monkeypatch.setenv("SPACK_ENV", f"{tmp_path}/env")
    lab, other = binpkg("mirror", "list").lines
    assert lab.split(None, 1)[1].endswith(f"view v  {mine} (with {site})")
    assert other.endswith(site)
    assert [(each["file"], each["merged_files"]) for each in binpkg("mirror", "list", "--json").json] == [
        (mine, [site]),
        (site, []),
    ]


@pytest.mark.covers("P27")
@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("oci://user/image", "oci://docker.io/user/image"),
        ("oci://image", "oci://docker.io/library/image"),
        ("oci://user/deep/image", "oci://docker.io/user/deep/image"),
        ("oci://ghcr.io/User/Build-Cache", "oci://ghcr.io/user/build-cache"),
        ("oci://Host/Image", "oci://Host/image"),
        ("oci://localhost/Image", "oci://localhost/image"),
        ("oci+http://lab:5000/Apps", "oci+http://lab:5000/apps"),
        ("oci+http://[::1]:5000/apps", "oci+http://[::1]:5000/apps"),
        ("s3://Bucket/Path", "s3://Bucket/Path"),
        ("https://mirror.example/Apps", "https://mirror.example/Apps"),
    ],
)
def test_addresses_of_registries_are_what_spack_takes_them_for(tmp_path, written, meant):
    write(tmp_path, ".spack/mirrors.yaml", f"mirrors:\n  one: {written}\n  two:\n    push: {{url: '{written}'}}\n")
    found = settings(tmp_path).caches
    assert found["one"].fetch_url == found["one"].push_url == meant
    assert found["two"].push_url == meant


@pytest.mark.covers("P27")
def test_our_own_file_means_what_it_says(tmp_path):
    """There an address has its host, as everywhere on the command line."""
    write(tmp_path, ".config/oci-binpkg/config.toml", '[caches.one]\nurl = "oci://user/image"\n')
    assert urls(tmp_path) == {"one": "oci://user/image"}


@pytest.mark.covers("P27")
def test_the_login_for_writing_is_not_used_for_reading(tmp_path):
    login = "access_pair: {id: ci, secret_variable: SECRET}"
    text = f"mirrors:\n  one:\n    fetch: oci://ghcr.io/u/i\n    push: {{url: 'oci://ghcr.io/u/i', {login}}}\n"
    write(tmp_path, ".spack/mirrors.yaml", text)
    cache = settings(tmp_path, SECRET="canary").caches["one"]
    assert cache.push.access.key_id == "ci"
    assert not cache.fetch.access.is_known
