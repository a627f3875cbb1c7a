"""Reading policies: places of errors, inheritance, and where policies are found."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from guardmw.errors import PolicyError
from guardmw.policy import Policy, PolicySet, as_policy_set, load_policies, parse_policy

CATEGORY = "{id: insults, title: Insults, unsafe_when: The text insults someone who reads it.}"


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        (directory / f"{name}.yaml").write_text(dedent(text), encoding="utf-8")
    return directory


def failure(text: str) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        parse_policy(dedent(text), name="shop.yaml")
    return caught.value


@pytest.mark.parametrize(
    ("text", "line", "key", "said"),
    [
        ("id: a\nstreming: {}\n", 2, "streming", "Did you mean 'streaming'?"),
        ("id: a\nstreaming:\n  mode: hold\n  chonk: 3\n", 4, "streaming.chonk", "Did you mean 'chunk'?"),
        ("id: a\ndetectors:\n  patterns:\n    - {id: p, pattern: '('}\n", 4, "detectors.patterns.0.pattern", "regular"),
        ("id: a\ndetectors: {patterns: [{id: p, pattern: 'a{99999999999999}'}]}\n", 2, None, "regular expression"),
        (f"id: a\ncategories:\n  - {CATEGORY}\n  - {CATEGORY}\n", 4, "categories.1.id", "'insults' twice"),
        (
            "id: a\ntools:\n  sequences:\n  - {name: s, tool: t, at_most: 1}\n  - {name: s, tool: t, at_most: 2}",
            5,
            None,
            "'s'",
        ),
        ("id: a\ntools:\n  sequences:\n    - name: s\n      never: t\n", None, None, "`after` with `never`"),
        ("id: a\ntools:\n  rules:\n    - tool: t\n      args:\n        x: {patern: a}\n", 6, None, "'pattern'"),
        ("id: a\nmode: enforced\n", 2, "mode", "Did you mean 'enforce'?"),
        ("id: a\nstrictness: yes\n", 2, "strictness", "valid number"),
        ("id: a\nstrictness: '0.5'\n", 2, "strictness", "valid number"),
        ("id: a\nstrictness: 2\n", 2, "strictness", "less than or equal to 1"),
        ("id: a\nagents: support\n", 2, "agents", "valid list"),
        ("id: a\nid: b\n", 2, "id", "given twice, first on line 1"),
        ("id: a\nlimits: {deadline_ms: 5, deadline_ms: 6}\n", 2, "limits.deadline_ms", "given twice"),
        ("id: a\nextends: [nowhere]\n", 2, "extends", "which is not known. Known are base"),
        ("id: a\nextends: [bas]\n", 2, "extends", "Did you mean 'base'?"),
        ("id: a\nextends: [a]\n", 2, "extends", "a -> a"),
        ("description: no id\n", 1, "id", "the key 'id' is missing"),
        ("- id: a\n", 1, None, "must be a mapping"),
        ("", 1, None, "empty"),
        ("# only a comment\n", 1, None, "empty"),
        ("id: a\nmode: [x\nagents: {\n", 3, None, "not valid YAML"),
        ("id: a\n---\nid: b\n", 2, None, "second document"),
        ("id: &x a\ndescription: *x\n", 2, "description", "aliases"),
        ("id: !!python/object/apply:os.system ['true']\n", 1, "id", "tags"),
        ("id: a\n? [b]\n: c\n", 2, None, "a key must be plain text"),
        ("id: a\nstrictness: .nan\n", 2, "strictness", "no usable number"),
        ("id: \x07\n", None, None, "not valid YAML"),
        ("id: \ud800\n", 1, None, "not valid Unicode"),
        ('id: a\ndescription: "\\ud800"\n', 2, None, "nicode"),
        (f"id: {'[' * 30}{']' * 30}\n", 1, None, "deep"),
        (f"id: {'[' * 30_000}", 1, None, "deep"),
        ("id: a\nx: " + "y" * 1_100_000, None, None, "more than 1048576"),
    ],
)
def test_an_error_names_the_place_and_the_mend(text: str, line: int | None, key: str | None, said: str) -> None:
    error = failure(text)
    assert error.file == "shop.yaml"
    assert said in str(error)
    assert error.mend
    if line is not None:
        assert error.line == line
    if key is not None:
        assert error.key == key


def test_thresholds_out_of_order_point_at_the_threshold() -> None:
    error = failure(
        """\
        id: a
        categories:
          - id: insults
            title: Insults
            unsafe_when: The text insults someone.
            block_above: 0.5
            ask_above: 0.6
        """
    )
    assert (error.line, error.key) == (7, "categories.0.ask_above")
    assert "Lower ask_above or raise block_above." in str(error)


def test_all_problems_are_told_at_once_and_the_first_fills_the_attributes() -> None:
    error = failure("id: a\nmode: x\nstrictness: high\nstreaming: {chunks: 3}\n")
    assert (error.line, error.key) == (2, "mode")
    assert [other.line for other in error.others] == [3, 4]
    assert all(place in str(error) for place in ("shop.yaml:2 [mode]", "shop.yaml:3", "shop.yaml:4 [streaming.chunks]"))


def test_a_missing_parent_does_not_hide_other_mistakes() -> None:
    error = failure("id: a\nextends: [nowhere]\nmode: x\ncategories: [{id: violence, block_above: 0.7}]\n")
    assert [one.key for one in (error, *error.others)] == ["extends", "mode"]


def test_a_cycle_is_shown_as_a_chain(tmp_path: Path) -> None:
    write(tmp_path, a="id: a\nextends: [b]", b="id: b\nextends: [c]", c="id: c\nextends: [b]")
    with pytest.raises(PolicyError) as caught:
        load_policies(tmp_path / "a.yaml")
    assert "b -> c -> b" in str(caught.value)
    assert caught.value.file == str(tmp_path / "c.yaml")


def test_a_policy_that_extends_itself_is_a_cycle(tmp_path: Path) -> None:
    write(tmp_path, a="id: a\nextends: [a]")
    with pytest.raises(PolicyError, match="a -> a"):
        load_policies(tmp_path / "a.yaml")


def test_an_error_in_a_parent_names_the_parents_file(tmp_path: Path) -> None:
    write(
        tmp_path,
        parent="id: parent\ndescription: x\nstreaming:\n  chunk: many\n",
        child="id: child\nextends: [parent]\nlimits: {deadline_ms: 0}\n",
    )
    with pytest.raises(PolicyError) as caught:
        load_policies(tmp_path / "child.yaml")
    places = {(Path(one.file or "").name, one.line, one.key) for one in (caught.value, *caught.value.others)}
    assert places == {("parent.yaml", 4, "streaming.chunk"), ("child.yaml", 3, "limits.deadline_ms")}


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [(b"id: a\ndescription: \xff\n", 2, "not UTF-8"), (b"\xff\xfei\x00d\x00", 1, "not UTF-8"), (b"", 1, "empty")],
)
def test_bytes_that_are_no_text(tmp_path: Path, content: bytes, line: int, said: str) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(PolicyError, match=said) as caught:
        load_policies(tmp_path)
    assert caught.value.line == line


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfid: a\n")
    assert list(load_policies(tmp_path).policies) == ["a"]


@pytest.mark.parametrize("given", ["nowhere", "nowhere.yaml", "no/where", ""])
def test_a_path_that_is_not_there(given: str) -> None:
    with pytest.raises(PolicyError, match="no such policy file") as caught:
        load_policies(given)
    assert caught.value.file == given


def test_an_empty_directory_and_no_path_at_all(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="holds no policies"):
        load_policies(tmp_path)
    with pytest.raises(PolicyError, match="no policy given"):
        load_policies()


def test_two_policies_of_the_same_id(tmp_path: Path) -> None:
    write(tmp_path, one="id: a", two="id: a")
    with pytest.raises(PolicyError, match=r"two policies have the id 'a': .*one\.yaml") as caught:
        load_policies(tmp_path)
    assert (Path(caught.value.file or "").name, caught.value.line) == ("two.yaml", 1)


def test_a_file_given_twice_is_read_once(tmp_path: Path) -> None:
    write(tmp_path, a="id: a")
    assert list(load_policies(tmp_path, tmp_path / "a.yaml").policies) == ["a"]


def test_extends_finds_the_set_then_the_directory_then_the_bundled(tmp_path: Path) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    near.mkdir()
    far.mkdir()
    write(near, child="id: child\nextends: [base]")
    bundled = load_policies(near / "child.yaml").policies["child"]
    assert "violence" in [category.id for category in bundled.categories]

    write(near, oddly_named="id: base\nstrictness: 0.1", broken="id: [")
    assert load_policies(near / "child.yaml").policies["child"].strictness == 0.1

    write(far, base="id: base\nstrictness: 0.2")
    assert load_policies(near / "child.yaml", far / "base.yaml").policies["child"].strictness == 0.2


def test_parents_do_not_belong_to_the_set() -> None:
    assert list(load_policies("support").policies) == ["support"]


def test_a_plain_name_is_a_bundled_policy_unless_a_file_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "finance").mkdir()
    assert list(load_policies("finance").policies) == ["finance"]
    (tmp_path / "support").write_text("id: mine", encoding="utf-8")
    assert list(load_policies("support").policies) == ["mine"]


INHERITANCE = {
    "parent": """
        id: parent
        description: of the parent
        agents: [parent-agent]
        strictness: 0.7
        categories:
          - {id: one, title: One, unsafe_when: The first thing happens., block_above: 0.6}
          - {id: two, title: Two, unsafe_when: The second thing happens.}
        detectors:
          pii: {entities: [email], allow: [a@example.org]}
          secrets: {action: block}
          patterns: [{id: ticket, pattern: 'T\\d+', max_chars: 12}]
        tools:
          rules: [{tool: x, action: deny}]
          sequences: [{name: few, tool: x, at_most: 3}]
        streaming: {chunk: 20, first_chunk: 4}
        """,
    "child": """
        id: child
        extends: [parent]
        categories:
          - {id: three, title: Three, unsafe_when: The third thing happens.}
          - {id: one, block_above: 0.9}
        detectors:
          pii: {entities: [phone]}
          secrets: null
          patterns: [{id: ticket, action: block}]
        tools:
          default: ask
          rules: [{tool: 'x*', action: allow}]
          sequences: [{name: few, at_most: 1}]
        streaming: {chunk: 30}
        """,
}


def test_inheritance(tmp_path: Path) -> None:
    child = load_policies(write(tmp_path, **INHERITANCE) / "child.yaml").policies["child"]
    assert (child.description, child.agents, child.strictness) == ("", (), 0.7)
    assert [(one.id, one.block_above) for one in child.categories] == [("one", 0.9), ("two", 0.5), ("three", 0.5)]
    assert child.categories[0].title == "One"
    assert child.detectors.pii is not None
    assert child.detectors.pii.entities == ("phone",)
    assert child.detectors.pii.allow == ("a@example.org",)
    assert child.detectors.secrets is None
    assert [(one.id, one.action, one.max_chars) for one in child.detectors.patterns] == [("ticket", "block", 12)]
    assert [rule.tool for rule in child.tools.rules] == ["x*", "x"]
    assert [(one.name, one.tool, one.at_most) for one in child.tools.sequences] == [("few", "x", 1)]
    assert (child.streaming.chunk, child.streaming.first_chunk) == (30, 4)


def test_a_common_ancestor_does_not_undo_what_the_first_parent_changed(tmp_path: Path) -> None:
    write(
        tmp_path,
        root="id: root\nstrictness: 0.1\ntools: {rules: [{tool: root}]}",
        left="id: left\nextends: [root]\nstrictness: 0.9\ntools: {rules: [{tool: left}]}",
        right="id: right\nextends: [root]\nmode: shadow\ntools: {rules: [{tool: right}]}",
        child="id: child\nextends: [left, right]",
    )
    child = load_policies(tmp_path / "child.yaml").policies["child"]
    assert (child.strictness, child.mode) == (0.9, "shadow")
    assert [rule.tool for rule in child.tools.rules] == ["right", "left", "root"]


def test_later_parents_win(tmp_path: Path) -> None:
    write(tmp_path, a="id: a\nstrictness: 0.1", b="id: b\nstrictness: 0.9")
    assert parse_policy("id: c\nextends: [a, b]", directory=tmp_path).strictness == 0.9
    assert parse_policy("id: c\nextends: [b, a]", directory=tmp_path).strictness == 0.1


def test_keys_that_yaml_takes_for_booleans_are_names() -> None:
    policy = parse_policy(
        "id: a\ntools: {rules: [{tool: t, args: {on: {pattern: '^x'}, y: {one_of: [1, 2024-01-01]}}}]}"
    )
    assert set(policy.tools.rules[0].args) == {"on", "y"}
    assert policy.tools.rules[0].args["y"].one_of == (1, "2024-01-01")


def test_as_policy_set(tmp_path: Path) -> None:
    policy = parse_policy("id: a")
    one = as_policy_set(policy)
    assert one.policies == {"a": policy}
    assert as_policy_set(one) is one
    assert as_policy_set(write(tmp_path, a="id: a")).policies == {"a": policy}
    assert isinstance(as_policy_set("base"), PolicySet)


def test_the_hash_is_that_of_what_bears_on_decisions(tmp_path: Path) -> None:
    inherited = load_policies(write(tmp_path, **INHERITANCE) / "child.yaml").policies["child"]
    spelt_out = Policy.model_validate(inherited.model_dump() | {"description": "other words", "extends": ()})
    assert spelt_out.hash == inherited.hash
    assert spelt_out.model_copy(update={"strictness": 0.71}).model_dump() != inherited.model_dump()
    assert parse_policy("id: a\nstrictness: 0.71").hash != parse_policy("id: a\nstrictness: 0.7").hash
