//! A screen as cells of a terminal. Decides nothing: what is shown, in which order and what is chosen is the screen's.

use agent_ebpf::abi::BreakerMode;
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Clear, Paragraph, Row, Table, TableState};

use super::sample::{BackendRow, ClientRow, Pace, Rates, ServiceRow, Unit};
use super::screen::{Pane, Screen, View};
use super::{percent, rate};
use crate::cli::flows::client_name;
use crate::cli::table::duration;

/// The narrowest and lowest terminal on which all fits.
const LEAST: (u16, u16) = (60, 10);

/// What is drawn besides the screen.
#[derive(Clone, Debug, Default)]
pub struct Around {
    /// The time of day.
    pub clock: String,
    /// How often a sample is taken, in words.
    pub every: String,
    /// Why the newest sample could not be had.
    pub trouble: Option<String>,
    /// Colours may be used.
    pub colours: bool,
}

impl Around {
    fn colour(&self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }

    fn good(&self) -> Style {
        self.colour(Color::Green)
    }

    fn warn(&self) -> Style {
        self.colour(Color::Yellow)
    }

    /// What is wrong is bold too: where there is no colour it still stands out.
    fn bad(&self) -> Style {
        self.colour(Color::Red).add_modifier(Modifier::BOLD)
    }
}

const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const HEADING: Style = Style::new().add_modifier(Modifier::BOLD);
const CHOSEN: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Draws the whole terminal.
pub fn draw(frame: &mut Frame<'_>, screen: &Screen, rates: Option<&Rates>, around: &Around) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let text = format!("this terminal is smaller than {} by {}; q quits", LEAST.0, LEAST.1);
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let [top, body, bottom] =
        Layout::vertical([Constraint::Length(2), Constraint::Min(1), Constraint::Length(1)]).areas(area);
    frame.render_widget(Paragraph::new(header(screen, rates, around)), top);
    frame.render_widget(Paragraph::new(keys(screen)), bottom);
    match (rates, &screen.view) {
        (None, _) => frame.render_widget(Paragraph::new("counting for the first time …"), body),
        (Some(rates), View::Services) => services(frame, body, screen, rates, around),
        (Some(rates), View::Service { pane, line, .. }) => match screen.service(rates) {
            Some(row) => service(frame, body, screen, row, (*pane, *line), around),
            None => frame.render_widget(Paragraph::new("this service is gone; Esc goes back"), body),
        },
    }
    if screen.shows_help {
        help(frame, area);
    }
}

fn header<'a>(screen: &Screen, rates: Option<&Rates>, around: &Around) -> Vec<Line<'a>> {
    let mut first = vec![
        Span::styled("segue top", HEADING),
        Span::raw(format!("  {}, every {}", around.clock, around.every)),
    ];
    if screen.is_paused {
        first.push(Span::styled("  PAUSED", around.warn().add_modifier(Modifier::BOLD)));
    }
    if let Some(rates) = rates {
        let connects: f64 = rates.services.iter().map(|row| row.pace.connects_per_s).sum();
        let requests: f64 = rates.services.iter().filter_map(|row| row.pace.requests_per_s).sum();
        let held: usize = rates.services.iter().map(ServiceRow::held_back).sum();
        first.push(Span::raw(format!(
            "  {} services, {} conn/s, {} req/s",
            rates.services.len(),
            rate(connects),
            rate(requests)
        )));
        if held > 0 {
            first.push(Span::styled(format!(", {held} held back"), around.bad()));
        }
        if rates.others_per_s > 0.0 {
            let text = format!(", {} conn/s beyond the limit on edges", rate(rates.others_per_s));
            first.push(Span::styled(text, around.warn()));
        }
    }
    let second = match (&around.trouble, screen.is_typing, screen.filter.is_empty()) {
        (Some(trouble), ..) => Line::styled(trouble.clone(), around.bad()),
        (None, true, _) => Line::raw(format!("/{}_", screen.filter)),
        (None, false, false) => Line::raw(format!("only names with \"{}\"", screen.filter)),
        (None, false, true) => Line::raw(""),
    };
    vec![Line::from(first), second]
}

fn keys<'a>(screen: &Screen) -> Line<'a> {
    let keys: &[(&str, &str)] = match (&screen.view, screen.is_typing) {
        (_, true) => &[("Enter", "keep"), ("Esc", "drop the filter")],
        (View::Services, false) => &[
            ("↑↓", "choose"),
            ("Enter", "open"),
            ("s", "sort"),
            ("r", "reverse"),
            ("/", "filter"),
            ("p", "pause"),
            ("?", "help"),
            ("q", "quit"),
        ],
        (View::Service { .. }, false) => &[
            ("↑↓", "choose"),
            ("Tab", "clients/backends"),
            ("r", "reverse"),
            ("p", "pause"),
            ("Esc", "back"),
            ("?", "help"),
            ("q", "quit"),
        ],
    };
    let spans = keys
        .iter()
        .flat_map(|(key, does)| [Span::styled((*key).to_owned(), CHOSEN), Span::raw(format!(" {does}  "))]);
    Line::from(spans.collect::<Vec<_>>())
}

