"""What can go wrong outside the process.

AdapterError
├── BackendError            a backend did not answer; `retryable` says whether the same call may work later
│   ├── BackendUnavailable  no connection, 5xx, 429                    (retryable)
│   │   └── BackendBusy     our own queue before it is full            (retryable; says nothing of the backend's health)
│   ├── BackendTimeout      no answer within the backend's time        (retryable)
│   ├── BackendRefused      the request is not acceptable to it (4xx)  (final; the message is meant for the caller)
│   │   └── BackendWithheld     an answer came, but filtered or refused: the next of its fallbacks is asked
│   └── BackendMalformed    an answer that is none: bad JSON, no choices, cut off (retryable)
├── VerifierError           a verifier did not score
├── CacheError              a cache did not answer
├── LedgerError             the ledger cannot be built, or does not answer where nothing may be spent without it
├── SumsError              sums of feedback could not be read or kept
└── MissingExtra            an optional package or file that this configuration needs is not installed
"""

from __future__ import annotations

from collections.abc import Iterable


class AdapterError(Exception):
    """Base of all errors of this folder."""

    @property
    def brief(self) -> str:
        """Its kind, and what is known of the cause but the words of others, which may quote a prompt: for logs."""
        return type(self).__name__


class BackendError(AdapterError):
    """A backend did not give an answer. `status` is the HTTP status, or `because` says in words of ours why there was none."""

    retryable = True

    def __init__(
        self, backend: str, message: str, *, retry_after_s: float | None = None, status: int | None = None, because: str = ""
    ) -> None:
        super().__init__(f"backend '{backend}': {message}")
        self.backend = backend
        self.detail = message
        self.retry_after_s = retry_after_s
        self.status = status
        self.because = because

    def mask(self, texts: Iterable[str]) -> None:
        """Cut these out of the message, where a provider repeats them."""
        for text in filter(None, texts):
            self.detail = self.detail.replace(text, "***")
        self.args = (f"backend '{self.backend}': {self.detail}",)

    @property
    def brief(self) -> str:
        """`BackendUnavailable 503`, `BackendUnavailable (ConnectionRefusedError at http://10.0.0.5:8000/v1)`."""
        return f"{type(self).__name__} {self.status}" if self.status else _because(self, self.because)


class BackendUnavailable(BackendError):
    """No connection, a 5xx or 429, or left alone after failures."""


class BackendBusy(BackendUnavailable):
    """Too many requests waiting, or waited in vain for its turn: the limit is ours, so it is no failure of the backend's."""


class BackendTimeout(BackendError):
    """No answer within the backend's `timeout_s`."""


class BackendMalformed(BackendError):
    """The backend answered with something that is not an answer."""


class BackendRefused(BackendError):
    """The backend will not take this request; repeating it will not help."""

    retryable = False

    def __init__(self, backend: str, message: str, *, status: int = 400, code: str | None = None) -> None:
        super().__init__(backend, message, status=status)
        self.code = code


class BackendWithheld(BackendRefused):
    """An answer came that was filtered or refused; where nobody has a better one, it is the answer all the same."""

    def __init__(self, backend: str) -> None:
        super().__init__(backend, "the answer was filtered or refused", code="content_filter")


class VerifierError(AdapterError):
    """A verifier could not score; the answers stand unscored. `because` is what is brief of the failure behind it, if there is one."""

    def __init__(self, verifier: str, message: str, *, because: str = "") -> None:
        super().__init__(f"verifier '{verifier}': {message}")
        self.verifier = verifier
        self.because = because

    @property
    def brief(self) -> str:
        """`VerifierError (BackendRefused 401)`."""
        return _because(self, self.because)


class SumsError(AdapterError):
    """Sums of feedback could not be read or kept."""


class CacheError(AdapterError):
    """A cache could not be read or written."""


class LedgerError(AdapterError):
    """The ledger cannot be built, or may not say yes while its Redis is gone."""


class MissingExtra(AdapterError):
    """Something optional is needed and not there; the message says what to install."""


def _because(error: AdapterError, because: str) -> str:
    return f"{type(error).__name__} ({because})" if because else type(error).__name__
