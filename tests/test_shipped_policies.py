"""The shipped policies say what the vendors' pages say: rules by version, ids by era, prices by instant; published cards never change.

Run as a program it prints the pins of cards that have none yet: `python tests/test_shipped_policies.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.clock import parse_instant
from gateway.errors import PriceUnknown
from gateway.money import MILLION, decimal_text
from gateway.policies import KINDS, Policies, default_folder, load, schemas
from gateway.policy_files import Problems, read_folder, rows_of
from gateway.prices import CardRow, Prices
from gateway.quotes import quote

DOCUMENT = Path(__file__).parent.parent / "docs" / "policies.md"


@pytest.fixture(scope="module")
def policies() -> Policies:
    return load(default_folder())


# Contracts

CONTRACTS: dict[str, tuple[Any, ...]] = {
    # name: counts, default, max, (default, max) while thinking, reasoning_max, send_back, context, thinking, can be switched
    "deepseek-v3": ("answer", 4096, 8192, None, 0, "never", 65536, "off", False),
    "deepseek-v3-0324": ("answer", 4096, 8192, None, 0, "never", 65536, "off", False),
    "deepseek-r1": ("answer", 4096, 8192, None, 32768, "never", 65536, "on", False),
    "deepseek-r1-0528": ("total", 32768, 65536, None, 0, "never", 65536, "on", False),
    "deepseek-v3.1-chat": ("answer", 4096, 8192, None, 0, "never", 131072, "off", False),
    "deepseek-v3.1-reasoner": ("total", 32768, 65536, None, 0, "never", 131072, "on", False),
    "deepseek-v3.2-exp-chat": ("answer", 4096, 8192, None, 0, "never", 131072, "off", False),
    "deepseek-v3.2-exp-reasoner": ("total", 32768, 65536, None, 0, "never", 131072, "on", False),
    "deepseek-v3.2-chat": ("total", 4096, 8192, (32768, 65536), 0, "within_turn", 131072, "off", True),
    "deepseek-v3.2-reasoner": ("total", 32768, 65536, None, 0, "within_turn", 131072, "on", False),
    "deepseek-v4-flash-preview": ("total", 8192, 393216, (None, 393216), 0, "with_tools", 1048576, "on", True),
    "deepseek-v4-pro-preview": ("total", 8192, 393216, (None, 393216), 0, "with_tools", 1048576, "on", True),
    "deepseek-v4-flash": ("total", 8192, 393216, (None, 393216), 0, "with_tools", 1048576, "on", True),
    "deepseek-v4-flash-vision-exp": ("total", 8192, 393216, (None, 393216), 0, "with_tools", 1048576, "on", True),
    "deepseek-v4-pro": ("total", 8192, 393216, (None, 393216), 0, "with_tools", 1048576, "on", True),
    "deepseek-v4.1-flash": ("total", 8192, 393216, (None, 393216), 0, "with_tools", 1048576, "on", True),
    "deepseek-v3.2": ("total", None, 65536, None, 0, "within_turn", 131072, "off", True),
    "deepseek-r1-distill": ("total", None, 32768, None, 0, "never", 65536, "on", False),
    "deepseek-r1-0528-qwen3-8b": ("total", None, 32768, None, 0, "never", 131072, "on", False),
    "openai-plain": ("total", None, 1048576, None, 0, "never", 1048576, "off", False),
}


def test_every_contract_has_a_row_in_this_table(policies: Policies) -> None:
    assert set(policies.contracts) == set(CONTRACTS)


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_contract_states_the_limits_of_its_version(policies: Policies, name: str) -> None:
    contract = policies.contracts[name]
    limit = contract.max_tokens
    thinking = (limit.thinking.default, limit.thinking.max) if limit.thinking else None
    switched = contract.thinking.switch != "none"
    stated = (limit.counts, limit.default, limit.max, thinking, limit.reasoning_max)
    assert (*stated, contract.reasoning.send_back, contract.context.tokens, contract.thinking.default, switched) == CONTRACTS[name]


def test_only_the_first_r1_thinks_outside_its_context(policies: Policies) -> None:
    assert [name for name, contract in policies.contracts.items() if not contract.context.reasoning_counts] == ["deepseek-r1"]


R1 = "deepseek-reasoner does not support Function Calling"
V4 = [name for name in CONTRACTS if name.startswith("deepseek-v4")]
REASONERS = [name for name in CONTRACTS if name.endswith("-reasoner") or name in ("deepseek-r1", "deepseek-r1-0528")]


@pytest.mark.parametrize("field", ["tools", "tool_choice"])
def test_the_first_r1_refuses_tools_in_the_vendors_words(policies: Policies, field: str) -> None:
    assert policies.contracts["deepseek-r1"].fields.refused[field] == R1
    assert field in policies.contracts["deepseek-r1-0528"].fields.passed


@pytest.mark.parametrize("name", REASONERS)
def test_every_reasoner_before_v4_refuses_logprobs_and_ignores_sampling(policies: Policies, name: str) -> None:
    fields = policies.contracts[name].fields
    assert {"logprobs", "top_logprobs"} <= set(fields.refused)
    assert set(fields.ignored) == {"temperature", "top_p", "presence_penalty", "frequency_penalty"}


@pytest.mark.parametrize("name", V4)
def test_v4_refuses_a_json_schema_and_while_thinking_a_forced_tool(policies: Policies, name: str) -> None:
    rules = {rule.field: rule for rule in policies.contracts[name].fields.rules}
    assert rules["response_format"].text == "This response_format type is unavailable now"
    assert rules["response_format"].allowed == ("text", "json_object") and rules["response_format"].thinking is None
    assert rules["tool_choice"].text == "Thinking mode does not support this tool_choice"
    assert rules["tool_choice"].allowed == ("auto", "none") and rules["tool_choice"].thinking is True


EFFORTS = {
    "deepseek-v4-flash-preview": (("high", "max"), {"low": "high", "medium": "high", "xhigh": "max"}),
    "deepseek-v4-pro-preview": (("high", "max"), {"low": "high", "medium": "high", "xhigh": "max"}),
    "deepseek-v4-flash": (("low", "high", "max"), {"minimal": "low", "medium": "high", "xhigh": "high", "ultra": "max"}),
    "deepseek-v4-pro": (("low", "high", "max"), {"minimal": "low", "medium": "high", "xhigh": "high", "ultra": "max"}),
    "deepseek-v4.1-flash": (("low", "high", "max"), {"minimal": "low", "medium": "high", "xhigh": "high", "ultra": "max"}),
}


@pytest.mark.parametrize("name", EFFORTS)
def test_efforts_are_those_of_the_era(policies: Policies, name: str) -> None:
    thinking = policies.contracts[name].thinking
    assert (thinking.efforts, thinking.effort_aliases) == EFFORTS[name]


def test_successive_messages_are_merged_for_r1_and_r1_0528_only(policies: Policies) -> None:
    assert {name for name, one in policies.contracts.items() if one.messages.merge_successive} == {"deepseek-r1", "deepseek-r1-0528"}


def test_images_are_for_models_with_vision(policies: Policies) -> None:
    vision = {name for name, contract in policies.contracts.items() if contract.messages.images}
    assert vision == {"deepseek-v4-flash-vision-exp", "deepseek-v4.1-flash", "openai-plain"}


@pytest.mark.parametrize("name", CONTRACTS)
def test_the_cache_unit_is_that_of_the_era(policies: Policies, name: str) -> None:
    cache = policies.contracts[name].cache
    if name.startswith("deepseek"):
        assert (cache.mode, cache.tokens) == (("units", 128) if name in V4 else ("blocks", 64))


@pytest.mark.parametrize("name", CONTRACTS)
def test_no_field_stands_in_two_lists_and_the_plain_ones_pass(policies: Policies, name: str) -> None:
    fields = policies.contracts[name].fields
    listed = [*fields.passed, *fields.ignored, *fields.dropped, *fields.refused, *fields.renamed]
    assert len(listed) == len(set(listed))
    assert {"model", "messages", "stream", "stream_options", "max_tokens", "stop", "n"} <= set(fields.passed)
    assert {rule.field for rule in fields.rules} <= set(fields.passed)


def test_the_doubled_thinking_of_r1_0528_is_known(policies: Policies) -> None:
    assert [policies.contracts[name].baseline_output for name in ("deepseek-r1", "deepseek-r1-0528")] == [12000, 23000]


# Hosts

HOSTS: dict[str, tuple[Any, ...]] = {
    # name: key, charge_by, open_fields, what its limit counts, reasoning read, reasoning written, errors, does cancelling stop billing
    "deepseek": ("DEEPSEEK_API_KEY", "computed", False, None, "reasoning_content", "reasoning_content", "openai", True),
    "openrouter": ("OPENROUTER_API_KEY", "reported", False, "total", "both", "reasoning", "openrouter", False),
    "gmi": ("GMI_API_KEY", "computed", False, "total", "reasoning_content", "reasoning_content", "gmi", None),
    "novita": ("NOVITA_API_KEY", "computed", False, "total", "reasoning_content", "auto", "novita", True),
    "nebius": ("NEBIUS_API_KEY", "computed", False, "total", "reasoning_content", "reasoning_content", "nebius", False),
    "inference-net": ("INFERENCE_API_KEY", "computed", False, "total", "reasoning_content", "auto", "any", False),
    "deepinfra": ("DEEPINFRA_API_KEY", "computed", False, "total", "reasoning_content", "reasoning_content", "openai", True),
    "together": ("TOGETHER_API_KEY", "computed", False, "total", "reasoning_content", "reasoning", "openai", True),
    "fireworks": ("FIREWORKS_API_KEY", "computed", False, "total", "reasoning_content", "reasoning_content", "openai", True),
    "siliconflow": ("SILICONFLOW_API_KEY", "computed", False, "total", "reasoning_content", "reasoning_content", "siliconflow", None),
    "azure": ("AZURE_API_KEY", "computed", False, "total", "reasoning_content", "inline", "openai", None),
    "vertex": ("VERTEX_ACCESS_TOKEN", "computed", False, "total", "reasoning_content", "auto", "google", False),
    "bedrock": ("AWS_ACCESS_KEY_ID", "computed", False, "total", "none", "reasoning_content", "openai", False),
    "local": (None, "computed", True, "total", "reasoning_content", "reasoning_content", "openai", True),
    "local-vllm": (None, "computed", True, "total", "both", "auto", "openai", True),
    "local-sglang": (None, "computed", True, "total", "reasoning_content", "reasoning_content", "flat", True),
    "local-ollama": (None, "computed", True, "total", "reasoning", "reasoning", "openai", True),
}

# Hosts whose address is the operator's own: a resource, a project, a region.
OF_THE_OPERATOR = ("azure", "vertex", "bedrock")


def test_every_host_has_a_row_in_this_table(policies: Policies) -> None:
    assert set(policies.hosts) == set(HOSTS)


@pytest.mark.parametrize("name", HOSTS)
def test_a_host_speaks_its_own_dialect(policies: Policies, name: str) -> None:
    host = policies.hosts[name]
    wire = (host.reads.counts, host.reads.reasoning, host.writes.reasoning, host.writes.errors)
    assert (host.key, host.charge_by, host.open_fields, *wire, host.cancel_stops_billing) == HOSTS[name]
    assert host.local == name.startswith("local")
    assert (host.base_url is None) == (host.local or name in OF_THE_OPERATOR)


def test_openrouter_states_its_own_cost_and_ollama_no_cached_tokens(policies: Policies) -> None:
    assert policies.hosts["openrouter"].writes.cost == "usage.cost"
    assert {name for name, host in policies.hosts.items() if not host.writes.cached_paths} == {"local-ollama", "together"}


def test_only_bedrock_is_not_spoken_to_in_openais_protocol_and_three_hosts_take_their_keys_in_another_way(policies: Policies) -> None:
    assert {name for name, host in policies.hosts.items() if host.protocol != "openai"} == {"bedrock"}
    assert {name: host.auth for name, host in policies.hosts.items() if host.auth != "bearer"} == {"azure": "api-key", "vertex": "google"}


def test_together_writes_the_thinking_of_r1_into_the_text_and_that_of_others_beside_it(policies: Policies) -> None:
    at = parse_instant("2026-11-21T00:00:00Z")
    served = {model: policies.deployment("together", model, at) for host, model in policies.served if host == "together"}
    assert {model for model, deployment in served.items() if deployment and deployment.inline} == {"deepseek-ai/DeepSeek-R1-0528"}


def test_deepinfra_caps_the_output(policies: Policies) -> None:
    at = parse_instant("2026-11-21T00:00:00Z")
    found = {row.max_output for row in policies.hosts["deepinfra"].models if row.serves(at) and "V4.1" not in row.model}
    assert found == {16384}


def test_a_region_is_stated_only_where_it_is_known(policies: Policies) -> None:
    assert {name: host.region for name, host in policies.hosts.items() if host.region} == {"deepseek": "cn", "bedrock": "us"}


ERAS: list[tuple[str, str, str, str | None]] = [
    ("deepseek", "deepseek-chat", "2024-12-25T23:59:59Z", None),
    ("deepseek", "deepseek-chat", "2025-01-20T12:00:00Z", "deepseek-v3"),
    ("deepseek", "deepseek-chat", "2025-03-23T23:59:59Z", "deepseek-v3"),
    ("deepseek", "deepseek-chat", "2025-03-24T00:00:00Z", "deepseek-v3-0324"),
    ("deepseek", "deepseek-chat", "2025-08-21T00:00:00Z", "deepseek-v3.1-chat"),
    ("deepseek", "deepseek-chat", "2025-09-22T00:00:00Z", "deepseek-v3.1-chat"),
    ("deepseek", "deepseek-chat", "2025-09-29T00:00:00Z", "deepseek-v3.2-exp-chat"),
    ("deepseek", "deepseek-chat", "2025-12-01T00:00:00Z", "deepseek-v3.2-chat"),
    ("deepseek", "deepseek-chat", "2026-04-24T00:00:00Z", "deepseek-v4-flash-preview"),
    ("deepseek", "deepseek-chat", "2026-07-24T15:58:59Z", "deepseek-v4-flash-preview"),
    ("deepseek", "deepseek-chat", "2026-07-24T15:59:00Z", None),
    ("deepseek", "deepseek-reasoner", "2025-01-19T23:59:59Z", None),
    ("deepseek", "deepseek-reasoner", "2025-01-20T00:00:00Z", "deepseek-r1"),
    ("deepseek", "deepseek-reasoner", "2025-05-27T23:59:59Z", "deepseek-r1"),
    ("deepseek", "deepseek-reasoner", "2025-05-28T00:00:00Z", "deepseek-r1-0528"),
    ("deepseek", "deepseek-reasoner", "2025-08-21T00:00:00Z", "deepseek-v3.1-reasoner"),
    ("deepseek", "deepseek-reasoner", "2025-09-22T00:00:00Z", "deepseek-v3.1-reasoner"),
    ("deepseek", "deepseek-reasoner", "2025-09-29T00:00:00Z", "deepseek-v3.2-exp-reasoner"),
    ("deepseek", "deepseek-reasoner", "2025-12-01T00:00:00Z", "deepseek-v3.2-reasoner"),
    ("deepseek", "deepseek-reasoner", "2026-04-24T00:00:00Z", "deepseek-v4-flash-preview"),
    ("deepseek", "deepseek-reasoner", "2026-07-24T15:59:00Z", None),
    ("deepseek", "deepseek-v4-flash", "2026-04-23T23:59:59Z", None),
    ("deepseek", "deepseek-v4-flash", "2026-04-24T00:00:00Z", "deepseek-v4-flash-preview"),
    ("deepseek", "deepseek-v4-flash", "2026-07-31T00:00:00Z", "deepseek-v4-flash"),
    ("deepseek", "deepseek-v4-flash", "2026-09-10T03:59:59Z", "deepseek-v4-flash"),
    ("deepseek", "deepseek-v4-flash", "2026-09-10T04:00:00Z", "deepseek-v4.1-flash"),
    ("deepseek", "deepseek-v4-flash-vision-exp", "2026-08-20T23:59:59Z", None),
    ("deepseek", "deepseek-v4-flash-vision-exp", "2026-08-21T00:00:00Z", "deepseek-v4-flash-vision-exp"),
    ("deepseek", "deepseek-v4-flash-vision-exp", "2026-09-10T04:00:00Z", "deepseek-v4.1-flash"),
    ("deepseek", "deepseek-v4-pro", "2026-04-24T00:00:00Z", "deepseek-v4-pro-preview"),
    ("deepseek", "deepseek-v4-pro", "2026-08-13T00:00:00Z", "deepseek-v4-pro"),
    ("deepseek", "deepseek-v4-pro", "2026-09-14T04:00:00Z", "deepseek-v4-pro"),
    ("deepseek", "deepseek-v4-pro", "2026-11-21T00:00:00Z", "deepseek-v4-pro"),
    ("deepseek", "deepseek-flash", "2026-09-10T03:59:59Z", None),
    ("deepseek", "deepseek-flash", "2026-09-10T04:00:00Z", "deepseek-v4.1-flash"),
    ("deepseek", "deepseek-flash", "2026-10-17T00:00:00Z", "deepseek-v4.1-flash"),
    ("deepseek", "deepseek-r1", "2026-11-21T00:00:00Z", None),
    ("openrouter", "deepseek/deepseek-r1-0528", "2025-05-27T23:59:59Z", None),
    ("openrouter", "deepseek/deepseek-r1-0528", "2026-11-21T00:00:00Z", "deepseek-r1-0528"),
    ("openrouter", "deepseek/deepseek-v3.2", "2026-11-21T00:00:00Z", "deepseek-v3.2"),
    ("openrouter", "deepseek/deepseek-v4-flash", "2026-11-21T00:00:00Z", "deepseek-v4-flash-preview"),
    ("openrouter", "deepseek/deepseek-v4-flash-0731", "2026-11-21T00:00:00Z", "deepseek-v4-flash"),
    ("openrouter", "deepseek/deepseek-v4-pro", "2026-11-21T00:00:00Z", "deepseek-v4-pro-preview"),
    ("openrouter", "deepseek/deepseek-v4-pro-0813", "2026-11-21T00:00:00Z", "deepseek-v4-pro"),
    ("openrouter", "deepseek/deepseek-v4.1-flash", "2026-11-21T00:00:00Z", "deepseek-v4.1-flash"),
    ("novita", "deepseek/deepseek-r1-0528", "2026-11-21T00:00:00Z", "deepseek-r1-0528"),
    ("novita", "deepseek/deepseek-r1-0528-qwen3-8b", "2026-11-21T00:00:00Z", "deepseek-r1-0528-qwen3-8b"),
    ("novita", "deepseek/deepseek-v3.2", "2026-11-21T00:00:00Z", "deepseek-v3.2"),
    ("novita", "deepseek/deepseek-v4-flash", "2026-11-21T00:00:00Z", "deepseek-v4-flash-preview"),
    ("novita", "deepseek/deepseek-v4-flash-0731", "2026-11-21T00:00:00Z", "deepseek-v4-flash"),
    ("novita", "deepseek/deepseek-v4-pro", "2026-11-21T00:00:00Z", "deepseek-v4-pro-preview"),
    ("novita", "deepseek/deepseek-v4-pro-0813", "2026-11-21T00:00:00Z", "deepseek-v4-pro"),
    ("novita", "deepseek/deepseek-v4.1-flash", "2026-11-21T00:00:00Z", "deepseek-v4.1-flash"),
    ("gmi", "deepseek-ai/DeepSeek-R1-0528", "2026-11-21T00:00:00Z", "deepseek-r1-0528"),
    ("gmi", "deepseek-ai/DeepSeek-V3.2", "2026-11-21T00:00:00Z", "deepseek-v3.2"),
    ("gmi", "deepseek-ai/DeepSeek-V4-Flash", "2026-11-21T00:00:00Z", "deepseek-v4-flash-preview"),
    ("gmi", "deepseek-ai/DeepSeek-V4-Pro", "2026-11-21T00:00:00Z", "deepseek-v4-pro-preview"),
    ("nebius", "deepseek-ai/DeepSeek-R1-0528", "2026-02-05T00:00:00Z", "deepseek-r1-0528"),
    ("nebius", "deepseek-ai/DeepSeek-R1-0528", "2026-07-01T00:00:00Z", None),
    ("nebius", "deepseek-ai/DeepSeek-V3.2", "2026-11-21T00:00:00Z", "deepseek-v3.2"),
    ("nebius", "deepseek-ai/DeepSeek-V4-Flash", "2026-11-21T00:00:00Z", "deepseek-v4-flash-preview"),
    ("nebius", "deepseek-ai/DeepSeek-V4-Pro", "2026-11-21T00:00:00Z", "deepseek-v4-pro-preview"),
    ("nebius", "deepseek-ai/DeepSeek-V4-Pro-0813", "2026-11-21T00:00:00Z", "deepseek-v4-pro"),
    ("nebius", "deepseek-ai/DeepSeek-V4.1-Flash", "2026-11-21T00:00:00Z", "deepseek-v4.1-flash"),
    ("inference-net", "deepseek-v3.2", "2026-11-21T00:00:00Z", "deepseek-v3.2"),
    ("inference-net", "deepseek-r1-0528", "2026-11-21T00:00:00Z", None),
    ("deepinfra", "deepseek-ai/DeepSeek-R1-0528", "2026-11-21T00:00:00Z", "deepseek-r1-0528"),
    ("deepinfra", "deepseek-ai/DeepSeek-R1-0528-Turbo", "2026-11-21T00:00:00Z", "deepseek-r1-0528"),
    ("deepinfra", "deepseek-ai/DeepSeek-V3.2", "2026-11-21T00:00:00Z", "deepseek-v3.2"),
    ("deepinfra", "deepseek-ai/DeepSeek-V4-Flash", "2026-11-21T00:00:00Z", "deepseek-v4-flash-preview"),
    ("deepinfra", "deepseek-ai/DeepSeek-V4-Flash-0731", "2026-11-21T00:00:00Z", "deepseek-v4-flash"),
    ("deepinfra", "deepseek-ai/DeepSeek-V4-Pro", "2026-11-21T00:00:00Z", "deepseek-v4-pro-preview"),
    ("deepinfra", "deepseek-ai/DeepSeek-V4-Pro-0813", "2026-11-21T00:00:00Z", "deepseek-v4-pro"),
    ("deepinfra", "deepseek-ai/DeepSeek-V4.1-Flash", "2026-11-21T00:00:00Z", "deepseek-v4.1-flash"),
    ("deepinfra", "deepseek-ai/DeepSeek-V4.1-Flash-1017", "2026-11-21T00:00:00Z", "deepseek-v4.1-flash"),
    ("together", "deepseek-ai/DeepSeek-R1-0528", "2026-11-21T00:00:00Z", "deepseek-r1-0528"),
    ("together", "deepseek-ai/DeepSeek-V4-Pro-0813", "2026-11-21T00:00:00Z", "deepseek-v4-pro"),
    ("together", "deepseek-ai/DeepSeek-V4.1-Flash", "2026-11-21T00:00:00Z", "deepseek-v4.1-flash"),
    ("together", "deepseek-ai/DeepSeek-V4.1-Flash-1017", "2026-11-21T00:00:00Z", "deepseek-v4.1-flash"),
    ("fireworks", "accounts/fireworks/models/deepseek-v3p2", "2026-11-21T00:00:00Z", "deepseek-v3.2"),
    ("fireworks", "accounts/fireworks/models/deepseek-v4p1-flash", "2026-11-21T00:00:00Z", "deepseek-v4.1-flash"),
    ("fireworks", "accounts/fireworks/models/deepseek-v4p1-flash-1017", "2026-11-21T00:00:00Z", "deepseek-v4.1-flash"),
    ("fireworks", "accounts/fireworks/routers/deepseek-v4p1-flash-us", "2026-11-21T00:00:00Z", "deepseek-v4.1-flash"),
    ("siliconflow", "deepseek-ai/DeepSeek-R1", "2026-11-21T00:00:00Z", "deepseek-r1-0528"),
    ("siliconflow", "deepseek-ai/DeepSeek-V3.2", "2026-11-21T00:00:00Z", "deepseek-v3.2"),
    ("siliconflow", "deepseek-ai/DeepSeek-V4-Flash", "2026-11-21T00:00:00Z", "deepseek-v4-flash-preview"),
    ("siliconflow", "deepseek-ai/DeepSeek-V4-Pro", "2026-11-21T00:00:00Z", "deepseek-v4-pro-preview"),
    ("azure", "deepseek-v3.2", "2026-11-21T00:00:00Z", "deepseek-v3.2"),
    ("azure", "deepseek-v4-flash", "2026-11-21T00:00:00Z", "deepseek-v4-flash-preview"),
    ("azure", "DeepSeek-V4-Flash-0731", "2026-11-21T00:00:00Z", "deepseek-v4-flash"),
    ("azure", "deepseek-v4-pro", "2026-11-21T00:00:00Z", "deepseek-v4-pro-preview"),
    ("azure", "deepseek-v4.1-flash", "2026-11-21T00:00:00Z", "deepseek-v4.1-flash"),
    ("vertex", "deepseek-ai/deepseek-v4.1-flash-maas", "2026-11-21T00:00:00Z", "deepseek-v4.1-flash"),
    ("bedrock", "us.deepseek.r1-v1:0", "2026-11-21T00:00:00Z", "deepseek-r1"),
    ("azure", "DeepSeek-V4-Flash-0731", "2026-12-03T00:00:00Z", None),
    ("azure", "deepseek-v4.1-flash", "2026-12-15T00:00:00Z", None),
    ("bedrock", "us.deepseek.r1-v1:0", "2027-03-29T23:59:59Z", "deepseek-r1"),
    ("bedrock", "us.deepseek.r1-v1:0", "2027-03-30T00:00:00Z", None),
    ("local", "gemma3-270m", "2025-02-01T00:00:00Z", "openai-plain"),
    ("local", "r1", "2025-02-01T00:00:00Z", "deepseek-r1"),
    ("local", "r1-distill", "2025-02-01T00:00:00Z", "deepseek-r1-distill"),
    ("local", "r1-0528", "2026-11-21T00:00:00Z", "deepseek-r1-0528"),
    ("local", "r1-0528-qwen3-8b", "2026-11-21T00:00:00Z", "deepseek-r1-0528-qwen3-8b"),
]


@pytest.mark.parametrize(("host", "model", "at", "contract"), ERAS)
def test_an_id_means_what_it_meant_at_that_instant(policies: Policies, host: str, model: str, at: str, contract: str | None) -> None:
    served = policies.deployment(host, model, parse_instant(at))
    assert (served.contract.contract if served else None) == contract


def test_every_model_of_every_host_is_in_the_table_of_eras(policies: Policies) -> None:
    named = {(host, model) for host, model, _, contract in ERAS if contract}
    assert {(host, model) for host, model in policies.served if not host.startswith("local-")} == named


@pytest.mark.parametrize(("model", "thinking"), [("deepseek-chat", "off"), ("deepseek-reasoner", "on")])
def test_the_old_names_fix_thinking_on_v4_until_they_are_refused(policies: Policies, model: str, thinking: str) -> None:
    before = policies.deployment("deepseek", model, parse_instant("2026-07-24T15:58:59Z"))
    assert before is not None and before.thinking == thinking
    assert before.model.retired == "The supported API model names are deepseek-v4-pro or deepseek-v4-flash, but you passed {model}."
    with pytest.raises(PriceUnknown):
        quote(policies, "deepseek", model, parse_instant("2026-07-24T15:59:00Z"), 0, MILLION, MILLION)


@pytest.mark.parametrize(("host", "limits"), [("openrouter", (163840, 32768)), ("novita", (163840, 32768)), ("gmi", (131072, None))])
def test_a_third_party_has_its_own_room_for_r1_0528(policies: Policies, host: str, limits: tuple[int, int | None]) -> None:
    model = next(model for name, model in policies.served if name == host and model.lower().endswith("r1-0528"))
    served = policies.deployment(host, model, parse_instant("2026-11-21T00:00:00Z"))
    assert served is not None and (served.context, served.max_output) == limits
    assert served.counts == "total"


# Prices

VECTORS: list[tuple[str, str, str, str, str]] = [
    # host/model, instant, USD hit miss output, CNY hit miss output, window
    ("deepseek/deepseek-chat", "2025-01-20T00:00:00Z", "0.014 0.14 0.28", "0.1 1 2", "standard"),
    ("deepseek/deepseek-chat", "2025-02-08T15:59:59Z", "0.014 0.14 0.28", "0.1 1 2", "standard"),
    ("deepseek/deepseek-chat", "2025-02-08T16:00:00Z", "0.07 0.27 1.1", "0.5 2 8", "standard"),
    ("deepseek/deepseek-chat", "2025-02-20T17:00:00Z", "0.07 0.27 1.1", "0.5 2 8", "standard"),
    ("deepseek/deepseek-chat", "2025-02-26T16:29:59Z", "0.07 0.27 1.1", "0.5 2 8", "standard"),
    ("deepseek/deepseek-chat", "2025-02-26T16:30:00Z", "0.035 0.135 0.55", "0.25 1 4", "night"),
    ("deepseek/deepseek-chat", "2025-02-27T00:29:59Z", "0.035 0.135 0.55", "0.25 1 4", "night"),
    ("deepseek/deepseek-chat", "2025-02-27T00:30:00Z", "0.07 0.27 1.1", "0.5 2 8", "standard"),
    ("deepseek/deepseek-chat", "2025-09-04T17:00:00Z", "0.035 0.135 0.55", "0.25 1 4", "night"),
    ("deepseek/deepseek-reasoner", "2025-01-20T00:00:00Z", "0.14 0.55 2.19", "1 4 16", "standard"),
    ("deepseek/deepseek-reasoner", "2025-02-20T17:00:00Z", "0.14 0.55 2.19", "1 4 16", "standard"),
    ("deepseek/deepseek-reasoner", "2025-03-01T16:29:59Z", "0.14 0.55 2.19", "1 4 16", "standard"),
    ("deepseek/deepseek-reasoner", "2025-03-01T16:30:00Z", "0.035 0.135 0.55", "0.25 1 4", "night"),
    ("deepseek/deepseek-reasoner", "2025-05-28T00:29:59Z", "0.035 0.135 0.55", "0.25 1 4", "night"),
    ("deepseek/deepseek-reasoner", "2025-05-28T00:30:00Z", "0.14 0.55 2.19", "1 4 16", "standard"),
    ("deepseek/deepseek-reasoner", "2025-09-05T15:59:59Z", "0.14 0.55 2.19", "1 4 16", "standard"),
    ("deepseek/deepseek-reasoner", "2025-09-05T16:00:00Z", "0.07 0.56 1.68", "0.5 4 12", "standard"),
    ("deepseek/deepseek-chat", "2025-09-05T16:00:00Z", "0.07 0.56 1.68", "0.5 4 12", "standard"),
    ("deepseek/deepseek-chat", "2025-09-05T17:00:00Z", "0.07 0.56 1.68", "0.5 4 12", "standard"),
    ("deepseek/deepseek-chat", "2025-09-28T23:59:59Z", "0.07 0.56 1.68", "0.5 4 12", "standard"),
    ("deepseek/deepseek-chat", "2025-09-29T00:00:00Z", "0.028 0.28 0.42", "0.2 2 3", "standard"),
    ("deepseek/deepseek-reasoner", "2026-04-23T23:59:59Z", "0.028 0.28 0.42", "0.2 2 3", "standard"),
    ("deepseek/deepseek-reasoner", "2026-04-24T00:00:00Z", "0.028 0.14 0.28", "0.2 1 2", "standard"),
    ("deepseek/deepseek-chat", "2026-04-26T12:15:00Z", "0.0028 0.14 0.28", "0.02 1 2", "standard"),
    ("deepseek/deepseek-reasoner", "2026-07-24T15:58:59Z", "0.0028 0.14 0.28", "0.02 1 2", "standard"),
    ("deepseek/deepseek-v4-flash", "2026-04-24T00:00:00Z", "0.028 0.14 0.28", "0.2 1 2", "standard"),
    ("deepseek/deepseek-v4-flash", "2026-04-26T12:14:59Z", "0.028 0.14 0.28", "0.2 1 2", "standard"),
    ("deepseek/deepseek-v4-flash", "2026-04-26T12:15:00Z", "0.0028 0.14 0.28", "0.02 1 2", "standard"),
    ("deepseek/deepseek-v4-flash", "2026-08-16T15:59:59Z", "0.0028 0.14 0.28", "0.02 1 2", "standard"),
    ("deepseek/deepseek-v4-flash", "2026-08-16T16:00:00Z", "0.007 0.22 0.66", "0.05 1.5 4.5", "standard"),
    ("deepseek/deepseek-v4-flash", "2026-08-17T01:00:00Z", "0.014 0.44 1.32", "0.1 3 9", "peak"),
    ("deepseek/deepseek-v4-flash", "2026-08-22T06:00:00Z", "0.014 0.44 1.32", "0.1 3 9", "peak"),
    ("deepseek/deepseek-v4-flash", "2026-08-23T06:00:00Z", "0.007 0.22 0.66", "0.05 1.5 4.5", "standard"),
    ("deepseek/deepseek-v4-flash", "2026-09-10T03:59:59Z", "0.014 0.44 1.32", "0.1 3 9", "peak"),
    ("deepseek/deepseek-v4-flash", "2026-09-10T04:00:00Z", "0.003 0.15 0.6", "0.02 1 4", "standard"),
    ("deepseek/deepseek-v4-flash", "2026-11-20T02:00:00Z", "0.006 0.3 1.2", "0.04 2 8", "peak"),
    ("deepseek/deepseek-v4-flash-vision-exp", "2026-08-21T02:00:00Z", "0.014 0.44 1.32", "0.1 3 9", "peak"),
    ("deepseek/deepseek-v4-flash-vision-exp", "2026-08-22T02:00:00Z", "0.014 0.44 1.32", "0.1 3 9", "peak"),
    ("deepseek/deepseek-v4-flash-vision-exp", "2026-08-23T02:00:00Z", "0.007 0.22 0.66", "0.05 1.5 4.5", "standard"),
    ("deepseek/deepseek-v4-flash-vision-exp", "2026-11-20T02:00:00Z", "0.006 0.3 1.2", "0.04 2 8", "peak"),
    ("deepseek/deepseek-v4-pro", "2026-04-24T00:00:00Z", "0.145 1.74 3.48", "1 12 24", "standard"),
    ("deepseek/deepseek-v4-pro", "2026-04-26T12:14:59Z", "0.145 1.74 3.48", "1 12 24", "standard"),
    ("deepseek/deepseek-v4-pro", "2026-04-26T12:15:00Z", "0.003625 0.435 0.87", "0.025 3 6", "standard"),
    ("deepseek/deepseek-v4-pro", "2026-07-15T02:00:00Z", "0.003625 0.435 0.87", "0.025 3 6", "standard"),
    ("deepseek/deepseek-v4-pro", "2026-07-15T12:00:00Z", "0.003625 0.435 0.87", "0.025 3 6", "standard"),
    ("deepseek/deepseek-v4-pro", "2026-08-16T15:59:59Z", "0.003625 0.435 0.87", "0.025 3 6", "standard"),
    ("deepseek/deepseek-v4-pro", "2026-08-16T20:00:00Z", "0.022 0.66 1.98", "0.15 4.5 13.5", "standard"),
    ("deepseek/deepseek-v4-pro", "2026-08-17T00:59:59Z", "0.022 0.66 1.98", "0.15 4.5 13.5", "standard"),
    ("deepseek/deepseek-v4-pro", "2026-08-17T01:00:00Z", "0.044 1.32 3.96", "0.3 9 27", "peak"),
    ("deepseek/deepseek-v4-pro", "2026-08-22T02:00:00Z", "0.044 1.32 3.96", "0.3 9 27", "peak"),
    ("deepseek/deepseek-v4-pro", "2026-08-22T15:59:59Z", "0.022 0.66 1.98", "0.15 4.5 13.5", "standard"),
    ("deepseek/deepseek-v4-pro", "2026-08-23T02:00:00Z", "0.022 0.66 1.98", "0.15 4.5 13.5", "standard"),
    ("deepseek/deepseek-v4-pro", "2026-09-24T02:00:00Z", "0.044 1.32 3.96", "0.3 9 27", "peak"),
    ("deepseek/deepseek-v4-pro", "2026-09-25T02:00:00Z", "0.022 0.66 1.98", "0.15 4.5 13.5", "standard"),
    ("deepseek/deepseek-v4-pro", "2026-10-01T02:00:00Z", "0.022 0.66 1.98", "0.15 4.5 13.5", "standard"),
    ("deepseek/deepseek-v4-pro", "2026-10-07T09:00:00Z", "0.022 0.66 1.98", "0.15 4.5 13.5", "standard"),
    ("deepseek/deepseek-v4-pro", "2026-10-08T02:00:00Z", "0.044 1.32 3.96", "0.3 9 27", "peak"),
    ("deepseek/deepseek-v4-pro", "2026-11-20T02:00:00Z", "0.044 1.32 3.96", "0.3 9 27", "peak"),
    ("deepseek/deepseek-v4-pro", "2026-11-20T03:59:59Z", "0.044 1.32 3.96", "0.3 9 27", "peak"),
    ("deepseek/deepseek-v4-pro", "2026-11-20T04:00:00Z", "0.022 0.66 1.98", "0.15 4.5 13.5", "standard"),
    ("deepseek/deepseek-v4-pro", "2026-11-20T05:59:59Z", "0.022 0.66 1.98", "0.15 4.5 13.5", "standard"),
    ("deepseek/deepseek-v4-pro", "2026-11-20T06:00:00Z", "0.044 1.32 3.96", "0.3 9 27", "peak"),
    ("deepseek/deepseek-v4-pro", "2026-11-20T09:59:59Z", "0.044 1.32 3.96", "0.3 9 27", "peak"),
    ("deepseek/deepseek-v4-pro", "2026-11-20T10:00:00Z", "0.022 0.66 1.98", "0.15 4.5 13.5", "standard"),
    ("deepseek/deepseek-v4-pro", "2026-11-21T02:00:00Z", "0.022 0.66 1.98", "0.15 4.5 13.5", "standard"),
    ("deepseek/deepseek-flash", "2026-09-10T04:00:00Z", "0.003 0.15 0.6", "0.02 1 4", "standard"),
    ("deepseek/deepseek-flash", "2026-09-10T06:00:00Z", "0.006 0.3 1.2", "0.04 2 8", "peak"),
    ("deepseek/deepseek-flash", "2026-09-25T02:00:00Z", "0.003 0.15 0.6", "0.02 1 4", "standard"),
    ("deepseek/deepseek-flash", "2026-11-20T02:00:00Z", "0.006 0.3 1.2", "0.04 2 8", "peak"),
    ("deepseek/deepseek-flash", "2026-11-21T02:00:00Z", "0.003 0.15 0.6", "0.02 1 4", "standard"),
    # Other hosts have no cached price where hit equals miss, and no list in yuan.
    ("openrouter/deepseek/deepseek-r1-0528", "2026-07-01T00:00:00Z", "0.5 0.5 2.15", "", "standard"),
    ("openrouter/deepseek/deepseek-r1-0528", "2026-10-19T00:00:00Z", "0.35 0.5 2.15", "", "standard"),
    ("openrouter/deepseek/deepseek-v3.2", "2026-11-09T00:00:00Z", "0.13 0.26 0.38", "", "standard"),
    ("openrouter/deepseek/deepseek-v4-flash", "2026-11-21T00:00:00Z", "0.021 0.105 0.21", "", "standard"),
    ("openrouter/deepseek/deepseek-v4-flash-0731", "2026-11-21T00:00:00Z", "0.05 0.14 0.28", "", "standard"),
    ("openrouter/deepseek/deepseek-v4-pro", "2026-11-21T00:00:00Z", "0.118 1.416 2.832", "", "standard"),
    ("openrouter/deepseek/deepseek-v4-pro-0813", "2026-11-21T00:00:00Z", "0.022 0.66 1.98", "", "standard"),
    ("openrouter/deepseek/deepseek-v4.1-flash", "2026-11-21T00:00:00Z", "0.0042 0.21 0.84", "", "standard"),
    ("novita/deepseek/deepseek-r1-0528", "2026-11-21T00:00:00Z", "0.35 0.7 2.5", "", "standard"),
    ("novita/deepseek/deepseek-r1-0528-qwen3-8b", "2026-11-21T00:00:00Z", "0.06 0.06 0.09", "", "standard"),
    ("novita/deepseek/deepseek-v3.2", "2026-11-21T00:00:00Z", "0.1345 0.269 0.4", "", "standard"),
    ("novita/deepseek/deepseek-v4-flash", "2026-11-21T00:00:00Z", "0.028 0.14 0.28", "", "standard"),
    ("novita/deepseek/deepseek-v4-flash-0731", "2026-11-21T00:00:00Z", "0.028 0.44 1.32", "", "standard"),
    ("novita/deepseek/deepseek-v4-pro", "2026-11-21T00:00:00Z", "0.135 1.6 3.2", "", "standard"),
    ("novita/deepseek/deepseek-v4-pro-0813", "2026-11-21T00:00:00Z", "0.132 1.32 3.96", "", "standard"),
    ("novita/deepseek/deepseek-v4.1-flash", "2026-11-21T00:00:00Z", "0.006 0.3 1.2", "", "standard"),
    ("gmi/deepseek-ai/DeepSeek-R1-0528", "2026-11-21T00:00:00Z", "0.8 0.8 2.3", "", "standard"),
    ("gmi/deepseek-ai/DeepSeek-V3.2", "2026-11-21T00:00:00Z", "0.28 0.28 0.4", "", "standard"),
    ("gmi/deepseek-ai/DeepSeek-V4-Flash", "2026-11-21T00:00:00Z", "0.022 0.112 0.224", "", "standard"),
    ("gmi/deepseek-ai/DeepSeek-V4-Pro", "2026-11-21T00:00:00Z", "0.116 1.392 2.784", "", "standard"),
    ("nebius/deepseek-ai/DeepSeek-R1-0528", "2026-02-05T00:00:00Z", "0.8 0.8 2.4", "", "standard"),
    ("nebius/deepseek-ai/DeepSeek-V3.2", "2026-11-21T00:00:00Z", "0.03 0.3 0.45", "", "standard"),
    ("nebius/deepseek-ai/DeepSeek-V4-Flash", "2026-11-21T00:00:00Z", "0.14 0.14 0.28", "", "standard"),
    ("nebius/deepseek-ai/DeepSeek-V4-Pro", "2026-11-21T00:00:00Z", "0.15 1.75 3.5", "", "standard"),
    ("nebius/deepseek-ai/DeepSeek-V4-Pro-0813", "2026-11-21T00:00:00Z", "1.32 1.32 3.96", "", "standard"),
    ("nebius/deepseek-ai/DeepSeek-V4.1-Flash", "2026-11-21T00:00:00Z", "0.3 0.3 1.2", "", "standard"),
    ("inference-net/deepseek-v3.2", "2026-11-21T00:00:00Z", "0.35 0.7 2", "", "standard"),
    ("deepinfra/deepseek-ai/DeepSeek-R1-0528", "2026-11-21T00:00:00Z", "0.4 0.5 2.15", "", "standard"),
    ("deepinfra/deepseek-ai/DeepSeek-R1-0528-Turbo", "2026-11-21T00:00:00Z", "1 1 3", "", "standard"),
    ("deepinfra/deepseek-ai/DeepSeek-V3.2", "2026-11-21T00:00:00Z", "0.13 0.26 0.38", "", "standard"),
    ("deepinfra/deepseek-ai/DeepSeek-V4-Flash", "2026-11-21T00:00:00Z", "0.018 0.09 0.18", "", "standard"),
    ("deepinfra/deepseek-ai/DeepSeek-V4-Flash-0731", "2026-11-21T00:00:00Z", "0.016 0.08 0.18", "", "standard"),
    ("deepinfra/deepseek-ai/DeepSeek-V4-Pro", "2026-11-21T00:00:00Z", "0.1 1.3 2.6", "", "standard"),
    ("deepinfra/deepseek-ai/DeepSeek-V4-Pro-0813", "2026-11-21T00:00:00Z", "0.1 1.3 2.6", "", "standard"),
    ("deepinfra/deepseek-ai/DeepSeek-V4.1-Flash", "2026-11-21T00:00:00Z", "0.0042 0.14 0.42", "", "standard"),
    ("deepinfra/deepseek-ai/DeepSeek-V4.1-Flash-1017", "2026-11-21T00:00:00Z", "0.0042 0.14 0.42", "", "standard"),
    ("together/deepseek-ai/DeepSeek-R1-0528", "2026-11-21T00:00:00Z", "3 3 7", "", "standard"),
    ("together/deepseek-ai/DeepSeek-V4-Pro-0813", "2026-11-21T00:00:00Z", "0.13 1.32 3.96", "", "standard"),
    ("together/deepseek-ai/DeepSeek-V4.1-Flash", "2026-11-21T00:00:00Z", "0.006 0.3 1.2", "", "standard"),
    ("together/deepseek-ai/DeepSeek-V4.1-Flash-1017", "2026-11-21T00:00:00Z", "0.006 0.3 1.2", "", "standard"),
    ("fireworks/accounts/fireworks/models/deepseek-v3p2", "2026-11-21T00:00:00Z", "0.28 0.56 1.68", "", "standard"),
    ("fireworks/accounts/fireworks/models/deepseek-v4p1-flash", "2026-11-21T00:00:00Z", "0.006 0.3 1.2", "", "standard"),
    ("fireworks/accounts/fireworks/models/deepseek-v4p1-flash-1017", "2026-11-21T00:00:00Z", "0.006 0.3 1.2", "", "standard"),
    ("fireworks/accounts/fireworks/routers/deepseek-v4p1-flash-us", "2026-11-21T00:00:00Z", "0.009 0.45 1.8", "", "standard"),
    ("siliconflow/deepseek-ai/DeepSeek-R1", "2026-11-21T00:00:00Z", "0.5 0.5 2.18", "", "standard"),
    ("siliconflow/deepseek-ai/DeepSeek-V3.2", "2026-11-21T00:00:00Z", "0.135 0.27 0.42", "", "standard"),
    ("siliconflow/deepseek-ai/DeepSeek-V4-Flash", "2026-11-21T00:00:00Z", "0.028 0.13 0.28", "", "standard"),
    ("siliconflow/deepseek-ai/DeepSeek-V4-Pro", "2026-11-21T00:00:00Z", "0.135 1.5016 3.135", "", "standard"),
    ("azure/deepseek-v3.2", "2026-11-21T00:00:00Z", "0.58 0.58 1.68", "", "standard"),
    ("azure/deepseek-v4-flash", "2026-11-21T00:00:00Z", "0.028 0.19 0.51", "", "standard"),
    ("azure/DeepSeek-V4-Flash-0731", "2026-11-21T00:00:00Z", "0.014 0.44 1.32", "", "standard"),
    ("azure/deepseek-v4-pro", "2026-11-21T00:00:00Z", "0.145 1.74 3.48", "", "standard"),
    ("azure/deepseek-v4.1-flash", "2026-11-21T00:00:00Z", "0.006 0.3 1.2", "", "standard"),
    ("vertex/deepseek-ai/deepseek-v4.1-flash-maas", "2026-11-21T00:00:00Z", "0.03 0.3 1.2", "", "standard"),
    ("bedrock/us.deepseek.r1-v1:0", "2026-11-21T00:00:00Z", "1.35 1.35 5.4", "", "standard"),
    # Examples of own hardware: 8 GPUs (16 dollars an hour) and one (2 dollars an hour), working half of the time.
    ("local/r1", "2026-11-21T00:00:00Z", "0 0.169959635 0.398604883", "", "standard"),
    ("local/gemma3-270m", "2026-11-21T00:00:00Z", "0 0.170940171 0.396825397", "", "standard"),
]


def prices_text(prices: Prices, host: str, model: str, currency: str, at: str) -> tuple[str, str]:
    """Hit, miss and output per million as decimals in one text, and the window."""
    instant = parse_instant(at)
    band = prices.card(host, model, currency, instant).band(instant)
    rates = (band.rates.cache_hit, band.rates.cache_miss, band.rates.output)
    return " ".join(decimal_text(rate) for rate in rates), band.window


@pytest.mark.parametrize(("name", "at", "usd", "cny", "window"), VECTORS, ids=lambda value: str(value))
def test_a_price_is_that_of_its_instant(policies: Policies, name: str, at: str, usd: str, cny: str, window: str) -> None:
    host, _, model = name.partition("/")
    assert policies.deployment(host, model, parse_instant(at)) is not None
    assert prices_text(policies.prices, host, model, "USD", at) == (usd, window)
    if cny:
        assert prices_text(policies.prices, host, model, "CNY", at) == (cny, window)
    else:
        with pytest.raises(PriceUnknown):
            prices_text(policies.prices, host, model, "CNY", at)


def test_every_priced_model_has_a_vector(policies: Policies) -> None:
    named = {name.partition("/")[::2] for name, *_ in VECTORS}
    assert {key for key in policies.served if not key[0].startswith("local")} <= named


def test_deepseek_is_priced_in_both_currencies_at_every_edge_of_every_row(policies: Policies) -> None:
    edges = sorted({card.start for card in policies.prices.cards()})
    for row in policies.hosts["deepseek"].models:
        for at in (edge for edge in (row.from_, *edges) if row.serves(edge)):
            assert policies.prices.currencies("deepseek", row.model, at) == ("CNY", "USD")


def test_the_baseline_is_o1_with_all_of_the_prompt_at_one_price(policies: Policies) -> None:
    baseline = policies.prices.baseline(parse_instant("2025-01-20T00:00:00Z"))
    assert baseline is not None
    rates = (baseline.rates.cache_hit, baseline.rates.cache_miss, baseline.rates.output)
    assert [decimal_text(rate) for rate in rates] == ["15", "15", "60"]


def test_the_example_of_the_documentation_costs_what_it_says(policies: Policies) -> None:
    answer = quote(policies, "deepseek", "deepseek-v4-pro", parse_instant("2026-11-20T02:00:00Z"), 0, MILLION, MILLION).to_json()
    assert (answer["nano"], answer["amount"], answer["window"], answer["verified"]) == (5_280_000_000, "5.28", "peak", True)
    assert answer["warnings"] == []


def test_the_calendar_covers_2026_and_a_later_quote_warns(policies: Policies) -> None:
    calendar = policies.calendars["cn-public-holidays"]
    assert sorted(map(str, calendar.days)) == ["2026-09-25", *(f"2026-10-0{day}" for day in range(1, 8))]
    later = quote(policies, "deepseek", "deepseek-flash", parse_instant("2027-01-04T02:00:00Z"), 0, 0, MILLION).to_json()
    assert (later["amount"], later["window"]) == ("1.2", "peak")
    assert any("cn-public-holidays" in text for text in later["warnings"])


UNVERIFIED = [
    ("deepseek-chat", "USD", "2025-02-10T00:00:00Z"),  # the hour of the change
    ("deepseek-chat", "CNY", "2025-09-10T00:00:00Z"),  # no page found
    ("deepseek-chat", "USD", "2025-12-01T00:00:00Z"),  # the launch hour
    ("deepseek-v4-flash", "USD", "2026-04-25T00:00:00Z"),  # the hit price
    ("deepseek-v4-pro", "CNY", "2026-04-25T00:00:00Z"),  # a user's configuration
]


@pytest.mark.parametrize(("model", "currency", "at"), UNVERIFIED)
def test_a_price_that_rests_on_an_unverified_fact_says_so(policies: Policies, model: str, currency: str, at: str) -> None:
    assert not policies.prices.card("deepseek", model, currency, parse_instant(at)).verified


# Routes

MEANINGS = [
    # route, instant, the client's contract, the first deployment that serves, the first with a key of DeepSeek only
    ("deepseek-chat", "2025-02-01T00:00:00Z", "deepseek-v3", "deepseek/deepseek-chat", "deepseek/deepseek-chat"),
    ("deepseek-chat", "2025-06-01T00:00:00Z", "deepseek-v3-0324", "deepseek/deepseek-chat", "deepseek/deepseek-chat"),
    ("deepseek-chat", "2025-09-01T00:00:00Z", "deepseek-v3.1-chat", "deepseek/deepseek-chat", "deepseek/deepseek-chat"),
    ("deepseek-chat", "2025-10-01T00:00:00Z", "deepseek-v3.2-exp-chat", "deepseek/deepseek-chat", "deepseek/deepseek-chat"),
    ("deepseek-chat", "2026-01-01T00:00:00Z", "deepseek-v3.2-chat", "deepseek/deepseek-chat", "deepseek/deepseek-chat"),
    ("deepseek-chat", "2026-05-01T00:00:00Z", "deepseek-v4-flash-preview", "deepseek/deepseek-chat", "deepseek/deepseek-chat"),
    ("deepseek-chat", "2026-11-21T00:00:00Z", "deepseek-v4-flash-preview", "deepseek/deepseek-flash off", "deepseek/deepseek-flash off"),
    ("deepseek-reasoner", "2025-02-01T00:00:00Z", "deepseek-r1", "deepseek/deepseek-reasoner", "deepseek/deepseek-reasoner"),
    ("deepseek-reasoner", "2025-06-01T00:00:00Z", "deepseek-r1-0528", "deepseek/deepseek-reasoner", "deepseek/deepseek-reasoner"),
    ("deepseek-reasoner", "2025-09-01T00:00:00Z", "deepseek-v3.1-reasoner", "deepseek/deepseek-reasoner", "deepseek/deepseek-reasoner"),
    ("deepseek-reasoner", "2025-10-01T00:00:00Z", "deepseek-v3.2-exp-reasoner", "deepseek/deepseek-reasoner", "deepseek/deepseek-reasoner"),
    ("deepseek-reasoner", "2026-01-01T00:00:00Z", "deepseek-v3.2-reasoner", "deepseek/deepseek-reasoner", "deepseek/deepseek-reasoner"),
    ("deepseek-reasoner", "2026-07-24T15:58:59Z", "deepseek-v4-flash-preview", "deepseek/deepseek-reasoner", "deepseek/deepseek-reasoner"),
    ("deepseek-reasoner", "2026-11-21T00:00:00Z", "deepseek-r1-0528", "openrouter/deepseek/deepseek-r1-0528", "deepseek/deepseek-flash on"),
    ("deepseek-r1", "2025-02-01T00:00:00Z", "deepseek-r1", "deepseek/deepseek-reasoner", "deepseek/deepseek-reasoner"),
    ("deepseek-r1", "2026-11-21T00:00:00Z", "deepseek-r1", "openrouter/deepseek/deepseek-r1-0528", "deepseek/deepseek-flash on"),
    ("deepseek-r1-0528", "2026-11-21T00:00:00Z", "deepseek-r1-0528", "openrouter/deepseek/deepseek-r1-0528", "deepseek/deepseek-flash on"),
    ("deepseek-v3.2", "2026-11-21T00:00:00Z", "deepseek-v3.2", "openrouter/deepseek/deepseek-v3.2", None),
    ("deepseek-v4-flash", "2026-05-01T00:00:00Z", "deepseek-v4-flash-preview", "deepseek/deepseek-v4-flash", "deepseek/deepseek-v4-flash"),
    ("deepseek-v4-flash", "2026-08-01T00:00:00Z", "deepseek-v4-flash", "deepseek/deepseek-v4-flash", "deepseek/deepseek-v4-flash"),
    ("deepseek-v4-flash", "2026-11-21T00:00:00Z", "deepseek-v4.1-flash", "deepseek/deepseek-v4-flash", "deepseek/deepseek-v4-flash"),
    ("deepseek-v4-pro", "2026-05-01T00:00:00Z", "deepseek-v4-pro-preview", "deepseek/deepseek-v4-pro", "deepseek/deepseek-v4-pro"),
    ("deepseek-v4-pro", "2026-11-21T00:00:00Z", "deepseek-v4-pro", "deepseek/deepseek-v4-pro", "deepseek/deepseek-v4-pro"),
    ("deepseek-flash", "2026-11-21T00:00:00Z", "deepseek-v4.1-flash", "deepseek/deepseek-flash", "deepseek/deepseek-flash"),
    ("local", "2026-11-21T00:00:00Z", "openai-plain", "local/gemma3-270m", None),
]


@pytest.mark.parametrize(("name", "at", "contract", "first", "alone"), MEANINGS)
def test_a_name_leads_to_the_first_that_serves(
    policies: Policies, name: str, at: str, contract: str, first: str, alone: str | None
) -> None:
    route, instant = policies.route(name), parse_instant(at)
    assert route is not None and route.contract_at(instant) == contract
    serving = [target for target in route.deployments if policies.deployment(target.host, target.model, instant)]
    names = [f"{target.name} {target.thinking}" if target.thinking else target.name for target in serving]
    assert names[0] == first
    assert next((one for one in names if one.startswith("deepseek/")), None) == alone


def test_no_name_of_a_remote_model_leads_to_a_local_engine(policies: Policies) -> None:
    mixed = {name for name, route in policies.routes.items() if any(policies.hosts[target.host].local for target in route.deployments)}
    assert mixed == {"local"}


def test_every_default_route_clamps_and_keeps_its_order(policies: Policies) -> None:
    assert {(route.choose, route.out_of_range) for route in policies.routes.values()} == {("cheapest", "clamp")}


# What is published stays


def shipped_cards() -> Iterator[CardRow]:
    problems = Problems()
    for name, data in read_folder(default_folder(), KINDS, problems).items():
        if name.startswith("prices/"):
            yield from (entry.row for entry in rows_of(name, data, CardRow, problems))
    assert not problems, problems.lines()


def pin(row: CardRow) -> str:
    """12 hex digits of all that a charge depends on. Source, note, checked and verified may still get better."""
    free = {"source", "note", "checked", "verified"}
    stated = json.loads(row.model_dump_json(exclude=free, exclude_defaults=True))
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:12]


PUBLISHED = """
o1-usd-2024-12-26 287c3928996b
deepseek-chat-cny-2024-12-26 5c369315bc37
deepseek-reasoner-cny-2025-01-20 9b6581683839
deepseek-chat-cny-2025-02-08 0e85b4d47fee
deepseek-chat-cny-2025-02-26 5c5e42dbea88
deepseek-reasoner-cny-2025-02-26 fb61e7392bca
deepseek-v3.1-cny-2025-09-05 63b45902d89d
deepseek-v3.2-cny-2025-09-29 598e353ac8bb
deepseek-v4-flash-cny-2026-04-24 9138af9d50bb
deepseek-v4-aliases-cny-2026-04-24 69dad0e322d2
deepseek-v4-pro-cny-2026-04-24 607a52f89f6c
deepseek-v4-flash-cny-2026-04-26 ec4e384376ec
deepseek-v4-aliases-cny-2026-04-26 0540369c82a3
deepseek-v4-pro-cny-2026-04-26 a43b2c383f81
deepseek-v4-flash-cny-2026-08-16 a190c7e20058
deepseek-v4-pro-cny-2026-08-16 30e9e6c6f891
deepseek-v4-flash-vision-exp-cny-2026-08-21 8c2732c8c178
deepseek-v4-flash-cny-2026-08-22 7b808b40241a
deepseek-v4-pro-cny-2026-08-22 c710961e8252
deepseek-flash-cny-2026-09-10 a36138cc6775
deepseek-flash-cny-2026-09-16 adf0b7f20214
deepseek-v4-pro-cny-2026-09-16 cbf4f7b22dcb
deepseek-chat-usd-2024-12-26 a39a25db63bd
deepseek-reasoner-usd-2025-01-20 b9e8ada8b473
deepseek-chat-usd-2025-02-08 3e3879466d88
deepseek-chat-usd-2025-02-26 ab9724bd1523
deepseek-reasoner-usd-2025-02-26 3c6d717cfdca
deepseek-v3.1-usd-2025-09-05 a53d933f479c
deepseek-v3.2-usd-2025-09-29 d7b2f46e262b
deepseek-v4-flash-usd-2026-04-24 6f96b583d862
deepseek-v4-aliases-usd-2026-04-24 fd312dd3daef
deepseek-v4-pro-usd-2026-04-24 7fcca7e6ecd0
deepseek-v4-flash-usd-2026-04-26 cb836a56f5b1
deepseek-v4-aliases-usd-2026-04-26 f0c2baee60c2
deepseek-v4-pro-usd-2026-04-26 5bd10dffec75
deepseek-v4-flash-usd-2026-08-16 32829278f78f
deepseek-v4-pro-usd-2026-08-16 bcab1ec83a11
deepseek-v4-flash-vision-exp-usd-2026-08-21 694511966705
deepseek-v4-flash-usd-2026-08-22 e14a2c42c8aa
deepseek-v4-pro-usd-2026-08-22 e93633e2edd2
deepseek-flash-usd-2026-09-10 286f1a12c719
deepseek-flash-usd-2026-09-16 9e2454d01ddf
deepseek-v4-pro-usd-2026-09-16 5d3af995ebec
gmi-r1-0528-usd-2025-05-28 e26c0e5c1499
gmi-v3.2-usd-2025-12-01 54ebc97ca105
gmi-v4-flash-usd-2026-04-24 3ee608e56c22
gmi-v4-pro-usd-2026-04-24 eb2dc04e256c
inference-net-v3.2-usd-2025-12-01 c64d68942a4f
local-r1-usd-2024-12-26 cef680ccebbc
local-small-usd-2024-12-26 df8f05493d43
local-vllm-r1-usd-2024-12-26 5156e8359ef5
local-vllm-small-usd-2024-12-26 d42ed4999cde
local-sglang-r1-usd-2024-12-26 4770d65842c7
local-sglang-small-usd-2024-12-26 2eed289645e3
local-ollama-r1-usd-2024-12-26 a46a0cf081cb
local-ollama-small-usd-2024-12-26 598f8c0797e8
nebius-r1-0528-usd-2025-05-28 0000884539b8
nebius-v3.2-usd-2025-12-01 e7821ede48a7
nebius-v4-flash-usd-2026-04-24 b8efd665f6f9
nebius-v4-pro-usd-2026-04-24 1dc65a522e39
nebius-v4-pro-0813-usd-2026-08-13 f365341a0ee4
nebius-v4.1-flash-usd-2026-09-10 5571f4a7cc12
novita-r1-0528-usd-2025-05-28 b7a34a3d98b9
novita-r1-0528-qwen3-8b-usd-2025-05-28 ac8167ba90a9
novita-v3.2-usd-2025-12-01 5489b703e799
novita-v4-flash-usd-2026-04-24 e029257794ac
novita-v4-flash-0731-usd-2026-07-31 00684d5272a6
novita-v4-pro-usd-2026-04-24 4a195d046d73
novita-v4-pro-0813-usd-2026-08-13 dd69f6d61bc6
novita-v4.1-flash-usd-2026-09-10 b4087be9fea0
openrouter-r1-0528-usd-2025-05-28 1a0c85f729ba
openrouter-r1-0528-usd-2026-10-19 8a09e45d5532
openrouter-v3.2-usd-2026-11-09 b191b71c2a2a
openrouter-v4-flash-usd-2026-04-24 446c6bdbf4c3
openrouter-v4-flash-0731-usd-2026-07-31 a2d5fa2ea89d
openrouter-v4-pro-usd-2026-04-24 7bc484efa52a
openrouter-v4-pro-0813-usd-2026-08-13 40ee91a0dcec
openrouter-v4.1-flash-usd-2026-11-03 17a40716dab0
azure-v3.2-usd-2025-12-01 64ddb2935335
azure-v4-flash-usd-2026-04-24 a9399f413ebe
azure-v4-flash-0731-usd-2026-07-31 2677353e0cbb
azure-v4-pro-usd-2026-04-24 19786990bf47
azure-v4.1-flash-usd-2026-09-10 2c9112175913
bedrock-r1-usd-2025-01-20 224dc9d8134c
deepinfra-r1-0528-usd-2025-05-28 2c28c4769f92
deepinfra-r1-0528-turbo-usd-2025-05-28 f2a2e093600d
deepinfra-v3.2-usd-2025-12-01 0927d06ad0d7
deepinfra-v4-flash-usd-2026-04-24 059737ae04b8
deepinfra-v4-flash-0731-usd-2026-07-31 645ff2f0b82b
deepinfra-v4-pro-usd-2026-04-24 cbd69d9e1c92
deepinfra-v4-pro-0813-usd-2026-08-13 72fb4415d941
deepinfra-v4.1-flash-usd-2026-09-10 bfa125d3350a
deepinfra-v4.1-flash-1017-usd-2026-10-17 04b3301eedf2
fireworks-v3.2-usd-2025-12-01 642d87baa084
fireworks-v4.1-flash-usd-2026-09-10 4f712f56c15a
fireworks-v4.1-flash-1017-usd-2026-10-17 1e63d5e0c1ad
fireworks-v4.1-flash-us-usd-2026-09-10 4da96edaff0c
siliconflow-r1-0528-usd-2025-05-28 aeff8a1df878
siliconflow-v3.2-usd-2025-12-01 f3956f2d8a2a
siliconflow-v4-flash-usd-2026-04-24 4aed03ea3c38
siliconflow-v4-pro-usd-2026-04-24 bcb1a3e26326
together-r1-0528-usd-2025-05-28 14050f4fae5d
together-v4-pro-0813-usd-2026-08-13 4619648c9511
together-v4.1-flash-usd-2026-09-10 d7b22771f2c0
together-v4.1-flash-1017-usd-2026-10-17 a297c7e018b5
vertex-v4.1-flash-usd-2026-09-10 6f589a8309a8
"""


def published() -> dict[str, str]:
    return {name: digest for name, digest in (line.split() for line in PUBLISHED.strip().splitlines())}


def test_a_published_card_is_never_edited() -> None:
    now = {row.card: pin(row) for row in shipped_cards()}
    edited = [name for name, digest in published().items() if now.get(name) != digest]
    assert not edited, f"{edited} changed or gone, and the ledger refers to them: put them back, and append a card from the new price on"


def test_every_card_is_pinned() -> None:
    new = {row.card for row in shipped_cards()} - set(published())
    assert not new, f"pin {sorted(new)}: run `python tests/test_shipped_policies.py` and add its lines to PUBLISHED"


# The documentation


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_key_of_the_format_is_documented(kind: str) -> None:
    words = set(re.findall(r"[a-z_]+", DOCUMENT.read_text()))
    assert not set(_keys(schemas()[kind])) - words


def _keys(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _keys(inner)


if __name__ == "__main__":
    for row in shipped_cards():
        if row.card not in published():
            print(row.card, pin(row))
