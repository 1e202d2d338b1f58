"""Leave-one-out: what each logit loses where the text is read again without a word.

Of the forms measured in docs/faithfulness.md the one that names the decisive words most faithfully, above all where
the encoder was trained with the head; and the dearest, for every word is a reading of its own. An effect is of
one word with all others in place, so effects do not add up to the logit.

Source:
    Li, Monroe, Jurafsky (2016), "Understanding Neural Networks through Representation Erasure".
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bertcnn.arrays import Floats32
from bertcnn.inference.explaining.counterfactual import without
from bertcnn.inference.explaining.explanation import Explanation

MOST_WORDS = 100
"""Words of a text that are left out in turn: of more, those with the greatest shares of the decision."""


def with_effects(explanation: Explanation, read: Callable[[list[str]], Floats32]) -> Explanation:
    """Return an explanation whose words have their effects.

    Args:
        explanation: Of one text.
        read: Returns the logits of texts, ``(N, K)``.
    """
    words = list(explanation.words)
    shares = np.abs(explanation.decision.word_shares)
    chosen = [i for i in np.argsort(-shares, kind="stable") if words[i].end > words[i].start][:MOST_WORDS]
    if chosen:
        left = read([without(explanation.text, [words[i]]) for i in chosen])
        for i, row in zip(chosen, np.array(explanation.logits) - left, strict=True):
            words[i] = replace(words[i], effects=tuple(row.tolist()))
    return replace(explanation, words=tuple(words))
