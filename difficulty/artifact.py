"""A fitted probe on disk: `probe.npz` (arrays) and `probe.json` (what they are, where they come from, their digest). Never pickle.

Loading trusts nothing: version, digest, shapes and the encoder's weights are checked, and each refusal says what to do.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from difficulty.encoders import Encoder, Pooling, View, open_encoder
from difficulty.errors import ArtifactError
from difficulty.probe import SCALARS, EncoderProbe, LinearProbe, Probe
from difficulty.tiers import TIERS, TierProbe, by_rank

FORMAT: Literal[1] = 1
_ARRAYS = ("weights", "bias", "slope", "shift")


class ProbeCard(BaseModel):
    """What `probe.json` says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = FORMAT
    encoder: str
    encoder_digest: str
    layer: int = Field(ge=0)
    pooling: Pooling
    backends: tuple[str, ...] = Field(min_length=1)
    width: int = Field(ge=1, description="numbers in the view of one prompt")
    arrays_digest: str = Field(description="SHA-256 of probe.npz")
    data_digest: str = Field(description="SHA-256 of the labels it was fitted on")
    seed: int
    tiers: bool = Field(False, description="its backends are the tiers 'weak' and 'strong', and stand for anybody's")
    sources: tuple[str, ...] = Field((), description="what the labels come from, each with its licence")
    figures: dict[str, Any] = Field(default_factory=dict, description="what the fit chose, and its figures on prompts never seen")


def save_probe(
    folder: Path,
    head: LinearProbe,
    encoder: Encoder,
    *,
    data_digest: str,
    seed: int = 0,
    figures: dict[str, Any] | None = None,
    sources: Sequence[str] = (),
    tiers: bool = False,
) -> ProbeCard:
    """Write both files, arrays first: a crash in between leaves a digest that does not fit, which loading refuses."""
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **{name: getattr(head, name) for name in _ARRAYS})
    card = ProbeCard(
        encoder=encoder.name,
        encoder_digest=encoder.digest,
        layer=head.view.layer,
        pooling=head.view.pooling,
        backends=head.backends,
        width=head.weights.shape[1] - SCALARS,
        arrays_digest=hashlib.sha256(stream.getvalue()).hexdigest(),
        data_digest=data_digest,
        seed=seed,
        tiers=tiers,
        sources=tuple(sources),
        figures=figures or {},
    )
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "probe.npz", stream.getvalue())
    _replace(folder / "probe.json", (card.model_dump_json(indent=1) + "\n").encode())
    return card


def load_probe(folder: Path) -> tuple[LinearProbe, ProbeCard]:
    """What `save_probe` wrote. Raises ArtifactError."""
    card = _card(folder / "probe.json")
    data = _read(folder / "probe.npz")
    if (found := hashlib.sha256(data).hexdigest()) != card.arrays_digest:
        wanted = card.arrays_digest[:12]
        raise ArtifactError(f"{folder / 'probe.npz'}: digest {found[:12]}, but probe.json says {wanted}; fit it again or restore both")
    m = len(card.backends)
    shapes = {"weights": (m, card.width + SCALARS), "bias": (m,), "slope": (m,), "shift": (m,)}
    arrays = _arrays(folder / "probe.npz", data)
    for name, shape in shapes.items():
        if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
            raise ArtifactError(f"{folder / 'probe.npz'}: '{name}' has shape {arrays[name].shape}, expected finite {shape}; fit it again")
    return LinearProbe(View(card.layer, card.pooling), card.backends, **arrays), card


def open_probe(
    artifact: str,
    encoder: str | None = None,
    *,
    threads: int = 1,
    max_tokens: int = 512,
    revision: str | None = None,
    strengths: Mapping[str, float] | None = None,
) -> Probe:
    """The probe of a folder (looked for in the working directory, then beside the package), on its own encoder unless another is named.

    A probe of tiers answers for the backends of `strengths`. Reads the encoder's weights for their digest, but loads no model yet.
    Raises ArtifactError or EncoderError.
    """
    head, card = load_probe(located(artifact))
    reader = open_encoder(encoder or card.encoder, threads=threads, max_tokens=max_tokens, revision=revision)
    if reader.digest != card.encoder_digest:
        raise ArtifactError(
            f"{artifact}: fitted on the weights {card.encoder_digest[:12]} of '{card.encoder}', "
            f"but '{reader.name}' has {reader.digest[:12]}; run `outlay fit` with this encoder"
        )
    probe = EncoderProbe(reader, head)
    return TierProbe(probe, strengths or by_rank(TIERS)) if card.tiers else probe


def located(artifact: str) -> Path:
    """The folder of a probe, of the version in use: from the working directory, else beside the package. Raises ArtifactError."""
    from difficulty.versions import resolved

    package = Path(__file__).resolve().parent.parent
    places = (resolved(base / artifact) for base in (Path.cwd(), package))
    found = next((place for place in places if (place / "probe.json").is_file()), None)
    if found is None:
        raise ArtifactError(f"no probe.json in ./{artifact}, none in {package / artifact}; `outlay fit` writes one")
    return found


def _card(path: Path) -> ProbeCard:
    try:
        return ProbeCard.model_validate_json(_read(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "content"
        raise ArtifactError(f"{path}: {where}: {first['msg']} (this version reads format {FORMAT}); run `outlay fit` again") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}; `outlay fit` writes it") from error


def _arrays(path: Path, data: bytes) -> dict[str, Any]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name].astype(np.float64) for name in _ARRAYS}
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path}: not the arrays of a probe ({error}); run `outlay fit` again") from error


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)
