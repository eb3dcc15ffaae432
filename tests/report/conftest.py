"""What tests of pages share."""

import shutil

import pytest


@pytest.fixture(scope="module")
def chromium():
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        pytest.skip("no chromium here: the page's program is not run")
    return found
