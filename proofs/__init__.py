"""Proofs of the bound, of survival and of the tests themselves, each by one command: docs/proofs.md says what each shows."""
