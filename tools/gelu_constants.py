"""The constants of ``gelu(approximate="minimax")``: ``python tools/gelu_constants.py``."""

from __future__ import annotations

from zlpr.activations import fit_gelu


def main() -> None:
    """Print slope, cubic and quintic constant."""
    print(*fit_gelu("quintic", free_slope=True)[:3], sep="\n")


if __name__ == "__main__":
    main()
