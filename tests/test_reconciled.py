"""The last reconciliation as /metrics reads it: whole, by host, however often and by whom it is written."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.reconciled import FILE, LastTime, Reconciliations

NOW = datetime(2026, 11, 20, 2, tzinfo=UTC)


def last(host: str = "deepseek", currency: str = "USD", gap: int = 1_500_000_000, hours: int = 3) -> LastTime:
    return LastTime(host, currency, gap, NOW - timedelta(hours=hours), NOW - timedelta(days=31), NOW - timedelta(days=1))


def test_what_one_process_keeps_another_reads(tmp_path: Path) -> None:
    reader = Reconciliations(tmp_path / "data", now=lambda: NOW)
    assert reader.samples() == {"faregate_reconcile_gap": [], "faregate_reconcile_age_seconds": []}
    writer = Reconciliations(tmp_path / "data")
    writer.keep(last())
    writer.keep(last("openrouter", gap=-1, hours=1))
    writer.keep(last("deepseek", "CNY", gap=0, hours=2))
    writer.keep(last(gap=2_000_000_000))
    samples = reader.samples()
    assert sorted(samples["faregate_reconcile_gap"]) == [
        (("deepseek", "CNY"), 0.0),
        (("deepseek", "USD"), 2.0),
        (("openrouter", "USD"), -1e-9),
    ]
    assert sorted(samples["faregate_reconcile_age_seconds"]) == [(("deepseek",), 7200.0), (("openrouter",), 3600.0)]
    assert [path.name for path in (tmp_path / "data").iterdir()] == [FILE]


def test_a_file_that_is_none_of_ours_is_said_and_shows_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE).write_text('{"deepseek USD": 3}')
    with caplog.at_level(logging.WARNING):
        assert Reconciliations(tmp_path).samples()["faregate_reconcile_gap"] == []
    assert "run `faregate reconcile` again" in caplog.text
    Reconciliations(tmp_path).keep(last())
    assert len(Reconciliations(tmp_path).last()) == 1
