"""The arithmetic of bench/faithfulness.py: what deleting words is worth, on an answerer worked by hand."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bertcnn import Predictor
from bertcnn.inference.explaining.winners import words_of

BENCH = str(Path(__file__).parent.parent / "bench")


@pytest.fixture(autouse=True)
def _bench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCH)
    for name in ("attributions", "forms", "eraser", "audit"):
        monkeypatch.delitem(sys.modules, name, raising=False)


class Counter:
    """Answers by counting: each "good" adds a tenth to a half, each "bad" takes one."""

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        chances = np.array([0.5 + 0.1 * (text.split().count("good") - text.split().count("bad")) for text in texts])
        return np.stack([1 - chances, chances], axis=1)


def test_outcomes_by_hand() -> None:
    from eraser import outcomes

    text = "a good b good c bad d good e f"  # 10 words, 0.7
    scores = np.array([0, 3, 0, 2, 0, -1, 0, 1, 0, 0.0])
    (outcome,) = outcomes(Counter(), [text], [scores])
    # Top 1, 5 and 10 %: one "good" is out (0.6); 20 %: two (0.5, a tie, which the first label wins);
    # 50 %: all three and two others (0.4).
    assert outcome.comprehensiveness == pytest.approx(np.mean([0.1, 0.1, 0.1, 0.2, 0.3]))
    # Alone: one "good" (0.6) three times, two (0.7), three (0.8).
    assert outcome.sufficiency == pytest.approx(np.mean([0.1, 0.1, 0.1, 0.0, -0.1]))
    assert outcome.flips
    assert outcome.needed == 0.2


def test_an_answer_that_never_flips_needs_all_words() -> None:
    from eraser import outcomes

    (outcome,) = outcomes(Counter(), ["bad a b"], [np.array([1.0, 0, 0])])
    assert (outcome.flips, outcome.needed) == (False, 1.0)


@pytest.mark.parametrize(("count", "percent", "wanted"), [(10, 1, 1), (10, 20, 2), (19, 5, 1), (21, 5, 2), (20, 5, 1)])
def test_the_top_is_rounded_up(count: int, percent: int, wanted: int) -> None:
    from eraser import top

    assert top(count, percent) == wanted


def test_a_score_too_few_is_named() -> None:
    from eraser import outcomes

    with pytest.raises(ValueError, match="2 scores for 3 words"):
        outcomes(Counter(), ["a b c"], [np.zeros(2)])


@pytest.fixture
def needs_rivals() -> None:
    for name in ("captum", "lime", "shap"):
        pytest.importorskip(name, reason="the extra 'bench' is not installed")


TEXT = "the film was good, but not the staff"


@pytest.mark.usefixtures("needs_rivals")
def test_shares_by_piece_add_up(predictor: Predictor) -> None:
    """Words, special pieces and the filters' biases make the margin."""
    import forms

    read = forms.readings(predictor, [TEXT])[0]
    constant = predictor.backend.classifier[1]
    logits = predictor.logits([TEXT])[0]
    best = int(logits.argmax())
    everything = forms.Reading(**{**vars(read), "owner": np.maximum(read.owner, 0)})  # special pieces to the first
    biases = read.change[read.features > 0] @ read.bias[read.features > 0]
    margin = forms.by_piece(everything).sum() + biases + constant[best] - constant[1 - best]
    assert margin == pytest.approx(logits[best] - logits[1 - best], abs=1e-4)


@pytest.mark.usefixtures("needs_rivals")
def test_the_products_words_are_shares_by_piece(predictor: Predictor) -> None:
    """Where the filters have no biases, which the product spreads evenly and the bench leaves out."""
    import torch

    import forms

    torch.nn.init.zeros_(predictor.model.head.cnn.bias)
    (explanation,) = predictor.explain([TEXT])
    why = explanation.decision
    written = [share for word, share in zip(why.words, why.word_shares, strict=True) if word.end > word.start]
    np.testing.assert_allclose(forms.piece_shares(predictor, TEXT), written, atol=1e-4)


