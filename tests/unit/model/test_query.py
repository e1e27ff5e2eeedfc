"""Queries: what is understood, what matches, and what is said when nothing or too much does."""

import pytest

from oci_binpkg.cli.hints import words
from oci_binpkg.errors import AmbiguousQueryError, NoMatchError, QueryError
from oci_binpkg.model.query import Query, one, select
from oci_binpkg.model.spec import Spec, SpecGraph
from tests.support.spack_trees import Sketch, graph_of

LINKED = ("build", "link")
SKETCHES = [
    Sketch("gcc", "12.2.0", external="/usr", variants={"languages": ["c", "c++"]}, virtuals=("c", "cxx")),
    Sketch("openmpi", "4.1.5", virtuals=("mpi",), variants={"fabrics": ["ucx", "ofi"]}),
    Sketch("zlib", "1.2.13", variants={"shared": True, "pic": True}, target={"name": "zen4", "parents": ["x86_64_v4"]}),
    Sketch("zlib-ng", "2.1.6", variants={"shared": True, "compat": False, "opt": "none"}, namespace="builtin"),
    Sketch(
        "greetlib",
        "1.2.0",
        depends=["zlib", ("gcc", ("build",))],
        variants={"shout": False, "api": "v2", "cflags": ["-O3", "-g"], "patches": ["abc123", "def456"]},
    ),
    Sketch("greet", "2.0", depends=["greetlib", ("openmpi", LINKED), ("gcc", ("build",))], variants={"shout": True}),
]
GRAPH, SPECS = graph_of(SKETCHES)
OLD_GRAPH, OLD = graph_of(
    [
        Sketch("lib", "1.0", compiler=("clang", "15.0.1")),
        Sketch("tool", "3", depends=["lib"], compiler=("gcc", "12.2.0")),
    ],
    form=4,
)


def names(text: str, graph: SpecGraph = GRAPH) -> list[str]:
    return [spec.name for spec in select(Query.parse(text), graph.values(), graph)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("greet", ["greet"]), ("lab.greet", ["greet"]), ("builtin.greet", []), ("namespace=builtin", ["zlib-ng"]), ("zlib-ng", ["zlib-ng"]),
        ("*", ["gcc", "greet", "greetlib", "openmpi", "zlib", "zlib-ng"]), ("builtin.zlib-ng@2", ["zlib-ng"]),
        ("greet@2.0", ["greet"]), ("greet@2", ["greet"]), ("greet@=2", []), ("greet@=2.0", ["greet"]), ("greet@1:3", ["greet"]), ("greet@:1", []),
        ("@1.2", ["greetlib", "zlib"]), ("@ 1.2 , 4:", ["gcc", "greetlib", "openmpi", "zlib"]), ("zlib@1.2.13", ["zlib"]),
        ("+shared", ["zlib", "zlib-ng"]), ("zlib+shared", ["zlib"]), ("zlib~shared", []), ("zlib +shared+pic", ["zlib"]), ("+ shared ~compat", ["zlib-ng"]),
        ("zlib-ng -compat", ["zlib-ng"]), ("-compat", ["zlib-ng"]), ("~~compat", ["zlib-ng"]), ("greet shout=true", ["greet"]), ("shout=False", ["greetlib"]), ("shout=*", ["greet", "greetlib"]),
        ("api=v2", ["greetlib"]), ("api==v2", ["greetlib"]), ("api='v2'", ["greetlib"]), ("api=v3", []), ("api=*", ["greetlib"]), ("+api", []), ("nothing=None", []),
        ("fabrics=ucx", ["openmpi"]), ("fabrics=ofi,ucx", ["openmpi"]), ("fabrics:=ofi,ucx", ["openmpi"]), ("fabrics:=ucx", []), ("fabrics=ucx,psm2", []),
        ('cflags="-O3"', ["greetlib"]), ('cflags="-g -O3"', ["greetlib"]), ("cflags=-O2", []), ("patches=abc", ["greetlib"]), ("patches=abc,999", []),
        ("greet os=debian12", ["greet"]), ("greet os=ubuntu22,debian12", ["greet"]), ("greet os=alpine", []), ("greet platform=linux", ["greet"]),
        ("greet platform=darwin", []), ("greet target=x86_64", ["greet"]), ("greet target=zen4", []), ("zlib target=x86_64", []), ("zlib target=x86_64:", ["zlib"]),
        ("zlib target=x86_64_v4:", ["zlib"]), ("zlib target=aarch64:", []), ("zlib target=x86_64_v3:", []), ("greet arch=linux-debian12-x86_64", ["greet"]),
        ("greet arch=linux-*-x86_64", ["greet"]), ("greet arch=linux-None-aarch64", []), ("greet arch=darwin-debian12-x86_64", []),
        ("%gcc", ["greet", "greetlib"]), ("greet %gcc@12", ["greet"]), ("greet%gcc@13", []), ("greet %gcc@12 languages=c,c++", ["greet"]), ("greet %clang", []),
        ("%zlib", ["greetlib"]), ("%c=gcc", ["greet", "greetlib"]), ("%c,cxx=gcc@12", ["greet", "greetlib"]), ("%fortran=gcc", []), ("%c", ["greet", "greetlib"]), ("%%gcc ^mpi", ["greet"]),
        ("^zlib", ["greet", "greetlib"]), ("greet ^zlib@1.2:+pic", ["greet"]), ("greet ^zlib~pic", []), ("^mpi", ["greet"]), ("^mpi@4", ["greet"]), ("^ greetlib %gcc ^zlib", ["greet"]),
        ("^greetlib %clang", []), ("^zlib %gcc", []), ("greet ^nothing", []),
    ],
)  # fmt: skip
def test_what_matches(text: str, expected: list[str]) -> None:
    assert names(text) == expected