fn right<'a>(text: impl Into<String>) -> Cell<'a> {
    Cell::from(Line::from(text.into()).alignment(Alignment::Right))
}

fn heading<'a>(names: &[&'static str], to_right: usize) -> Row<'a> {
    let cells = names.iter().enumerate().map(
        |(at, name)| {
            if at < to_right { Cell::from(*name) } else { right(*name) }
        },
    );
    Row::new(cells).style(HEADING)
}

/// The share of success, the three times, and what is open.
fn paced<'a>(pace: &Pace, around: &Around) -> [Cell<'a>; 6] {
    let style = match pace.success {
        Some(success) if success < 0.95 => around.bad(),
        Some(success) if success < 1.0 => around.warn(),
        Some(_) => around.good(),
        None => DIM,
    };
    let time = |ns: Option<u64>| right(ns.map_or_else(|| "-".to_owned(), duration));
    [
        right(rate(pace.rate())),
        right(percent(pace.success)).style(style),
        time(pace.times.p50_ns),
        time(pace.times.p95_ns),
        time(pace.times.p99_ns),
        right(pace.open.to_string()),
    ]
}

/// Widths of what [`paced`] makes.
const PACED: [Constraint; 6] = [
    Constraint::Length(6),
    Constraint::Length(7),
    Constraint::Length(7),
    Constraint::Length(7),
    Constraint::Length(7),
    Constraint::Length(5),
];

fn services(frame: &mut Frame<'_>, area: Rect, screen: &Screen, rates: &Rates, around: &Around) {
    let rows = screen.services(rates);
    if rows.is_empty() {
        let text = if screen.filter.is_empty() { "no services" } else { "no service of such a name" };
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let line = screen.line(&rows);
    let table_rows = rows.iter().map(|row| {
        let [rate, success, p50, p95, p99, open] = paced(&row.pace, around);
        let style = match (row.held_back(), row.breaker().as_str()) {
            (0, "off") => DIM,
            (0, _) => around.good(),
            _ => around.bad(),
        };
        let breaker = Cell::from(row.breaker()).style(style);
        Row::new([
            Cell::from(row.name.to_string()),
            Cell::from(row.carries()),
            rate,
            success,
            p50,
            p95,
            p99,
            open,
            breaker,
        ])
    });
    let [rate, success, p50, p95, p99, open] = PACED;
    let widths = [
        Constraint::Min(12),
        Constraint::Length(5),
        rate,
        success,
        p50,
        p95,
        p99,
        open,
        Constraint::Length(11),
    ];
    let title = |name: &'static str| match screen.sort.name() == name {
        true => format!("{}{}", name.to_uppercase(), if screen.reversed { "▲" } else { "▼" }),
        false => name.to_uppercase(),
    };
    let times = |name: &'static str| if screen.sort.name() == name { title(name) } else { name.to_owned() };
    let headings = [
        Cell::from(if screen.sort.name() == "name" { title("name") } else { "SERVICE".to_owned() }),
        Cell::from("OF"),
        right(if screen.sort.name() == "rate" { title("rate") } else { "RATE/s".to_owned() }),
        right(if screen.sort.name() == "success" {
            title("success").replace("SUCCESS", "SUCC")
        } else {
            "SUCCESS".to_owned()
        }),
        right("p50"),
        right("p95"),
        right(times("p99")),
        right(title("open")),
        Cell::from(title("breaker")),
    ];
    let table =
        Table::new(table_rows, widths).header(Row::new(headings).style(HEADING)).row_highlight_style(CHOSEN);
    frame.render_stateful_widget(table, area, &mut TableState::default().with_selected(line));
}

fn service(
    frame: &mut Frame<'_>,
    area: Rect,
    screen: &Screen,
    row: &ServiceRow,
    (pane, line): (Pane, usize),
    around: &Around,
) {
    let [about, clients_area, backends_area] =
        Layout::vertical([Constraint::Length(3), Constraint::Fill(1), Constraint::Fill(1)]).areas(area);
    frame.render_widget(Paragraph::new(summary(row, around)), about);
    let chosen = |of: Pane| (pane == of).then_some(line);
    clients(frame, clients_area, &screen.clients(row), chosen(Pane::Clients), around);
    backends(frame, backends_area, &screen.backends(row), chosen(Pane::Backends), around);
}

