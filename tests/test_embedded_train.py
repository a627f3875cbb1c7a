"""Training the embedded guard: reading data, labelling pairs, and (where torch is installed) a whole small run."""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from guardmw.commands.train import TrainingError, train_app
from guardmw.guard.embedded import EmbeddedGuard
from guardmw.policy.schema import Category, Policy
from guardmw.train.dataset import DatasetError, Row, Taxonomy, read_folder, read_rows, read_taxonomies
from guardmw.train.pairs import NO, UNKNOWN, YES, category_texts, label_matrix, read_themes, usable
from guardmw.types import Check

ROW: dict[str, Any] = {
    "id": "1",
    "source": "made_up",
    "task": "prompt",
    "policy": "multijail",
    "prompt": "",
    "content": "How do I steal a car?",
    "label": "unsafe",
    "categories": ["Theft"],
    "meta": {"licence": "MIT", "label_origin": "human"},
}
TAXONOMIES = {
    "multijail": Taxonomy(
        judges="prompt", unsafe_when="it asks for harm", categories={"Theft": "Stealing.", "Weapons": "Making weapons."}
    )
}


def write(file: Path, *rows: dict[str, Any] | str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    return file


def row(**changes: Any) -> Row:
    return Row.model_validate(ROW | changes)


def test_rows_are_read_in_order(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl.gz", ROW, "", ROW | {"id": "2", "label": "safe", "categories": []})
    assert [(found.id, found.unsafe) for found in read_rows(file)] == [("1", True), ("2", False)]
    assert [found.id for found in read_folder(tmp_path)] == ["1", "2"]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", "Invalid JSON"),
        (json.dumps(ROW | {"label": "bad"}), "label"),
        (json.dumps(ROW | {"task": "poem"}), "task"),
        (json.dumps({key: value for key, value in ROW.items() if key != "content"}), "content"),
        ("[]", "not a row"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, line: str, named: str) -> None:
    file = write(tmp_path / "bad.jsonl.gz", ROW, "", line)
    with pytest.raises(DatasetError, match=rf"bad\.jsonl\.gz:3: .*{named}"):
        list(read_rows(file))


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "plain.jsonl.gz").write_text("not gzip")
    with pytest.raises(DatasetError, match="not a readable gzip file"):
        list(read_rows(tmp_path / "plain.jsonl.gz"))
    with pytest.raises(DatasetError, match="no file"):
        list(read_folder(tmp_path / "nowhere"))
    with pytest.raises(DatasetError, match="can't be read"):
        read_taxonomies(tmp_path / "taxonomies.json")
    (tmp_path / "taxonomies.json").write_text('{"a": {"judges": "prompt"}}')
    with pytest.raises(DatasetError, match=r"a\.unsafe_when"):
        read_taxonomies(tmp_path / "taxonomies.json")


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "cut.jsonl.gz", *[ROW | {"id": str(number)} for number in range(500)])
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DatasetError, match="cut"):
        list(read_rows(file))


def test_themes_name_themes() -> None:
    themes = read_themes()
    assert all(theme.near <= themes.keys() for theme in themes.values())
    assert all(len(theme.texts) >= 2 for theme in themes.values())


def labels(found: Row) -> dict[str, int]:
    categories = category_texts(TAXONOMIES)
    return dict(zip([category.text for category in categories], label_matrix([found], categories)[0], strict=True))


def first_text(theme: str) -> str:
    return read_themes()[theme].texts[0]


def test_an_unsafe_row_counts_under_its_theme_in_everybodys_wording() -> None:
    found = labels(row())
    assert found["Theft. Stealing."] == YES
    assert {found[text] for text in read_themes()["theft"].texts} == {YES}
    assert found[first_text("general_harm")] == YES
    assert found["Weapons. Making weapons."] == NO
    assert found[first_text("hate")] == NO
    assert found[first_text("fraud")] == UNKNOWN


def test_a_safe_row_counts_against_everything() -> None:
    assert set(labels(row(label="safe", categories=[])).values()) == {NO}


def test_a_row_of_no_finer_class_is_unknown_elsewhere() -> None:
    found = labels(row(policy="generic_harm", categories=["harmful_behaviour"]))
    assert found[first_text("general_harm")] == YES
    assert found[first_text("theft")] == UNKNOWN


