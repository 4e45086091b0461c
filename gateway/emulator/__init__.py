"""The emulator: a real HTTP server that plays any host and contract strictly, and publishes a bill from its own counts.

It imports nothing of the gateway but `clock`: what it says of a request must not share a mistake with what it checks.
"""