fn summary<'a>(row: &ServiceRow, around: &Around) -> Vec<Line<'a>> {
    let frontends: Vec<_> = row.frontends.iter().map(ToString::to_string).collect();
    let pace = &row.pace;
    let mut second = format!("{} conn/s, {} failed/s", rate(pace.connects_per_s), rate(pace.failures_per_s));
    if let Some(requests) = pace.requests_per_s {
        second += &format!(", {} {}/s", rate(requests), row.carries());
    }
    let time = |ns: Option<u64>| ns.map_or_else(|| "-".to_owned(), duration);
    second += &format!(", success {}", percent(pace.success));
    let of = if pace.unit == Unit::Request { "answers" } else { "handshakes" };
    let third = format!(
        "{of} take p50 {}, p95 {}, p99 {}",
        time(pace.times.p50_ns),
        time(pace.times.p95_ns),
        time(pace.times.p99_ns)
    );
    let style = if row.held_back() > 0 { around.bad() } else { Style::new() };
    let mode = row.breaker_mode;
    let breaker = if mode == BreakerMode::Off { String::new() } else { format!(": {}", row.breaker()) };
    vec![
        Line::from(vec![
            Span::styled(row.name.to_string(), HEADING),
            Span::raw(format!("  {} {}  breaker {}", row.protocol.name(), frontends.join(" "), mode.name())),
            Span::styled(breaker, style),
        ]),
        Line::from(second),
        Line::from(third),
    ]
}

fn pane<'a>(title: String, has_keys: bool) -> Block<'a> {
    let style = if has_keys { HEADING } else { DIM };
    Block::new().borders(Borders::TOP).title(title).title_style(style).border_style(style)
}

fn clients(frame: &mut Frame<'_>, area: Rect, rows: &[&ClientRow], line: Option<usize>, around: &Around) {
    let table_rows = rows.iter().map(|row| {
        let version = row.version.as_deref().unwrap_or("-").to_owned();
        let cells = [Cell::from(client_name(&row.client)), Cell::from(version)];
        Row::new(cells.into_iter().chain(paced(&row.pace, around)))
    });
    let widths = [Constraint::Min(12), Constraint::Length(8)].into_iter().chain(PACED);
    let headings = ["CLIENT", "VERSION", "RATE/s", "SUCCESS", "p50", "p95", "p99", "OPEN"];
    let table = Table::new(table_rows, widths)
        .header(heading(&headings, 2))
        .row_highlight_style(CHOSEN)
        .block(pane(format!(" clients ({}) ", rows.len()), line.is_some()));
    frame.render_stateful_widget(table, area, &mut TableState::default().with_selected(line));
}

fn backends(frame: &mut Frame<'_>, area: Rect, rows: &[&BackendRow], line: Option<usize>, around: &Around) {
    let table_rows = rows.iter().map(|row| {
        let text = |text: Option<&str>| Cell::from(text.unwrap_or("-").to_owned());
        let failures = if row.failures_per_s > 0.0 { around.bad() } else { DIM };
        let probe = row.next_probe_in_ms.filter(|_| row.held_back).map(|ms| duration(ms * 1_000_000));
        let breaker = match probe {
            Some(wait) => format!("{}, {wait}", row.breaker),
            None => row.breaker.to_owned(),
        };
        Row::new([
            Cell::from(row.address.to_string()),
            text(row.version.as_deref()),
            text(row.zone.as_deref()),
            right(row.weight.to_string()),
            Cell::from(row.status.name()),
            right(rate(row.selections_per_s)),
            right(rate(row.failures_per_s)).style(failures),
            right(row.open.to_string()),
            Cell::from(breaker).style(if row.held_back { around.bad() } else { DIM }),
        ])
    });
    let widths = [
        Constraint::Min(14),
        Constraint::Length(7),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(8),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(5),
        Constraint::Length(13),
    ];
    let headings = ["BACKEND", "VERSION", "ZONE", "WEIGHT", "STATUS", "CONN/s", "FAIL/s", "OPEN", "BREAKER"];
    let cells = headings.iter().map(|name| match *name {
        "WEIGHT" | "CONN/s" | "FAIL/s" | "OPEN" => right(*name),
        name => Cell::from(name),
    });
    let table = Table::new(table_rows, widths)
        .header(Row::new(cells).style(HEADING))
        .row_highlight_style(CHOSEN)
        .block(pane(format!(" backends ({}) ", rows.len()), line.is_some()));
    frame.render_stateful_widget(table, area, &mut TableState::default().with_selected(line));
}

/// What the columns mean and what the keys do.
const HELP: &str = "\
RATE/s   requests where they are understood (OF http…),
         else connections established
SUCCESS  answers below 500, or handshakes that succeeded;
         failed connections count against both
p50…p99  time to the first byte of an answer, or of a
         handshake, of this interval only
OPEN     connections open now
BREAKER  backends that get no connections, of all;
         of one: its state, the time to the next probe