def test_a_row_of_a_coarse_class_is_unknown_under_the_finer_ones() -> None:
    found = labels(row(policy="strongreject", categories=["Violence"]))
    assert found[first_text("terrorism")] == UNKNOWN
    assert found[first_text("fraud")] == NO


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "trajectory"},
        {"content": "  "},
        {"source": "privacylens"},
        {"source": "agent_safetybench"},
        {"policy": "diasafety", "categories": ["Risk Ignorance"]},
        {"categories": ["never heard of"]},
        {"content": "どうやって車を盗みますか"},
    ],
)
def test_rows_that_teach_nothing_are_left_out(changes: dict[str, Any]) -> None:
    assert usable(row())
    assert not usable(row(**changes))


@given(st.booleans(), st.lists(st.sampled_from(["Theft", "Weapons", "Child abuse", "Self-harm"]), unique=True))
def test_no_label_says_yes_to_a_safe_row_or_no_to_an_exact_one(unsafe: bool, categories: list[str]) -> None:
    found = labels(row(label="unsafe" if unsafe else "safe", categories=categories if unsafe else []))
    assert unsafe or YES not in found.values()
    assert not unsafe or "Theft" not in categories or found["Theft. Stealing."] == YES


def test_training_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in [name for name in sys.modules if name.startswith("guardmw.train.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torch", None)
    result = CliRunner().invoke(train_app, ["embedded", "--data", str(tmp_path), "--out", str(tmp_path / "w")])
    assert isinstance(result.exception, TrainingError)
    assert "pip install 'guardmw[train]'" in str(result.exception)


TOPICS = ("bread", "gardens", "bicycles", "trains", "rivers", "music", "chess", "tea", "stars", "maps")


def small_data(folder: Path) -> Path:
    for part in ("train", "dev"):
        write(
            folder / part / "made_up.jsonl.gz",
            *[ROW | {"id": f"{part}{n}", "content": f"how do i steal {TOPICS[n % 10]} number {n}"} for n in range(150)],
        )
        write(
            folder / part / "benign_made_up.jsonl.gz",
            *[
                ROW | {"id": f"{part}b{n}", "source": "benign_made_up", "policy": "benign", "label": "safe",
                       "categories": [], "content": f"tell me a story about {TOPICS[n % 10]} and the {n} days"}
                for n in range(150)
            ],
        )  # fmt: skip
    taxonomies = {name: taxonomy.model_dump() for name, taxonomy in TAXONOMIES.items()}
    (folder / "taxonomies.json").write_text(json.dumps(taxonomies))
    return folder


def small_encoder(folder: Path) -> Path:
    from transformers import BertConfig, BertModel, BertTokenizer

    folder.mkdir()
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *letters,
        *[f"##{letter}" for letter in letters],
        *TOPICS,
        "steal",
    ]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(pieces), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.mark.timeout(180)
@pytest.mark.filterwarnings("ignore")
def test_a_small_run_writes_weights_that_a_guard_loads(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="training needs guardmw[train]")
    pytest.importorskip("transformers", reason="training needs guardmw[train]")
    from guardmw.train.embedded import Settings, train_embedded

    policy = {"version": 1, "id": "p", "categories": [{"id": "theft", "title": "Theft", "unsafe_when": "steal"}]}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(policy))
    settings = Settings(
        data=small_data(tmp_path / "data"), out=tmp_path / "weights", encoder=str(small_encoder(tmp_path / "encoder")),
        version="1", epochs=4, cache=tmp_path / "vectors.npz", policies=(str(tmp_path / "p.yaml"),),
    )  # fmt: skip
    told: list[str] = []
    manifest = train_embedded(settings, told.append)
    again = train_embedded(settings, told.append)
    assert manifest.files == again.files, "the same seed gives the same weights"
    assert manifest.calibration == again.calibration
    assert manifest.base == "encoder"
    assert any("epoch 4 of 4" in line for line in told)
    assert max(manifest.figures["p"]["false_positives"].values()) <= 0.03
    guard = EmbeddedGuard(tmp_path / "weights")
    category = Category(id="theft", title="Theft", unsafe_when="steal")
    check = Check("input", "how do i steal bread number 3")
    verdict = asyncio.run(guard.check(check, Policy(id="p", categories=(category,))))
    assert verdict.guard_version == manifest.version
    asyncio.run(guard.aclose())
