"""Training the embedded guard: reading data, labelling pairs, and (where torch is installed) a whole small run."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from guardmw.commands.train import TrainingError, train_app
from guardmw.guard.embedded import EmbeddedGuard, bundled_weights
from guardmw.guard.encoder import load_model
from guardmw.guard.export import bert_weights
from guardmw.guard.onnx_file import read_graph
from guardmw.guard.wordpiece import WordPiece
from guardmw.policy.schema import Category, Policy
from guardmw.train.corpus import CONTENT, FIRST_WORDS, STREAMED, Corpus, Example, sort_out, window_of
from guardmw.train.dataset import DatasetError, Row, Taxonomy, read_taxonomies
from guardmw.train.measure import Scores, calibrate, check_dev, measure
from guardmw.train.pairs import (
    NO,
    UNKNOWN,
    YES,
    category_texts,
    label_matrix,
    own_categories,
    read_themes,
    read_wordings,
    unusable,
)
from guardmw.train.rows import read_folder
from guardmw.train.written import written_rows
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


def told_reading(folder: Path, most_bad: float = 1.0) -> tuple[list[Row], list[str]]:
    told: list[str] = []
    return read_folder(folder, TAXONOMIES, most_bad, told.append), told


def test_rows_are_read_in_order(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl.gz", ROW, "", ROW | {"id": "2", "label": "safe", "categories": []})
    (tmp_path / "b.jsonl").write_text(json.dumps(ROW | {"id": "3"}))
    (tmp_path / "notes.txt").write_text("no rows")
    rows, told = told_reading(tmp_path, most_bad=0)
    assert [(found.id, found.unsafe) for found in rows] == [("1", True), ("2", False), ("3", True)]
    assert told == []


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", "Invalid JSON"),
        (json.dumps(ROW | {"label": "bad"}), "label"),
        (json.dumps(ROW | {"task": "poem"}), "task"),
        (json.dumps({key: value for key, value in ROW.items() if key != "content"}), "content"),
        ("[]", "not a row"),
        (json.dumps(ROW | {"policy": "nobody"}), "unknown taxonomy 'nobody'"),
        (json.dumps(ROW | {"policy": "benign"}), "unknown taxonomy 'benign'"),
        (json.dumps(ROW | {"categories": ["Theft", "Thrift"]}), "'multijail' has no category 'Thrift'"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line_and_left_out(tmp_path: Path, line: str, named: str) -> None:
    write(tmp_path / "bad.jsonl.gz", ROW, "", line, ROW | {"id": "2"})
    rows, (told,) = told_reading(tmp_path)
    assert re.search(rf"left out: .*bad\.jsonl\.gz:3: .*{re.escape(named)}", told)
    assert [found.id for found in rows] == ["1", "2"]
    with pytest.raises(DatasetError, match=rf"(?s)33\.33% of the data can't be used.*bad\.jsonl\.gz:3: .*{named}"):
        told_reading(tmp_path, most_bad=0.3)


def test_ordinary_rows_need_no_taxonomy(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl.gz", ROW | {"policy": "benign", "label": "safe", "categories": []})
    assert len(told_reading(tmp_path, most_bad=0)[0]) == 1


def test_files_that_are_none(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl.gz", ROW)
    for name, content in ("plain", b"not gzip"), ("empty", b""), ("packed", gzip.compress(b"")):
        (tmp_path / f"{name}.jsonl.gz").write_bytes(content)
        with pytest.raises(DatasetError, match=rf"(?s)50\.00% of the data.*{name}\.jsonl\.gz"):
            told_reading(tmp_path, most_bad=0.49)
        (tmp_path / f"{name}.jsonl.gz").unlink()
    with pytest.raises(DatasetError, match="no file"):
        told_reading(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="can't be read"):
        read_taxonomies(tmp_path / "taxonomies.json")
    (tmp_path / "taxonomies.json").write_text('{"a": {"judges": "prompt"}}')
    with pytest.raises(DatasetError, match=r"a\.unsafe_when"):
        read_taxonomies(tmp_path / "taxonomies.json")


@pytest.mark.parametrize(
    "damage", [lambda packed: packed[:-20], lambda packed: packed[:300] + b"?" * 99 + packed[399:]]
)
def test_a_cut_or_damaged_file_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    file = write(tmp_path / "cut.jsonl.gz", *[ROW | {"id": str(number)} for number in range(500)])
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DatasetError, match=r"cut\.jsonl\.gz.*can't be read beyond line"):
        told_reading(tmp_path, most_bad=0.5)


def test_themes_name_themes() -> None:
    themes = read_themes()
    assert all(theme.near <= themes.keys() for theme in themes.values())
    assert all(len(theme.texts) >= 2 for theme in themes.values())


def labels(found: Row, taxonomies: dict[str, Taxonomy] = TAXONOMIES, using: Sequence[Row] = ()) -> dict[str, int]:
    categories = category_texts(taxonomies, using)
    kinds, places = label_matrix([found], categories)
    return dict(zip([category.text for category in categories], kinds[places[0]], strict=True))


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


def test_a_safe_row_about_a_topic_counts_neither_way_under_it() -> None:
    found = labels(row(label="safe", categories=[], content="Who won the election?"))
    assert found[first_text("political")] == UNKNOWN
    assert found[first_text("theft")] == NO
    written = row(label="safe", categories=[], content="Who won?", meta={"harmless_under": ["political"]})
    assert labels(written)[first_text("political")] == NO


def test_a_composite_holds_for_each_of_its_themes() -> None:
    found = labels(row())
    composites = {text.text: text.themes for text in read_wordings() if len(text.themes) > 1}
    assert {found[text] for text, themes in composites.items() if "theft" in themes} == {YES}


def test_written_texts_have_both_labels_under_every_theme_they_treat() -> None:
    rows = list(written_rows())
    harmful = {theme for row in rows for theme in row.categories}
    harmless = {theme for row in rows for theme in row.meta.harmless_under}
    assert harmful | harmless <= set(read_themes())
    assert len({row.content for row in rows}) == len(rows)
    sources = {row.source for row in rows}
    shares = [[row.unsafe for row in rows if row.source == source] for source in sources]
    assert all(0.3 < sum(share) / len(share) < 0.6 for share in shares)


def test_windows_are_what_a_guard_meets() -> None:
    harmful = Example(row(), list(range(100, 140)), [7, 8])
    harmless = Example(row(label="safe", categories=[]), list(range(1000, 1200)), [])
    rng = random.Random(0)
    windows = [window_of(harmful, harmless, rng) for _ in range(200)]
    assert all(len(window.content) <= CONTENT and window.context == [7, 8] for window in windows)
    assert all(sum(piece < 1000 for piece in window.content) >= 0.75 * 40 for window in windows)
    assert {any(piece >= 1000 for piece in window.content) for window in windows} == {True, False}
    cut = [len(window_of(harmless, harmless, rng).content) for _ in range(200)]
    assert min(cut) <= FIRST_WORDS[1] < STREAMED < max(cut) == CONTENT


def test_no_source_drowns_the_others_and_both_labels_are_drawn() -> None:
    rows = [row(id=str(n), source="large" if n < 900 else "small") for n in range(1000)]
    rows += [row(id=f"s{n}", label="safe", categories=[]) for n in range(10)]
    words = WordPiece((bundled_weights() / "vocab.txt").read_text("utf-8"))
    corpus = Corpus(rows, category_texts(TAXONOMIES), words)
    drawn = corpus.draw(4000, np.random.default_rng(0))
    sources = Counter(corpus.examples[place].row.source for place in drawn if corpus.unsafe[place])
    assert 2.5 < sources["large"] / sources["small"] < 3.5, "the square root of nine to one"
    assert 0.45 < corpus.unsafe[drawn].mean() < 0.55


def test_a_row_of_no_finer_class_is_unknown_elsewhere() -> None:
    found = labels(row(policy="generic_harm", categories=["harmful_behaviour"]))
    assert found[first_text("general_harm")] == YES
    assert found[first_text("theft")] == UNKNOWN


def test_a_row_of_a_coarse_class_is_unknown_under_the_finer_ones() -> None:
    found = labels(row(policy="strongreject", categories=["Violence"]))
    assert found[first_text("terrorism")] == UNKNOWN
    assert found[first_text("fraud")] == NO


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"task": "trajectory"}, "trajectories"),
        ({"content": "  "}, "blank"),
        ({"source": "privacylens"}, "doesn't show"),
        ({"source": "agent_safetybench"}, "in a context"),
        ({"policy": "diasafety", "categories": ["Risk Ignorance"]}, "in a context"),
        ({"categories": ["never heard of"]}, "no category"),
        ({"task": "tool_call", "content": '{"name": "steal"}'}, "without arguments"),
        ({"content": "どうやって車を盗みますか"}, "ASCII"),
    ],
)
def test_rows_that_teach_nothing_are_left_out_and_counted(changes: dict[str, Any], why: str) -> None:
    assert unusable(row()) is None
    assert why in (unusable(row(**changes)) or "")
    kept, left_out = sort_out([row(), *[row(**changes)] * 3])
    assert kept == [row()]
    assert list(left_out.values()) == [3]
    assert {source for _, source in left_out} == {changes.get("source", "made_up")}


HOUSE = Taxonomy(
    judges="prompt", unsafe_when="it helps burglars",
    categories={"break_in": "Breaking into a home.", "casing": "Spying a home out.", "unspecified": "Nobody says."},
)  # fmt: skip
WITH_OWN = {**TAXONOMIES, "house": HOUSE}
BURGLARY = row(policy="house", categories=["break_in"])


def test_a_taxonomy_of_ones_own_is_learned_under_its_own_categories_alone() -> None:
    own = own_categories(WITH_OWN)
    assert own.keys() == {"house/break_in", "house/casing"}
    assert unusable(BURGLARY, own) is None
    assert "no category" in (unusable(BURGLARY) or "")
    assert "no category" in (unusable(row(policy="house", categories=["unspecified"]), own) or "")
    found = labels(BURGLARY, WITH_OWN, [BURGLARY])
    mine = {"break in. Breaking into a home.": YES, "casing. Spying a home out.": NO}
    assert {text: label for text, label in found.items() if label != UNKNOWN} == mine
    theft = labels(row(), WITH_OWN, [BURGLARY])
    assert {theft[text] for text in mine} == {UNKNOWN}
    assert {text: label for text, label in theft.items() if text not in mine} == labels(row())
    assert set(labels(row(label="safe", categories=[]), WITH_OWN, [BURGLARY]).values()) == {NO}


def test_a_taxonomy_of_ones_own_that_no_unsafe_row_uses_is_not_learned() -> None:
    plain = category_texts(TAXONOMIES)
    assert category_texts(WITH_OWN) == category_texts(WITH_OWN, [row(), row(policy="house", label="safe")]) == plain
    assert len(category_texts(WITH_OWN, [BURGLARY])) == len(plain) + 2
    partly = {"multijail": Taxonomy(judges="", unsafe_when="", categories={"Theft": "Stealing.", "Odd": "Oddities."})}
    assert own_categories(partly) == {}, "themes know a part of it"


def dev_corpus(*rows: Row) -> Corpus:
    words = WordPiece((bundled_weights() / "vocab.txt").read_text("utf-8"))
    return Corpus(rows, category_texts(TAXONOMIES), words)


BENIGN_ROWS = [
    row(id=f"b{n}", source="benign_made_up", policy="benign", label="safe", categories=[]) for n in range(40)
]


def test_a_dev_set_that_can_calibrate_nothing_is_refused() -> None:
    check_dev(dev_corpus(row(), *BENIGN_ROWS))
    for rows, says in ([row()] * 60, "no source benign_"), (BENIGN_ROWS, "no text that falls under a category"):
        dev = dev_corpus(*rows)
        highest = np.full(len(rows), -3.0, dtype=np.float32)
        scores = Scores(
            {"p": highest}, {"p": highest}, np.full((len(rows), dev.labels.shape[1]), -3.0, dtype=np.float32),
            np.array([example.row.source for example in dev.examples]), np.array(["input"] * len(rows)), dev.unsafe,
        )  # fmt: skip
        with pytest.raises(DatasetError, match=says):
            calibrate(scores, dev, 0.03)
        with pytest.raises(DatasetError, match=says):
            check_dev(dev)
    all_under_all = dev_corpus(*BENIGN_ROWS)
    all_under_all.labels[:] = YES
    with pytest.raises(DatasetError, match="doesn't fall under"):
        check_dev(all_under_all)


def test_a_surface_with_benign_texts_has_a_calibration_of_its_own() -> None:
    dev = dev_corpus(row(), *BENIGN_ROWS, *BENIGN_ROWS)
    surfaces = np.array(["tool_call", *["input"] * 40, *["output"] * 40])
    logits = np.array([5.0, *np.linspace(-4, 0, 40), *np.linspace(-9, -5, 40)], dtype=np.float32)
    unjudged = np.where(surfaces == "output", -np.inf, logits).astype(np.float32)
    sources = np.array([example.row.source for example in dev.examples])
    pairs = np.repeat(logits[:, None], dev.labels.shape[1], 1)
    scores = Scores({"p": logits - 0.25}, {"p": logits}, pairs, sources, surfaces, dev.unsafe)
    found = calibrate(scores, dev, 0.1)
    assert calibrate(replace(scores, highest={"p": unjudged}), dev, 0.1).surfaces.keys() == {"input"}
    with pytest.raises(ValueError, match="finite"):
        found.probabilities(np.array([np.nan], dtype=np.float32), np.array(["input"]))
    assert found.surfaces.keys() == {"input", "output"}
    assert {calibration.temperature for calibration in found.surfaces.values()} == {found.overall.temperature}
    over = found.probabilities(logits, surfaces) >= 0.5
    assert [int(over[surfaces == surface].sum()) for surface in ("tool_call", "input", "output")] == [1, 4, 4]
    elsewhere = found.probabilities(logits, np.full(len(logits), "tool_result")) >= 0.5
    assert elsewhere[1:].sum() == 8, "a surface without benign texts is judged as all together are"
    assert measure(scores, found)["p"]["false_positives"] == {"benign_made_up": 0.05}, "half as many in wide windows"


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


def test_a_share_of_the_encoder_before_needs_something_to_be_mixed_with(tmp_path: Path) -> None:
    command = ["embedded", "--data", str(tmp_path), "--out", str(tmp_path / "w"), "--pretrained", "0.2"]
    result = CliRunner().invoke(train_app, command)
    assert isinstance(result.exception, TrainingError)
    assert "--pretrained needs --start" in str(result.exception)


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
    taxonomies = {name: taxonomy.model_dump() for name, taxonomy in WITH_OWN.items()}
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


def interrupt_at(last: int) -> Callable[[int, int, float], None]:
    def progress(step: int, total: int, loss: float) -> None:
        if step == last:
            raise KeyboardInterrupt

    return progress


@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore")
def test_a_small_run_writes_weights_that_a_guard_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="training needs guardmw[train]")
    pytest.importorskip("transformers", reason="training needs guardmw[train]")
    from guardmw.train import tuning
    from guardmw.train.embedded import Settings, train_embedded
    from guardmw.train.tuning import Tuning

    monkeypatch.setattr(tuning, "SAVE_STEPS", tuning.POOL_BATCHES)
    policy = {"version": 1, "id": "p", "categories": [{"id": "theft", "title": "Theft", "unsafe_when": "steal"}]}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(policy))
    settings = Settings(
        data=small_data(tmp_path / "data"), out=tmp_path / "weights", encoder=str(small_encoder(tmp_path / "encoder")),
        version="1", tuning=Tuning(steps=48, batch=4), policies=(str(tmp_path / "p.yaml"),),
    )  # fmt: skip
    steps: list[int] = []
    train_embedded(settings, print, lambda step, total, loss: steps.append(step))
    assert steps == list(range(1, 49))
    again = replace(settings, out=tmp_path / "again")
    with pytest.raises(KeyboardInterrupt):
        train_embedded(again, print, interrupt_at(40))
    assert not (again.out / "manifest.json").exists()
    checkpoint = again.out / "checkpoint.pt"
    for changed, says in (
        ({"tuning": Tuning(steps=49, batch=4)}, "differs in steps"),
        ({"limit": 149}, "differs in limit, texts"),
        ({"encoder": str(small_encoder(tmp_path / "other"))}, "differs in encoder, encoder's weights"),
    ):
        with pytest.raises(DatasetError, match=rf"checkpoint\.pt: .*{says}\. Delete it to begin anew"):
            train_embedded(replace(again, **changed), print, lambda *_: None)
    whole_checkpoint = checkpoint.read_bytes()
    for damaged in (whole_checkpoint[: len(whole_checkpoint) // 2], b"", b"no checkpoint"):
        checkpoint.write_bytes(damaged)
        with pytest.raises(DatasetError, match=r"checkpoint\.pt: .*damaged.* Delete it to begin anew"):
            train_embedded(again, print, lambda *_: None)
    checkpoint.write_bytes(whole_checkpoint)
    resumed: list[int] = []
    manifest = train_embedded(again, print, lambda step, total, loss: resumed.append(step))
    assert resumed == list(range(33, 49)), "it went on from the last checkpoint"
    whole = load_model(settings.out, threads=1).manifest
    assert manifest.files == whole.files, "a run that was cut off gives the same weights"
    assert (manifest.calibration, manifest.surfaces) == (whole.calibration, whole.surfaces)
    shipped = bert_weights(read_graph(settings.out / "encoder.onnx"))
    learned = torch.load(settings.out / "trained.pt", weights_only=True)["encoder"]
    for name, exact in learned.items():
        if name in shipped:
            assert np.abs(shipped[name] - exact.numpy()).max() < 0.003, f"int8 and its smoothing keep {name}"
    assert learned.keys() - shipped.keys() == {"pooler.dense.weight", "pooler.dense.bias"}
    assert manifest.base == "encoder"
    assert max(manifest.figures["p"]["false_positives"].values()) <= 0.03
    told: list[str] = []
    for source in ("train", "dev"):
        odd = [
            ROW | {"id": str(n), "source": "own", "policy": "house", "categories": ["unspecified"]} for n in range(7)
        ]
        write(settings.data / source / "own.jsonl.gz", *odd, ROW | {"policy": "house", "categories": ["break_in"]})
    checkpoint.write_bytes(whole_checkpoint)
    with pytest.raises(DatasetError, match="differs in texts, categories"):
        train_embedded(again, told.append, lambda *_: None)
    assert told[0] == "train: 7 rows left out, unsafe under no category that training can use: own 7"
    write(settings.data / "train" / "made_up.jsonl.gz", ROW | {"label": "safe", "categories": []})
    write(settings.data / "train" / "own.jsonl.gz", *odd)
    with pytest.raises(DatasetError, match="train holds no unsafe row that can be learned from"):
        train_embedded(again, print, lambda *_: None)
    guard = EmbeddedGuard(again.out)
    category = Category(id="theft", title="Theft", unsafe_when="steal")
    check = Check("input", "how do i steal bread number 3")
    verdict = asyncio.run(guard.check(check, Policy(id="p", categories=(category,))))
    assert verdict.guard_version == manifest.version
    asyncio.run(guard.aclose())


@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore")
def test_a_run_starts_from_what_another_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="training needs guardmw[train]")
    pytest.importorskip("transformers", reason="training needs guardmw[train]")
    from guardmw.train import tuning
    from guardmw.train.embedded import Settings, train_embedded
    from guardmw.train.tuning import Tuning

    settings = Settings(
        data=small_data(tmp_path / "data"), out=tmp_path / "weights", encoder=str(small_encoder(tmp_path / "encoder")),
        version="1", tuning=Tuning(steps=16, batch=4),
    )  # fmt: skip
    learned = train_embedded(settings, print, lambda *_: None)
    start = settings.out / "trained.pt"
    further = replace(settings, out=tmp_path / "further", tuning=Tuning(steps=1, batch=4, rate=0.0), start=(start,))
    told: list[str] = []
    assert train_embedded(further, told.append, lambda *_: None).files == learned.files, "no step changed anything"
    assert f"starting from {start}" in told
    moved = replace(further, out=tmp_path / "moved", tuning=Tuning(steps=1, batch=4))
    assert train_embedded(moved, print, lambda *_: None).files != learned.files
    other = tmp_path / "other.pt"
    torch.save([1, 2], other)
    for unfit in (tmp_path / "none.pt", settings.out / "vocab.txt", other):
        with pytest.raises(DatasetError, match=rf"{unfit.name}: .*`--start` takes the trained.pt"):
            train_embedded(replace(further, start=(start, unfit)), print, lambda *_: None)
    cut_off = replace(moved, out=tmp_path / "cut_off", tuning=Tuning(steps=48, batch=4))
    monkeypatch.setattr(tuning, "SAVE_STEPS", tuning.POOL_BATCHES)
    with pytest.raises(KeyboardInterrupt):
        train_embedded(cut_off, print, interrupt_at(40))
    with pytest.raises(DatasetError, match="differs in start"):
        train_embedded(replace(cut_off, start=()), print, lambda *_: None)


@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore")
def test_a_run_starts_from_the_mean_of_others_and_of_the_encoder_before(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="training needs guardmw[train]")
    pytest.importorskip("transformers", reason="training needs guardmw[train]")
    from guardmw.train.embedded import Settings, train_embedded
    from guardmw.train.tuning import Tuning

    def trained(name: str, tuning: Tuning, **start: Any) -> tuple[Path, Any]:
        out = tmp_path / name
        encoder = str(tmp_path / "encoder")
        train_embedded(Settings(data, out, encoder, "1", tuning, **start), told.append, lambda *_: None)
        return out / "trained.pt", torch.load(out / "trained.pt", weights_only=True)

    told: list[str] = []
    data = small_data(tmp_path / "data")
    small_encoder(tmp_path / "encoder")
    still = Tuning(steps=1, batch=4, rate=0.0)
    _, before = trained("before", still)
    (one, first), (other, second) = (trained(f"run {seed}", Tuning(steps=8, batch=4, seed=seed)) for seed in (1, 2))
    _, mean = trained("mean", still, start=(one, other), pretrained=0.5)
    assert f"starting from {one} and {other}, 50% of the encoder as it was before" in told
    for name, value in mean["encoder"].items():
        expected = 0.5 * before["encoder"][name] + 0.25 * (first["encoder"][name] + second["encoder"][name])
        torch.testing.assert_close(value, expected)
    for name, value in mean["head"].items():
        torch.testing.assert_close(value, (first["head"][name] + second["head"][name]) / 2)
    _, tuned = trained("head only", Tuning(steps=8, batch=4, head_only=True), start=(one,))
    assert all(torch.equal(value, first["encoder"][name]) for name, value in tuned["encoder"].items())
    assert not all(torch.equal(value, first["head"][name]) for name, value in tuned["head"].items())