↑↓ jk PgUp PgDn Home End   choose      Enter  open
Tab  clients or backends               Esc    back
s  next order   r  reverse   /  filter by name
p  pause        q  quit      any key closes this";

fn help(frame: &mut Frame<'_>, area: Rect) {
    let (width, height) = (58.min(area.width), 18.min(area.height));
    let place = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    frame.render_widget(Clear, place);
    let block = Block::new().borders(Borders::ALL).title(" help ");
    frame.render_widget(Paragraph::new(HELP).block(block), place);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent};

    use super::super::sample::tests::{later, sample};
    use super::*;

    fn around() -> Around {
        Around { clock: "12:00:02".to_owned(), every: "2 s".to_owned(), trouble: None, colours: false }
    }

    fn rates() -> Rates {
        Rates::between(Some(&sample(0)), &later())
    }

    fn terminal(size: (u16, u16), screen: &Screen, around: &Around) -> TestBackend {
        let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).expect("memory");
        terminal.draw(|frame| draw(frame, screen, Some(&rates()), around)).expect("memory");
        terminal.backend().clone()
    }

    fn lines(size: (u16, u16), screen: &Screen) -> Vec<String> {
        let backend = terminal(size, screen, &around());
        let buffer = backend.buffer();
        let line = |y| (0..size.0).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..size.1).map(line).collect()
    }

    fn press(screen: &mut Screen, keys: &[KeyCode]) {
        let rates = rates();
        for key in keys {
            screen.press(KeyEvent::from(*key), &rates);
        }
    }

    #[test]
    fn all_services_fit_a_terminal_of_80_by_24() {
        let lines = lines((80, 24), &Screen::default());
        let expected = [
            "segue top  12:00:02, every 2 s  2 services, 23 conn/s, 50 req/s, 1 held back",
            "",
            "SERVICE           OF     RATE▼ SUCCESS     p50     p95     p99  OPEN BREAKER",
            "shop/payment      http1     50   88.2%  768 µs  998 µs    1 ms    24 1/3 open",
            "dns               udp        3       -       -       -       -     0 off",
        ];
        assert_eq!(lines[..5], expected);
        assert!(lines[23].contains("Enter open") && lines[23].ends_with("q quit"), "{}", lines[23]);
    }

    #[test]
    fn a_service_shows_its_clients_and_its_backends() {
        let mut screen = Screen::default();
        press(&mut screen, &[KeyCode::Enter]);
        let text = lines((80, 24), &screen).join("\n");
        for part in [
            "shop/payment  tcp 10.96.0.10:443 [fd00::10]:443  breaker enforce: 1/3 open",
            "20 conn/s, 1 failed/s, 50 http1/s, success 88.2%",
            " clients (2) ",
            "nginx",
            "batch@night",
            " backends (3) ",
            "10.1.0.5:8443",
            "open, 7.2 s",
            "answers take p50 768 µs, p95 998 µs, p99 1 ms",
            "Esc back  ? help  q quit",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn colours_are_left_out_where_they_are_not_wanted() {
        let coloured = |colours| {
            let backend = terminal((80, 24), &Screen::default(), &Around { colours, ..around() });
            backend.buffer().content().iter().filter(|cell| cell.fg != Color::Reset).count()
        };
        assert_eq!(coloured(false), 0);
        assert!(coloured(true) > 0);
    }

    #[test]
    fn trouble_and_a_filter_are_told_and_help_explains() {
        let around = Around { trouble: Some("cannot reach the agent".to_owned()), ..around() };
        let backend = terminal((80, 24), &Screen::default(), &around);
        let told: String = (0..80).map(|x| backend.buffer()[(x, 1)].symbol().to_owned()).collect();
        assert!(told.starts_with("cannot reach the agent"), "{told}");
        let mut screen = Screen::default();
        press(&mut screen, &[KeyCode::Char('/'), KeyCode::Char('d')]);
        assert_eq!(lines((80, 24), &screen)[1], "/d_");
        press(&mut screen, &[KeyCode::Enter, KeyCode::Char('?')]);
        let text = lines((80, 24), &screen).join("\n");
        assert!(
            text.contains("SUCCESS  answers below 500") && text.contains("any key closes this"),
            "{text}"
        );
    }

    #[test]
    fn no_size_is_a_panic_and_one_too_small_says_so() {
        let mut opened = Screen::default();
        press(&mut opened, &[KeyCode::Enter]);
        let mut helped = Screen::default();
        press(&mut helped, &[KeyCode::Char('?')]);
        for width in [1, 20, 60, 61, 80, 300] {
            for height in [1, 5, 10, 11, 24, 100] {
                for screen in [&Screen::default(), &opened, &helped] {
                    lines((width, height), screen);
                }
            }
        }
        assert!(lines((50, 24), &opened)[0].starts_with("this terminal is smaller than 60 by 10"));
    }
}
