"""Lets pytest explain a failed assert of the shared suite as it does in a test file."""

import pytest

pytest.register_assert_rewrite("tests.adapters.conformance")
