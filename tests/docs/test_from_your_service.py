"""The code of docs/from_your_service.md, as it stands there, in the frameworks that it is for."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import django
import pytest
from django.conf import settings
from django.test import RequestFactory
from fastapi.testclient import TestClient

from reprieve.workers.bootstrap import Services
from tests.support.rows import status_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "from_your_service.md").read_text()


def code(section: str) -> dict[str, Any]:
    """What the code of a section defines."""
    found = re.search(rf"^## {section}\n.*?^```python\n(.*?)^```", PAGE, re.M | re.S)
    assert found is not None
    defined: dict[str, Any] = {}
    exec(compile(found[1], f"from_your_service.md, {section}", "exec"), defined)
    return defined


@pytest.fixture(scope="module")
def _django() -> None:
    databases = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
    settings.configure(DATABASES=databases, ALLOWED_HOSTS=["testserver"])
    django.setup()


@pytest.mark.usefixtures("_django")
def test_a_view_of_django_starts_a_run_once_and_says_what_is_wrong(services: Services) -> None:
    view = code("Django")["start_report"]
    first, again = (view(RequestFactory().post("/reports/7"), 7) for _ in range(2))
    told = json.loads(first.content)
    assert (first.status_code, told["status"]) == (202, "queued")
    assert json.loads(again.content) == told
    refused = view(RequestFactory().post("/reports/x"), "x" * 200)
    assert refused.status_code == 422
    assert "labels" in json.loads(refused.content)["detail"]


@pytest.mark.usefixtures("_django")
def test_a_run_of_django_starts_once_its_row_is_there_and_not_at_all_if_it_is_not(services: Services) -> None:
    save_and_start = code("Django")["save_and_start"]
    save_and_start(Mock())
    assert len(services.records.newest(limit=10)) == 1
    with pytest.raises(ValueError, match="no room"):
        save_and_start(Mock(save=Mock(side_effect=ValueError("no room"))))
    assert len(services.records.newest(limit=10)) == 1


def test_a_path_of_fastapi_starts_a_run_once_and_cancels_it(services: Services) -> None:
    with TestClient(code("FastAPI")["app"]) as client:
        first, again = (client.post("/reports/7") for _ in range(2))
        assert (first.status_code, again.json()) == (202, first.json())
        ended = client.delete(f"/reports/runs/{first.json()['run']}")
        assert ended.json() == {"status": "cancelled"}
    assert status_of(services, first.json()["run"]) == "cancelled"


def test_the_code_of_the_docs_and_the_example_adapter_pass_a_strict_type_checker(tmp_path: Path) -> None:
    blocks = [
        block
        for page in ("README.md", "docs/from_your_service.md", "docs/clients.md")
        for block in re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)
    ]
    assert len(blocks) == 6
    for number, block in enumerate(blocks):
        (tmp_path / f"block_{number}.py").write_text(block)
    # Django has no types of its own.
    options = ["--strict", "--ignore-missing-imports", "--config-file=", f"--cache-dir={ROOT / '.mypy_cache'}"]
    files = [*sorted(tmp_path.glob("*.py")), ROOT / "docs" / "examples" / "adapter" / "reprieve_jobserver.py"]
    command = [sys.executable, "-m", "mypy", *options, *files]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=150)
    assert done.stdout == "Success: no issues found in 7 source files\n", done.stdout + done.stderr
