"""The ledger: every hold and every charge, durable and exact.

`port` says what a ledger promises, what a store of it does, and opens with the table of a hold's states. `steward` makes a ledger
of a store: it keeps leases, and puts into the `spool` what the store cannot take; `outage` says what goes on without a store.
`balances` is the arithmetic of budgets, the same for every store.

`sqlite` is a store in one embedded file: the operations of `operations` and `budget_rows`, which `writer` commits in groups on the
event loop and `flusher` makes durable; `keeper` does the housekeeping; `transaction` is what they share; `columns` turns rows into
columns and back; `verify` checks the invariants of a file; `reading` asks it beside a gateway. `postgres` is a store in a database
that any number of gateways share.

`corrections` says what a host billed otherwise. `retention` lets old months leave a ledger (through `sqlite_shelf` or
`postgres_shelf`) for the files of `archive`, and `gone` is what the ledger remembers of them. `backup` copies the file and puts it back.

No prompt, no answer and no key is ever stored.
"""
