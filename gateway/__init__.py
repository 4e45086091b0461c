"""Faregate: an OpenAI-compatible gateway that prices, repairs, chooses and limits every request.

One request goes one way: `front` authenticates and parses it once; `routes` names the deployments that
may serve it; `sanitise` makes it valid for each one's contract; `router` plans the attempts with a quote;
`ledger` holds money before anything is dispatched; `upstream` opens the host; `relay` passes the answer on
while `shape` and `meter` read it; `prices` makes the charge; `ledger` settles it before the client sees the
end; `metrics` learns from the one `Outcome`. `exchange` is that course, and the only caller of the stages.

Words (money, usage, request, errors, clock, outcome) import nothing of ours; facts (policies, contracts,
hosts, prices, calendars, routes) import words; decisions are pure; stores do I/O; edges face people.
"""
