//! What is looked at and how: which view, in which order, what is chosen. Keys change it; nothing here draws, reads a
//! terminal or asks an agent.

use std::cmp::Ordering;
use std::sync::Arc;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::sample::{BackendRow, ClientRow, Rates, ServiceRow};

/// By what rows are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// Most per second first
    #[default]
    Rate,
    /// Worst success first
    Success,
    /// Slowest first
    P99,
    /// Most open connections first
    Open,
    /// Most backends held back first
    Breaker,
    /// Alphabetically
    Name,
}

impl Sort {
    const ALL: [Self; 6] = [Self::Rate, Self::Success, Self::P99, Self::Open, Self::Breaker, Self::Name];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Success => "success",
            Self::P99 => "p99",
            Self::Open => "open",
            Self::Breaker => "breaker",
            Self::Name => "name",
        }
    }

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self).unwrap_or_default();
        Self::ALL[(at + 1) % Self::ALL.len()]
    }
}

/// Which of the two lists of a service has the keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pane {
    /// Who uses it.
    #[default]
    Clients,
    /// Who answers for it.
    Backends,
}

/// What is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum View {
    /// All services.
    #[default]
    Services,
    /// One of them.
    Service {
        /// Its name.
        name: Arc<str>,
        /// The list that has the keys.
        pane: Pane,
        /// The line chosen in it.
        line: usize,
    },
}

/// What a key asks for beyond the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Go on.
    Stay,
    /// End.
    Quit,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Screen {
    /// What is looked at.
    pub view: View,
    /// The order of rows.
    pub sort: Sort,
    /// The other way round.
    pub reversed: bool,
    /// Only names that contain this are shown.
    pub filter: String,
    /// Keys are text of the filter.
    pub is_typing: bool,
    /// Nothing changes until it is lifted.
    pub is_paused: bool,
    /// The keys are explained.
    pub shows_help: bool,
    chosen: Option<Arc<str>>,
}

