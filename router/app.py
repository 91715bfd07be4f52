"""The HTTP application: OpenAI's endpoints, Anthropic's messages and a few of our own over one pipeline.

The only place where an error becomes a status. Handlers read the body themselves and answer with bytes: a chat request may be large, and
it is parsed once, in `wire.py`; what differs between the APIs is in `apis.py`. Every route is guarded: nobody gets to a handler who does
not get through the door (`door.py`), and the purse that they come in with is the request's.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

from fastapi import FastAPI
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from adapters.errors import BackendError
from router import logs, render, wire
from router.admin import Admin
from router.apis import CHAT, Api, api_of
from router.door import Door
from router.errors import InvalidRequest, NoAdmin, RouterError, TooLarge, UnknownDecision, UnknownModel, Unusable, from_backend
from router.gate import Gate, Gated
from router.openapi import operation
from router.options import ServerOptions
from router.pipeline_types import Ask, Outcome, Pipeline, new_decision_id
from router.purse import NO_PURSE
from router.streaming import ClientGone, EventStream, LiveAnswer, unbroken, unless_gone

T = TypeVar("T")
Handler = Callable[[Request], Coroutine[Any, Any, Response]]

ANSWERS = ("/v1/chat/completions", "/v1/responses", "/v1/messages")
COUNT = "/v1/messages/count_tokens"
PATHS = (
    *ANSWERS,
    COUNT,
    "/v1/models",
    "/v1/route",
    "/v1/decisions/{id}",
    "/v1/feedback",
    "/health",
    "/ready",
    "/metrics",
)


def create_app(pipeline: Pipeline, server: ServerOptions | None = None, door: Door | None = None, admin: Admin | None = None) -> FastAPI:
    """The application, open to all without a door. It closes the pipeline and the door when it is shut down."""
    door = door or Door()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await pipeline.aclose()
        await door.aclose()

    app = Application(title="Outlay", lifespan=lifespan, redirect_slashes=False, docs_url=None, redoc_url=None)
    app.router.route_class = Guarded
    server = server or ServerOptions()
    gate = Gate(server.max_requests, server.max_header_kb)
    app.state.door, app.state.pipeline, app.state.gate = door, pipeline, gate
    service = Service(pipeline, server, door, admin)
    app.direct = Gated(Direct({path: guarded(service.answer) for path in ANSWERS}), gate)
    app.add_middleware(Gated, gate=gate)
    for method, path, handler in service.routes():
        app.add_api_route(path, handler, methods=[method], response_model=None, openapi_extra=operation(path))
    app.add_exception_handler(HTTPException, _no_such_path)
    return app


def guarded(handler: Handler) -> Handler:
    """A handler behind the door, whose every failure leaves in OpenAI's shape; what is our own fault leaves without details, and is logged
    with its id. Whatever leaves says how much of its rates the key has left."""

    async def behind_the_door(request: Request) -> Response:
        state = request.state
        state.purse, state.headers, state.decision_id = NO_PURSE, plain_headers(request.scope), ""
        try:
            state.purse = request.app.state.door.enter(request.scope["path"], state.headers)
            response = await handler(request)
        except (ClientGone, ClientDisconnect):
            return Response(status_code=499)  # Nobody reads it; proxies' logs know the number.
        except Exception as error:
            found = refusal(error, request.app.state.pipeline, state.decision_id)
            response = error_response(found, await api_of(request.scope["path"]))
        if rates := render.rate_headers(state.purse):
            response.headers.update(rates)
        return response

    return behind_the_door


class Guarded(APIRoute):
    """A route whose handler is guarded."""

    def get_route_handler(self) -> Handler:
        """FastAPI's handler, guarded."""
        return guarded(super().get_route_handler())