def test_hashes() -> None:
    greet = SPECS["greet"]
    assert names(f"/{greet.hash[:4]}") == ["greet"]
    assert names(f"greet@2.0/{greet.hash}") == ["greet"]
    assert names(f"zlib/{greet.hash[:4]}") == []
    assert names(f"^/{SPECS['zlib'].hash[:7]}") == ["greet", "greetlib"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("%clang", ["lib"]), ("%clang@15", ["lib"]), ("%llvm@15", ["lib"]), ("%clang@14", []), ("tool %gcc", ["tool"]), ("%gcc+nvptx", []), ("%c=gcc", ["tool"]), ("%mpi=gcc", []), ("tool ^lib %clang", ["tool"])],
)  # fmt: skip
def test_compiler_of_old_packages(text: str, expected: list[str]) -> None:
    assert names(text, OLD_GRAPH) == expected


def test_old_compiler_names_mean_their_packages() -> None:
    graph, _ = graph_of([Sketch("llvm", "15.0.1"), Sketch("app", depends=[("llvm", ("build",))])])
    assert names("%clang@15", graph) == ["app"]


def test_dependencies_whose_node_is_not_at_hand() -> None:
    alone = SpecGraph([SPECS["greetlib"]])
    assert names("^zlib", alone) == ["greetlib"]
    assert names(f"%zlib/{SPECS['zlib'].hash[:5]}", alone) == ["greetlib"]
    assert names("^zlib@1.2", alone) == []


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        ("", 0, "a package name"), ("   ", 3, "a package name"), ("greet@@2.0", 6, "a version, as in @1.2"), ("greet@", 6, "a version"), ("greet@1.2@1.3", 9, "only one @version"),
        ("greet@3:2", 5, "2: 3 is greater than 2"), ("greet+", 6, "the name of a variant"), ("greet +", 7, "the name of a variant"), ("greet /", 7, "the beginning of a hash"), ("greet/0189", 6, "the beginning of a hash"),
        ("greet/ABC", 6, "the beginning of a hash"), ("greet/abc/def", 9, "only one /hash"), ("greet zlib", 6, "one package per query"), ("greet os=", 9, "a value for os"),
        ("greet arch=linux", 11, "platform-os-target"), ("greet target=x86_64:zen", 13, "other ranges of targets"), ("greet ^", 7, "the name of a dependency"), ("greet ^ ^zlib", 8, "the name of a dependency"),
        ("greet %[virtuals=c] gcc", 7, "in [brackets]"), ("greet ^#", 7, "the name of a dependency"), ("#", 0, "a package name, @version"), ("greet#", 5, "@version, +variant"), ("greet +a ~a", 9, "a only once"), ("greet a='x", 8, "a value for a"),
        ("greet +a a=1", 9, "a only once"), ("grüße", 2, "@version, +variant"),
    ],
)  # fmt: skip
def test_errors_show_the_place(text: str, column: int, expected: str) -> None:
    with pytest.raises(QueryError) as caught:
        Query.parse(text)
    _, shown, caret, complaint = caught.value.message.split("\n")
    assert shown == f"  {text}"
    assert caret == f"  {' ' * column}^"
    assert expected in complaint


