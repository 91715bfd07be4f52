"""The kinds of verifiers, and how each is built from its options. A new kind is a file of its own and a line here.

What a verifier is, is in `types.py`. Scores come out raw, in [0, 1]; they are calibrated on labelled answers elsewhere, before they
are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import Field

from adapters.consensus import ConfidenceOptions, ConfidenceVerifier, VotesOptions, VotesVerifier
from adapters.errors import MissingExtra
from adapters.json_schema import JsonSchemaOptions, JsonSchemaVerifier
from adapters.judge import Judge, JudgeOptions
from adapters.patterns import NumericOptions, NumericVerifier, RegexOptions, RegexVerifier
from adapters.python_check import PythonOptions, PythonVerifier
from adapters.reward_model import RewardModel, RewardModelOptions
from adapters.types import Backend, Verifier

VerifierOptions = Annotated[
    RewardModelOptions
    | JudgeOptions
    | PythonOptions
    | JsonSchemaOptions
    | RegexOptions
    | NumericOptions
    | VotesOptions
    | ConfidenceOptions,
    Field(discriminator="kind"),
]

VERIFIERS: dict[type, Callable[[str, Any], Verifier]] = {
    RewardModelOptions: RewardModel,
    PythonOptions: PythonVerifier,
    JsonSchemaOptions: JsonSchemaVerifier,
    RegexOptions: RegexVerifier,
    NumericOptions: NumericVerifier,
    VotesOptions: VotesVerifier,
    ConfidenceOptions: ConfidenceVerifier,
}
"""All kinds but the judge, which needs a backend."""


def build_verifier(name: str, options: VerifierOptions, backends: Mapping[str, Backend]) -> Verifier:
    """The verifier that the options describe; models are loaded later. Raises MissingExtra if something that it needs is not there."""
    if isinstance(options, JudgeOptions):
        if options.backend not in backends:
            have = ", ".join(f"'{backend}'" for backend in backends) or "none"
            raise MissingExtra(f"verifier '{name}': no backend '{options.backend}'; have {have}")
        return Judge(name, options, backends[options.backend])
    return VERIFIERS[type(options)](name, options)
