"""Thinking on or off, and how much: read from every form that clients use, written in the form that a host reads.

Forms: `thinking: {type}`, `reasoning_effort`, `reasoning: {enabled, effort}`, `enable_thinking`, `thinking_budget`,
`chat_template_kwargs: {thinking, enable_thinking}`. What a version does not know is dropped, with an edit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from gateway.contracts import Contract
from gateway.edits import Edit, changed, dropped, renamed
from gateway.errors import InvalidRequest
from gateway.hosts import Deployment

State = Literal["on", "off"]
FORMS = ("thinking", "reasoning_effort", "reasoning", "enable_thinking", "thinking_budget", "chat_template_kwargs")
_ANY_FORM = frozenset(FORMS)
KWARGS = ("thinking", "enable_thinking")
# Where they are false, a host writes its thinking unseen: OpenRouter and vLLM, SGLang.
_HIDING = ("include_reasoning", "stream_reasoning")
_ANY_HIDING = frozenset((*_HIDING, "reasoning"))


class Statement(NamedTuple):
    """What one form says: the state, or an effort, or neither; `name` is the form as a person would write it."""

    name: str
    state: State | None = None
    effort: str | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """What the client said about thinking, in all forms together; None where it said nothing."""

    state: State | None = None
    effort: str | None = None


NOTHING = Wish()


class Unswitchable(InvalidRequest):
    """Thinking would have to be off, and cannot be switched."""


class Switch(NamedTuple):
    """What is decided for one deployment.

    `natural` is what the deployment does when told nothing, `fixed` says that it cannot be told, `forced` that we turned it off.
    """

    state: State
    natural: State
    fixed: bool
    forced: bool = False

    @property
    def on(self) -> bool:
        return self.state == "on"

    def turned_off(self, reason: str) -> Switch:
        """Off for this request, as an edit; raises Unswitchable with the vendor's `reason` where it cannot be switched."""
        if self.fixed:
            raise Unswitchable(reason, param="messages")
        return self._replace(state="off", forced=True)


def read(body: Mapping[str, Any]) -> Wish:
    """The client's wish; raises InvalidRequest for a malformed form, and for two that contradict each other (naming both)."""
    if _ANY_FORM.isdisjoint(body):
        return NOTHING
    statements = list(_statements(body))
    state = _agreed([said for said in statements if said.state is not None], "state")
    return Wish(state, _agreed([said for said in statements if said.effort is not None], "effort"))


def reveal(body: dict[str, Any]) -> list[Edit]:
    """Takes out (in place) what would keep the thinking out of the answer: it is paid for, so it must be seen while it is written.

    A hold follows what streams, and an answer that is cut is charged by what was seen of it.
    """
    if _ANY_HIDING.isdisjoint(body):
        return []
    edits = [dropped(field) for field in _HIDING if body.get(field) is False]
    for edit in edits:
        del body[edit.name.removeprefix("drop_")]
    form = body.get("reasoning")
    if isinstance(form, dict) and form.get("exclude"):
        rest = {key: value for key, value in form.items() if key != "exclude"}
        body["reasoning"] = rest
        if not rest:
            del body["reasoning"]
        edits.append(dropped("exclude" if rest else "reasoning"))
    return edits


def _agreed(statements: list[Statement], field: str) -> Any:
    first = statements[0] if statements else None
    for other in statements[1:]:
        if first is not None and getattr(other, field) != getattr(first, field):
            raise InvalidRequest(f"{first.name} and {other.name} contradict each other: send one of them.", param=other.name.split(".")[0])
    return getattr(first, field) if first is not None else None


def _statements(body: Mapping[str, Any]) -> Iterator[Statement]:
    for form, reader in _READERS:
        if form in body:
            yield from reader(body)


def _thinking(body: Mapping[str, Any]) -> Iterator[Statement]:
    thinking = _typed(body, "thinking", dict)
    if thinking is not None:
        yield Statement("thinking.type", _type_state(thinking))


