//! A service map as shapes and lines, and these in the languages of Graphviz and Mermaid. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use super::window::{Flow, Health, Traffic};
use super::{percent, rate};
use crate::admin::view::ServiceMap;
use crate::admin::view::service_map::ServiceNode;
use crate::cli::table::duration;

/// What a shape stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Workload,
    Service,
    Backends,
}

/// One thing of the drawing.
#[derive(Clone, Debug)]
struct Shape {
    kind: Kind,
    lines: Vec<String>,
    /// Some backend gets no connections.
    troubled: bool,
}

/// What a line stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tie {
    /// Connections, doing like this.
    Traffic(Health),
    /// Where connections go when nothing is usable.
    Fallback,
    /// The same process: who answers at a backend.
    Same,
}

/// A line from one shape to another, by their places.
#[derive(Clone, Debug)]
struct Line {
    from: usize,
    to: usize,
    tie: Tie,
    /// How thick, 1 to 6.
    weight: u32,
    label: String,
}

/// Shapes and lines.
#[derive(Clone, Debug, Default)]
pub(super) struct Drawing {
    shapes: Vec<Shape>,
    lines: Vec<Line>,
}

impl Drawing {
    /// What a map looks like with this traffic on it.
    pub(super) fn new(map: &ServiceMap, flows: &[Flow]) -> Self {
        let mut drawing = Self::default();
        let workloads = drawing.workloads(map, flows);
        let services: BTreeMap<&str, usize> = map
            .services
            .iter()
            .map(|service| (&*service.name, drawing.shape(Kind::Service, service_lines(service), false)))
            .collect();
        let mut calls: BTreeMap<(&Arc<str>, &Arc<str>), Traffic> = BTreeMap::new();
        for flow in flows {
            calls.entry((&flow.from, &flow.to)).or_default().add(&flow.traffic);
        }
        for ((from, to), traffic) in calls {
            if let (Some(from), Some(to)) = (workloads.get(&**from), services.get(&**to)) {
                drawing.traffic(*from, *to, &traffic);
            }
        }
        for service in &map.services {
            let at = services[&*service.name];
            drawing.backends(service, at, flows, &workloads);
            if let Some(fallback) = service.fallback.as_ref().and_then(|name| services.get(&**name)) {
                let label = "fallback".to_owned();
                drawing.lines.push(Line { from: at, to: *fallback, tie: Tie::Fallback, weight: 1, label });
            }
        }
        drawing
    }

