//! A dashboard as Grafana's JSON. The only place that knows it.

use serde_json::{Value, json};

use super::{Choice, Dashboard, Mark, Panel, Query, Unit, View};

/// The data source the reader chose.
const SOURCE: &str = "${datasource}";
/// Heights of panels, in Grafana's units.
const STAT_HEIGHT: u64 = 4;
const HEIGHT: u64 = 8;
const GRAPH_HEIGHT: u64 = 14;

/// The text of a dashboard's file.
pub(super) fn json(dashboard: &Dashboard) -> String {
    let value = json!({
        "uid": uid(dashboard.name),
        "title": dashboard.title,
        "description": dashboard.says,
        "tags": ["segue"],
        "schemaVersion": 39,
        "version": 1,
        "editable": true,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": { "from": "now-1h", "to": "now" },
        "timezone": "",
        "annotations": { "list": [] },
        "links": [{
            "type": "dashboards", "tags": ["segue"], "title": "Segue", "asDropdown": false, "icon": "external link",
            "includeVars": true, "keepTime": true, "targetBlank": false, "tooltip": "", "url": "",
        }],
        "templating": { "list": variables(dashboard) },
        "panels": panels(dashboard),
    });
    // A value made here has no map with keys that are not text.
    format!("{value:#}\n")
}

fn uid(name: &str) -> String {
    format!("segue-{name}")
}

fn source() -> Value {
    json!({ "type": "prometheus", "uid": SOURCE })
}

fn variables(dashboard: &Dashboard) -> Vec<Value> {
    let mut all = vec![
        json!({
            "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
            "hide": 0, "refresh": 1, "regex": "", "multi": false, "includeAll": false, "options": [],
        }),
        variable("instance", "Node", "label_values(segue_build_info, instance)", true),
    ];
    let service = r#"segue_lb_selections_total{dst_namespace=~"$namespace"}"#;
    all.extend(dashboard.choices.iter().map(|choice| match choice {
        Choice::Namespace => {
            variable("namespace", "Namespace", "label_values(segue_lb_selections_total, dst_namespace)", true)
        }
        Choice::Services => {
            variable("service", "Service", &format!("label_values({service}, dst_service)"), true)
        }
        Choice::OneService => {
            variable("service", "Service", &format!("label_values({service}, dst_service)"), false)
        }
        Choice::Workload => variable(
            "workload",
            "Client",
            "label_values(segue_tcp_connections_opened_total, src_workload)",
            true,
        ),
    }));
    all
}

fn variable(name: &str, label: &str, query: &str, all: bool) -> Value {
    let mut value = json!({
        "name": name, "label": label, "type": "query", "datasource": source(), "definition": query,
        "query": { "query": query, "refId": "Variable" }, "refresh": 2, "sort": 1, "hide": 0, "regex": "",
        "multi": all, "includeAll": all, "options": [],
    });
    if all {
        value["allValue"] = json!(".*");
        value["current"] = json!({ "selected": true, "text": ["All"], "value": ["$__all"] });
    }
    value
}

/// Panels row by row, from left to right.
fn panels(dashboard: &Dashboard) -> Vec<Value> {
    let (mut all, mut top, mut id) = (Vec::new(), 0, 0);
    let mut next_id = || {
        id += 1;
        id
    };
    for row in dashboard.rows {
        all.push(json!({
            "id": next_id(), "type": "row", "title": row.title, "collapsed": false, "panels": [],
            "gridPos": { "x": 0, "y": top, "w": 24, "h": 1 },
        }));
        top += 1;
        let (mut left, mut tallest) = (0, 0);
        for panel in row.panels {
            if left + u64::from(panel.width) > 24 {
                (left, top, tallest) = (0, top + tallest, 0);
            }
            let height = match panel.view {
                View::Stat => STAT_HEIGHT,
                View::Graph => GRAPH_HEIGHT,
                _ => HEIGHT,
            };
            let mut value = one(dashboard, panel);
            value["id"] = json!(next_id());
            value["gridPos"] = json!({ "x": left, "y": top, "w": panel.width, "h": height });
            all.push(value);
            left += u64::from(panel.width);
            tallest = tallest.max(height);
        }
        top += tallest;
    }
    all
}

fn one(dashboard: &Dashboard, panel: &Panel) -> Value {
    let mut value = json!({
        "title": panel.title,
        "description": panel.says,
        "type": kind(panel.view),
        "datasource": source(),
        "targets": targets(dashboard, panel),
        "fieldConfig": { "defaults": defaults(panel), "overrides": [] },
        "options": options(panel),
    });
    match panel.view {
        View::Table => {
            value["transformations"] = table_columns(panel);
            value["fieldConfig"]["overrides"] = table_overrides(panel);
        }
        View::Graph => {
            value["transformations"] = json!([
                { "id": "renameByRegex", "options": { "regex": "Value.*", "renamePattern": "mainstat" } },
            ]);
        }
        _ => {}
    }
    value
}

const fn kind(view: View) -> &'static str {
    match view {
        View::Stat => "stat",
        View::Lines | View::Stack => "timeseries",
        View::Table => "table",
        View::Heat => "heatmap",
        View::Graph => "nodeGraph",
        View::States => "state-timeline",
    }
}

fn targets(dashboard: &Dashboard, panel: &Panel) -> Vec<Value> {
    let of_one = |(index, query): (usize, &Query)| {
        let mut target = json!({
            "refId": ref_id(panel, index),
            "datasource": source(),
            "expr": dashboard.expanded(query.text),
            "editorMode": "code",
        });
        if matches!(panel.view, View::Table | View::Graph) {
            target["instant"] = json!(true);
            target["range"] = json!(false);
            target["format"] = json!("table");
        } else {
            target["range"] = json!(true);
            target["legendFormat"] = json!(query.legend);
            target["format"] = json!(if panel.view == View::Heat { "heatmap" } else { "time_series" });
        }
        target
    };
    panel.queries.iter().enumerate().map(of_one).collect()
}

