"""The code of docs/from_your_service.md, as it stands there, in the frameworks that it is for."""

import json
import re
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

PAGE = (Path(__file__).parents[2] / "docs" / "from_your_service.md").read_text()


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
    assert len(services.runs.list(limit=10)) == 1
    with pytest.raises(ValueError, match="no room"):
        save_and_start(Mock(save=Mock(side_effect=ValueError("no room"))))
    assert len(services.runs.list(limit=10)) == 1


def test_a_path_of_fastapi_starts_a_run_once_and_cancels_it(services: Services) -> None:
    with TestClient(code("FastAPI")["app"]) as client:
        first, again = (client.post("/reports/7") for _ in range(2))
        assert (first.status_code, again.json()) == (202, first.json())
        ended = client.delete(f"/reports/runs/{first.json()['run']}")
        assert ended.json() == {"status": "cancelled"}
    assert status_of(services, first.json()["run"]) == "cancelled"
