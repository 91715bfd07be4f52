"""Every provider that LiteLLM knows, by LiteLLM's names for the models (`anthropic/claude-...`, `bedrock/...`), through its library.

A call costs about 5 ms of CPU, so what speaks OpenAI's protocol goes through `openai.py` instead. LiteLLM is imported when the first
backend of this kind is built (3 s), reads its price list from its package and not from the network, and neither retries nor reports home.
"""

from __future__ import annotations

import asyncio
import logging
import os
import warnings
from collections.abc import AsyncIterator, Collection
from contextlib import aclosing
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr

from adapters.errors import BackendError, BackendRefused, BackendTimeout
from adapters.openai_wire import StreamReader, body_of, error_for, read_answer, retry_after_s, unreached, with_usage
from adapters.options import BY_FILE, RemoteOptions, redacted, resolve_secret
from adapters.pricing import estimate_input_tokens, listed
from adapters.traceparent import trace_headers
from adapters.types import Call, ChatRequest, Delta, Features, Price

CODES = {"ContextWindowExceededError": "context_length_exceeded", "ContentPolicyViolationError": "content_policy_violation"}
"""LiteLLM's names for refusals that have a code of their own in OpenAI's API."""

TAKEN = frozenset({"ClientPayloadError", "JSONDecodeError", "ReadTimeout"})
"""Errors below LiteLLM's own that say that the provider has the request, and may charge it: its answer broke off, or did not come."""

UNREACHED = frozenset({"ConnectError", "ConnectTimeout"})
"""Those that say that there is no connection to it; LiteLLM puts the address into its own words for that."""

REQUEST_FIELDS = frozenset(
    {
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "metadata",
        "modalities",
        "parallel_tool_calls",
        "prediction",
    }
    | {"presence_penalty", "prompt_cache_key", "prompt_cache_retention", "reasoning_effort", "response_format", "safety_identifier"}
    | {"service_tier", "store", "thinking", "tool_choice", "tools", "top_logprobs", "user", "verbosity", "web_search_options"}
)
"""What a caller may say beyond the typed fields. LiteLLM takes addresses, keys and headers by the same door, so no other name passes."""

SECRET = ("key", "secret", "token", "password")
"""Arguments with one of these in their name are never shown."""

LOGGERS = ("LiteLLM", "LiteLLM Router")
"""Those that its library logs to."""


class LiteLLMOptions(RemoteOptions):
    """Which model, and what LiteLLM is to be told about it."""

    kind: Literal["litellm"] = "litellm"
    api_key: Annotated[SecretStr | None, BY_FILE] = Field(
        None, description="the provider's key, or os.environ/NAME; unset: the variable that LiteLLM reads for this provider"
    )
    api_base: Annotated[str | None, BY_FILE] = Field(None, description="where the provider's API is, if not where LiteLLM thinks")
    drop_params: bool = Field(False, description="leave out what the provider does not support, instead of refusing the request")
    litellm_params: Annotated[dict[str, Any], BY_FILE] = Field(
        {}, description="further arguments of litellm.acompletion; texts may be os.environ/NAME"
    )
    request_fields: Annotated[frozenset[str], BY_FILE] = Field(
        frozenset(), description="further fields of a caller's request that are passed on; never one that says where to go or with what key"
    )
    native_n: bool = Field(False, description="the provider draws several answers in one call")
    continues_prefix: bool = Field(False, description="the provider goes on from a last message of the assistant's (`prefix: true`)")
    logprobs: bool = Field(False, description="the provider gives log-probabilities")