fn ref_id(panel: &Panel, index: usize) -> String {
    if panel.view == View::Graph {
        return panel.queries[index].legend.to_owned();
    }
    const LETTERS: &str = "ABCDEFGHIJ";
    LETTERS.get(index..=index).unwrap_or("Z").to_owned()
}

const fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Count => "short",
        Unit::PerSecond => "cps",
        Unit::Ratio => "percentunit",
        Unit::Seconds => "s",
        Unit::Bytes => "bytes",
        Unit::BytesPerSecond => "Bps",
        Unit::YesNo => "bool_yes_no",
    }
}

fn defaults(panel: &Panel) -> Value {
    let mut steps = vec![json!({ "color": base_colour(panel), "value": null })];
    steps.extend(panel.marks.iter().map(|(from, mark)| json!({ "color": colour(*mark), "value": from })));
    let mut defaults = json!({
        "unit": unit(panel.unit),
        "color": { "mode": if panel.view == View::Stat { "thresholds" } else { "palette-classic" } },
        "thresholds": { "mode": "absolute", "steps": steps },
    });
    // Without this a single line of a ratio of 0 is drawn in the middle.
    if panel.unit != Unit::YesNo && panel.view != View::Graph {
        defaults["min"] = json!(0);
    }
    match panel.view {
        View::Lines | View::Stack => {
            let stacked = panel.view == View::Stack;
            defaults["custom"] = json!({
                "drawStyle": "line", "lineWidth": 1, "fillOpacity": if stacked { 40 } else { 8 }, "showPoints": "never",
                "spanNulls": false, "stacking": { "mode": if stacked { "normal" } else { "none" }, "group": "A" },
                "thresholdsStyle": { "mode": if panel.marks.is_empty() { "off" } else { "dashed" } },
            });
        }
        View::States => {
            defaults["color"] = json!({ "mode": "thresholds" });
            defaults["custom"] = json!({ "fillOpacity": 70, "lineWidth": 0 });
        }
        View::Stat | View::Table | View::Heat | View::Graph => {}
    }
    defaults
}

/// Where more is better, what is below the first mark is bad.
fn base_colour(panel: &Panel) -> &'static str {
    if panel.marks.iter().any(|(_, mark)| *mark == Mark::Good) { "red" } else { "green" }
}

const fn colour(mark: Mark) -> &'static str {
    match mark {
        Mark::Warning => "orange",
        Mark::Bad => "red",
        Mark::Good => "green",
    }
}

fn options(panel: &Panel) -> Value {
    match panel.view {
        View::Stat => json!({
            "colorMode": "value", "graphMode": "area", "justifyMode": "auto", "orientation": "auto", "textMode": "auto",
            "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
        }),
        View::Lines | View::Stack => json!({
            "legend": { "displayMode": "table", "placement": "bottom", "showLegend": true, "calcs": ["lastNotNull", "max"] },
            "tooltip": { "mode": "multi", "sort": "desc" },
        }),
        View::Table => {
            json!({ "showHeader": true, "cellHeight": "sm", "sortBy": [{ "displayName": panel.queries[0].legend, "desc": true }] })
        }
        View::Heat => json!({
            "calculate": false, "cellGap": 1, "color": { "mode": "scheme", "scheme": "Oranges", "steps": 64 },
            "legend": { "show": true }, "tooltip": { "mode": "single", "yHistogram": true },
            "yAxis": { "axisPlacement": "left", "unit": "s" },
        }),
        View::Graph => json!({
            "nodes": { "mainStatUnit": unit(panel.unit) }, "edges": { "mainStatUnit": unit(panel.unit) },
        }),
        View::States => json!({
            "mergeValues": true, "showValue": "never", "rowHeight": 0.8,
            "legend": { "displayMode": "list", "placement": "bottom", "showLegend": false },
            "tooltip": { "mode": "single", "sort": "none" },
        }),
    }
}

/// All queries as columns of one table.
fn table_columns(panel: &Panel) -> Value {
    let mut names = serde_json::Map::new();
    for (index, query) in panel.queries.iter().enumerate() {
        let value = if panel.queries.len() == 1 {
            "Value".to_owned()
        } else {
            format!("Value #{}", ref_id(panel, index))
        };
        names.insert(value, json!(query.legend));
    }
    json!([
        { "id": "merge", "options": {} },
        { "id": "organize", "options": { "excludeByName": { "Time": true }, "renameByName": names } },
    ])
}

/// Units of columns, and the way from a service's name to its dashboard.
fn table_overrides(panel: &Panel) -> Value {
    let by_name = |name: &str, properties: Value| json!({ "matcher": { "id": "byName", "options": name }, "properties": properties });
    let units = panel.queries.iter().filter_map(|query| Some((query.legend, query.unit?)));
    let mut all: Vec<Value> =
        units.map(|(name, of)| by_name(name, json!([{ "id": "unit", "value": unit(of) }]))).collect();
    if panel.queries[0].text.contains("dst_service") {
        let url = format!(
            "/d/{}?${{datasource:queryparam}}&${{__url_time_range}}&var-namespace=${{__data.fields.dst_namespace}}\
             &var-service=${{__data.fields.dst_service}}",
            uid("service")
        );
        all.push(by_name(
            "dst_service",
            json!([{ "id": "links", "value": [{ "title": "Open this service", "url": url }] }]),
        ));
    }
    json!(all)
}
