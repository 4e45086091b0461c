"""Spend reports, without I/O: which instants (`periods`), what to ask a ledger (`tallies`), the groups (`spending`), their
text (`writing`) and their pictures (`chart`)."""
