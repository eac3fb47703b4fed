#!/usr/bin/env python3
"""Writes the Grafana dashboards, one JSON file each, from the descriptions in panels.py.

They lie in the Helm chart, which can't reach outside its folder; what is called the same here are links to them.

  generate.py           writes them
  generate.py --check   says which differ from what it would write, and ends with 1 if any does
"""
import argparse
import json
import pathlib
import sys

import panels

LINKS = pathlib.Path(__file__).resolve().parent
FOLDER = LINKS.parent / "tessera" / "files" / "dashboards"
SCHEMA_VERSION = 39   # Grafana 10.3; newer ones migrate it when they load it
COLUMNS = 24          # Grafana's grid
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
GREEN_ONLY = [{"color": "green", "value": None}]
PALETTE = {"mode": "palette-classic"}


def target(letter, expression, legend, table):
    return {"datasource": DATASOURCE, "editorMode": "code", "exemplar": False, "expr": expression,
            "format": "table" if table else "time_series", "instant": table, "legendFormat": legend,
            "range": not table, "refId": letter}


def thresholds(panel):
    steps = GREEN_ONLY + [{"color": color, "value": value} for value, color in panel.thresholds]
    return {"mode": "absolute", "steps": steps}


def defaults(panel):
    result = {"color": {"mode": "thresholds"} if panel.thresholds else PALETTE, "custom": {}, "mappings": [],
              "thresholds": thresholds(panel), "unit": panel.unit}
    if panel.lowest is not None:
        result["min"] = panel.lowest
    if panel.highest is not None:
        result["max"] = panel.highest
    if panel.kind == "timeseries":
        result["color"] = PALETTE
        result["custom"] = {
            "axisPlacement": "auto", "drawStyle": "line", "fillOpacity": 20 if panel.stacked else 8,
            "lineWidth": 1, "pointSize": 4, "scaleDistribution": {"type": "linear"}, "showPoints": "never",
            "spanNulls": False, "stacking": {"group": "A", "mode": "normal" if panel.stacked else "none"}}
    if panel.kind == "table":
        result["custom"] = {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False}
    return result


def options(panel):
    reduce = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    if panel.kind == "timeseries":
        return {"legend": {"calcs": ["lastNotNull", "max"], "displayMode": "table", "placement": "bottom",
                           "showLegend": True},
                "tooltip": {"mode": "multi", "sort": "desc"}}
    if panel.kind == "stat":
        return {"colorMode": "background" if panel.thresholds else "value", "graphMode": "area",
                "justifyMode": "auto", "orientation": "auto", "reduceOptions": reduce, "textMode": "auto"}
    if panel.kind == "bargauge":
        return {"displayMode": "gradient", "minVizHeight": 16, "minVizWidth": 8, "namePlacement": "auto",
                "orientation": "horizontal", "reduceOptions": reduce, "showUnfilled": True, "sizing": "auto",
                "valueMode": "color"}
    return {"cellHeight": "sm", "footer": {"countRows": False, "fields": "", "reducer": ["sum"], "show": False},
            "showHeader": True}


def transformations(panel):
    """A table shows labels as columns, without the time and the job."""
    if panel.kind != "table":
        return []
    hidden = {name: True for name in ("Time", "__name__", "job", "cluster", "component_id")}
    return [{"id": "organize", "options": {"excludeByName": hidden, "indexByName": {}, "renameByName": {}}}]


def grafana_panel(panel, identity, position):
    table = panel.kind == "table"
    return {"datasource": DATASOURCE, "description": panel.description,
            "fieldConfig": {"defaults": defaults(panel), "overrides": []}, "gridPos": position, "id": identity,
            "options": options(panel),
            "targets": [target(chr(ord("A") + i), expression, legend, table)
                        for i, (expression, legend) in enumerate(panel.queries)],
            "title": panel.title, "transformations": transformations(panel), "type": panel.kind}


