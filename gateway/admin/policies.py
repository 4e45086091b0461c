"""The policies in force on the admin API, and why a newer folder is not."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any, Protocol

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from gateway.clock import instant_text
from gateway.policies import Policies


class PolicyBook(Protocol):
    """The snapshot in force, and the way to replace it."""

    error: str | None
    loaded_at: datetime

    @property
    def current(self) -> Policies: ...

    def reload(self) -> bool: ...


def add_policies(router: APIRouter, book: PolicyBook) -> None:
    """GET /policies and POST /reload."""

    @router.get("/policies", summary="The policies in force, and why a newer folder is not")
    async def policies() -> dict[str, Any]:
        return policies_json(book)

    @router.post("/reload", summary="Read the policies folder again; 409 leaves the old snapshot in force")
    async def reload() -> JSONResponse:
        done = await asyncio.to_thread(book.reload)
        return JSONResponse(policies_json(book), 200 if done else 409)


def policies_json(book: PolicyBook) -> dict[str, Any]:
    return {"digest": book.current.digest, "loaded_at": instant_text(book.loaded_at), "error": book.error}
