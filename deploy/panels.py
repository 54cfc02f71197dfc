"""Panels as values -> a dashboard of Grafana's JSON model; the same values tell tests which questions must have answers.

Source of the shape: Grafana's dashboard schema (`Dashboard` of @grafana/schema), which a test checks the result against.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

WIDTH = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_SCHEMA = 39
_WORTH = re.compile(r"\bwinnow_[a-z0-9_]+")


class Query(NamedTuple):
    """One question to Prometheus; `legend` names its series."""

    expr: str
    legend: str = ""


class Panel(NamedTuple):
    """One panel: kind is `stat`, `timeseries`, `table` or `heatmap`; unit is one of Grafana's; steps colour a value from there on."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    steps: tuple[tuple[str, float | None], ...] = (("green", None),)
    stacked: bool = False


class Row(NamedTuple):
    """A heading with the panels below it."""

    title: str
    panels: tuple[Panel, ...]


class Board(NamedTuple):
    """One dashboard."""

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]

    @property
    def panels(self) -> list[Panel]:
        """All panels in the order in which they are read."""
        return [panel for row in self.rows for panel in row.panels]


def asked(expr: str) -> set[str]:
    """Return the names of winnow's series in a question."""
    return set(_WORTH.findall(expr))


def as_json(board: Board, links: Sequence[Board]) -> dict[str, Any]:
    """Return Grafana's JSON model of a dashboard."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row in board.rows:
        panels.append(
            {
                "id": len(panels) + 1, "type": "row", "title": row.title, "collapsed": False, "panels": [],
                "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": y},
            }
        )  # fmt: skip
        y += 1
        x = line = 0
        for panel in row.panels:
            if x + panel.width > WIDTH:
                x, y, line = 0, y + line, 0
            place = {"h": panel.height, "w": panel.width, "x": x, "y": y}
            panels.append({"id": len(panels) + 1, **_panel(panel), "gridPos": place})
            x, line = x + panel.width, max(line, panel.height)
        y += line
    return {
        "uid": board.uid, "title": board.title, "description": board.description, "tags": ["winnow"],
        "schemaVersion": _SCHEMA, "version": 1, "editable": True, "graphTooltip": 1, "timezone": "browser", "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "links": [
            {
                "title": other.title, "type": "link", "url": f"/d/{other.uid}", "icon": "dashboard", "tags": [],
                "tooltip": other.description, "asDropdown": False, "targetBlank": False, "includeVars": True, "keepTime": True,
            }
            for other in links if other.uid != board.uid
        ],
        "annotations": {
            "list": [
                {
                    "name": "models and rules taken up", "datasource": DATASOURCE, "enable": True, "iconColor": "blue",
                    "target": {"refId": "Anno", "expr": f"sum(changes(winnow_swaps_total{_FILTER}[1m])) > 0"},
                }
            ]
        },
        "templating": {"list": _variables()},
        "panels": panels,
    }  # fmt: skip


_FILTER = '{namespace=~"$namespace"}'


def _variables() -> list[dict[str, Any]]:
    return [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0},
        {
            "name": "namespace", "label": "Namespace", "type": "query", "datasource": DATASOURCE, "hide": 0, "refresh": 2,
            "query": "label_values(winnow_owned_partitions, namespace)", "includeAll": True, "allValue": ".*", "multi": True,
            "current": {"text": "All", "value": "$__all"}, "sort": 1,
        },
    ]  # fmt: skip


def _panel(panel: Panel) -> dict[str, Any]:
    steps = [{"color": color, "value": value} for color, value in panel.steps]
    custom: dict[str, Any] = {}
    options: dict[str, Any] = {}
    if panel.kind == "timeseries":
        custom = {"lineWidth": 1, "fillOpacity": 20 if panel.stacked else 0, "showPoints": "never", "spanNulls": False}
        if panel.stacked:
            custom["stacking"] = {"mode": "normal", "group": "A"}
        options = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    elif panel.kind == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"], "values": False, "fields": ""}}
    found: dict[str, Any] = {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit, "color": {"mode": _color(panel)}, "thresholds": {"mode": "absolute", "steps": steps}, "custom": custom,
            },
            "overrides": [],
        },
        "options": options,
        "targets": [_target(place, query, panel) for place, query in enumerate(panel.queries)],
    }  # fmt: skip
    if panel.kind == "table":
        hidden = {"Time": True, "Value": True, "__name__": True, "job": True, "namespace": True}
        found["transformations"] = [{"id": "organize", "options": {"excludeByName": hidden}}]
    return found


def _color(panel: Panel) -> str:
    return "palette-classic" if panel.kind == "timeseries" else "thresholds"


def _target(place: int, query: Query, panel: Panel) -> dict[str, Any]:
    is_table = panel.kind == "table"
    return {
        "refId": chr(ord("A") + place),
        "datasource": DATASOURCE,
        "expr": query.expr.replace("{}", _FILTER).replace("{,", '{namespace=~"$namespace",'),
        "legendFormat": query.legend or "__auto",
        "instant": is_table,
        "range": not is_table,
        "format": "table" if is_table else "heatmap" if panel.kind == "heatmap" else "time_series",
    }


def with_variables(expr: str, window: str) -> str:
    """Return a question as Prometheus understands it, without Grafana's variables: every namespace, one window."""
    said = expr.replace("{}", "").replace("{,", "{")
    return said.replace("$__rate_interval", window).replace("$__range", window)