class LiteLLMBackend:
    """One model, through LiteLLM."""

    def __init__(self, name: str, options: LiteLLMOptions) -> None:
        self.name = name
        self._options = options
        line = listed(options.model)
        self.price = options.price or (line.price if line else Price())
        context = options.max_context or (line.max_context if line else None)
        can = (options.continues_prefix, options.native_n, options.logprobs)
        self.features = Features(*can, context, options.max_tokens, options.caches_prefix, line.max_output if line else None)
        self._params = _params(name, options)
        self._request_fields = REQUEST_FIELDS | options.request_fields
        self._secrets = [v for k, v in self._params.items() if isinstance(v, str) and any(word in k for word in SECRET)]
        self._litellm = import_litellm()

    async def complete(self, request: ChatRequest, call: Call) -> None:
        """One call; providers without `n` give one answer whatever it says."""
        answer = await self._ask(request, call, stream=False)
        read_answer(self.name, answer.model_dump(warnings=False), call)
        self._charge(call, getattr(answer, "_hidden_params", {}).get("response_cost"))

    async def stream(self, request: ChatRequest, call: Call) -> AsyncIterator[Delta]:
        """The answer as it comes; LiteLLM counts the tokens where the provider does not."""
        chunks = await self._ask(request, call, stream=True)
        reader, cancelled = StreamReader(self.name, call), False
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    for delta in reader.read(chunk.model_dump(warnings=False)):
                        yield delta
            for delta in reader.finish(done=True):
                yield delta
        except self._litellm.exceptions.openai.OpenAIError as error:
            raise self._error(error) from None
        except (asyncio.CancelledError, GeneratorExit):
            cancelled = True
            raise
        finally:
            reader.end(cancelled)
            self._charge(call, call.reported_usd)

    def count_tokens(self, request: ChatRequest) -> int:
        """An estimate: about four bytes a token. LiteLLM's own counter loads tokenizers and takes milliseconds."""
        return estimate_input_tokens(request)

    async def aclose(self) -> None:
        """Nothing of our own: LiteLLM shares its connections among all its models and closes them when the process ends."""

    async def _ask(self, request: ChatRequest, call: Call, *, stream: bool) -> Any:
        """LiteLLM's answer or stream. The prompt is charged from here on, unless the provider did not take it."""
        self._check_fields(request)
        body = body_of(request, self._options.model, self._options.max_tokens)
        if request.continue_final:
            body["messages"][-1] = {**body["messages"][-1], "prefix": True}
        call.input_tokens, call.estimated = self.count_tokens(request), True
        try:
            return await self._litellm.acompletion(**{**(with_usage(body) if stream else body), **self._params, **self._traced()})
        except self._litellm.exceptions.openai.OpenAIError as error:
            if _behind(error, TAKEN) is None:
                call.input_tokens, call.estimated = 0, False
            raise self._error(error) from None

    def _traced(self) -> dict[str, Any]:
        """The headers that let the provider join the trace, beside those that the operator gave."""
        traced = trace_headers()
        return {"extra_headers": {**(self._params.get("extra_headers") or {}), **traced}} if traced else {}

    def _check_fields(self, request: ChatRequest) -> None:
        """Raises BackendRefused for a field that LiteLLM might take for an instruction of the operator's."""
        if wrong := sorted(request.extra.keys() - self._request_fields):
            message = f"the field '{wrong[0][:80]}' is not passed on; an operator may allow it by request_fields"
            raise BackendRefused(self.name, message, code="unknown_parameter")

    def _charge(self, call: Call, cost_usd: float | None) -> None:
        """LiteLLM's figure knows of cached prompts and the like; a configured price wins over it."""
        call.reported_usd = None if self._options.price is not None else cost_usd or None

    def _error(self, error: Exception) -> BackendError:
        """Our error for one of LiteLLM's; its message is cut to what the provider said, without the traceback that may follow."""
        if (lost := _behind(error, UNREACHED)) is not None:
            return unreached(self.name, type(lost.__cause__ or lost).__name__, str(self._params.get("api_base") or ""))
        said = redacted(str(error).strip().split("\n")[0][:500], self._secrets)
        if isinstance(error, self._litellm.Timeout):
            return BackendTimeout(self.name, said)
        headers = getattr(error, "litellm_response_headers", None) or {}
        status = int(getattr(error, "status_code", None) or 500)
        if "LLM Provider NOT provided" in said:  # a wrong name in our configuration, which LiteLLM reports like a caller's mistake
            status = 404
        return error_for(self.name, status, said, CODES.get(type(error).__name__), retry_after_s(headers))


def _behind(error: BaseException | None, names: Collection[str]) -> BaseException | None:
    """The first error of one of these names among those that led to it."""
    return error if error is None or type(error).__name__ in names else _behind(error.__cause__ or error.__context__, names)


def import_litellm() -> Any:
    """LiteLLM, told to stay at home: it fetches its price list when it is imported, unless this variable is set before.

    And to be silent: it logs every call, and in its warnings what callers wrote. What went wrong is in the error that it raises; to see all
    the same what it does, set LITELLM_LOG.
    """
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    warnings.filterwarnings("ignore", "Item .* on TypedDict class", UserWarning)  # pydantic's, on LiteLLM's own types
    import litellm

    litellm.telemetry, litellm.suppress_debug_info = False, True
    if "LITELLM_LOG" not in os.environ:
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return litellm


def _params(name: str, options: LiteLLMOptions) -> dict[str, Any]:
    """The arguments that are the same for each call. Retrying is the router's business, and metered there."""
    where = f"backends.{name}.litellm_params"
    params = {k: resolve_secret(v, f"{where}.{k}") if isinstance(v, str) else v for k, v in options.litellm_params.items()}
    if options.api_key is not None:
        params["api_key"] = resolve_secret(options.api_key.get_secret_value(), f"backends.{name}.api_key")
    if options.api_base is not None:
        params["api_base"] = options.api_base
    # Its gateway for MCP looks at every tool, and needs a package that LiteLLM does not bring: without it no tool could be called.
    ours = {"num_retries": 0, "max_retries": 0, "_skip_mcp_handler": True}
    return {"timeout": options.timeout_s, "drop_params": options.drop_params, **params, **ours}
