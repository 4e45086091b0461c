"""The ledger: every hold and every charge, durable and exact.

`port` says what a ledger promises, and opens with the table of a hold's states; `sqlite` keeps the promise in one
embedded file, by the operations of `operations`, which `writer` commits in groups on the event loop and `flusher` makes durable;
`unsettled` keeps what the store could not take; `keeper` does the housekeeping; `transaction` is what they share; `columns`
turns rows into columns and back; `verify` checks the invariants of a file. No prompt, no answer and no key
is ever stored.
"""
