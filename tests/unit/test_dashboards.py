"""Dashboards are what the script makes, ask only for what somebody serves, and are what Grafana's own types allow."""

import json
import re
import subprocess
from pathlib import Path

from deploy.dashboards import BOARDS, DEPLOY, HERE, wrong_with
from deploy.panels import Board, Panel, Query, Row, as_json, with_variables
from tests.pinned import npm_packages

PACKAGES = ("@grafana/schema@12.3.0", "typescript@5.9.3")
# Grafana's enums as the JSON has them, and a Prometheus question where its own plug-in has one
TYPES = """
import type { AnnotationQuery, Dashboard, DataQuery } from "@grafana/schema";
type Plain<T> = T extends string ? `${T}` : T extends Array<infer U> ? Array<Plain<U>>
  : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
type Asked = { list?: AnnotationQuery<DataQuery & { expr: string }>[] };
type Board = Plain<Omit<Dashboard, "annotations"> & { annotations?: Asked }>;
"""


def type_check(place: Path, boards: dict[str, object]) -> str:
    """Return what TypeScript says against dashboards; nothing if all is well."""
    tools = npm_packages("grafana-types", *PACKAGES)
    (place / "node_modules").symlink_to(tools / "node_modules")
    for name, board in boards.items():
        (place / f"{name}.ts").write_text(f"{TYPES}export const board: Board = {json.dumps(board, indent=1)};\n")
    strict = ["--noEmit", "--strict", "--skipLibCheck", "--moduleResolution", "bundler", "--module", "esnext"]
    command = [tools / "node_modules" / ".bin" / "tsc", *strict, *place.glob("*.ts")]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=place).stdout


def test_the_dashboards_are_what_grafana_takes(tmp_path: Path) -> None:
    boards = {path.stem: json.loads(path.read_text()) for path in HERE.glob("*.json")}
    assert len(boards) == len(BOARDS)
    assert type_check(tmp_path, boards) == ""


def test_the_types_find_what_is_wrong(tmp_path: Path) -> None:
    board = as_json(BOARDS[0], BOARDS)
    board["panels"][1]["gridPos"]["h"] = "five"
    assert "not assignable" in type_check(tmp_path, {"wrong": board})


def test_no_panel_lies_over_another() -> None:
    for board in BOARDS:
        taken: dict[tuple[int, int], str] = {}
        found = as_json(board, BOARDS)["panels"]
        assert len({panel["id"] for panel in found}) == len(found)
        for panel in found:
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24
            for cell in ((x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])):
                assert cell not in taken, f"{board.title}: {panel['title']} lies over {taken[cell]}"
                taken[cell] = panel["title"]


def test_a_question_for_what_nobody_serves_is_found() -> None:
    assert wrong_with(BOARDS) == []
    board = Board("x", "x", "x", (Row("r", (Panel("p", "Nothing.", "short", (Query("sum(winnow_nonsense_total{})"),)),)),))
    assert wrong_with((board,)) == ["x, p: nobody serves winnow_nonsense_total"]


def test_a_question_is_asked_without_grafanas_variables() -> None:
    asked = with_variables('sum(rate(a{,route="x"}[$__rate_interval])) / sum(rate(a{}[$__rate_interval]))', "1m")
    assert asked == 'sum(rate(a{route="x"}[1m])) / sum(rate(a[1m]))'


def test_a_runbook_names_panels_that_are_there() -> None:
    panels = {board.title.removeprefix("winnow: "): {panel.title for panel in board.panels} for board in BOARDS}
    named = 0
    for path in (DEPLOY / "runbooks").glob("*.md"):
        text = path.read_text()
        for board, rest in re.findall(r"[Dd]ashboard \*([^*]+)\*((?:, panels? (?:\*[^*]+\*(?: and )?)+)?)", text):
            assert board in panels, f"{path.name}: there is no dashboard {board}"
            for panel in re.findall(r"\*([^*]+)\*", rest):
                named += 1
                assert panel in panels[board], f"{path.name}: {board} has no panel {panel}"
        for panel in re.findall(r"panels? \*([^*]+)\*", text):
            assert any(panel in known for known in panels.values()), f"{path.name}: there is no panel {panel}"
    assert named >= 10