class Application(FastAPI):
    """Requests for answers go past FastAPI's middleware and routing, which would cost as much as all that is decided here.

    The routes are FastAPI's all the same: its OpenAPI document and its answers to other methods come from there.
    """

    direct: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in ANSWERS:
            scope["app"] = self
            await self.direct(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


class Direct:
    """Each request to the handler of its path."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        response = await self._handlers[scope["path"]](Request(scope, receive))
        await response(scope, receive, send)


def plain_headers(scope: Scope) -> dict[str, str]:
    """A request's headers by name; of several that are alike, the first."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])}


class Service:
    """The handlers, and what they share."""

    def __init__(self, pipeline: Pipeline, server: ServerOptions, door: Door, admin: Admin | None = None) -> None:
        self._pipeline = pipeline
        self._door = door
        self._admin = admin
        self._server = server
        self._max_body_bytes = int(server.max_body_mb * 1e6)
        self._started = int(time.time())

    def routes(self) -> list[tuple[str, str, Callable[..., Any]]]:
        """Method, path and handler of every endpoint."""
        return [
            *(("POST", path, self.answer) for path in ANSWERS),
            ("POST", COUNT, self.count_tokens),
            ("GET", "/v1/models", self.models),
            ("GET", "/v1/models/{name:path}", self.model),
            ("POST", "/v1/route", self.route),
            ("GET", "/v1/decisions/{id}", self.decision),
            ("POST", "/v1/feedback", self.feedback),
            ("GET", "/admin/keys", self.keys),
            ("GET", "/admin/config", self.config),
            ("PUT", "/admin/config", self.put_config),
            ("POST", "/admin/config/rollback", self.rollback),
            ("GET", "/health", self.health),
            ("GET", "/ready", self.ready),
            ("GET", "/metrics", self.metrics),
        ]

    async def answer(self, request: Request) -> Response:
        """One answer, whole or streamed, in the API of the path."""
        api = await api_of(request.scope["path"])
        incoming = await self._incoming(request, api)
        if incoming.stream:
            return await self._stream(incoming, api)
        outcome = await self._unless_gone(request, incoming.ask, self._pipeline.answer(incoming.ask))
        self._log(incoming.ask, outcome)
        whole = api.whole(incoming, render.completion(outcome, int(time.time())))
        return json_response(whole, headers=render.headers(incoming.ask, outcome))

    async def route(self, request: Request) -> Response:
        """What would be done with this request, and why; nothing is generated."""
        ask = (await self._incoming(request, CHAT)).ask
        return json_response(await self._unless_gone(request, ask, self._pipeline.route(ask)), headers=render.first_headers(ask))

    async def count_tokens(self, request: Request) -> Response:
        """How long the prompt of a message is, as the backend counts that would likely be asked: mostly an estimate. Nothing is paid."""
        incoming = await self._incoming(request, await api_of(COUNT))
        return json_response({"input_tokens": self._pipeline.count_tokens(incoming.ask)})

    async def models(self, request: Request) -> Response:
        """Every name that a client may put in `model`."""
        cards = self._pipeline.models(request.state.purse.key)
        return json_response({"object": "list", "data": [render.model_card(card, self._started) for card in cards]})

    async def model(self, name: str, request: Request) -> Response:
        """One of them."""
        cards = {card.id: card for card in self._pipeline.models(request.state.purse.key)}
        if name not in cards:
            raise UnknownModel(name, cards)
        return json_response(render.model_card(cards[name], self._started))

    async def decision(self, id: str, request: Request) -> Response:
        """Why a past request got what it got."""
        found = await self._pipeline.decision(id, request.state.purse.owner)
        if found is None:
            raise UnknownDecision(f"no decision '{id[:80]}' is remembered; ids come in the header x-outlay-decision-id", param="id")
        return json_response(found)

    async def feedback(self, request: Request) -> Response:
        """Somebody who knows says how right an answer is."""
        given = replace(wire.parse_feedback(await self._json_body(request)), key=request.state.purse.owner)
        return json_response(render.feedback(given, await self._pipeline.feedback(given)))

    async def keys(self) -> Response:
        """What each key may spend, and has spent; for a key that may."""
        return json_response({"object": "list", "data": await self._door.usage()})

    async def config(self) -> Response:
        """The configuration in use, without its secrets."""
        admin = self._administered()
        return json_response(admin.shown(), headers={"etag": admin.etag})

    async def put_config(self, request: Request) -> Response:
        """Use another one, in YAML or JSON; what cannot be used changes nothing."""
        admin, body = self._administered(), await self._body(request)
        try:
            text = body.decode()
        except UnicodeDecodeError:
            raise Unusable("the body is not UTF-8 text; send YAML or JSON") from None
        await admin.put(text, request.headers.get("if-match"))
        return await self.config()

    async def rollback(self) -> Response:
        """Use the one before."""
        await self._administered().rollback()
        return await self.config()

    def _administered(self) -> Admin:
        if self._admin is None:
            raise NoAdmin("no path /admin/config: this server was started without a configuration file")
        return self._admin

    async def health(self) -> Response:
        """Whether the process lives."""
        return json_response({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Whether requests can be answered: with at least one backend. Whatever else is down is done without, and named."""
        if request.app.state.gate.going:
            return json_response({"status": "stopping", "components": {}}, status=503)
        components = await self._pipeline.ready()
        backends = [state for name, state in components.items() if name.startswith("backend:")]
        up = "ok" in backends or not backends
        status = "unready" if not up else "ready" if set(components.values()) <= {"ok"} else "degraded"
        return json_response({"status": status, "components": dict(components)}, status=200 if up else 503)

    async def metrics(self) -> Response:
        """What Prometheus scrapes; where there are keys, for one that may."""
        return Response(self._pipeline.measured(), media_type=CONTENT_TYPE_LATEST)

    # --- parts of the way ---------------------------------------------------------------------------------------------

    async def _incoming(self, request: Request, api: Api) -> wire.Incoming:
        body, state = await self._json_body(request), request.state
        incoming = api.parse(body, state.headers, max_messages=self._server.max_messages, purse=state.purse)
        state.decision_id = incoming.ask.id
        return incoming

    async def _json_body(self, request: Request) -> bytes:
        if "json" not in request.state.headers.get("content-type", ""):
            # Also what keeps a web page from spending money here: a browser asks before it sends JSON to another site.
            raise InvalidRequest("the body must be JSON; send the header content-type: application/json", code="invalid_content_type")
        return await self._body(request)

    async def _body(self, request: Request) -> bytes:
        """The body, as long as it is within the limit; read no further than that."""
        body, more = bytearray(), True
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._max_body_bytes:
                raise TooLarge(f"the body is over {self._server.max_body_mb:g} MB, the limit of this server (server.max_body_mb)")
        return bytes(body)

    async def _unless_gone(self, request: Request, ask: Ask, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await unless_gone(request.receive, unbroken(work))
        except ClientGone:
            logs.abandoned(ask)
            raise

    async def _stream(self, incoming: wire.Incoming, api: Api) -> Response:
        """Headers go out with the first news, so that what fails at once fails with its own status."""
        ask, live = incoming.ask, LiveAnswer(self._pipeline, incoming.ask)
        try:
            outcome = await live.first_news(self._server.first_event_s)
        except BaseException:
            await live.aclose()
            raise
        chunks = render.Chunks(ask, int(time.time()), include_usage=incoming.include_usage)
        headers = render.first_headers(ask) if outcome is None else render.headers(ask, outcome)
        events = api.events(incoming, live.batches(chunks, self._server.keep_alive_s))
        return EventStream(
            live, events, headers, api,
            to_error=lambda error: refusal(error, self._pipeline, ask.id), on_end=lambda outcome: self._log(ask, outcome),
        )  # fmt: skip

    def _log(self, ask: Ask, outcome: Outcome | None) -> None:
        if outcome is None:
            logs.abandoned(ask)
        else:
            logs.answered(ask, outcome, with_prompt=self._server.log_prompts)


# --- errors -------------------------------------------------------------------------------------------------------------


def refusal(error: Exception, pipeline: Pipeline, decision_id: str) -> RouterError:
    """What the caller is told, counted; one of the server's side has a line in the log."""
    found = to_error(error, decision_id)
    pipeline.refused(found)
    if found.status >= 500:
        logs.refused(found)
    return found


def to_error(error: Exception, decision_id: str) -> RouterError:
    """What the caller is told. A failure of our own is logged here, and shows nothing but the id that it is logged under: the decision's,
    where it came to one."""
    if isinstance(error, RouterError):
        return error
    if isinstance(error, BackendError):
        return from_backend(error)
    id = decision_id or new_decision_id().replace("dec_", "err_")
    logs.failed(id, error)
    found = RouterError(f"internal error {id}; the server's log says more", code="internal_error")
    found.decision_id = decision_id or None
    return found


def error_response(error: RouterError, api: Api = CHAT) -> Response:
    """An error as a response, in the shape of an API."""
    return json_response(api.error(error), status=error.status, headers=render.error_headers(error))


def json_response(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON as a response."""
    return Response(render.dumps(value), status, headers, "application/json")


async def _no_such_path(request: Request, error: Exception) -> Response:
    """404 and 405 of the router itself."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        found = InvalidRequest(f"{request.method} is not for {request.url.path}; use {allowed}", code="method_not_allowed")
    else:
        found = InvalidRequest(f"no path {request.url.path}; have {', '.join(PATHS)}", code="not_found")
    found.status = error.status_code
    return json_response((await api_of(request.url.path)).error(found), status=found.status, headers=error.headers)