    /// Those that connect somewhere, or answer somewhere.
    fn workloads<'m>(&mut self, map: &'m ServiceMap, flows: &[Flow]) -> BTreeMap<&'m str, usize> {
        let clients = flows.iter().map(|flow| &*flow.from);
        let servers = map.services.iter().flat_map(|service| &service.backends);
        let drawn: BTreeSet<&str> =
            clients.chain(servers.filter_map(|backend| backend.workload.as_deref())).collect();
        let mut places = BTreeMap::new();
        for workload in map.workloads.iter().filter(|workload| drawn.contains(&*workload.id)) {
            let lines = vec![workload.name.to_string(), workload.namespace.to_string()];
            places.insert(&*workload.id, self.shape(Kind::Workload, lines, false));
        }
        places
    }

    /// The backends of each version, as one shape.
    fn backends(
        &mut self,
        service: &ServiceNode,
        at: usize,
        flows: &[Flow],
        workloads: &BTreeMap<&str, usize>,
    ) {
        let versions: BTreeSet<Option<&Arc<str>>> =
            service.backends.iter().map(|backend| backend.version.as_ref()).collect();
        for version in versions {
            let its = || service.backends.iter().filter(move |backend| backend.version.as_ref() == version);
            let held_back = its().filter(|backend| backend.held_back).count();
            let title = version.map_or("backends", |version| version);
            let mut lines = vec![title.to_owned(), format!("{} in all", its().count())];
            if held_back > 0 {
                lines.push(format!("{held_back} held back"));
            }
            let shape = self.shape(Kind::Backends, lines, held_back > 0);
            let mut traffic = Traffic::default();
            let of_version = |flow: &&Flow| flow.to == service.name && flow.version.as_ref() == version;
            flows.iter().filter(of_version).for_each(|flow| traffic.add(&flow.traffic));
            self.traffic(at, shape, &traffic);
            let servers: BTreeSet<&str> = its().filter_map(|backend| backend.workload.as_deref()).collect();
            for server in servers.into_iter().filter_map(|server| workloads.get(server)) {
                let line = Line { from: shape, to: *server, tie: Tie::Same, weight: 1, label: String::new() };
                self.lines.push(line);
            }
        }
    }

    fn shape(&mut self, kind: Kind, lines: Vec<String>, troubled: bool) -> usize {
        self.shapes.push(Shape { kind, lines, troubled });
        self.shapes.len() - 1
    }

    fn traffic(&mut self, from: usize, to: usize, traffic: &Traffic) {
        let (label, weight) = (label(traffic), weight(traffic));
        self.lines.push(Line { from, to, tie: Tie::Traffic(traffic.health()), weight, label });
    }

    /// In the language of Graphviz.
    pub(super) fn dot(&self) -> String {
        let mut text = String::from(
            "digraph segue {\n  rankdir=LR; nodesep=0.4; ranksep=1.2;\n  \
             node [fontname=\"sans-serif\", fontsize=11, color=\"#6b7280\"];\n  edge [fontname=\"sans-serif\", fontsize=9];\n",
        );
        for (place, shape) in self.shapes.iter().enumerate() {
            let label: Vec<String> = shape.lines.iter().map(|line| dot_text(line)).collect();
            let look = match (shape.kind, shape.troubled) {
                (Kind::Workload, _) => "shape=box, style=rounded",
                (Kind::Service, _) => "shape=box, style=filled, fillcolor=\"#eef4fb\"",
                (Kind::Backends, false) => "shape=component",
                (Kind::Backends, true) => "shape=component, style=bold, color=\"#d55e00\"",
            };
            writeln!(text, "  n{place} [label=\"{}\", {look}];", label.join("\\n")).expect("a String grows");
        }
        for line in &self.lines {
            let Line { from, to, weight, .. } = line;
            let (colour, style) = line.look();
            let label = dot_text(&line.label);
            writeln!(
                text,
                "  n{from} -> n{to} [label=\"{label}\", color=\"{colour}\", style={style}, penwidth={weight}];"
            )
            .expect("a String grows");
        }
        text + "}\n"
    }

    /// In the language of Mermaid.
    pub(super) fn mermaid(&self) -> String {
        let mut text = String::from("flowchart LR\n");
        for (place, shape) in self.shapes.iter().enumerate() {
            let label: Vec<String> = shape.lines.iter().map(|line| mermaid_text(line)).collect();
            let (open, close) = match shape.kind {
                Kind::Workload => ("([", "])"),
                Kind::Service => ("[", "]"),
                Kind::Backends => ("[[", "]]"),
            };
            writeln!(text, "  n{place}{open}\"{}\"{close}", label.join("<br/>")).expect("a String grows");
        }
        for line in &self.lines {
            let arrow = if line.look().1 == "solid" { "-->" } else { "-.->" };
            let label = match &*line.label {
                "" => String::new(),
                label => format!("|\"{}\"|", mermaid_text(label)),
            };
            writeln!(text, "  n{} {arrow}{label} n{}", line.from, line.to).expect("a String grows");
        }
        for (place, line) in self.lines.iter().enumerate() {
            let (colour, weight) = (line.look().0, line.weight);
            writeln!(text, "  linkStyle {place} stroke:{colour},stroke-width:{weight}px")
                .expect("a String grows");
        }
        for (place, _) in self.shapes.iter().enumerate().filter(|(_, shape)| shape.troubled) {
            writeln!(text, "  style n{place} stroke:#d55e00,stroke-width:3px").expect("a String grows");
        }
        text
    }
}

impl Line {
    /// Colour and stroke: each tells by itself how it goes.
    fn look(&self) -> (&'static str, &'static str) {
        match self.tie {
            Tie::Traffic(Health::Idle) | Tie::Same => ("#9ca3af", "dotted"),
            Tie::Traffic(Health::Good) => ("#0072b2", "solid"),
            Tie::Traffic(Health::Hurt) => ("#c98200", "solid"),
            Tie::Traffic(Health::Failing) => ("#d55e00", "dashed"),
            Tie::Fallback => ("#6b7280", "dashed"),
        }
    }
}

