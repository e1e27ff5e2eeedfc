"""Specs: every format is read, nodes survive unchanged, walks have the orders that Spack's artefacts show."""

import gzip
import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
from archspec.cpu import TARGETS

from oci_binpkg.errors import ContentError
from oci_binpkg.model.spec import Arch, Dependency, Spec, SpecGraph
from oci_binpkg.model.spec_document import parse_node, parse_spec_document, spec_document
from tests.support.spack_trees import Sketch, graph_of, nodes_of

GOLDEN = Path(__file__).parents[3] / "fixtures" / "golden"
BLOBS = GOLDEN / "oci-layout" / "blobs" / "sha256"


def documents() -> list[tuple[str, dict[str, Any]]]:
    """Every spec document of the golden data: configs, blobs of mirrors, files of the old layout."""
    found = []
    for path in sorted(GOLDEN.rglob("*")):
        if not path.is_file():
            continue
        data = path.read_bytes()
        if b"BEGIN PGP SIGNED" in data[:100]:
            data = data[data.index(b"{") : data.rindex(b"-----BEGIN PGP SIG")]
        try:
            document = json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
        except (ValueError, OSError):
            continue
        if isinstance(document, dict) and "spec" in document:
            found.append((str(path.relative_to(GOLDEN)), document))
    return found


