"""The Celery application's settings: read when they are needed, and again if they were not there yet."""

import subprocess
import sys

SCRIPT = """
import os
from reprieve.models.errors import SettingsError
from reprieve.workers.app import app
try:
    app.conf.broker_url
except SettingsError as missing:
    print("refused:", missing)
os.environ["REPRIEVE_REDIS_URL"] = "redis://later:6379/0"
print("then:", app.conf.broker_url, app.conf.accept_content, app.conf.task_ignore_result)
"""


def test_settings_that_were_missing_at_first_are_read_when_they_are_there(tmp_path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "REPRIEVE_DATA_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert "refused: REPRIEVE_REDIS_URL is not set" in done.stdout, done.stderr
    assert "then: redis://later:6379/0 ['json', 'msgpack'] True" in done.stdout
