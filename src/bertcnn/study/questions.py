"""What a study asks: which systems are compared with which, written down before anything is run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """Who is compared with whom. Where there are several candidates, dev picks.

    Attributes:
        name: Short, for tables.
        asks: In a sentence.
        adds: What the left side has and the right side has not, to say it in a sentence; empty: the left side itself.
        left, right: Names of systems; none: any.
        matched: The first of ``left`` is compared with the first of ``right`` and so on, for they
            differ in what is asked and in nothing else. Else any with any: the best with the best.
        margin: Where "at least as good" is asked: as much worse, in shares of 1, still counts as that.
    """

    name: str
    asks: str
    adds: str
    left: tuple[str, ...]
    right: tuple[str, ...]
    matched: bool = False
    margin: float | None = None


_DEPTHS = ("half", 5, 4, 3, 2, 1)
"""Of an encoder that is cut: the packaged one has six layers, others have twelve or more."""

_CUT = tuple(f"{base}@{depth}" for depth in _DEPTHS for base in ("bert-cnn", "bert-cnn-lpft"))
_WHOLE = ("bert-cnn@all", "bert-cnn-lpft@all")
_FROZEN_CNN = tuple(f"bert-cnn-frozen@{d}" for d in ("half", "mix", "all", *range(1, 25)))
_ALONE = ("cnn-tuned", "cnn-static", "cnn-random", "cnn-pieces")

BEST_TWO = "the best two"
"""The question that is answered where none of the others is."""

QUESTIONS = (
    Question("BERT", "What does incorporating BERT add to a CNN?", "BERT", (*_CUT, *_WHOLE, *_FROZEN_CNN), _ALONE),
    Question(
        "context",
        "What does context add to the CNN over BERT's own input vectors?",
        "context",
        _FROZEN_CNN,
        ("cnn-pieces",) * len(_FROZEN_CNN),
        matched=True,
    ),
    Question(
        "the convolution, whole BERT",
        "What does the convolution add to a whole fine-tuned BERT with a linear head?",
        "the convolution",
        ("bert-cnn@all", "bert-cnn@all"),
        ("bert-mean@all", "bert-cls@all"),
        matched=True,
    ),
    Question(
        "the convolution, cut BERT",
        "What does the convolution add to a fine-tuned BERT cut to its lower layers?",
        "the convolution",
        tuple(f"bert-cnn@{depth}" for depth in _DEPTHS for _ in range(2)),
        tuple(f"{base}@{depth}" for depth in _DEPTHS for base in ("bert-mean", "bert-cls")),
        matched=True,
    ),
    Question(
        "the convolution, frozen BERT",
        "What does the convolution add to a frozen BERT, against the mean of the same states?",
        "the convolution",
        tuple(f"bert-cnn-frozen@{depth}" for depth in (*_DEPTHS, "all")),
        tuple(f"bert-mean-frozen@{depth}" for depth in (*_DEPTHS, "all")),
        matched=True,
    ),
    Question(
        "cut with CNN against whole with linear",
        "Is a BERT cut to its lower layers, with a CNN, at least as accurate as the whole of it with a linear head?",
        "cutting BERT and putting a CNN on it",
        _CUT,
        ("bert-mean@all", "bert-cls@all"),
        margin=0.01,
    ),
    Question(
        "cut with CNN against whole, frozen",
        "Is a frozen BERT cut to its lower layers, with a CNN, at least as accurate as the whole with a linear head?",
        "cutting frozen BERT and putting a CNN on it",
        tuple(f"bert-cnn-frozen@{depth}" for depth in _DEPTHS),
        ("bert-mean-frozen@all",),
        margin=0.01,
    ),
    Question(
        "fine-tuning",
        "What does training the encoder add?",
        "training the encoder",
        ("bert-cnn@half", "bert-cnn@all", "bert-cnn-lpft@half"),
        ("bert-cnn-frozen@half", "bert-cnn-frozen@all", "bert-cnn-frozen@half"),
        matched=True,
    ),
    Question(
        "the head first",
        "What does training the head first add to fine-tuning?",
        "training the head first",
        ("bert-cnn-lpft@half",),
        ("bert-cnn@half",),
        matched=True,
    ),
    Question(
        "negation contrasts",
        "Is a model that was also trained on far negations made of its texts at least as accurate?",
        "training on far negations too",
        ("bert-cnn-contrasts@half", "bert-cnn-contrasts@all"),
        ("bert-cnn@half", "bert-cnn@all"),
        matched=True,
        margin=0.01,
    ),
    Question("words", "What does BERT with a CNN add to word counts?", "BERT with a CNN", (*_CUT, *_WHOLE), ("tfidf",)),
    Question(BEST_TWO, "Which of the two systems that are best on dev is better?", "", (), ()),
)
"""The report answers those for which both sides are there; the last only where that is none."""
