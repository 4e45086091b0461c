"""The front: the strict HTTP edge. Bytes of a client become one checked ChatRequest and its Caller, or one clear refusal."""
