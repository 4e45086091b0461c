"""The demonstration: a real local engine, emulated hosts and the gateway, on one machine, without a key."""