def image(tag: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest and config of a golden image."""
    index = json.loads((GOLDEN / "oci-layout" / "index.json").read_text())
    entry = next(m for m in index["manifests"] if m["annotations"]["org.opencontainers.image.ref.name"].startswith(tag))
    manifest = json.loads((BLOBS / entry["digest"][7:]).read_bytes())
    return manifest, json.loads((BLOBS / manifest["config"]["digest"][7:]).read_bytes())


def layer(digest: str) -> tuple[str, str]:
    """The package hash and `binary_distribution` of a golden layer."""
    with tarfile.open(fileobj=io.BytesIO((BLOBS / digest[7:]).read_bytes())) as tar:
        name = next(name for name in tar.getnames() if name.endswith("/.spack/binary_distribution"))
        content = tar.extractfile(name)
        assert content is not None
        return name.split("/")[-3][-32:], content.read().decode()


DOCUMENTS = documents()
IMAGES = ("greet-2.0", "greet-2.1", "greetcfg-0.9", "greetlib-1.2.0", "greetlib-1.3.0")


def test_golden_data_has_documents_of_both_formats() -> None:
    assert {document["spec"]["_meta"]["version"] for _, document in DOCUMENTS} == {4, 5}
    assert len(DOCUMENTS) >= 20


@pytest.mark.parametrize("document", [d for _, d in DOCUMENTS], ids=[name[-60:] for name, _ in DOCUMENTS])
def test_golden_documents_are_written_as_they_were_read(document: dict[str, Any]) -> None:
    parsed = parse_spec_document(json.dumps(document).encode(), "golden")
    assert spec_document(parsed.root, parsed.graph)["spec"] == document["spec"]
    assert list(parsed.graph) == [node["hash"] for node in document["spec"]["nodes"]]


@pytest.mark.parametrize("tag", IMAGES)
def test_layers_are_ordered_as_in_golden_images(tag: str) -> None:
    manifest, config = image(tag)
    document = parse_spec_document(config, tag)
    layers = [layer(each["digest"])[0] for each in manifest["layers"]]
    closure = [spec.hash for spec in document.graph.closure([document.root]) if spec.name != "gcc-runtime"]
    assert closure == layers
    assert document.root.describe() == manifest["annotations"]["org.opencontainers.image.description"]


@pytest.mark.parametrize("tag", IMAGES)
def test_relocation_order_is_that_of_golden_layers(tag: str) -> None:
    manifest, config = image(tag)
    document = parse_spec_document(config, tag)
    recorded = re.search(r"hash_to_prefix: \{(.*?)\}", layer(manifest["layers"][-1]["digest"])[1])
    assert recorded
    assert [spec.hash for spec in document.graph.relocation_order(document.root)] == re.findall(
        r"(\w{32}):", recorded[1]
    )


def test_what_a_node_says_is_there() -> None:
    document = parse_spec_document(image("greet-2.0")[1], "greet")
    greet = document.root
    assert (greet.name, greet.version, greet.namespace, greet.short) == ("greet", "2.0", "lab", "greet@2.0/6fytamq")
    assert greet.arch == Arch("linux", "debian12", "x86_64")
    assert str(greet.arch) == "linux-debian12-x86_64"
    assert greet.compiler is None
    assert not greet.is_external
    assert [edge.name for edge in greet.dependencies_of(["run"])] == ["greetcfg"]
    gcc = next(spec for spec in document.graph.values() if spec.name == "gcc")
    assert gcc.is_external
    assert gcc.external_path == "/usr"
    assert greet.dependencies[1] == Dependency("gcc", gcc.hash, ("build",), ("c",))
    assert [spec.name for spec in document.graph.breadth_first(greet, ("link",), include_root=False)] == [
        "gcc-runtime",
        "glibc",
        "greetlib",
    ]
    assert [spec.name for spec in document.graph.closure([greet], types=None, externals=True)] == [
        "glibc", "gcc", "gcc-runtime", "compiler-wrapper", "greetlib", "greetcfg", "greet",
    ]  # fmt: skip


def test_format_4_has_the_compiler_in_the_node() -> None:
    document = parse_spec_document((GOLDEN / "specs" / "greet.spec.v4.json").read_bytes(), "v4")
    assert document.version == 4
    assert document.root.compiler == ("gcc", "12.2.0")
    assert document.root.describe().startswith("greet@=2.1%gcc@=12.2.0 build_system=generic platform=linux")


@pytest.mark.parametrize("annotation", ["gcc@=12.2.0", {"name": "gcc", "version": "12.2.0"}])
def test_compiler_of_a_converted_node_is_an_annotation(annotation: object) -> None:
    node = {**nodes_of([Sketch("a")])["a"], "annotations": {"original_specfile_version": 4, "compiler": annotation}}
    assert parse_node(node, 5, "a").compiler == ("gcc", "12.2.0")


def test_format_3_names_types_in_the_edge() -> None:
    nodes = nodes_of([Sketch("zlib"), Sketch("app", depends=[("zlib", ("build", "run"))])], form=3)
    document = {"spec": {"_meta": {"version": 3}, "nodes": [nodes["app"], nodes["zlib"]]}}
    parsed = parse_spec_document(document, "v3")
    assert parsed.root.dependencies == (Dependency("zlib", nodes["zlib"]["hash"], ("build", "run")),)
    assert spec_document(parsed.root, parsed.graph) == document


@pytest.mark.parametrize("key", ["build_hash", "full_hash"])
def test_format_2_may_link_nodes_by_another_hash(key: str) -> None:
    nodes = [
        {"name": "app", "version": "1", "arch": "linux-debian12-x86_64", "hash": "a" * 32, key: "b" * 32,
         "dependencies": [{"name": "zlib", key: "d" * 32, "type": ["link"]}]},
        {"name": "zlib", "version": "1", "arch": "linux-debian12-x86_64", "hash": "c" * 32, key: "d" * 32},
    ]  # fmt: skip
    document = {"spec": {"_meta": {"version": 2}, "nodes": nodes}}
    parsed = parse_spec_document(document, "v2")
    assert [spec.hash for spec in parsed.graph.closure([parsed.root])] == ["c" * 32, "a" * 32]
    assert spec_document(parsed.root, parsed.graph) == document


def test_format_2_without_a_plain_hash_is_known_by_the_other() -> None:
    node = {"name": "app", "version": "1", "arch": "linux-debian12-x86_64", "full_hash": "b" * 32}
    assert parse_spec_document({"spec": {"_meta": {"version": 2}, "nodes": [node]}}, "v2").root.hash == "b" * 32


@pytest.mark.parametrize(
    "edge", [{"hash": "c" * 32, "type": ["build", "link"]}, ["c" * 32, ["build", "link"]], "c" * 32]
)
def test_format_1_has_names_as_keys(edge: object) -> None:
    arch = {"platform": "linux", "platform_os": "debian12", "target": {"name": "zen2", "parents": ["zen"]}}
    document = {
        "spec": [
            {"app": {"version": "1", "arch": arch, "hash": "a" * 32, "dependencies": {"zlib": edge}}},
            {"zlib": {"version": "1", "arch": arch, "hash": "c" * 32}},
        ]
    }
    parsed = parse_spec_document(document, "v1")
    assert parsed.version == 1
    assert parsed.root.dependencies == (Dependency("zlib", "c" * 32, ("build", "link")),)
    assert parsed.root.arch.go_architecture == "amd64"
    assert spec_document(parsed.root, parsed.graph) == document


def test_unknown_members_are_kept() -> None:
    node = {**nodes_of([Sketch("a")])["a"], "colour": "blue"}
    document = {"spec": {"_meta": {"version": 5}, "nodes": [node]}}
    parsed = parse_spec_document(json.dumps(document).encode(), "x")
    assert spec_document(parsed.root, parsed.graph) == document


@pytest.mark.covers("B44")
def test_a_newer_format_is_refused_by_its_number() -> None:
    with pytest.raises(ContentError, match=r"app\.json: a spec document of format 6; formats 1 to 5"):
        parse_spec_document(b'{"spec": {"_meta": {"version": 6}, "nodes": []}}', "app.json")


ARCH = {"platform": "linux", "platform_os": "debian12", "target": "x86_64"}
NODE: dict[str, Any] = {"name": "a", "version": "1", "hash": "a" * 32, "arch": ARCH}


@pytest.mark.covers("B44")
@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        (b"not json", "x: not valid JSON"),
        ({}, "x.spec: an object is expected, not nothing"),
        ({"spec": {"nodes": []}}, "x.spec._meta: an object is expected"),
        ({"spec": {"_meta": {"version": "5"}, "nodes": []}}, "the spec format '5' is not a version number"),
        ({"spec": {"_meta": {"version": True}, "nodes": []}}, "the spec format 'True'"),
        ({"spec": {"_meta": {"version": 5}, "nodes": []}}, "x: the spec document has no nodes"),
        ({"spec": {"_meta": {"version": 5}, "nodes": ["a"]}}, "x.spec.nodes.0: an object is expected, not str"),
        ({"spec": [{"a": {}, "b": {}}]}, r"x.spec\[0\]: an object with one package name"),
        ({"spec": [{"a": 3}]}, "a: an object is expected"),
    ],
)
def test_broken_documents_say_where(document: Any, complaint: str) -> None:
    with pytest.raises(ContentError, match=complaint):
        parse_spec_document(document, "x")


@pytest.mark.covers("B44")
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"name": "../up"}, r"n.name: '../up' is not allowed here"),
        ({"name": None}, "n.name: text is expected"),
        ({"hash": "../../etc"}, "n.hash: '../../etc' is not allowed"),
        ({"version": 1.0}, "n.version: text is expected, not float"),
        ({"arch": None}, "n.arch: an object is expected"),
        ({"arch": {**ARCH, "target": 3}}, "n.arch.target: text or an object"),
        ({"arch": {**ARCH, "target": {"name": "zen", "parents": [1]}}}, r"n.arch.target.parents\[0\]"),
        ({"arch": {"platform": "linux"}}, "n.arch.target"),
        ({"parameters": []}, "n.parameters: an object"),
        ({"dependencies": 3}, "n.dependencies: a list is expected"),
        ({"dependencies": [3]}, "n.dependencies.0: an object"),
        ({"dependencies": {"zlib": 3}}, "n.dependencies.zlib: hash and types"),
        ({"dependencies": [{"name": "zlib"}]}, "n.dependencies.0.hash: text is expected, not nothing"),
        ({"dependencies": [{"name": "z", "hash": "a", "parameters": {"deptypes": [1]}}]}, r"deptypes\[0\]: text"),
        ({"external": []}, "n.external: an object"),
        ({"external": {"path": 3}}, "n.external.path: text"),
        ({"build_spec": {"name": "a"}}, "n.build_spec.hash: text is expected"),
        ({"compiler": {"name": "gcc"}}, "n.compiler.version: text"),
    ],
)
def test_broken_nodes_say_where(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ContentError, match=complaint):
        parse_node({**NODE, **change}, 5, "n")


@pytest.mark.parametrize(
    ("target", "architecture"),
    [
        ("x86_64", "amd64"), ("x86_64_v3", "amd64"), ("zen4", "amd64"), ("skylake_avx512", "amd64"), ("haswell", "amd64"),
        ("icelake", "amd64"), ("sapphirerapids", "amd64"), ("aarch64", "arm64"), ("armv8.4a", "arm64"), ("neoverse_v1", "arm64"),
        ("m1", "arm64"), ("a64fx", "arm64"), ("cortex_a72", "arm64"), ("ppc64le", "ppc64le"), ("power9le", "ppc64le"),
        ("power8", "ppc64"), ("riscv64", "riscv64"), ("u74mc", "riscv64"), ("s390x", "s390x"), ("i686", "386"), ("unheard_of", "unheard_of"),
        ("armv7l", "arm"), ("armv6hf", "arm"), ("loongarch64", "loong64"), ("la464", "loong64"), ("mips64el", "mips64le"), ("mipsel", "mipsle"),
        ("z14", "s390x"), ("mips", "mips"), ("sparc64", "sparc64"),
    ],
)  # fmt: skip
def test_targets_have_go_names(target: str, architecture: str) -> None:
    assert Arch("linux", "any", target).go_architecture == architecture


@pytest.mark.covers("P21")
def test_every_target_of_archspec_has_the_family_that_archspec_gives() -> None:
    images = {"x86_64": "amd64", "aarch64": "arm64", "x86": "386"}
    found = {name: Arch("linux", "any", name).go_architecture for name in TARGETS}
    assert found == {name: images.get(one.family.name, one.family.name) for name, one in TARGETS.items()}


@pytest.mark.parametrize(
    ("target", "variant"),
    [("armv7l", "v7"), ("armv6l", "v6"), ("armv5tel", "v5"), ("arm", ""), ("aarch64", ""), ("zen4", "")],
)
def test_32_bit_arm_has_variants(target: str, variant: str) -> None:
    assert Arch("linux", "any", target).go_variant == variant


def test_parents_tell_the_family_of_an_unknown_target() -> None:
    target = {"name": "zebra9", "vendor": "x", "features": [], "generation": 0, "parents": ["zebra8", "zen4"]}
    assert parse_node({**NODE, "arch": {**ARCH, "target": target}}, 5, "n").arch.go_architecture == "amd64"


@pytest.mark.parametrize(
    ("sketch", "text"),
    [
        (Sketch("a", variants={"b": True, "c": False, "api": "v2"}), "a@=1.0+b~c api=v2"),
        (Sketch("a", variants={"cflags": ["-O3", "-g"], "b": True}), "a@=1.0 cflags='-O3 -g' +b"),
        (Sketch("a", variants={"cflags": ["-DX='1'"], "k": "v"}), "a@=1.0 cflags=\"-DX='1'\" k=v"),
        (Sketch("a", variants={"languages": ["c", "c++"]}), "a@=1.0 languages:='c,c++'"),
        (
            Sketch("a", variants={"patches": ["0123456789abcdef", "fedcba9876543210"]}),
            "a@=1.0 patches:=0123456,fedcba9",
        ),
        (Sketch("a", "git.main=1.2"), "a@git.main=1.2"),
    ],
)
def test_long_form(sketch: Sketch, text: str) -> None:
    assert graph_of([sketch])[1]["a"].describe() == f"{text} platform=linux os=debian12 target=x86_64"


def test_specs_are_equal_by_hash() -> None:
    a = Spec("a", "1", "h", Arch("linux", "x", "y"))
    assert a == Spec("b", "2", "h", Arch("linux", "x", "z"))
    assert len({a, Spec("b", "2", "h", Arch("linux", "x", "z"))}) == 1
    assert a != "h"


def diamond() -> tuple[SpecGraph, dict[str, Spec]]:
    return graph_of(
        [
            Sketch("base"),
            Sketch("left", depends=["base"]),
            Sketch("right", depends=["base"]),
            Sketch("top", depends=["left", "right", "base"]),
        ]
    )


def test_closure_emits_a_node_after_its_last_edge() -> None:
    graph, specs = diamond()
    assert [spec.name for spec in graph.closure([specs["top"]])] == ["base", "right", "left", "top"]


def test_closure_of_several_roots_is_one_order() -> None:
    graph, specs = diamond()
    assert [spec.name for spec in graph.closure([specs["left"], specs["right"], specs["left"]])] == [
        "base",
        "right",
        "left",
    ]
    assert [spec.name for spec in graph.closure([specs["left"], specs["top"]])] == ["base", "right", "left", "top"]


def test_externals_are_left_out_but_walked_through() -> None:
    graph, specs = graph_of(
        [Sketch("zlib"), Sketch("mpi", external="/usr", depends=["zlib"]), Sketch("app", depends=["mpi"])]
    )
    assert [spec.name for spec in graph.closure([specs["app"]])] == ["zlib", "app"]
    assert [spec.name for spec in graph.closure([specs["app"]], externals=True)] == ["zlib", "mpi", "app"]


def test_deep_graphs_need_no_deep_stack() -> None:
    sketches = [Sketch("p0")] + [Sketch(f"p{i}", depends=[f"p{i - 1}"]) for i in range(1, 3000)]
    graph, specs = graph_of(sketches)
    assert len(graph.closure([specs["p2999"]])) == 3000
    assert len(graph.document_order(specs["p2999"])) == 3000


@pytest.mark.covers("B44")
def test_absent_nodes_are_left_out_and_reported() -> None:
    graph, specs = graph_of([Sketch("cmake"), Sketch("zlib"), Sketch("app", depends=["zlib", ("cmake", ("build",))])])
    partial = SpecGraph([specs["app"]])
    assert partial.closure([specs["app"]]) == (specs["app"],)
    assert [edge.name for _, edge in partial.missing([specs["app"]], ("link",))] == ["zlib"]
    assert [edge.name for _, edge in partial.missing()] == ["cmake", "zlib"]
    assert graph.missing() == ()
    with pytest.raises(ContentError, match=r"app@1\.0/\w+ depends on cmake/\w{7}, which is not known here"):
        spec_document(specs["app"], partial)


def test_graphs_can_be_joined() -> None:
    graph, specs = diamond()
    joined = SpecGraph([specs["top"]]) | SpecGraph([specs["base"]])
    assert {spec.name for spec in joined.values()} == {"top", "base"}
    assert len(joined | graph) == 4
    assert "nothing" not in joined


def looped() -> list[dict[str, Any]]:
    def edge(name: str) -> dict[str, Any]:
        return {"name": name, "hash": name * 32, "parameters": {"deptypes": ["link"], "virtuals": []}}

    links = {"a": ["b"], "b": ["c"], "c": ["d", "b"], "d": []}
    return [{**NODE, "name": n, "hash": n * 32, "dependencies": [edge(each) for each in links[n]]} for n in links]


@pytest.mark.covers("B44")
def test_a_circle_is_bad_content_and_shown() -> None:
    document = {"spec": {"_meta": {"version": 5}, "nodes": looped()}}
    with pytest.raises(ContentError, match=r"circle: (b@1/b+ -> c@1/c+ -> b@1/b+|c@1/c+ -> b@1/b+ -> c@1/c+)$"):
        parse_spec_document(document, "x")


def test_build_specs_of_spliced_packages_are_in_the_document() -> None:
    nodes = nodes_of([Sketch("zlib"), Sketch("zlib-ng"), Sketch("tool"), Sketch("app", depends=["zlib", "tool"])])
    spliced = {**nodes_of([Sketch("zlib-ng"), Sketch("tool"), Sketch("app", depends=["zlib-ng", "tool"])])["app"]}
    spliced["build_spec"] = {"name": "app", "hash": nodes["app"]["hash"]}
    graph = SpecGraph(parse_node(node, 5, "n") for node in [*nodes.values(), spliced])
    root = graph[spliced["hash"]]
    assert root.build_spec == ("app", nodes["app"]["hash"])
    document = spec_document(root, graph)
    assert [node["name"] for node in document["spec"]["nodes"]] == ["app", "app", "tool", "zlib", "zlib-ng"]
    without = SpecGraph(spec for spec in graph.values() if spec.hash != nodes["app"]["hash"])
    with pytest.raises(ContentError, match="depends on app/"):
        spec_document(root, without)


def test_formats_that_differ_in_shape_are_not_mixed() -> None:
    old = nodes_of([Sketch("zlib"), Sketch("app", depends=["zlib"])], form=3)
    graph = SpecGraph([parse_node(old["app"], 3, "app"), parse_node(old["zlib"], 5, "zlib")])
    with pytest.raises(ContentError, match="cannot be mixed"):
        spec_document(graph[old["app"]["hash"]], graph)
