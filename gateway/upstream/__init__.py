"""Upstream: one client for all hosts, deadlines as data, foreign errors translated at one seam."""
