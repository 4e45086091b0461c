"""Keys over the admin API. A key's secret stands in the one answer that makes it, and no answer is to be kept by a cache."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse

from gateway.clock import Clock
from gateway.keys.orders import Order, Rotation, checked, fits
from gateway.keys.port import KeyProblem, NameTaken, PepperDiffers, UnknownKey
from gateway.keys.registry import Issued, Registry
from gateway.policies import Policies

_STATUS = {UnknownKey: 404, NameTaken: 409, PepperDiffers: 409}
_NO_STORE = {"cache-control": "no-store"}
LARGEST = 16 * 1024


@dataclass(frozen=True, slots=True)
class KeyDesk:
    """What the routes of keys work with. `applied` returns when a change is in force in this gateway."""

    registry: Registry
    policies: Callable[[], Policies]
    clock: Clock
    applied: Callable[[], Awaitable[None]]


def add_keys(router: APIRouter, desk: KeyDesk) -> None:
    """GET and POST /keys, DELETE /keys/{id}, POST /keys/{id}/rotate."""

    @router.get("/keys", summary="The keys of teams, the oldest first, without anything secret")
    async def keys(team: str | None = None) -> JSONResponse:
        return _answer([desk.registry.shown(key) for key in await _asked(desk.registry.keys(team))])

    @router.post("/keys", summary="Make a key: {team, name?, expires?, budget?: {amount, currency, period, zone}}", status_code=201)
    async def create(request: Request) -> JSONResponse:
        async def make() -> Issued:
            order: Order = checked(Order, await _body(request))
            fits(order, desk.policies(), desk.clock.now())
            return await desk.registry.create(order)

        return await _issue(desk, make())

    @router.post("/keys/{id}/rotate", summary="Make a successor of a key: {grace?, expires?}", status_code=201)
    async def rotate(id: str, request: Request) -> JSONResponse:
        async def make() -> Issued:
            return await desk.registry.rotate(id, checked(Rotation, await _body(request)))

        return await _issue(desk, make())

    @router.delete("/keys/{id}", summary="Revoke a key")
    async def revoke(id: str) -> JSONResponse:
        ended = await _asked(desk.registry.revoke(id))
        await desk.applied()
        return _answer([desk.registry.shown(key) for key in ended][-1])


async def _issue(desk: KeyDesk, work: Awaitable[Issued]) -> JSONResponse:
    issued = await _asked(work)
    await desk.applied()
    return _answer({**desk.registry.shown(issued.key), "key": issued.secret.get_secret_value()}, 201)


async def _asked(work: Awaitable[Any]) -> Any:
    try:
        return await work
    except KeyProblem as problem:
        raise HTTPException(_STATUS.get(type(problem), 400), str(problem)) from None


async def _body(request: Request) -> Any:
    """The JSON object of a request; an empty body is an empty object."""
    data = b""
    async for piece in request.stream():
        data += piece
        if len(data) > LARGEST:
            raise HTTPException(413, f"The body is larger than {LARGEST} bytes.")
    try:
        return msgspec.json.decode(data) if data.strip() else {}
    except msgspec.DecodeError:
        raise KeyProblem("the body: must be a JSON object") from None


def _answer(content: Any, status: int = 200) -> JSONResponse:
    return JSONResponse(content, status, _NO_STORE)
