"""Keys: the file and the commands that change it, who a request is, and what the `openai` client makes of each refusal."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer
from typer.testing import CliRunner

from adapters.ledger import MemoryLedger
from adapters.scripted import ScriptedBackend
from router import asking
from router.app import create_app
from router.cli import cli, main
from router.config import Config, load
from router.door import Door, open_door
from router.errors import ConfigError, Unauthorized
from router.keys import Key, KeyFile, KeyRing, digest_of, new_key, read_keys
from router.keys_file import added, revoked
from router.teller import Teller
from tests.router.test_purse import router

NAMES = (["balanced", "other"], ["small", "large"])
QUESTION: Any = [{"role": "user", "content": "hello"}]


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def kept(path: Path, **options: Any) -> str:
    """A new key in the file; the key itself."""
    secret, key = new_key("test", **options)
    added(path, key)
    return secret


def bearer(secret: str) -> Mapping[str, str]:
    return {"authorization": f"Bearer {secret}"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


# --- the file -----------------------------------------------------------------------------------------------------------


def test_the_file_holds_no_key(file: Path) -> None:
    """What is kept is a digest, from which nobody gets back to the key; only its owner may read even that."""
    secret = kept(file)
    assert secret not in file.read_text()
    assert secret.rpartition("-")[2] not in file.read_text()
    assert read_keys(file).keys[0].digest == digest_of(secret)
    assert os.stat(file).st_mode & 0o777 == 0o600


def test_what_is_written_is_read(file: Path) -> None:
    """Every option of a key comes back as it was."""
    options = {
        "tenant": "a", "policy": "balanced", "models": ["small"], "backends": ["small"], "limits": {"cost_usd": 0.1}, "admin": True,
        "budget_usd": {"day": 0.5}, "requests": {"minute": 6}, "tokens": {"month": 7},
    }  # fmt: skip
    kept(file, **options)
    (key,) = read_keys(file).keys
    assert {name: value for name, value in key.model_dump(mode="json", exclude_defaults=True).items() if name in options} == options
    assert key.account.limits == (6, None, None, None, 500_000_000, None, None, None, 7)


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"digest": "sk-outlay-12345678-secret"}, "keys[0].digest: must be 64 hexadecimal digits"),
        ({"budget_usd": {"week": 1}}, "keys[0].budget_usd.week: no such key"),
        ({"budget_usd": {"day": 1e9}}, "less than or equal to 9000000"),
        ({"policy": "balancd"}, "keys[0].policy: no policy 'balancd'; have 'balanced', 'other'; did you mean 'balanced'?"),
        ({"models": ["balanced"]}, "keys[0].models: no model 'balanced'"),
        ({"backends": ["huge"]}, "keys[0].backends: no backend 'huge'"),
    ],
)
def test_a_mistake_in_the_file_is_shown_at_its_place(file: Path, row: dict[str, Any], hint: str) -> None:
    """As for a configuration; and a key that somebody wrote there by mistake is not repeated."""
    file.write_text(yaml.safe_dump({"keys": [{"id": "12345678", "digest": "0" * 64, "name": "x", **row}]}))
    with pytest.raises(ConfigError) as wrong:
        KeyRing(file, *NAMES)
    assert hint in str(wrong.value)
    assert "secret" not in str(wrong.value)


def test_an_id_stands_once(file: Path) -> None:
    """Two keys of one id could not be told apart."""
    with pytest.raises(ValueError, match="the same id stands twice"):
        KeyFile(keys=(Key(id="1" * 8, digest="0" * 64, name="a"),) * 2)


# --- who it is ----------------------------------------------------------------------------------------------------------


def test_a_key_is_known_by_either_header(file: Path) -> None:
    """OpenAI's and Anthropic's clients send it under different names."""
    secret = kept(file)
    ring = KeyRing(file, *NAMES)
    assert ring.key_of(bearer(secret)) == ring.key_of({"x-api-key": secret}) == read_keys(file).keys[0]


@pytest.mark.parametrize("spoilt", ["", "sk-none", "{id}", "{secret}x", "sk-outlay-00000000-{tail}", "sk-outlay-{id}-" + "A" * 43])
def test_what_is_not_the_key_is_refused(file: Path, spoilt: str) -> None:
    """Nothing else opens the door, and no message repeats what was given."""
    secret = kept(file)
    _, _, id, tail = secret.split("-", 3)
    given = spoilt.format(id=id, secret=secret, tail=tail)
    with pytest.raises(Unauthorized) as refused:
        KeyRing(file, *NAMES).key_of(bearer(given))
    assert tail not in refused.value.message


def test_nobodys_key_opens_nothing(file: Path) -> None:
    """The null key of an open server has no secret that anybody could send."""
    kept(file)
    with pytest.raises(Unauthorized):
        KeyRing(file, *NAMES).key_of(bearer("sk-outlay-00000000-" + "0" * 43))


def test_a_key_that_is_revoked_or_added_counts_within_a_second(file: Path) -> None:
    """The file is looked at again; until then the keys last read go on."""
    secret, clock = kept(file), Clock()
    ring = KeyRing(file, *NAMES, clock=clock)
    revoked(file, ring.keys[0].id)
    later = kept(file)
    assert ring.key_of(bearer(secret))
    clock.now = 1.0
    with pytest.raises(Unauthorized, match="was revoked"):
        ring.key_of(bearer(secret))
    assert ring.key_of(bearer(later))


def test_a_file_that_breaks_changes_nothing(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The keys last read go on, and the log says what is wrong, once."""
    secret, clock = kept(file), Clock()
    ring = KeyRing(file, *NAMES, clock=clock)
    file.write_text("keys: [")
    with caplog.at_level(logging.ERROR, "outlay"):
        for clock.now in (1.0, 2.0, 3.0):
            assert ring.key_of(bearer(secret))
    assert len(caplog.records) == 1
    assert "not valid YAML" in caplog.text


