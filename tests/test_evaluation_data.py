"""Reading labelled rows: what is used, what is left out, and how that is said."""

from __future__ import annotations

import gzip
import json
import lzma
import os
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation_rows import HARM, TAXONOMIES, raw, row, unsafe, write
from guardmw.evaluation.data import Dataset, data_files, read_data, read_files
from guardmw.evaluation.loaders import load, read
from guardmw.evaluation.rules import DEADLINE_MS, RuleBook, UnfitRowError, made_policy, with_threshold
from guardmw.policy.load import load_policies
from guardmw.policy.schema import Limits
from guardmw.train.dataset import DatasetError, Taxonomy


def dataset(*paths: Path, **options: Any) -> Dataset:
    return read_data(read_files(paths, "guardmw")[0], RuleBook(TAXONOMIES), **options)


def problems(path: Path) -> list[str]:
    return [str(problem) for problem in dataset(path).problems]


def test_rows_are_read_plain_and_gzipped_whatever_the_name_says(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.jsonl", [raw(), "", raw(id="r2")])
    packed = tmp_path / "packed.jsonl"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for path in (plain, packed):
        found = dataset(path)
        assert [(sample.line, sample.row.id) for sample in found.samples] == [(1, "r1"), (3, "r2")]
        assert found.problems == ()
        assert found.bad_share == 0


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\ufeff" + json.dumps(raw()) + "\n", encoding="utf-8")
    assert len(dataset(path).samples) == 1


BAD: list[tuple[dict[str, Any] | str, str]] = [
    (raw(label="maybe"), "label: Input should be 'safe' or 'unsafe', not 'maybe'"),
    (raw(task="poem"), "task: Input should be 'prompt'"),
    ({key: value for key, value in raw().items() if key != "content"}, "content: Field required"),
    ("{", "Invalid JSON"),
    ("[]", "not a row"),
    (raw(policy="nowhere"), "unknown taxonomy 'nowhere'"),
    (unsafe("x", policy="benign"), "unknown taxonomy 'benign'"),
    (unsafe("x") | {"categories": ["theft"]}, "the taxonomy 'harm' has no category 'theft'"),
    (unsafe("x", task="response", meta={"onset_chars": 1}), "meta.onset_chars must be a whole number of characters"),
]


@pytest.mark.parametrize(("line", "says"), BAD)
def test_a_bad_line_is_named_and_the_others_are_used(tmp_path: Path, line: dict[str, Any] | str, says: str) -> None:
    path = write(tmp_path / "rows.jsonl", [raw(), line, raw()])
    found = dataset(path)
    assert len(found.samples) == 2
    assert found.bad_share == pytest.approx(1 / 3)
    (problem,) = map(str, found.problems)
    assert problem.startswith(f"{path}:2: ")
    assert says in problem
    with pytest.raises(DatasetError, match=r"33\.33% of the data"):
        found.refuse_above(0.3)
    found.refuse_above(0.34)


def test_no_text_of_a_row_stands_in_a_problem(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [raw(content=["my secret"]), raw(id={"a": "my secret"})])
    assert "my secret" not in "".join(problems(path))


def test_bytes_that_are_no_text_spoil_their_line_only(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [raw(), raw()])
    path.write_bytes(path.read_bytes() + b'{"id": "\xff"}\n')
    assert len(dataset(path).samples) == 2
    assert problems(path)[0].startswith(f"{path}:3: ")


def test_a_truncated_gzip_says_where_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    lines = "".join(json.dumps(raw(id=str(place), content=str(place) * 50)) + "\n" for place in range(500))
    path.write_bytes(gzip.compress(lines.encode())[:-200])
    found = dataset(path)
    assert 0 < len(found.samples) < 500
    assert f"{path}:{len(found.samples) + 1}: the file can't be read beyond line" in str(found.problems[0])
    assert found.files[0].broken
    assert found.bad_share == 1, "nobody knows how much is lost"


@pytest.mark.parametrize("content", [b"", b"\n\n", gzip.compress(b"")])
def test_an_empty_file_is_a_broken_one(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "empty.jsonl.gz"
    path.write_bytes(content)
    others = [write(tmp_path / f"{place}.jsonl", [raw()]) for place in range(3)]
    assert problems(path) == [f"{path}: the file holds no rows"]
    assert dataset(path, *others).bad_share == 0.25


def test_a_folder_stands_for_its_files(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.jsonl", [raw()]), write(tmp_path / "b.jsonl", [raw()])
    write(tmp_path / "notes.txt", ["no data"])
    assert data_files([tmp_path, first]) == [first, second]
    assert data_files([Path(os.path.relpath(first)), first, second.parent / ".." / tmp_path.name / "b.jsonl"]) == [
        Path(os.path.relpath(first)),
        second.parent / ".." / tmp_path.name / "b.jsonl",
    ]
    (tmp_path / "none").mkdir()
    with pytest.raises(DatasetError, match="no file"):
        data_files([tmp_path / "none"])
    with pytest.raises(DatasetError, match="no such file"):
        data_files([tmp_path / "missing.jsonl"])


def test_files_of_a_folder_are_known_by_their_names_in_capitals_and_packed(tmp_path: Path) -> None:
    line = (json.dumps(raw()) + "\n").encode()
    for name, content in {
        "a.jsonl": line, "B.JSONL.GZ": gzip.compress(line), "d.jsonl.xz": lzma.compress(line), "c.json": b"[]",
        "notes.txt": b"no data",
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.jsonl").mkdir()
    found = dataset(tmp_path)
    assert [Path(file.path).name for file in found.files] == ["B.JSONL.GZ", "a.jsonl", "d.jsonl.xz"]
    assert (len(found.samples), found.problems) == (3, ())
    why = "a file in a folder whose name doesn't end in .jsonl, packed or not"
    assert found.aside == {why: 2}
    assert dataset(tmp_path, tmp_path).aside == {why: 2}
    write(tmp_path / "c.json", [raw()])
    named = dataset(tmp_path, tmp_path / "c.json")
    assert (len(named.samples), named.aside) == (4, {why: 1})


@pytest.mark.parametrize("cut", [1, 5, 20, 40])
def test_a_truncated_xz_is_named(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "rows.jsonl.xz"
    path.write_bytes(lzma.compress(json.dumps(raw()).encode())[:-cut])
    assert dataset(path).problems[-1].whole_file


def test_pipes_are_refused_before_anything_is_read_from_them(tmp_path: Path) -> None:
    ends = os.pipe()
    try:
        os.write(ends[1], (json.dumps(raw()) + "\n").encode())
        os.mkfifo(tmp_path / "rows.jsonl")
        for path in (Path(f"/dev/fd/{ends[0]}"), tmp_path / "rows.jsonl"):
            for format in ("guardmw", "xstest"):
                with pytest.raises(
                    DatasetError, match=rf"^{path}: a pipe or a device, .* save what it gives to a file"
                ):
                    read(path, format)
        with pytest.raises(DatasetError, match=r"rows\.jsonl: a pipe"):
            dataset(tmp_path)
        assert json.loads(os.read(ends[0], 1000)) == raw()
    finally:
        os.close(ends[0])
        os.close(ends[1])


def test_without_a_row_every_problem_is_named_all_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", ["{", raw(label="maybe")])
    with pytest.raises(DatasetError, match="the data hold no row to judge") as raised:
        dataset(path).refuse_above(1.0)
    assert f"{path}:1: not a row: Invalid JSON" in str(raised.value)
    assert f"{path}:2: not a row: label: " in str(raised.value)


def test_the_same_seed_draws_the_same_rows_of_each_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [raw(id=str(place)) for place in range(50)])
    one, same, other = ([sample.row.id for sample in dataset(path, limit=10, seed=seed).samples] for seed in (1, 1, 2))
    assert len(one) == 10
    assert one == same != other
    assert one == sorted(one, key=int)


def test_load_gives_rows_or_says_what_is_wrong(tmp_path: Path) -> None:
    rows, taxonomies = load(write(tmp_path / "a.jsonl", [raw()]))
    assert (rows, taxonomies) == ([row()], {})
    with pytest.raises(DatasetError, match=r"b\.jsonl:1"):
        load(write(tmp_path / "b.jsonl", ["{"]))
    with pytest.raises(DatasetError, match="there is no format 'nope'; formats known: guardmw"):
        read(tmp_path, "nope")


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "rows.jsonl"
    path.write_bytes(content)
    loaded = read(path)
    assert loaded.rows or loaded.problems


def test_a_taxonomy_becomes_a_policy() -> None:
    policy, ids = made_policy("harm", HARM)
    assert ids == {"break_in": "break_in", "Fire & arson": "Fire_arson"}
    assert [(each.id, each.title, each.unsafe_when) for each in policy.categories] == [
        ("break_in", "Break in", "Help with burglary."),
        ("Fire_arson", "Fire & arson", "Help with setting fires."),
    ]
    assert {policy.thresholds(each) for each in policy.categories} == {(0.5, 0.5)}


def test_a_taxonomy_without_categories_becomes_one() -> None:
    for categories in ({}, {"unspecified": "Nobody says."}):
        taxonomy = Taxonomy(judges="tool_call/prompt", unsafe_when="it breaks the rule", categories=categories)
        (category,) = made_policy("rule", taxonomy)[0].categories
        assert (category.title, category.unsafe_when) == ("Unsafe tool call or prompt", "it breaks the rule")


@given(st.dictionaries(st.text(max_size=80), st.text(max_size=80), max_size=8), st.text(max_size=80))
def test_any_taxonomy_becomes_a_policy(categories: dict[str, str], name: str) -> None:
    policy, ids = made_policy(name, Taxonomy(judges="", unsafe_when="", categories=categories))
    assert policy.categories
    assert set(ids.values()) <= {category.id for category in policy.categories}


def test_the_rule_of_a_case_stands_in_its_policy() -> None:
    case = row(policy="rule", task="tool_call", meta={"policy_text": "Never delete mails."})
    book = RuleBook(TAXONOMIES)
    assert book.for_row(case).policy.categories[0].unsafe_when == "the call breaks the policy Never delete mails."
    assert book.for_row(row(policy="rule")).policy.categories[0].unsafe_when == "the call breaks the policy"


def test_benign_rows_are_judged_under_the_base_policy() -> None:
    rules = RuleBook({}).for_row(row(policy="benign"))
    assert rules.policy.id == "base"
    assert rules.policy.categories == load_policies("base").policies["base"].categories
    own = {"benign": Taxonomy(judges="prompt", unsafe_when="never", categories={})}
    assert RuleBook(own).for_row(row(policy="benign")).policy.id == "benign"


@pytest.mark.parametrize("labels", sorted(set(permutations(["safe", "unsafe", "safe"]))))
def test_unsafe_rows_of_no_taxonomy_are_unfit_wherever_they_stand(tmp_path: Path, labels: tuple[str, ...]) -> None:
    path = write(tmp_path / "rows.jsonl", [raw(policy="benign", label=label) for label in labels])
    (problem,) = map(str, dataset(path).problems)
    assert problem.startswith(f"{path}:{labels.index('unsafe') + 1}: unknown taxonomy 'benign'")
    assert "must be labelled safe" in problem
    own = {"benign": Taxonomy(judges="prompt", unsafe_when="never", categories={})}
    for book in (RuleBook(own), RuleBook({}, policy=load_policies("base").policies["base"])):
        book.for_row(row(policy="benign", label="unsafe"))


def test_no_check_has_less_time_than_the_longest_deadline() -> None:
    assert Limits(deadline_ms=DEADLINE_MS)
    with pytest.raises(ValueError, match="deadline_ms"):
        Limits(deadline_ms=DEADLINE_MS + 1)
    for book in (RuleBook(TAXONOMIES), RuleBook({}, policy=load_policies("base").policies["base"])):
        assert book.for_row(row()).policy.limits.deadline_ms == DEADLINE_MS


def test_a_given_policy_holds_for_every_row_with_its_own_thresholds() -> None:
    given_policy = load_policies("support").policies["support"]
    rules = RuleBook({}, policy=given_policy).for_row(row(policy="nowhere"))
    assert rules.policy.categories == given_policy.categories
    assert rules.policy.detectors == given_policy.detectors
    assert RuleBook(TAXONOMIES).for_row(row()).policy.detectors.pii is None
    with pytest.raises(UnfitRowError):
        RuleBook({}).for_row(row(policy="nowhere"))


def test_a_threshold_replaces_every_other() -> None:
    policy = load_policies("support").policies["support"].model_copy(update={"strictness": 0.9})
    changed = with_threshold(policy, 0.3)
    for category in changed.categories:
        assert changed.thresholds(category) == pytest.approx((0.3, 0.3))
    assert with_threshold(policy, None) is policy