def _reasoning_effort(body: Mapping[str, Any]) -> Iterator[Statement]:
    effort = _typed(body, "reasoning_effort", str)
    if effort is not None:
        yield _effort("reasoning_effort", effort)


def _reasoning(body: Mapping[str, Any]) -> Iterator[Statement]:
    form = _typed(body, "reasoning", dict) or {}
    yield from _flag(form, "enabled", "reasoning.enabled")
    effort = form.get("effort")
    if effort is None:
        return
    if not isinstance(effort, str):
        raise InvalidRequest("reasoning.effort must be a string.", param="reasoning")
    yield _effort("reasoning.effort", effort)


def _enable_thinking(body: Mapping[str, Any]) -> Iterator[Statement]:
    return _flag(body, "enable_thinking", "enable_thinking")


def _thinking_budget(body: Mapping[str, Any]) -> Iterator[Statement]:
    if _typed(body, "thinking_budget", int) == 0:
        yield Statement("thinking_budget", "off")


def _chat_template_kwargs(body: Mapping[str, Any]) -> Iterator[Statement]:
    kwargs = _typed(body, "chat_template_kwargs", dict) or {}
    for name in KWARGS:
        yield from _flag(kwargs, name, f"chat_template_kwargs.{name}")


_READERS = tuple(
    zip(FORMS, (_thinking, _reasoning_effort, _reasoning, _enable_thinking, _thinking_budget, _chat_template_kwargs), strict=True)
)


def _effort(name: str, effort: str) -> Statement:
    return Statement(name, "off") if effort == "none" else Statement(name, effort=effort)


def _flag(form: Mapping[str, Any], field: str, name: str) -> Iterator[Statement]:
    value = form.get(field)
    if value is None:
        return
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name} must be true or false.", param=name.split(".")[0])
    yield Statement(name, "on" if value else "off")


def _type_state(thinking: dict[str, Any]) -> State:
    states: dict[Any, State] = {"enabled": "on", "disabled": "off"}
    kind = thinking.get("type")
    if not isinstance(kind, str) or kind not in states:
        raise InvalidRequest('thinking.type must be "enabled" or "disabled".', param="thinking")
    return states[kind]


def _typed(body: Mapping[str, Any], field: str, kind: type) -> Any:
    value = body.get(field)
    if value is None:
        return None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        words = {dict: "an object", str: "a string", int: "an integer"}
        raise InvalidRequest(f"{field} must be {words[kind]}.", param=field)
    return value


def settle(wish: Wish, client: Contract, target: Deployment) -> Switch:
    """Whether this deployment will think about this request.

    What cannot be switched stays. The client's own word comes first where the contract of its route knows a switch; then what the
    route fixes; then the client's word; then what the client's contract does by itself, where that is another contract.
    """
    contract, natural = target.contract, target.natural
    if target.unswitchable:
        return Switch(natural, natural, fixed=True)
    word = "off" if wish.effort is not None and contract.thinking.effort_aliases.get(wish.effort) == "none" else wish.state
    first = word if client.thinking.switch != "none" else target.thinking
    state = first or word or target.thinking
    if state is None:
        state = natural if client is contract or client.contract == contract.contract else client.thinking.default
    return Switch(state, natural, fixed=False, forced=state == "off" and natural == "on" and word != "off")


def write(body: dict[str, Any], wish: Wish, switch: Switch, target: Deployment) -> tuple[set[str], list[Edit]]:
    """Puts the decision into `body` (changed in place), in the host's form; gives the fields that are settled, and the edits."""
    if wish is NOTHING and switch.state == switch.natural and not switch.forced:
        return set(), []
    said = [form for form in FORMS if body.get(form) is not None]
    edits = [Edit("disable_thinking")] if switch.forced else []
    thinking = target.contract.thinking
    if thinking.switch == "none" and not thinking.efforts:
        # The version knows no switch at all: the forms are ordinary fields, which open hosts take and others drop.
        return set(), edits
    effort = _known_effort(wish, switch, target)
    out = _forms(body, wish, switch, effort, target)
    for form in said:
        edits.extend(_replace(body, form, out, wish, effort))
    for form, value in out.items():
        if form not in said:
            body[form] = value
    return set(out) | _kept(body, target), edits


