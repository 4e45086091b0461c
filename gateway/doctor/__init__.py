"""The doctor: what an operator would look at before and after a start, all at once, each finding with what to do.

Nothing is changed, nothing is paid for, and no key is shown: hosts are only asked for what costs nothing.
"""