def test_a_server_that_asks_for_keys_does_not_start_without_them(tmp_path: Path) -> None:
    """A file that is not there must not leave the door open."""
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        open_door(a_config(tmp_path / "none.yaml"))


def a_config(path: Path, **options: Any) -> Config:
    raw = {
        "backends": {name: {"kind": "scripted"} for name in NAMES[1]},
        "policies": {"balanced": {"rules": [{"otherwise": {"single": {"backend": "small"}}}]}},
        "keys": {"path": str(path), **options},
    }
    return Config.model_validate(raw)


def test_every_option_reaches_what_it_steers(file: Path) -> None:
    """Ledger, lease, waits and what is done while Redis is down."""
    kept(file)
    teller = open_door(a_config(file, ledger="redis://localhost:1/0", lease_s=7, wait_s=3, timeout_s=2, when_down="refuse"))._teller
    assert teller is not None
    ledger: Any = teller.ledger
    assert (teller.wait_s, ledger._lease_s, ledger._when_down, ledger._link._timeout_s) == (3, 7, "refuse", 2)


# --- commands -----------------------------------------------------------------------------------------------------------


def test_a_key_is_created_listed_and_revoked(file: Path) -> None:
    """The key is printed alone, so that a script can take it; the list shows ids and limits and no digest."""
    options = ["--usd-day", "5", "--requests-minute", "60", "--model", "small", "--file", str(file)]
    made = CliRunner().invoke(cli, ["keys", "create", "web", *options])
    secret = made.stdout.strip()
    key = KeyRing(file, *NAMES).key_of(bearer(secret))
    listed = CliRunner().invoke(cli, ["keys", "list", "--file", str(file)]).stdout
    assert listed == f"{key.id}  web  models=small  budget_usd=5/day  requests=60/minute\n"
    assert CliRunner().invoke(cli, ["keys", "revoke", key.id, "--file", str(file)]).exit_code == 0
    assert read_keys(file).keys[0].revoked


