"""Where the fixtures of all tests are; the process that only hands tests out to others does without the imports."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        for plugin in ("quick_checks", "made_up_core", "tiny_runs"):
            config.pluginmanager.import_plugin(plugin)
