"""From a configuration to a router: every part built once, in one place. Heavy libraries are imported by the parts that need them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from adapters.backends import build_backends
from adapters.cache import build_cache
from adapters.errors import AdapterError
from adapters.event_log import EventWriter, FileSink, RedisSink, Sink
from adapters.services import judges, services
from adapters.sums import build_sums, is_redis
from adapters.tallies import build_tallies
from adapters.types import Backend, Price, Verifier
from adapters.verifiers import build_verifier
from difficulty.curves import Curves, CurvesError
from difficulty.errors import DifficultyError, EncoderError
from difficulty.probe import Probe
from difficulty.service import ProbeService
from difficulty.tiers import TierProbe, by_rank
from difficulty.versions import resolved
from policies.facts import Market
from router.certificate import held_to
from router.config import Config
from router.engine import answerers
from router.errors import ConfigError
from router.lessons import Lessons
from router.metrics import Metrics
from router.online import Online
from router.options import FeedbackOptions, LogOptions, ProbeOptions, ShadowOptions
from router.parts import Estimator, Parts
from router.pipeline import Router
from router.record import DecisionLog
from router.shadow import Compared, Shadow
from router.similar import open_similar
from router.tracing import Tracing
from router.watch import Watch

logger = logging.getLogger("outlay")


Before = tuple[Config, Router]
"""What is in use: what a new configuration leaves as it is, is taken from it."""


def assemble(config: Config, before: Before | None = None) -> Router:
    """The router of a configuration. Raises ConfigError where something that it names cannot be built."""
    try:
        built = parts(config, before)
        held = replace(built, accepted=held_to(config, built))
        beside = online(config, held, before)
    except (AdapterError, DifficultyError, CurvesError) as error:
        raise ConfigError(str(error)) from error
    if before is None:
        return Router(held, DecisionLog(config.server.decisions), beside, Metrics(config.metrics))
    old = before[1]
    return Router(held, old.log, beside, old.metrics, old.memory)


def parts(config: Config, before: Before | None = None) -> Parts:
    """Everything that the configuration names. Raises AdapterError, DifficultyError or CurvesError."""
    was, had = (before[0], before[1].parts) if before else (None, None)
    kept = {name: had.backends[name] for name in config.backends if _same_backend(name, config, was)} if was and had else {}
    backends = build_backends(config.backends, kept)
    verifiers = {name: build_verifier(name, options, backends) for name, options in config.verifiers.items()}
    if was and had:
        verifiers |= {name: had.verifiers[name] for name in verifiers if _same_verifier(name, config, was)}
    sold = market(backends, verifiers, Curves.load(located(config.curves)) if config.curves else Curves())
    whom = services(config.backends)
    same_cache, same_budgets = was is not None and was.cache == config.cache, was is not None and was.budgets == config.budgets
    return Parts(
        backends=backends,
        verifiers=verifiers,
        policies=dict(config.policies),
        default_policy=config.default_policy,
        services=whom,
        judges=judges(config.verifiers, whom),
        splits=config.splits,
        shadow_policies=config.shadow_policies,
        market=sold,
        probe=_probe(config, sold.by_price(backends), before),
        probe_from=_probe_from(config, sold.by_price(backends)),
        probe_price=config.probe.price,
        when_unavailable=config.probe.when_unavailable,
        cache=had.cache if had and same_cache else build_cache(config.cache.url) if config.cache else None,
        cache_ttl_s=config.cache.ttl_s if config.cache else 0.0,
        semantic=had.semantic if had and same_cache else open_similar(config.cache) if config.cache else None,
        tallies=had.tallies if had and same_budgets else build_tallies(config.budgets.url),
        sessions=config.sessions,
        baseline=config.baseline,
        answerers=answerers(config),
    )


def _same_backend(name: str, config: Config, was: Config) -> bool:
    """Whether a backend, and whatever answers in its place, is what it was: so it stays, with its model and its connections."""
    names = [name]
    for one in names:
        names += [other for other in getattr(config.backends[one], "fallbacks", ()) if other not in names]
    return all(was.backends.get(one) == config.backends[one] for one in names)


def _same_verifier(name: str, config: Config, was: Config) -> bool:
    options = config.verifiers[name]
    asked = getattr(options, "backend", None)
    return was.verifiers.get(name) == options and (asked is None or _same_backend(asked, config, was))


def _probe(config: Config, by_price: Sequence[str], before: Before | None) -> Estimator | None:
    """The probe in use stays where neither its options nor its artifact nor the order of prices changed."""
    if before is not None and before[1].parts.probe is not None and before[1].parts.probe_from == _probe_from(config, by_price):
        return before[1].parts.probe
    probe = open_probe(config.probe, by_price)
    return ProbeService(probe, config.probe) if probe else None


def _probe_from(config: Config, by_price: Sequence[str]) -> object:
    artifact = config.probe.artifact
    return config.probe, resolved(Path(artifact)) if artifact else None, tuple(by_price)


def online(config: Config, built: Parts, before: Before | None = None) -> Online:
    """What goes on beside the requests; whatever is configured as before goes on."""
    was, old = (before[0], before[1].online) if before else (None, None)
    same = {name for name in ("log", "feedback", "drift", "shadow") if was and getattr(was, name) == getattr(config, name)}
    learned = (
        before is not None and before[1].parts.probe is built.probe and before[1].parts.market.curves.digest == built.market.curves.digest
    )
    return Online(
        old.writers if old and "log" in same else writers(config.log) if config.log else (),
        old.lessons if old and "feedback" in same else _lessons(config.feedback),
        old.watch if old and "drift" in same and learned else Watch(config.drift),
        _shadow(config.shadow, built, old.shadow if old and "shadow" in same else None),
        old.shadow_policies if old else None,
        old.tracing if old else Tracing(config.tracing) if config.tracing else None,
        prompts=config.log is not None and config.log.prompts,
    )


def _lessons(options: FeedbackOptions) -> Lessons:
    shared = build_cache(options.state, prefix="outlay:answers:") if is_redis(options.state) else None
    return Lessons(options, build_sums(options.state), shared)


def _shadow(options: ShadowOptions | None, built: Parts, old: Shadow | None) -> Callable[[Callable[[Compared], None]], Shadow] | None:
    if options is None:
        return None
    return (lambda tell: old) if old else (lambda tell: Shadow(options, built, tell))


def writers(log: LogOptions) -> list[EventWriter]:
    """One for each place that the events go to."""
    sinks: list[Sink] = [FileSink(Path(log.path), max_bytes=int(log.max_mb * 1e6), keep=log.keep)] if log.path else []
    sinks += [RedisSink(log.redis, stream=log.stream, max_events=log.max_events)] if log.redis else []
    return [EventWriter(sink, size=log.queue) for sink in sinks]


def market(backends: Mapping[str, Backend], verifiers: Mapping[str, Verifier], curves: Curves) -> Market:
    """Prices of all that is sold, and what was learned about it."""
    sold: dict[str, Price] = {name: backend.price for name, backend in backends.items()}
    sold |= {name: verifier.price for name, verifier in verifiers.items()}
    shared = frozenset(name for name, backend in backends.items() if backend.features.native_n)
    caches = {name for name, backend in backends.items() if backend.features.caches_prefix}
    caches |= {name for name, verifier in verifiers.items() if getattr(verifier, "caches_prefix", False)}
    prices = {name: (price.input_usd_per_mtok, price.output_usd_per_mtok) for name, price in sold.items()}
    cached = {name: price.cached_input_usd_per_mtok for name, price in sold.items() if price.cached_input_usd_per_mtok is not None}
    return Market(prices, shared, curves, cached, frozenset(caches))


def open_probe(options: ProbeOptions, by_price: Sequence[str]) -> Probe | None:
    """The fitted probe; None where the heuristic is all that is asked for, or all that can be had.

    Raises DifficultyError, or ConfigError for options that do not go together.
    """
    if options.encoder is None or options.artifact is None:
        return None
    from difficulty.artifact import open_probe as open_artifact

    strengths = by_rank(by_price) | dict(options.strength)
    try:
        probe = open_artifact(options.artifact, options.encoder, threads=options.threads, strengths=strengths)
    except EncoderError as error:
        if options.required:
            raise
        logger.warning("%s; until then the heuristic estimates", error)
        return None
    if options.strength and not isinstance(probe, TierProbe):
        raise ConfigError(f"probe.strength: {options.artifact} was fitted on backends of its own; strengths are for difficulty/general")
    return probe


def located(name: str) -> Path:
    """A path of the configuration: from the working directory, else from the folder that Outlay is installed in; of the version in use."""
    here = resolved(Path(name))
    return here if here.exists() else resolved(Path(__file__).parents[1] / name)
