"""A problem on which Adam goes to the worst point and AdaX to the best one.

The gradient is 1010 once in 101 steps and -10 at the others, on [-1, 1]: the mean slope is positive, and -1 is best.
Adam forgets the rare large gradient and divides it away when it comes. AdaX's second moment has a long memory and
settles. ``python docs/examples/reddi.py`` takes a million steps and a few minutes; ``--steps`` takes another number.

Reddi, Kale and Kumar, On the convergence of Adam and beyond, ICLR 2018, section 3 (arXiv:1904.09237).
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from zlpr import optim

PERIOD, RARE, USUAL = 101, 1010.0, -10.0


def rate(count: int) -> float:
    """Learning rate after `count` steps."""
    return 0.5 / math.sqrt(count + 1)


METHODS = {
    "Adam": optim.adam(rate, b2=0.99),
    "AdaX": optim.adax(rate),
}


def play(transform: optim.Transform, steps: int) -> tuple[float, float]:
    """Where an optimizer ends, and its mean regret against staying at -1."""
    x, regret = np.zeros(1), 0.0
    state = transform.init(x)
    for t in range(1, steps + 1):
        g = RARE if t % PERIOD == 1 else USUAL
        regret += g * (float(x[0]) + 1.0)
        x, state = transform.step(x, np.asarray([g]), state)
        np.clip(x, -1.0, 1.0, out=x)
    return float(x[0]), regret / steps


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    steps = parser.parse_args().steps
    print("| optimizer | x at the end | mean regret |")
    print("| --- | --- | --- |")
    for name, transform in METHODS.items():
        x, regret = play(transform, steps)
        print(f"| {name} | {x:+.3f} | {regret:.3f} |")


if __name__ == "__main__":
    main()
