"""Simulate: the bill of a trace under each way of choosing a host. The router that it runs is the one in production.

What lives here: traces, hosts as they are played, the ways of choosing, bills, tables and charts.
What does not: how a host is chosen (ranking), what is foretold of it (foresight), what a token costs (money, prices).
"""
