"""Reconciliation: what hosts say they billed against what the ledger charged, with a reason for every difference."""