def test_quotes_hold_spaces_and_escapes() -> None:
    graph, _ = graph_of([Sketch("a", variants={"note": 'say "hi" now', "cppflags": ["-DX=1"]})])
    assert names(r'note="say \"hi\" now"', graph) == ["a"]
    assert names("""note='say "hi" now' cppflags="-DX=1" """, graph) == ["a"]


def test_query_is_its_text() -> None:
    assert str(Query.parse("  greet@2 ")) == "greet@2"


def greets() -> tuple[SpecGraph, list[Spec]]:
    graph, specs = graph_of([Sketch("lib-a", "1.0"), Sketch("lib-b", "2.0")])
    found = []
    for number, (version, variants, depends) in enumerate(
        [
            ("2.0", {"shout": True, "api": "v1"}, ["lib-a"]),
            ("2.0", {"shout": False, "api": "v1"}, ["lib-a"]),
            ("10.0", {"shout": True, "api": "v1"}, ["lib-b"]),
        ]
    ):
        more, named = graph_of(
            [
                Sketch("lib-a", "1.0"),
                Sketch("lib-b", "2.0"),
                Sketch("greet", version, variants=variants, depends=depends),
            ]
        )
        graph, _ = graph | more, number
        found.append(named["greet"])
    return graph, [*found, specs["lib-a"]]


def test_one_returns_the_only_match() -> None:
    graph, candidates = greets()
    assert one(Query.parse("greet@10"), candidates, graph).version == "10.0"
    assert one(Query.parse("greet@10"), [*candidates, *candidates], graph).version == "10.0"


def test_several_matches_are_listed_with_what_differs() -> None:
    graph, candidates = greets()
    with pytest.raises(AmbiguousQueryError) as caught:
        one(Query.parse("greet"), candidates, graph)
    loud, quiet, new = (spec.hash[:7] for spec in candidates[:3])
    lines = caught.value.message.split("\n")
    assert lines[0] == "'greet' matches 3 packages:"
    assert set(lines[1:3]) == {f"  /{loud} greet@2.0 +shout ^lib-a@1.0", f"  /{quiet} greet@2.0 ~shout ^lib-a@1.0"}
    assert lines[3] == f"  /{new} greet@10.0 +shout ^lib-b@2.0"
    assert "api" not in caught.value.message
    assert caught.value.hint == f"name the one you mean by its hash, as in greet/{new}"
    pinned = caught.value.hint.split()[-1]
    assert one(Query.parse(pinned), candidates, graph) == candidates[2]


def test_pins_are_long_enough_and_long_lists_are_cut() -> None:
    base = SPECS["greet"]
    twins = [
        Spec("greet", f"2.{i}", f"aaaaaaaaaa{'abcdefghijklmnopqrstuvwxyz'[i]}", base.arch, compiler=("gcc", str(i)))
        for i in range(20)
    ]
    with pytest.raises(AmbiguousQueryError) as caught:
        one(Query.parse("greet"), twins, SpecGraph(twins))
    assert "/aaaaaaaaaab greet@2.1 %gcc@1" in caught.value.message
    assert caught.value.message.endswith("... and 8 more")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("gret", "no package here matches 'gret'", "did you mean greet"),
        ("lib", "no package here matches 'lib'", "lib-a"),
        ("qqqqqq", "no package here matches 'qqqqqq'", "`oci-binpkg find` lists what there is"),
        ("/zzzz", "no package here matches '/zzzz'", "`oci-binpkg find` lists"),
        ("greet@3", "no greet here matches 'greet@3'", "there is greet@2.0/"),
    ],
)
def test_no_match_names_what_is_near(text: str, message: str, hint: str) -> None:
    graph, candidates = greets()
    with pytest.raises(NoMatchError) as caught:
        one(Query.parse(text), candidates, graph)
    assert caught.value.message == message
    assert hint in words(caught.value.hint)


def test_no_match_where_nothing_is() -> None:
    with pytest.raises(NoMatchError, match="there are no packages here"):
        one(Query.parse("greet"), [], SpecGraph())


def test_select_orders_by_name_and_version() -> None:
    graph, candidates = greets()
    assert [spec.version for spec in select(Query.parse("greet"), reversed(candidates), graph)] == [
        "2.0",
        "2.0",
        "10.0",
    ]
