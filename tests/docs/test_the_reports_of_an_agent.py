"""docs/examples/agent_reports.py: what it says of an agent by the lines that it prints, and that it passes these on."""

import json
import os
import subprocess
import sys
from pathlib import Path

from reprieve.models.saying import NOTHING_SAID, Report, report_of_line

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def reports(stream: str, folder: Path) -> tuple[str, list[Report]]:
    """What is passed on, and what was said."""
    command = [sys.executable, "-I", "-S", EXAMPLES / "agent_reports.py", "--turns", "4"]
    environment = os.environ | {"REPRIEVE_REPORT": str(folder / "reports")}
    done = subprocess.run(command, input=stream, env=environment, capture_output=True, text=True, check=True)
    lines = (folder / "reports").read_bytes().splitlines() if (folder / "reports").exists() else []
    return done.stdout, [report_of_line(line) for line in lines]


def test_turns_are_progress_tokens_add_up_to_what_the_agent_says_and_its_answer_is_the_result(tmp_path: Path) -> None:
    stream = (EXAMPLES / "agent_stream.jsonl").read_text()
    passed_on, said = reports(stream, tmp_path)
    assert passed_on == stream
    assert [one.progress for one in said] == [0.25, None, 0.5, 0.75, 1]
    assert [one.sentence for one in said][:3] == ["I look at the failing test first.", "uses Bash", "uses Edit"]
    whole = NOTHING_SAID
    for number, report in enumerate(said, 1):
        whole = whole.take(number, report)
    told = json.loads(stream.splitlines()[-1])
    assert whole.report.usage == told["usage"] | {"cost_usd": told["total_cost_usd"], "turns": 3}
    assert json.loads(whole.report.result or "") == {"answer": told["result"], "error": False}


def test_lines_of_another_kind_are_passed_on_and_end_nothing(tmp_path: Path) -> None:
    strange = 'plain\n[]\n{"type": "assistant"}\n{"type": "assistant", "message": {"id": 1, "content": [3]}}\nhalf'
    assert reports(strange, tmp_path) == (strange, [])
