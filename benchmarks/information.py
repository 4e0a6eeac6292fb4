"""Mutual information beside scikit-learn's, interleaved in one run: ratios, not seconds.

Both estimate one pair of columns by the first count of Kraskov, Stögbauer and Grassberger with k = 3. scikit-learn's
call is the only one of its kind that is installed with it; it scales its columns and adds noise first.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/information.py [--seconds S]
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
from _interleaved import medians
from sklearn.feature_selection import mutual_info_classif, mutual_info_regression

from zlpr.entropy import knn_mutual_information, knn_mutual_information_discrete

SIZES = (1_000, 10_000, 100_000)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5.0)
    seconds = parser.parse_args().seconds
    print(f"{'n':>8} {'continuous, ms':>15} {'scikit-learn':>13} {'labels, ms':>11} {'scikit-learn':>13}")
    for n in SIZES:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(n, 1))
        y, labels = x + rng.normal(size=(n, 1)), (x[:, 0] + rng.normal(size=n) > 0).astype(np.int64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            times = medians(
                {
                    "ours": lambda x=x, y=y: knn_mutual_information(x, y),
                    "theirs": lambda x=x, y=y: mutual_info_regression(x, y[:, 0], random_state=0),
                    "our labels": lambda x=x, labels=labels: knn_mutual_information_discrete(x, labels),
                    "their labels": lambda x=x, labels=labels: mutual_info_classif(x, labels, random_state=0),
                },
                seconds,
            )
        pairs = (("ours", "theirs"), ("our labels", "their labels"))
        cells = [f"{times[own] * 1e3:15.1f} {times[other] / times[own]:12.1f}x" for own, other in pairs]
        print(f"{n:8} {cells[0]} {cells[1][4:]}")


if __name__ == "__main__":
    main()
