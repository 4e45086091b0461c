"""Catalogues: prices that others publish, read exactly and turned into proposals for review. Nothing here is ever a bill."""
