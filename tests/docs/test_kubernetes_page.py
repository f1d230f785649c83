"""What the page of Kubernetes shows as code: the Job that comes of it, and the rights."""

import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from reprieve.adapters.kubernetes.config import KubernetesConfig
from reprieve.adapters.kubernetes.job import manifest
from reprieve.models.requests import RunRequest
from reprieve.models.work import Work
from tests.support.manifests import breaches, check, pods_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)


def asked_for(block: str) -> dict[str, Any]:
    """What the block gives to `enqueue_run`."""
    given: dict[str, Any] = {}

    def enqueue_run(adapter: str, config: dict[str, Any], **more: Any) -> None:
        assert RunRequest(adapter, config, **more) is not None
        given.update(config)

    exec(block, {"enqueue_run": enqueue_run})
    return given


def job_of(config: dict[str, Any]) -> dict[str, Any]:
    return manifest(Work(uuid4(), 1, 1, "kubernetes", config, {}), KubernetesConfig.model_validate(config))


@pytest.mark.parametrize("block", BLOCKS)
def test_what_the_page_asks_for_is_a_job_that_kubernetes_takes(block: str) -> None:
    check(job_of(asked_for(block)))


def test_the_patch_for_a_restricted_namespace_is_what_lacks_in_a_job_without_it() -> None:
    (block,) = (one for one in BLOCKS if "RESTRICTED" in one)
    config = asked_for(block)
    (pod,) = pods_of(job_of(config))
    assert breaches(pod) == []
    (pod,) = pods_of(job_of({"image": config["image"]}))
    assert "run: runAsNonRoot is not true" in breaches(pod)


def test_the_rights_on_the_page_are_those_of_the_chart() -> None:
    (shown,) = (block for block in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S) if "kind: Role\n" in block)
    role, _ = yaml.safe_load_all(shown)
    template = (ROOT / "deploy" / "helm" / "reprieve" / "templates" / "rights.yaml").read_text()
    rules = re.search(r"^rules:\n(?:  - .*\n)+", template, re.M)
    assert rules is not None
    assert yaml.safe_load(rules[0])["rules"] == role["rules"]