fn service_lines(service: &ServiceNode) -> Vec<String> {
    let mut lines = vec![service.name.to_string()];
    lines.extend(service.frontends.iter().map(ToString::to_string).take(2));
    if service.gone {
        lines.push("gone".to_owned());
    }
    lines
}

/// Rate, failures and time, as far as there is something to say.
fn label(traffic: &Traffic) -> String {
    let rate = match (traffic.requests, traffic.opened + traffic.failed) {
        (0, 0) => return String::new(),
        (0, _) => format!("{} conn/s", rate(traffic.connections_per_second())),
        _ => format!("{} req/s", rate(traffic.requests_per_second())),
    };
    let failed = traffic.failed_share().filter(|share| *share > 0.0);
    let failed = failed.map(|share| format!("{} failed", percent(share)));
    let p99 = traffic.quantile_ns(0.99).map(|ns| format!("p99 {}", duration(ns)));
    [Some(rate), failed, p99].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// One step thicker for every tenfold of traffic.
fn weight(traffic: &Traffic) -> u32 {
    let per_second = traffic.connections_per_second().max(traffic.requests_per_second());
    [0.1, 1.0, 10.0, 100.0, 1_000.0].iter().map(|bound| u32::from(per_second >= *bound)).sum::<u32>() + 1
}

/// Text within quotes.
fn dot_text(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\\' => escaped.extend(['\\', character]),
            _ if character.is_control() => escaped.push('_'),
            _ => escaped.push(character),
        }
    }
    escaped
}

/// Text within quotes: what could mean something is written as a number.
fn mermaid_text(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        let is_plain = character.is_alphanumeric() || " ./:_-,%@µ".contains(character);
        match is_plain {
            true => escaped.push(character),
            false => write!(escaped, "#{};", u32::from(character)).expect("a String grows"),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::super::window;
    use super::*;
    use crate::admin::Observe;
    use crate::admin::specimen::Specimen;

    fn drawing() -> Drawing {
        let before = Specimen::default().map().expect("a specimen");
        let mut after = before.clone();
        after.monotonic_ms += 1_000;
        after.edges[1].opened += 20;
        after.edges[1].requests[0].count += 30;
        after.edges[1].requests[0].errors += 3;
        Drawing::new(&after, &window::flows(&before, &after))
    }

    #[test]
    fn graphviz_draws_it() {
        let text = drawing().dot();
        assert!(text.contains(r#"batch@night \"2\""#), "{text}");
        assert!(text.contains("30 req/s, 10 % failed"), "{text}");
        let started = Command::new("dot").arg("-Tsvg").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut dot = match started {
            Ok(dot) => dot,
            Err(error) if std::env::var_os("CI").is_none() => {
                eprintln!("dot is not installed, so nothing was drawn: {error}");
                return;
            }
            Err(error) => panic!("dot is not installed: {error}"),
        };
        dot.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("dot reads");
        let output = dot.wait_with_output().expect("dot ends");
        let svg = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && svg.contains("shop/payment"), "{text}\n{svg}");
        assert!(svg.contains("batch@night &quot;2&quot;"), "{svg}");
    }

    #[test]
    fn mermaid_gets_shapes_then_lines_then_looks() {
        let text = drawing().mermaid();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("flowchart LR"));
        assert!(text.contains(r#"(["batch@night #34;2#34;<br/>host"])"#), "{text}");
        let count = |part: &str| text.lines().filter(|line| line.contains(part)).count();
        assert_eq!(count("linkStyle"), count("-->") + count("-.->"), "{text}");
        // Whatever a name holds, a line has one statement.
        let allowed = |line: &str| {
            let line = line.trim();
            line == "flowchart LR"
                || line.starts_with("linkStyle ")
                || line.starts_with("style n")
                || line.starts_with('n')
        };
        assert!(text.lines().all(allowed), "{text}");
    }

    #[test]
    fn no_name_ends_its_quotes() {
        let evil = "a\"] --> b\nclick \\ <script>";
        assert_eq!(dot_text(evil), "a\\\"] --> b_click \\\\ <script>");
        let mermaid = mermaid_text(evil);
        assert!(!mermaid.contains(['"', ']', '>', '\n', '<']), "{mermaid}");
    }
}
