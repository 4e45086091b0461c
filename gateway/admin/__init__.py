"""The admin plane (port 8081): metrics and health for everyone, the ledger and the policies for who has the token."""
