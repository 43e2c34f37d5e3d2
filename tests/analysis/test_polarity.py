"""Section 5.4 against loops written out and a table small enough to read."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm.analysis.polarity import SEEDS, Words, load_words, polarities, readings_of, study_polarity
from ctsm.analysis.polarity_figure import draw_polarity
from ctsm.cli.main import main
from ctsm.corpus.emotions import EMOTIONS
from ctsm.corpus.prepare import PrepareOptions, prepare
from ctsm.corpus.prepared import PreparedData
from ctsm.errors import CtsmError
from ctsm.text.tokenise import tokenise


def made(seed: int, count: int = 30, size: int = 4) -> Words:
    random = np.random.default_rng(seed)
    in_lexicon, has_vector = random.random(count) < 0.6, random.random(count) < 0.7
    in_lexicon[:2] = has_vector[:2] = True
    vad = random.random((count, 3)).astype(np.float32)
    vad[:2, 0] = 0.9, 0.1  # one of each polarity, whatever else is drawn
    return Words(
        words=tuple(f"w{number}" for number in range(count)),
        vad=vad,
        in_lexicon=in_lexicon,
        vectors=random.standard_normal((count, size)).astype(np.float32),
        has_vector=has_vector,
        counts=random.integers(0, 3000, count),
    )


def disagreeing(words: Words, counted: list[int], vectors: np.ndarray) -> list[int]:
    """The paper's definition, word by word."""
    trait = {w: words.in_lexicon[w] and float(words.vad[w, 0]) > 0.5 for w in counted}

    def centroid(positive: bool) -> list[float]:
        rows = [vectors[w] for w in counted if trait[w] == positive]
        return [sum(float(row[d]) for row in rows) / len(rows) for d in range(vectors.shape[1])]

    def cosine(a: np.ndarray, b: list[float]) -> float:
        dot = sum(float(x) * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(float(x) ** 2 for x in a)) / math.sqrt(sum(y * y for y in b))

    up, down = centroid(True), centroid(False)
    return [w for w in counted if trait[w] != (cosine(vectors[w], up) > cosine(vectors[w], down))]


@given(seed=st.integers(0, 500))
def test_readings_equal_the_definition_written_out(seed: int) -> None:
    words = made(seed)
    everyone = range(len(words.words))
    for reading in readings_of(words):
        counted = [w for w in everyone if reading.outside == "negative" or words.in_lexicon[w]]
        vectors = words.vectors
        if reading.missing == "left out":
            counted = [w for w in counted if words.has_vector[w]]
        else:
            random = np.random.default_rng(reading.seed).standard_normal(vectors.shape, dtype=np.float32)
            vectors = np.where(words.has_vector[:, None], vectors, random * np.float32(0.01))
        differs = disagreeing(words, counted, vectors)
        assert reading.words == len(counted)
        assert reading.disagreeing == len(differs)
        assert reading.share == pytest.approx(100 * len(differs) / len(counted))
        assert reading.outside_words == sum(not words.in_lexicon[w] for w in counted)
        assert reading.outside_disagreeing == sum(not words.in_lexicon[w] for w in differs)
        assert reading.tokens == sum(int(words.counts[w]) for w in counted)
        assert reading.tokens_disagreeing == sum(int(words.counts[w]) for w in differs)
        assert sum(band.words for band in reading.bands) == len(counted)
        for number, band in enumerate(reading.bands):
            limit = reading.bands[number + 1].least if number + 1 < len(reading.bands) else math.inf
            inside = [w for w in differs if band.least <= words.counts[w] < limit]
            assert band.disagreeing == len(inside)


def test_each_open_point_has_its_readings() -> None:
    kinds = [(reading.outside, reading.missing, reading.seed) for reading in readings_of(made(0))]
    for outside in ("negative", "left out"):
        assert [kind[1:] for kind in kinds if kind[0] == outside] == [
            ("left out", None),
            *(("random", seed) for seed in SEEDS),
        ]


def test_a_valence_of_one_half_is_negative_and_a_tie_is_not_positive() -> None:
    words = Words(
        words=("good", "bad", "half", "between"),
        vad=np.array([[0.9, 0, 0], [0.1, 0, 0], [0.5, 0, 0], [0.6, 0, 0]], dtype=np.float32),
        in_lexicon=np.array([True, True, True, False]),
        vectors=np.array([[1, 0], [0, 1], [0, 1], [1, 1]], dtype=np.float32),
        has_vector=np.ones(4, dtype=bool),
        counts=np.ones(4, dtype=np.int64),
    )
    found = polarities(words, words.in_lexicon, words.vectors)
    assert found.trait.tolist() == [True, False, False, False]  # "between" is outside the lexicon: valence 0
    assert found.state.tolist() == [True, False, False, False]  # and exactly between the two centroids


def test_words_of_one_polarity_only_are_refused() -> None:
    words = made(1)
    with pytest.raises(CtsmError, match="same trait polarity"):
        polarities(words, np.zeros_like(words.in_lexicon), words.vectors)


