"""From a configuration to a router: every part built once, in one place. Heavy libraries are imported by the parts that need them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from adapters.backends import build_backends
from adapters.cache import build_cache
from adapters.errors import AdapterError
from adapters.event_log import EventWriter, FileSink, RedisSink, Sink
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
from router.errors import ConfigError
from router.lessons import Lessons
from router.metrics import Metrics
from router.online import Online
from router.options import LogOptions, ProbeOptions
from router.parts import Parts
from router.pipeline import Router
from router.shadow import Shadow
from router.watch import Watch

logger = logging.getLogger("outlay")


def assemble(config: Config) -> Router:
    """The router of a configuration. Raises ConfigError where something that it names cannot be built."""
    try:
        built = parts(config)
        held = replace(built, accepted=held_to(config.policies, built, config.probe))
        return Router(held, online=online(config, built), metrics=Metrics(config.metrics))
    except (AdapterError, DifficultyError, CurvesError) as error:
        raise ConfigError(str(error)) from error


def parts(config: Config) -> Parts:
    """Everything that the configuration names. Raises AdapterError, DifficultyError or CurvesError."""
    backends = build_backends(config.backends)
    verifiers = {name: build_verifier(name, options, backends) for name, options in config.verifiers.items()}
    sold = market(backends, verifiers, Curves.load(located(config.curves)) if config.curves else Curves())
    probe = open_probe(config.probe, sold.by_price(backends))
    return Parts(
        backends=backends,
        verifiers=verifiers,
        policies=dict(config.policies),
        default_policy=config.default_policy,
        market=sold,
        probe=ProbeService(probe, config.probe) if probe else None,
        probe_price=config.probe.price,
        when_unavailable=config.probe.when_unavailable,
        cache=build_cache(config.cache.url) if config.cache else None,
        cache_ttl_s=config.cache.ttl_s if config.cache else 0.0,
        tallies=build_tallies(config.budgets.url),
        sessions=config.sessions,
        baseline=config.baseline,
    )


def online(config: Config, built: Parts) -> Online:
    """What goes on beside the requests."""
    feedback, shadow, log = config.feedback, config.shadow, config.log
    shared = build_cache(feedback.state, prefix="outlay:answers:") if is_redis(feedback.state) else None
    return Online(
        writers(log) if log else (),
        Lessons(feedback, build_sums(feedback.state), shared),
        Watch(config.drift),
        (lambda tell: Shadow(shadow, built, tell)) if shadow else None,
        prompts=log is not None and log.prompts,
    )


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
    return Market({name: (price.input_usd_per_mtok, price.output_usd_per_mtok) for name, price in sold.items()}, shared, curves)


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
