"""Reasoning that was relayed and may be asked for again: kept encrypted, per team, for a while."""
