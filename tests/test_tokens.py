import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertcnn.text.tokens import Pieces, PieceTokenizer, Windowing, make_batch, plan_batches, segments


def context(position: int, start: int, windowing: Windowing, content: int) -> float:
    """Pieces between a position and the nearer cut of a window; the ends of a text are no cuts."""
    end = start + windowing.room
    left = position - start if start > 0 else np.inf
    right = end - 1 - position if end < content else np.inf
    return min(left, right)


windowings = st.builds(
    lambda room, share, prefix, suffix: Windowing(room + prefix + suffix, int(room * share), prefix, suffix),
    st.integers(4, 12), st.floats(0, 0.5), st.integers(0, 2), st.integers(0, 2),
)  # fmt: skip


@given(windowing=windowings, pieces=st.integers(0, 80), windows=st.none() | st.integers(1, 4), reach=st.integers(0, 11))
def test_each_piece_takes_its_state_where_it_has_most_context(
    windowing: Windowing, pieces: int, windows: int | None, reach: int
) -> None:
    pieces = max(pieces, windowing.prefix + windowing.suffix)
    reach = min(reach, windowing.room - 1)  # no filter is wider than a window
    content = pieces - windowing.prefix - windowing.suffix
    seen: list[int] = []
    for part in segments(0, pieces, windowing, reach=reach, windows=windows):
        flat = part.rows.ravel()
        stretch = np.arange(part.start, part.start + len(part.source))
        assert part.source.min(initial=0) >= 0
        assert (flat[part.source] == stretch).all(), "a state must be of its own piece"
        for row in part.rows:
            assert len(row) <= windowing.length
            assert list(row[: windowing.prefix]) == list(range(windowing.prefix))
            assert list(row[len(row) - windowing.suffix :]) == list(range(pieces - windowing.suffix, pieces))
        if pieces > windowing.length:
            starts = windowing.starts(pieces)
            for position, source in zip(stretch, part.source, strict=True):
                inside = position - windowing.prefix
                if 0 <= inside < content:
                    start = part.rows[source // windowing.length][windowing.prefix] - windowing.prefix
                    covering = [s for s in starts if s <= inside < s + windowing.room]
                    best = max(context(inside, s, windowing, content) for s in covering)
                    assert context(inside, start, windowing, content) == best
        overlap = sum(p in seen for p in stretch[: reach + 1])
        assert overlap == (0 if part.start == 0 and not seen else min(reach, len(seen)))
        seen = sorted({*seen, *stretch.tolist()})
    assert seen == list(range(pieces))


def test_a_text_that_fits_is_one_window() -> None:
    (part,) = segments(3, 10, Windowing(10, 2), reach=2)
    assert part.text == 3
    assert part.rows.tolist() == [list(range(10))]
    assert part.source.tolist() == list(range(10))


@given(
    lengths=st.lists(st.integers(2, 60), min_size=1, max_size=40),
    budget=st.integers(16, 200),
    overhead=st.integers(0, 100),
)
def test_batches_hold_every_piece_once_and_keep_the_budget(lengths: list[int], budget: int, overhead: int) -> None:
    windowing = Windowing(16, 4)
    starts = np.cumsum([0, *lengths])
    pieces = Pieces(np.arange(starts[-1]) + 1, starts)
    found: dict[int, list[int]] = {i: [] for i in range(len(lengths))}
    for parts in plan_batches(pieces.lengths, windowing, max_tokens=budget, overhead_tokens=overhead, reach=0):
        batch = make_batch(pieces, parts, pad_id=0)
        assert max(batch.input_ids.size, batch.source.size) <= budget or len(parts) == 1
        padding = sum(len(p.rows) * parts[0].rows.shape[1] - p.rows.size for p in parts)
        assert padding <= overhead
        flat = batch.input_ids.ravel()
        for row, text in enumerate(batch.texts):
            keep = batch.source_mask[row]
            found[int(text)] += flat[batch.source[row][keep]].tolist()
        assert ((batch.input_ids != 0) == (batch.attention_mask == 1)).all()
    for i in range(len(lengths)):
        assert sorted(found[i]) == pieces[i].tolist()


@pytest.mark.parametrize(("texts", "most"), [(3000, 0.02), (30, 0.15)])
def test_little_is_wasted_on_padding(texts: int, most: float) -> None:
    """Of a file, and of the few texts that wait at a server."""
    lengths = np.random.default_rng(0).lognormal(3, 0.5, texts).astype(np.int64) + 2
    padded = real = 0
    batches = list(plan_batches(lengths, Windowing(512, 64), max_tokens=1024, overhead_tokens=20, reach=4))
    for parts in batches:
        padded += sum(len(p.rows) for p in parts) * parts[0].rows.shape[1]
        real += sum(p.rows.size for p in parts)
    assert (padded - real) / padded < most
    assert len(batches) <= 4 * real / 1024 + 12


@given(texts=st.lists(st.lists(st.integers(0, 2), max_size=3), max_size=12))
def test_texts_of_the_same_pieces_are_kept_once(texts: list[list[int]]) -> None:
    rows, kept = Pieces.of([np.array(text, dtype=np.int64) for text in texts]).distinct()
    assert [kept[row].tolist() for row in rows] == texts
    assert len(kept) == len({tuple(text) for text in texts})


def test_pieces_have_spans_in_the_text(tokenizer: PieceTokenizer) -> None:
    texts = ["Not bad at all.", "", "caf\u00e9 \U0001f600 good", "a\ud800b fine"]
    pieces = tokenizer(texts, with_spans=True)
    assert pieces.spans is not None
    assert pieces.lengths.tolist()[1] == 2
    first = [texts[0][a:b] for a, b in pieces.spans[pieces.starts[0] : pieces.starts[1]]]
    assert first[0] == first[-1] == ""
    assert "".join(first) == "Notbadatall."
    assert (tokenizer(texts).ids == pieces.ids).all()


def test_special_pieces_are_found(tokenizer: PieceTokenizer) -> None:
    assert (tokenizer.prefix, tokenizer.suffix, tokenizer.pad_id) == ([2], [3], 0)
