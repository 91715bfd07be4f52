"""`outlay certify`: what it proves, what it writes, and that the service holds to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from policies.certify import Accepted
from policies.policy import Optimiser
from router import certify
from router.assembly import assemble
from router.certificate import read_certificate
from router.certify import Terms, run_certify
from router.config import load
from router.errors import ConfigError
from tests.router.logs import write_config, write_log
from tests.router.test_cli import Captured, outlay

TERMS = Terms(epsilon=0.1, delta=0.1)


@pytest.fixture(scope="module", autouse=True)
def short_dial() -> Iterator[None]:
    """Three settings instead of nine, so that the tests are quick: the safest, the policy as it is, one that is far too cheap."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certify, "dial", lambda policy: (0.5, 1.0, 100.0) if isinstance(policy, Optimiser) else (1.0,))
        yield


@pytest.fixture(scope="module")
def proof(short_dial: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of `balanced` on 80 prompts."""
    folder = tmp_path_factory.mktemp("proof")
    log = write_log(folder / "log.jsonl", 80)
    assert run_certify(write_config(folder / "outlay.yaml"), log, folder / "proof.json", None, TERMS, fresh=True)
    return folder / "proof.json"


def accepted_by(tmp_path: Path, proof: Path, **policy: Any) -> Accepted:
    """What the service finds accepted when it starts with this policy."""
    path = write_config(tmp_path / "outlay.yaml", certificate=str(proof), **policy)
    return assemble(load(path)).parts.accepted["balanced"]


def test_a_certificate_says_what_was_proven(proof: Path) -> None:
    """Every setting with its p-value, safest first; those accepted are a prefix of it; groups, not prompts, are the draws."""
    found = read_certificate(proof)
    assert (found.against, found.prompts, found.groups) == ("large", 80, 40)
    assert [s.multiplier for s in found.settings] == sorted(s.multiplier for s in found.settings)
    assert all(s.p_value <= found.delta for s in found.settings[: found.last + 1])
    assert found.settings[found.last + 1].p_value > found.delta
    assert found.settings[0].cost_usd > found.settings[-1].cost_usd


def test_less_room_accepts_less(proof: Path, tmp_path: Path) -> None:
    """A smaller epsilon and a smaller delta each accept fewer settings; an impossible one none, and then nothing is written."""
    log, config, out = write_log(tmp_path / "log.jsonl", 80), write_config(tmp_path / "outlay.yaml"), tmp_path / "new.json"

    def number(**terms: float) -> int:
        out.unlink(missing_ok=True)
        held = run_certify(config, log, out, "balanced", Terms(**{"epsilon": 0.1, "delta": 0.1} | terms), fresh=True)
        assert held == out.exists()
        return len(read_certificate(out).accepted.multipliers) if held else 0

    usual = len(read_certificate(proof).accepted.multipliers)
    assert number(epsilon=0.0) < usual
    assert number(delta=0.001) < usual


def test_a_cap_on_cost_is_proven_from_the_cheap_end(tmp_path: Path) -> None:
    """The settings that may cost more than the cap are left out, and those are the safest."""
    log, config, out = (
        write_log(tmp_path / "log.jsonl", 80),
        write_config(tmp_path / "outlay.yaml", limits={"cost_usd": 1e-3}),
        tmp_path / "p.json",
    )
    assert run_certify(config, log, out, None, Terms(0.1, 0.4, mean_cost_usd=1.5e-4), fresh=True)
    found = read_certificate(out)
    assert found.first > 0
    assert found.accepted.low == found.settings[found.first].multiplier
    with pytest.raises(ConfigError, match=r"needs limits\.cost_usd above it"):
        run_certify(config, log, out, None, Terms(0.1, 0.4, mean_cost_usd=3e-3), fresh=True)


def test_the_service_starts_with_what_was_accepted(proof: Path, tmp_path: Path) -> None:
    """The policy as it was tested, and the same with another accepted value; the range is then relative to that."""
    as_tested = accepted_by(tmp_path, proof)
    assert as_tested == read_certificate(proof).accepted
    doubled = accepted_by(tmp_path, proof, objective={"value_of_correct_usd": 2e-3})
    assert doubled.high == pytest.approx(2 * as_tested.high)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": {"value_of_correct_usd": 1e-5}}, "does not accept value_of_correct_usd: 1e-05; it accepts 0.002, 0.001"),
        ({"objective": {"value_of_correct_usd": 1e-3, "value_of_second_usd": 1e-4}}, "write value_of_second_usd: 0"),
        ({"limits": {"cost_usd": 0.02}}, "was proven with other limits; "),
        ({"explore": 0.1}, "was proven with other explore; "),
    ],
)
def test_what_was_not_accepted_is_not_started(proof: Path, tmp_path: Path, change: dict[str, Any], message: str, capsys: Captured) -> None:
    """Another objective, other limits, another engine: one line that says what to do; `outlay check` says the same."""
    with pytest.raises(ConfigError) as refused:
        accepted_by(tmp_path, proof, **change)
    assert message in str(refused.value)
    assert outlay("check", str(tmp_path / "outlay.yaml")) == 2
    assert message in capsys.readouterr().err


def test_other_models_and_verifiers_are_not_started(proof: Path, tmp_path: Path, capsys: Captured) -> None:
    """A model that answers otherwise and a verifier that lets all pass are named, by `outlay check` too."""
    path = write_config(tmp_path / "outlay.yaml", certificate=str(proof))
    assert outlay("check", str(path)) == 0
    raw = yaml.safe_load(path.read_text())
    raw["backends"]["large"]["answers"], raw["verifiers"]["checked"]["pattern"] = ["always wrong"], ".*"
    path.write_text(yaml.safe_dump(raw))
    assert outlay("check", str(path)) == 2
    assert "was proven with other backends.large, verifiers.checked; " in capsys.readouterr().err


def test_a_certificate_of_an_earlier_format_says_why_it_is_none(proof: Path, tmp_path: Path) -> None:
    """One that was bound to less than it should have been is not taken for more."""
    old = json.loads(proof.read_text()) | {"format": 1, "engine": "0123456789ab"}
    (tmp_path / "old.json").write_text(json.dumps(old))
    with pytest.raises(ConfigError, match=r"format 1, which was not bound to the backends and verifiers.*run `outlay certify` again"):
        accepted_by(tmp_path, tmp_path / "old.json")


def test_a_budget_stays_inside_what_was_accepted(proof: Path, tmp_path: Path) -> None:
    """Its multiplier moves in service: a range that ends beyond the accepted settings is refused with the one that would do."""
    budget = {"budget_usd": 5, "per": "day", "value_of_correct_usd": 1e-3, "when_spent": "refuse"}
    log, path = write_log(tmp_path / "log.jsonl", 80), write_config(tmp_path / "budget.yaml", objective={**budget, "multipliers": [1, 100]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certify, "dial", lambda policy: (1.0, 2.0, 100.0))
        assert run_certify(path, log, tmp_path / "p.json", None, TERMS, fresh=True)
    accepted = read_certificate(tmp_path / "p.json").accepted
    assert accepted_by(tmp_path, tmp_path / "p.json", objective={**budget, "multipliers": [1, 2]}) == accepted
    with pytest.raises(ConfigError, match=r"write multipliers: \[1, 2\] and when_spent: refuse"):
        accepted_by(tmp_path, tmp_path / "p.json", objective={**budget, "multipliers": [1, 100]})


def test_a_certificate_that_is_none_is_not_started(tmp_path: Path) -> None:
    """A missing file, and one that somebody wrote by hand."""
    with pytest.raises(ConfigError, match="`outlay certify` writes it"):
        accepted_by(tmp_path, tmp_path / "none.json")
    (tmp_path / "forged.json").write_text('{"format": 1}')
    with pytest.raises(ConfigError, match="certify` again"):
        accepted_by(tmp_path, tmp_path / "forged.json")


def test_the_command_prints_what_holds(tmp_path: Path, capsys: Captured) -> None:
    """Exit code 0 and the line to put into the configuration; 1 where nothing holds; 2 where the reference is not there."""
    log, config = str(write_log(tmp_path / "log.jsonl", 60)), str(write_config(tmp_path / "outlay.yaml"))
    common = ["certify", "--log", log, "-c", config, "--out", str(tmp_path / "p.json"), "--fresh"]
    assert outlay(*common, "--epsilon", "0.3") == 0
    assert "policies.balanced.certificate" in capsys.readouterr().err.replace("\n", "")
    assert outlay(*common, "--epsilon", "0.001", "-p", "cheap") == 1
    assert outlay(*common, "--against", "larg") == 2
    assert "did you mean 'large'?" in capsys.readouterr().err