def place(rows):
    """Panels under each other, a row's side by side in equal shares of the width."""
    placed, top, identity = [], 0, 0
    for row in rows:
        identity += 1
        placed.append({"collapsed": False, "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": top}, "id": identity,
                       "panels": [], "title": row.title, "type": "row"})
        top += 1
        for line in row.lines:
            width = COLUMNS // len(line)
            height = 4 if all(panel.kind == "stat" for panel in line) else 8
            for column, panel in enumerate(line):
                identity += 1
                position = {"h": height, "w": width, "x": column * width, "y": top}
                placed.append(grafana_panel(panel, identity, position))
            top += height
    return placed


def variable(name, label, query, several):
    everything = {"allValue": ".*", "current": {"selected": True, "text": ["All"], "value": ["$__all"]}}
    return {**(everything if several else {}), "datasource": DATASOURCE, "hide": 0, "includeAll": several,
            "label": label, "multi": several, "name": name, "options": [],
            "query": {"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
            "refresh": 2, "regex": "", "skipUrlSync": False, "sort": 1, "type": "query"}


def variables(dashboard):
    source = {"hide": 0, "includeAll": False, "label": "Data source", "multi": False,
              "name": "datasource", "options": [], "query": "prometheus", "refresh": 1, "regex": "",
              "skipUrlSync": False, "type": "datasource"}
    chosen = [source, variable("cluster", "Cluster", "label_values(tessera_build_info, cluster)", False),
              variable("instance", "Instance",
                       f'label_values({dashboard.instances}, instance)', True)]
    for name, (label, query) in dashboard.variables.items():
        chosen.append(variable(name, label, query, True))
    return {"list": chosen}


def links():
    return [{"asDropdown": True, "icon": "external link", "includeVars": True, "keepTime": True, "tags": ["tessera"],
             "targetBlank": False, "title": "Tessera", "tooltip": "", "type": "dashboards", "url": ""}]


def annotations():
    """Grafana's own, which every dashboard has."""
    return {"list": [{"builtIn": 1, "datasource": {"type": "grafana", "uid": "-- Grafana --"}, "enable": True,
                      "hide": True, "iconColor": "rgba(0, 211, 255, 1)", "name": "Annotations & Alerts",
                      "type": "dashboard"}]}


def build(dashboard):
    return {"annotations": annotations(), "description": dashboard.description, "editable": True,
            "fiscalYearStartMonth": 0, "graphTooltip": 1, "id": None, "links": links(), "panels": place(dashboard.rows),
            "refresh": "30s", "schemaVersion": SCHEMA_VERSION, "tags": ["tessera"], "templating": variables(dashboard),
            "time": {"from": "now-1h", "to": "now"}, "timepicker": {}, "timezone": "browser",
            "title": f"Tessera / {dashboard.title}", "uid": f"tessera-{dashboard.name}", "version": 1, "weekStart": ""}


def files():
    """File name to text, of all dashboards."""
    return {f"{dashboard.name}.json": json.dumps(build(dashboard), indent=2, sort_keys=True) + "\n"
            for dashboard in panels.DASHBOARDS}


def differing():
    """Files that are not what would be written, missing or left over."""
    wanted = files()
    names = {path.name for path in FOLDER.glob("*.json")} | set(wanted)
    return sorted(name for name in names
                  if not (FOLDER / name).exists() or (FOLDER / name).read_text() != wanted.get(name))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    names = differing()
    if arguments.check:
        for name in names:
            print(f"{name} is not what generate.py writes: run it", file=sys.stderr)
        return 1 if names else 0
    wanted = files()
    for name in names:
        link = LINKS / name
        if name in wanted:
            (FOLDER / name).write_text(wanted[name])
            if not link.is_symlink():
                link.symlink_to(f"../{FOLDER.relative_to(LINKS.parent)}/{name}")
        else:
            (FOLDER / name).unlink()
            link.unlink(missing_ok=True)
        print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
