"""Keys of teams: made once and shown once, kept as digests beside the ledger, read again by every gateway within seconds.

secret    what a key looks like, and the one-way digest under a pepper by which it is kept and found
port      the record `Key`, and what a store of keys promises
columns   a key as a row, the same in both databases
sqlite    the store in the ledger's file        postgres  the store in the ledger's database
registry  making, revoking, rotating and finding keys
following the table in force in one gateway: read again when it has changed, kept when it cannot be read
"""
