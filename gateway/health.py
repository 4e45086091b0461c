"""Health: how each deployment has answered real requests lately, and when it may be asked again. Pure: time is handed in.

Nothing is probed at a price: a deployment that failed is tried again by one real request at a time.
"""

from __future__ import annotations