@pytest.fixture(scope="module")
def with_vectors(tiny_dialogues: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """Data with a vector for every second word, and those words."""
    folder = tmp_path_factory.mktemp("polarity")
    lines = [json.loads(line) for line in tiny_dialogues.read_text(encoding="utf-8").splitlines()]
    tokens = {word for line in lines for turn in line["turns"] for word in tokenise(turn)} | set(EMOTIONS)
    chosen = {word for number, word in enumerate(sorted(tokens)) if number % 2 or word in EMOTIONS}
    random = np.random.default_rng(5)
    rows = [f"{word} {' '.join(f'{x:.3f}' for x in random.standard_normal(8))}" for word in sorted(chosen)]
    (folder / "vectors.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    options = PrepareOptions(str(tiny_dialogues), vad="sample", vectors=folder / "vectors.txt", inferences="none")
    prepare(options, folder / "data")
    return folder / "data", chosen


def test_words_with_a_vector_and_counts_are_read_from_the_data(
    with_vectors: tuple[Path, set[str]], tiny_dialogues: Path
) -> None:
    directory, chosen = with_vectors
    words = load_words(PreparedData(directory))
    counts: dict[str, int] = {}
    for line in tiny_dialogues.read_text(encoding="utf-8").splitlines():
        turns = json.loads(line)["turns"]
        for turn in turns[: len(turns) // 2 * 2]:
            for word in tokenise(turn):
                counts[word] = counts.get(word, 0) + 1
    assert dict(zip(words.words, words.counts.tolist(), strict=True)) == {w: counts.get(w, 0) for w in words.words}
    assert {word for word, has in zip(words.words, words.has_vector, strict=True) if has} == chosen & set(words.words)


def test_emotion_words_are_placed_and_marked(with_vectors: tuple[Path, set[str]]) -> None:
    study = study_polarity(with_vectors[0])
    placed = {emotion.word: emotion for emotion in study.emotions}
    assert set(placed) | set(study.left_out) == set(EMOTIONS)
    assert not set(placed) & set(study.left_out)
    assert all(emotion.trait == ("positive" if emotion.vad[0] > 0.5 else "negative") for emotion in study.emotions)


def test_labels_of_the_figure_do_not_overlap(with_vectors: tuple[Path, set[str]]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    emotions = study_polarity(with_vectors[0]).emotions
    figure = draw_polarity(emotions)
    FigureCanvasAgg(figure).draw()
    labels = [text for text in figure.texts if text.get_text()]
    assert len(labels) == len(emotions)
    boxes = [label.get_window_extent() for label in labels]
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[number + 1 :]), labels[number].get_text()
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_zlabel()) == ("valence", "arousal", "dominance")


def test_the_verb_prints_and_writes_the_study(
    with_vectors: tuple[Path, set[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["polarity", "--data", str(with_vectors[0]), "-o", str(tmp_path / "out")]) == 0
    assert "48.75" in capsys.readouterr().out
    page = (tmp_path / "out" / "polarity.md").read_text(encoding="utf-8")
    assert "| the paper |  | 23,712 | 11,559 | 48.75 |" in page
    assert "(polarity.svg)" in page
    value = json.loads((tmp_path / "out" / "polarity.json").read_text(encoding="utf-8"))
    assert len(value["readings"]) == 2 * (1 + len(SEEDS))
    assert all(set(emotion) == {"word", "stand_in", "trait", "state"} for emotion in value["emotions"])
    assert (tmp_path / "out" / "polarity.svg").read_bytes().startswith(b"<?xml")


def test_data_without_vectors_is_refused(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["polarity", "--data", str(prepared), "-o", str(tmp_path / "out")]) == 2
    assert "was prepared without --vectors" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_where_the_folder_should_be_is_refused_first(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    assert main(["polarity", "--data", str(prepared), "-o", str(tmp_path / "out")]) == 2
    assert "is a file; choose a folder" in capsys.readouterr().err
    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"


def test_the_docs_have_the_numbers_of_the_record() -> None:
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "analysis.md").read_text(encoding="utf-8")
    record = json.loads((docs / "results" / "polarity" / "polarity.json").read_text(encoding="utf-8"))
    for outside in ("negative", "left out"):
        for missing, seeds in (("random", f", {len(SEEDS)} seeds"), ("left out", "")):
            group = [r for r in record["readings"] if (r["outside"], r["missing"]) == (outside, missing)]
            words = group[0]["words"]
            shares = [100 * reading["disagreeing"] / words for reading in group]
            spread = f" ({min(shares):.2f} to {max(shares):.2f})" if seeds else ""
            disagreeing = sum(reading["disagreeing"] for reading in group) / len(group)
            share = f"{sum(shares) / len(shares):.2f}{spread}"
            assert f"| {outside} | {missing}{seeds} | {words:,} | {disagreeing:,.0f} | {share} |" in page
    first = next(r for r in record["readings"] if r["outside"] == "negative" and r["missing"] == "random")
    assert f"{first['outside_words']:,} words are outside the lexicon" in page
    assert f"{record['vocabulary'] - record['with_vector']:,} have no vector" in page