/// Numbers in order, those that are not known at the end.
fn by_number(a: Option<f64>, b: Option<f64>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

impl Screen {
    /// A screen that begins in this order, with this filter.
    pub fn new(sort: Sort, filter: &str) -> Self {
        Self { sort, filter: filter.to_owned(), ..Self::default() }
    }

    /// The services that are shown, in order.
    pub fn services<'a>(&self, rates: &'a Rates) -> Vec<&'a ServiceRow> {
        let filter = self.filter.to_lowercase();
        let is_shown = |row: &&ServiceRow| row.name.to_lowercase().contains(&filter);
        let mut rows: Vec<_> = rates.services.iter().filter(is_shown).collect();
        rows.sort_by(|a, b| {
            let order = match self.sort {
                Sort::Rate => b.pace.rate().total_cmp(&a.pace.rate()),
                Sort::Success => by_number(a.pace.success, b.pace.success),
                Sort::P99 => b.pace.times.p99_ns.cmp(&a.pace.times.p99_ns),
                Sort::Open => b.pace.open.cmp(&a.pace.open),
                Sort::Breaker => b.held_back().cmp(&a.held_back()),
                Sort::Name => Ordering::Equal,
            };
            let order = order.then_with(|| a.name.cmp(&b.name));
            if self.reversed { order.reverse() } else { order }
        });
        rows
    }

    /// The line of these services that is chosen: that of the name chosen, wherever it has moved.
    pub fn line(&self, rows: &[&ServiceRow]) -> usize {
        let chosen = self.chosen.as_ref();
        chosen.and_then(|name| rows.iter().position(|row| row.name == *name)).unwrap_or(0)
    }

    /// The service looked at; `None` in the view of all, and where it is gone.
    pub fn service<'a>(&self, rates: &'a Rates) -> Option<&'a ServiceRow> {
        let View::Service { name, .. } = &self.view else { return None };
        rates.services.iter().find(|row| row.name == *name)
    }

    /// Its clients, those with the most first.
    pub fn clients<'a>(&self, service: &'a ServiceRow) -> Vec<&'a ClientRow> {
        let mut rows: Vec<_> = service.clients.iter().collect();
        rows.sort_by(|a, b| b.pace.rate().total_cmp(&a.pace.rate()));
        if self.reversed {
            rows.reverse();
        }
        rows
    }

    /// Its backends, those with the most first.
    pub fn backends<'a>(&self, service: &'a ServiceRow) -> Vec<&'a BackendRow> {
        let mut rows: Vec<_> = service.backends.iter().collect();
        rows.sort_by(|a, b| b.selections_per_s.total_cmp(&a.selections_per_s));
        if self.reversed {
            rows.reverse();
        }
        rows
    }

    /// Does what a key means here.
    pub fn press(&mut self, key: KeyEvent, rates: &Rates) -> Wish {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            let ends = matches!(key.code, KeyCode::Char('c' | 'd'));
            return if ends { Wish::Quit } else { Wish::Stay };
        }
        if self.is_typing {
            self.write(key.code);
            return Wish::Stay;
        }
        if std::mem::take(&mut self.shows_help) {
            return Wish::Stay;
        }
        match key.code {
            KeyCode::Char('q') => return Wish::Quit,
            KeyCode::Char('?' | 'h') => self.shows_help = true,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('/') => {
                self.view = View::Services;
                self.is_typing = true;
            }
            KeyCode::Up | KeyCode::Char('k') => self.step(rates, -1),
            KeyCode::Down | KeyCode::Char('j') => self.step(rates, 1),
            KeyCode::PageUp => self.step(rates, -10),
            KeyCode::PageDown => self.step(rates, 10),
            KeyCode::Home | KeyCode::Char('g') => self.step(rates, isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.step(rates, isize::MAX),
            KeyCode::Tab | KeyCode::BackTab | KeyCode::Left | KeyCode::Right => self.change_pane(),
            KeyCode::Enter => self.enter(rates),
            KeyCode::Esc | KeyCode::Backspace => self.leave(),
            _ => {}
        }
        Wish::Stay
    }

    fn write(&mut self, code: KeyCode) {
        /// No name is longer.
        const LONGEST: usize = 64;
        match code {
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.is_typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(letter) if self.filter.len() < LONGEST => self.filter.push(letter),
            _ => {}
        }
    }

    fn step(&mut self, rates: &Rates, by: isize) {
        let moved = |line: usize, rows: usize| line.saturating_add_signed(by).min(rows.saturating_sub(1));
        let rows = self.service(rates).map(|service| (service.clients.len(), service.backends.len()));
        if let View::Service { pane, line, .. } = &mut self.view {
            let (clients, backends) = rows.unwrap_or_default();
            *line = moved(*line, if *pane == Pane::Clients { clients } else { backends });
            return;
        }
        let rows = self.services(rates);
        let line = moved(self.line(&rows), rows.len());
        self.chosen = rows.get(line).map(|row| Arc::clone(&row.name));
    }

    fn change_pane(&mut self) {
        if let View::Service { pane, line, .. } = &mut self.view {
            *line = 0;
            *pane = match *pane {
                Pane::Clients => Pane::Backends,
                Pane::Backends => Pane::Clients,
            };
        }
    }

    fn enter(&mut self, rates: &Rates) {
        if self.view != View::Services {
            return;
        }
        let rows = self.services(rates);
        if let Some(row) = rows.get(self.line(&rows)) {
            let name = Arc::clone(&row.name);
            self.chosen = Some(Arc::clone(&name));
            self.view = View::Service { name, pane: Pane::default(), line: 0 };
        }
    }

    fn leave(&mut self) {
        match self.view {
            View::Services => self.filter.clear(),
            View::Service { .. } => self.view = View::Services,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::tests::{later, sample};
    use super::*;

    fn rates() -> Rates {
        Rates::between(Some(&sample(0)), &later())
    }

    fn press(screen: &mut Screen, keys: &[KeyCode]) -> Wish {
        let rates = rates();
        keys.iter().fold(Wish::Stay, |_, key| screen.press(KeyEvent::from(*key), &rates))
    }

    fn names(screen: &Screen) -> Vec<String> {
        screen.services(&rates()).iter().map(|row| row.name.to_string()).collect()
    }

    #[test]
    fn services_come_in_the_order_asked_for_and_the_other_way_round() {
        let mut screen = Screen::default();
        assert_eq!(names(&screen), ["shop/payment", "dns"]);
        press(&mut screen, &[KeyCode::Char('r')]);
        assert_eq!(names(&screen), ["dns", "shop/payment"]);
        let by = |sort| names(&Screen::new(sort, ""));
        assert_eq!(by(Sort::Name), ["dns", "shop/payment"]);
        for sort in [Sort::Success, Sort::P99, Sort::Open, Sort::Breaker] {
            assert_eq!(by(sort)[0], "shop/payment", "{sort:?}");
        }
        let mut screen = Screen::default();
        let mut seen = vec![screen.sort];
        for _ in 1..Sort::ALL.len() {
            press(&mut screen, &[KeyCode::Char('s')]);
            seen.push(screen.sort);
        }
        assert_eq!(seen, Sort::ALL);
    }

    #[test]
    fn what_is_chosen_stays_chosen_when_it_moves() {
        let mut screen = Screen::default();
        press(&mut screen, &[KeyCode::Down]);
        let rates = rates();
        assert_eq!(screen.line(&screen.services(&rates)), 1);
        press(&mut screen, &[KeyCode::Char('r')]);
        assert_eq!(screen.line(&screen.services(&rates)), 0);
        press(&mut screen, &[KeyCode::End, KeyCode::Down, KeyCode::PageDown]);
        assert_eq!(screen.line(&screen.services(&rates)), 1);
        press(&mut screen, &[KeyCode::Home, KeyCode::Up, KeyCode::PageUp]);
        assert_eq!(screen.line(&screen.services(&rates)), 0);
    }

    #[test]
    fn enter_goes_into_a_service_and_escape_back_out() {
        let mut screen = Screen::default();
        press(&mut screen, &[KeyCode::Enter]);
        let rates = rates();
        assert_eq!(screen.service(&rates).map(|row| &*row.name), Some("shop/payment"));
        press(&mut screen, &[KeyCode::Tab, KeyCode::Down, KeyCode::Down, KeyCode::Down]);
        assert!(matches!(screen.view, View::Service { pane: Pane::Backends, line: 2, .. }), "{screen:?}");
        press(&mut screen, &[KeyCode::Enter, KeyCode::Esc]);
        assert_eq!(screen.view, View::Services);
    }

    #[test]
    fn a_filter_is_typed_kept_and_dropped() {
        let mut screen = Screen::default();
        press(&mut screen, &[KeyCode::Char('/'), KeyCode::Char('D'), KeyCode::Char('q')]);
        assert!(screen.is_typing);
        assert_eq!(names(&screen), [""; 0]);
        press(&mut screen, &[KeyCode::Backspace, KeyCode::Enter]);
        assert_eq!(names(&screen), ["dns"]);
        press(&mut screen, &[KeyCode::Enter]);
        assert!(matches!(&screen.view, View::Service { name, .. } if **name == *"dns"));
        press(&mut screen, &[KeyCode::Esc, KeyCode::Esc]);
        assert_eq!(names(&screen).len(), 2);
    }

    #[test]
    fn it_ends_by_q_and_as_terminals_end_programs_but_not_while_typing() {
        assert_eq!(press(&mut Screen::default(), &[KeyCode::Char('q')]), Wish::Quit);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(Screen::default().press(interrupt, &rates()), Wish::Quit);
        let mut screen = Screen::default();
        assert_eq!(press(&mut screen, &[KeyCode::Char('/'), KeyCode::Char('q')]), Wish::Stay);
        assert_eq!(screen.press(interrupt, &rates()), Wish::Quit);
        // Help goes at any key, which then does nothing else.
        assert_eq!(press(&mut Screen::default(), &[KeyCode::Char('?'), KeyCode::Char('q')]), Wish::Stay);
    }

    #[test]
    fn nothing_to_show_is_no_trouble() {
        let mut screen = Screen::default();
        let nothing = Rates::default();
        for code in [KeyCode::Down, KeyCode::Enter, KeyCode::Tab, KeyCode::End, KeyCode::Esc] {
            assert_eq!(screen.press(KeyEvent::from(code), &nothing), Wish::Stay);
        }
        assert!(screen.services(&nothing).is_empty());
    }
}
