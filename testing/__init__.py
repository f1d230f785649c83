"""For tests of your own: a fleet on this machine, and what every adapter has to pass.

    # conftest.py
    pytest_plugins = ["reprieve.testing.fixtures"]

    # test_reports.py
    def test_a_report_is_made(reprieve_fleet):
        run = reports.start(7)  # your code, which calls `enqueue_run`
        assert reprieve_fleet.finish(run).status == "succeeded"
        assert reprieve_fleet.output(run) == b"made\\n"

It needs the extra: `pip install 'reprieve[embedded]'`. Nothing is started before a test asks for `reprieve_fleet`.
The contract of adapters is `reprieve.testing.contract.AdapterContract`.
"""

import pytest

# What its tests compare is to be told when one fails.
pytest.register_assert_rewrite("reprieve.testing.contract")