def _known_effort(wish: Wish, switch: Switch, target: Deployment) -> str | None:
    thinking = target.contract.thinking
    if wish.effort is None or not switch.on or target.host.reads.effort == "none":
        return None
    known = wish.effort if wish.effort in thinking.efforts else thinking.effort_aliases.get(wish.effort)
    return known if known in thinking.efforts else None


def _forms(body: Mapping[str, Any], wish: Wish, switch: Switch, effort: str | None, target: Deployment) -> dict[str, Any]:
    """The fields that say the decision to this host; empty where nothing need be said."""
    out: dict[str, Any] = {}
    must_say = switch.state != switch.natural or wish.state == switch.state
    if must_say and not switch.fixed:
        form = target.host.reads.thinking
        out[form] = _state_form(form, switch.on, body.get(form))
    if effort is not None:
        field = target.host.reads.effort
        # In OpenRouter's form an effort means on.
        out[field] = effort if field == "reasoning_effort" else {"effort": effort}
    return out


def _state_form(form: str, on: bool, written: Any) -> Any:
    if form == "thinking":
        return {"type": "enabled" if on else "disabled"}
    if form == "enable_thinking":
        return on
    if form == "reasoning":
        return {"effort": "none"} if not on and isinstance(written, dict) and written.get("effort") == "none" else {"enabled": on}
    names = [name for name in KWARGS if isinstance(written, dict) and written.get(name) is not None]
    # Templates disagree on the name and ignore the other one.
    return dict.fromkeys(names or KWARGS, on)


def _replace(body: dict[str, Any], form: str, out: dict[str, Any], wish: Wish, effort: str | None) -> Iterator[Edit]:
    """Leaves one of the client's forms as it is where it says the decision, else replaces or removes it."""
    written = body[form]
    if form in out:
        wanted = _merged(form, written, out[form])
        if wanted != written:
            body[form] = wanted
            yield _change(form, written, wanted)
        return
    extra = {key: value for key, value in written.items() if key not in KWARGS} if form == "chat_template_kwargs" else {}
    if (form == "thinking_budget" and written != 0) or (extra and len(extra) == len(written)):
        return
    del body[form]
    if extra:
        body[form] = extra
    yield renamed(form) if _told(form, written, out, effort) else dropped(form)


def _merged(form: str, written: Any, wanted: Any) -> Any:
    if not isinstance(wanted, dict) or form == "thinking":
        return wanted
    kept = dict(written)
    if form == "reasoning":
        # What contradicts the decision goes; the rest is the host's own vocabulary.
        kept = {key: value for key, value in kept.items() if key not in ("effort", "enabled") or wanted.get(key, value) == value}
        if wanted.get("enabled") is False:
            kept.pop("effort", None)
    return {**kept, **wanted}


def _change(form: str, written: Any, wanted: Any) -> Edit:
    if isinstance(written, str):
        return changed(f"rename_{form}", written, wanted)
    extras = [key for key in written if key not in wanted] if isinstance(written, dict) else []
    if extras and {key: written[key] for key in wanted if key in written} == wanted:
        return dropped(extras[0])
    return renamed(form)


def _told(form: str, written: Any, out: Mapping[str, Any], effort: str | None) -> bool:
    """Whether the host is still told what this form said."""
    if not out:
        return False
    says_effort = (form == "reasoning_effort" and written != "none") or (form == "reasoning" and written.get("effort", "none") != "none")
    return effort is not None if says_effort else True


def _kept(body: Mapping[str, Any], target: Deployment) -> set[str]:
    """Forms that are left for the host although they are not its own: template arguments at engines that take them."""
    if target.host.open_fields or target.host.reads.thinking == "chat_template_kwargs":
        return {"chat_template_kwargs"} & set(body)
    return set()