@pytest.mark.usefixtures("needs_rivals")
def test_even_shares_add_up(predictor: Predictor) -> None:
    import forms

    read = forms.readings(predictor, [TEXT])[0]
    fired = read.features > 0
    widths = np.repeat(read.sizes, read.filters)
    some = [(read.owner[p : p + w] >= 0).any() for p, w in zip(read.positions, widths, strict=True)]
    wanted = (read.change * read.features)[fired & some].sum()
    assert forms.even_shares(predictor, TEXT).sum() == pytest.approx(float(wanted), abs=1e-4)


def test_the_audit_counts_what_the_product_says(predictor: Predictor) -> None:
    """Of a single text the corpus audit is that text's audit."""
    import audit

    (explanation,) = predictor.explain([TEXT], audit=True)
    assert explanation.audit is not None
    found = audit.report(predictor, audit.audited(predictor, [TEXT]), np.array([0]))
    assert found["survives"][0] == pytest.approx(explanation.audit.survives, abs=1e-3)
    same = explanation.audit.label == explanation.prediction.label
    assert found["alone answers the same"][0] == float(same)


@pytest.mark.usefixtures("needs_rivals")
def test_without_states_is_what_the_head_says(predictor: Predictor) -> None:
    """Against the head itself, run on the states that are left."""
    import torch

    import attributions
    import forms

    found = forms.without_states(predictor, TEXT)
    owner = attributions.owners(predictor, TEXT)
    ids = torch.from_numpy(predictor.tokenizer([TEXT])[0])[None]
    logits = predictor.logits([TEXT])[0]
    best = int(logits.argmax())
    with torch.inference_mode():
        states, _ = predictor.model.stitched_states(ids, torch.ones_like(ids), None)
        for word, score in enumerate(found):
            left = states[:, torch.from_numpy(owner != word)]
            row = predictor.model.head(left, torch.ones(left.shape[:2], dtype=torch.bool)).logits[0].numpy()
            wanted = (logits[best] - logits[1 - best]) - (row[best] - row[1 - best])
            assert score == pytest.approx(wanted, abs=1e-4)


@pytest.mark.usefixtures("needs_rivals")
def test_gradients_of_words_sum_to_the_margin(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Integrated gradients are complete: they sum to the margin less that of the baseline."""
    import attributions

    monkeypatch.setattr(attributions, "STEPS", 200)
    text = "a film was good and fine"  # fits one window of the tiny encoder
    baseline = predictor.logits([text])[0]
    best = int(baseline.argmax())
    found = attributions.integrated_gradients(predictor, text)
    pieces = predictor.tokenizer([text])
    inside = slice(pieces.starts[0] + 1, pieces.starts[1] - 1)
    pieces.ids[inside] = predictor.tokenizer.pad_id
    weight, bias = predictor.backend.classifier
    nothing = (predictor.pooled(pieces)[0] @ weight.T + bias)[0]
    change = (baseline[best] - baseline[1 - best]) - (nothing[best] - nothing[1 - best])
    assert found.sum() == pytest.approx(float(change), abs=0.05 * max(1.0, abs(float(change))))


@pytest.mark.usefixtures("needs_rivals")
@pytest.mark.parametrize("method", ["leave_one_out", "lime", "shap", "gradient_x_input", "chance"])
def test_one_score_a_word(predictor: Predictor, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import attributions

    monkeypatch.setattr(attributions, "SAMPLES", 40)
    scores = getattr(attributions, method)(predictor, TEXT)
    assert scores.shape == (len(words_of(TEXT)),)
    assert np.isfinite(scores).all()
    again = getattr(attributions, method)(predictor, TEXT)
    np.testing.assert_allclose(scores, again, atol=1e-5)


@pytest.mark.usefixtures("needs_rivals")
def test_leave_one_out_reads_the_shortened_text(predictor: Predictor) -> None:
    import attributions

    scores = attributions.leave_one_out(predictor, "film was good")
    logits = predictor.logits(["film was good", "film good"])
    best = int(logits[0].argmax())
    assert scores[1] == pytest.approx((logits[0] - logits[1])[best] - (logits[0] - logits[1])[1 - best], abs=1e-4)
