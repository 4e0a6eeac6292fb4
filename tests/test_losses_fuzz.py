"""A few thousand of the rows of which ``nox -s fuzz`` runs ten million."""

import pytest

from fuzz_losses import BATCH, LOSSES, WIDTHS, batches, faults

ROWS = 2000


@pytest.mark.parametrize("name", LOSSES)
def test_no_nan_no_negative_loss_no_gradient_beyond_its_bound(name, monkeypatch):
    monkeypatch.setattr("fuzz_losses.BATCH", ROWS)
    wrong = [fault for rows in batches(2 * len(WIDTHS) * ROWS, 1) for fault in faults(name, rows)]
    assert not wrong, "\n".join(wrong)


def test_batches_are_as_many_rows_as_asked_for():
    assert sum(len(rows.scores) for rows in batches(BATCH + 7, 0)) == BATCH + 7
