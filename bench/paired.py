"""Pairs of systems of a study, on each of its data sets: accuracies, the difference with its interval, and the test.

    python bench/paired.py docs/studies/kim2014 --pair bert-cnn-frozen@half bert-mean-frozen@all

What `bertcnn report` says of its own questions, of any pair. Folds are pooled: each text is tested once. Only the
folds and seeds that both have are compared. p is not corrected; Holm's over the rows of a pair is beside it.
"""

import argparse
from pathlib import Path

from bertcnn.study.evidence import read_study
from bertcnn.study.statistics import compare, holm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--pair", nargs=2, action="append", required=True, metavar=("LEFT", "RIGHT"))
    parser.add_argument("--fraction", type=float, default=1.0, help="of the training texts, where a study has several")
    options = parser.parse_args()
    fraction = options.fraction
    study = read_study(options.study)
    for left, right in options.pair:
        print(f"{left} against {right}")
        both = {
            name: (study.pooled(name, left, fraction=fraction), study.pooled(name, right, fraction=fraction))
            for name in study.data
        }
        found = {name: compare(a.outcomes, b.outcomes) for name, (a, b) in both.items() if a and b}
        corrected = holm([one.p_value for one in found.values()])
        for (name, one), p in zip(found.items(), corrected, strict=True):
            points, low, high = (
                100 * value for value in (one.difference.value, one.difference.low, one.difference.high)
            )
            said = f"{points:+.1f} [{low:.1f}, {high:.1f}], {one.texts:,} texts"
            print(f"  {name}: {said}, {one.test}: p = {one.p_value:.2g}, after Holm {p:.2g}")


if __name__ == "__main__":
    main()
