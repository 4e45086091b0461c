"""What replicas share beside the ledger, and what one process does alone in its place: rate limits and early refusal."""