def test_the_configuration_names_the_file(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --file it is keys.path; a configuration without keys says what to do."""
    config = tmp_path / "outlay.yaml"
    config.write_text(yaml.safe_dump(a_config(file).model_dump(mode="json", include={"keys"}) | BASE))
    assert CliRunner().invoke(cli, ["keys", "create", "web", "--config", str(config)]).exit_code == 0
    assert load(config).keys is not None
    assert len(read_keys(file).keys) == 1
    config.write_text(yaml.safe_dump(BASE))
    with pytest.raises(SystemExit):
        main(["keys", "list", "--config", str(config)])
    assert "or give --file" in capsys.readouterr().err


BASE = {
    "backends": {"small": {"kind": "scripted"}},
    "policies": {"balanced": {"rules": [{"otherwise": {"single": {"backend": "small"}}}]}},
}


def test_an_option_that_cannot_be_is_one_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And no key is made."""
    with pytest.raises(SystemExit):
        main(["keys", "create", "web", "--usd-day", "-1", "--file", str(file)])
    assert "budget_usd.day: Input should be greater than 0; found -1" in capsys.readouterr().err
    assert not file.exists()


async def test_ask_sends_the_key_that_it_is_given() -> None:
    """A gateway that asks for keys can be asked from the shell."""
    seen = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("authorization"))
        return web.json_response({"choices": [{"message": {"content": "6"}}]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    async with TestServer(app) as server:
        for key in ("sk-outlay-x", None):
            await asking.there(str(server.make_url("/")), asking.body_of("hi", "auto"), seen.append, key)
    assert seen == ["Bearer sk-outlay-x", "6", None, "6"]


async def test_ask_says_where_it_takes_a_key_from() -> None:
    """Where one is asked for and none was given."""

    async def refuse(request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "no key"}}, status=401)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", refuse)
    async with TestServer(app) as server:
        for key, said in ((None, "no key; `outlay ask` takes it from OUTLAY_API_KEY"), ("sk-outlay-x", "no key")):
            with pytest.raises(asking.Refused) as refused:
                await asking.there(str(server.make_url("/")), asking.body_of("hi", "auto"), print, key)
            assert str(refused.value) == said


# --- as the `openai` client sees it -------------------------------------------------------------------------------------

Client = Callable[..., openai.AsyncOpenAI]


@pytest.fixture
async def client(file: Path) -> AsyncIterator[Client]:
    """Makes clients of one gateway that asks for keys: `client(requests={"minute": 1})` has a new key with these options."""
    kept(file)
    clock, gateway = Clock(), router()
    ring = KeyRing(file, *NAMES, clock=clock)
    app = create_app(gateway, door=Door(ring, Teller(MemoryLedger(clock=lambda: 600.0), 0)))
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://outlay")

    def make(secret: str | None = None, **options: Any) -> openai.AsyncOpenAI:
        secret = kept(file, **options) if secret is None else secret
        clock.now += 1
        return openai.AsyncOpenAI(api_key=secret, base_url="http://outlay/v1", http_client=http, max_retries=0)

    yield make
    await http.aclose()


async def ask(client: openai.AsyncOpenAI, model: str = "small", **more: Any) -> Any:
    return await client.chat.completions.with_raw_response.create(model=model, messages=QUESTION, max_tokens=40, **more)


async def test_a_good_key_is_answered_and_told_its_rates(client: Client) -> None:
    """In OpenAI's headers, on plain answers and on streams; a key without rates has none of them."""
    mine = client(requests={"minute": 9}, tokens={"minute": 1000})
    answer = await ask(mine)
    shown = {name: value for name, value in answer.headers.items() if name.startswith("x-ratelimit")}
    used = answer.parse().usage.total_tokens
    assert shown == {
        "x-ratelimit-limit-requests": "9", "x-ratelimit-remaining-requests": "8", "x-ratelimit-reset-requests": "60s",
        "x-ratelimit-limit-tokens": "1000", "x-ratelimit-remaining-tokens": str(1000 - used), "x-ratelimit-reset-tokens": "60s",
    }  # fmt: skip
    streamed = await ask(mine, stream=True)
    assert streamed.headers["x-ratelimit-remaining-requests"] == "7"
    assert "x-ratelimit-limit-requests" not in (await ask(client())).headers


async def test_a_key_that_is_not_known_is_an_authentication_error(client: Client) -> None:
    """401 on every path but those of a load balancer, before a body is read."""
    stranger = client("sk-nobody")
    for call in (ask(stranger), stranger.models.list()):
        with pytest.raises(openai.AuthenticationError) as refused:
            await call
        assert refused.value.code == "invalid_api_key"
        assert refused.value.response.headers["www-authenticate"] == "Bearer"
    http: Any = stranger._client
    assert [(await http.get(path)).status_code for path in ("/health", "/ready", "/v1/decisions/x", "/admin/keys")] == [200, 200, 401, 401]


