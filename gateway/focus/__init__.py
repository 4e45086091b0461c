"""The ledger as FOCUS 1.2 (FinOps Open Cost and Usage Specification), without I/O: exact texts in `columns`, `lines` out of tallies."""