async def test_a_model_of_others_is_a_permission_error(client: Client) -> None:
    """403, and the list of models does not show it."""
    mine = client(models=["small"])
    with pytest.raises(openai.PermissionDeniedError, match="may not use model 'large'"):
        await ask(mine, "large")
    assert [model.id async for model in await mine.models.list()] == ["small"]


async def test_a_rate_is_a_rate_limit_error_with_the_time_to_come_back(client: Client) -> None:
    """429 with `Retry-After`, which the client waits for by itself where it retries; also for a stream."""
    mine = client(requests={"minute": 1})
    await ask(mine)
    for stream in (False, True):
        with pytest.raises(openai.RateLimitError) as refused:
            await ask(mine, stream=stream)
        assert (refused.value.code, refused.value.type) == ("rate_limit_exceeded", "requests")
        assert refused.value.response.headers["retry-after"] == "60"
        assert refused.value.response.headers["x-ratelimit-remaining-requests"] == "0"


async def test_a_budget_is_insufficient_quota(client: Client) -> None:
    """OpenAI's own code for it."""
    mine = client(budget_usd={"month": 45})
    await ask(mine)
    with pytest.raises(openai.RateLimitError) as refused:
        await ask(mine)
    assert refused.value.code == refused.value.type == "insufficient_quota"
    assert int(refused.value.response.headers["retry-after"]) > 86400


async def test_a_decision_is_shown_to_its_owner_only(client: Client) -> None:
    """Another key gets what it would get for a decision that never was, to look at as to judge."""
    mine, other = client(), client()
    id = (await ask(mine)).headers["x-outlay-decision-id"]
    http: Any = mine._client
    for path, body in ((f"/v1/decisions/{id}", None), ("/v1/feedback", {"decision_id": id, "label": 1})):
        found = [
            (await http.request("POST" if body else "GET", path, json=body, headers=bearer(one.api_key))).status_code
            for one in (mine, other)
        ]
        assert found == [200, 404]


async def test_models_keep_what_they_read_apart_by_key_and_namespace(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a prompt that is suddenly cheap would tell a tenant that another had asked it."""
    scopes, complete = list[str](), ScriptedBackend.complete
    monkeypatch.setattr(ScriptedBackend, "complete", lambda self, request, call: scopes.append(call.scope) or complete(self, request, call))
    mine, other = client(tenant="mine"), client(tenant="mine/x")
    for one, namespace in ((mine, ""), (mine, ""), (mine, "x/y"), (other, ""), (other, "y")):
        await ask(one, extra_body={"cache": {"no-cache": True, **({"namespace": namespace} if namespace else {})}})
    assert scopes[0] == scopes[1]
    assert len(set(scopes)) == 4


async def test_an_admin_key_sees_what_each_key_spends(client: Client) -> None:
    """And no other does; no digest is shown."""
    mine, admin = client(budget_usd={"day": 100}), client(admin=True)
    await ask(mine)
    http: Any = mine._client
    assert (await http.get("/admin/keys", headers=bearer(mine.api_key))).status_code == 403
    shown = await http.get("/admin/keys", headers=bearer(admin.api_key))
    (row,) = (row for row in shown.json()["data"] if row["id"] == mine.api_key.split("-")[2])
    assert (row["used"]["usd"]["day"], row["used"]["requests"]["minute"], row["budget_usd"]["day"]) == (10, 1, 100)
    assert "digest" not in shown.text


async def test_an_open_server_has_no_admin_endpoints() -> None:
    """Where nobody is asked for a key, nobody is an administrator: there is no such path."""
    app = create_app(router())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://outlay") as http:
        assert (await http.get("/admin/keys")).status_code == 404
        assert (await http.get("/v1/models")).status_code == 200


async def test_no_key_is_in_the_log_or_in_the_decision(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """Neither of an answer nor of a refusal."""
    mine = client(models=["small"])
    with caplog.at_level(logging.DEBUG):
        answer = await ask(mine)
        with pytest.raises(openai.PermissionDeniedError) as refused:
            await ask(mine, "large")
    for said in (caplog.text, answer.text, refused.value.response.text):
        assert mine.api_key.split("-", 3)[3] not in said
