//! Which runs of entries of an array are free. Best fit; neighbours that become free grow together.

use std::collections::{BTreeMap, BTreeSet};

/// A run of entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    /// The first entry.
    pub(super) first: u32,
    /// How many; an empty span takes no place.
    pub(super) count: u32,
}

/// The free and used entries of one array.
#[derive(Debug)]
pub(super) struct Spans {
    capacity: u32,
    used: u32,
    /// Free runs, first entry → count; no two touch.
    free: BTreeMap<u32, u32>,
    /// The same runs as (count, first).
    by_count: BTreeSet<(u32, u32)>,
}

impl Spans {
    /// An array of which nothing is used.
    pub(super) fn new(capacity: u32) -> Self {
        let mut spans = Self { capacity, used: 0, free: BTreeMap::new(), by_count: BTreeSet::new() };
        spans.insert_free(Span { first: 0, count: capacity });
        spans
    }

    /// How many entries are used.
    pub(super) fn used(&self) -> u32 {
        self.used
    }

    /// Takes a run of `count` entries from the smallest free run that has as many.
    pub(super) fn allocate(&mut self, count: u32) -> Option<Span> {
        if count == 0 {
            return Some(Span::default());
        }
        let &(run, first) = self.by_count.range((count, 0)..).next()?;
        Some(self.cut(Span { first, count: run }, count))
    }

    /// Takes a run of `count` entries from the lowest free run that has as many, if that starts before `limit`.
    pub(super) fn allocate_below(&mut self, limit: u32, count: u32) -> Option<Span> {
        let (&first, &run) = self.free.range(..limit).find(|(_, run)| **run >= count)?;
        Some(self.cut(Span { first, count: run }, count))
    }

    /// Takes the first `count` entries of a free run.
    fn cut(&mut self, run: Span, count: u32) -> Span {
        self.remove_free(run);
        self.insert_free(Span { first: run.first + count, count: run.count - count });
        self.used += count;
        Span { first: run.first, count }
    }

    /// Takes exactly this run; `false` where a part of it is not free or outside the array.
    pub(super) fn reserve(&mut self, span: Span) -> bool {
        if span.count == 0 {
            return true;
        }
        let Some(end) = span.first.checked_add(span.count).filter(|&end| end <= self.capacity) else {
            return false;
        };
        let Some((&first, &count)) = self.free.range(..=span.first).next_back() else { return false };
        if end > first + count {
            return false;
        }
        self.remove_free(Span { first, count });
        self.insert_free(Span { first, count: span.first - first });
        self.insert_free(Span { first: end, count: first + count - end });
        self.used += span.count;
        true
    }

    /// Gives a run back.
    pub(super) fn release(&mut self, span: Span) {
        if span.count == 0 {
            return;
        }
        self.used -= span.count;
        let mut merged = span;
        if let Some((&first, &count)) = self.free.range(..span.first).next_back()
            && first + count == span.first
        {
            self.remove_free(Span { first, count });
            merged = Span { first, count: count + merged.count };
        }
        let end = span.first + span.count;
        if let Some(&count) = self.free.get(&end) {
            self.remove_free(Span { first: end, count });
            merged.count += count;
        }
        self.insert_free(merged);
    }

    fn insert_free(&mut self, span: Span) {
        if span.count > 0 {
            self.free.insert(span.first, span.count);
            self.by_count.insert((span.count, span.first));
        }
    }

    fn remove_free(&mut self, span: Span) {
        self.free.remove(&span.first);
        self.by_count.remove(&(span.count, span.first));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Allocate(u32),
        AllocateBelow(u32, u32),
        Reserve(u32, u32),
        Release(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u32..20).prop_map(Step::Allocate),
            (0u32..70, 1u32..20).prop_map(|(limit, count)| Step::AllocateBelow(limit, count)),
            (0u32..70, 0u32..20).prop_map(|(first, count)| Step::Reserve(first, count)),
            any::<prop::sample::Index>().prop_map(Step::Release),
        ]
    }

    fn entries(span: Span) -> std::ops::Range<usize> {
        span.first as usize..(span.first + span.count) as usize
    }

    proptest! {
        #[test]
        fn no_entry_is_given_twice_and_none_is_lost(steps in prop::collection::vec(step(), 0..60)) {
            let mut spans = Spans::new(64);
            let mut taken = [false; 64];
            let mut held: Vec<Span> = Vec::new();
            for step in steps {
                let longest = taken.split(|taken| *taken).map(<[bool]>::len).max().unwrap_or(0);
                match step {
                    Step::Allocate(_) | Step::AllocateBelow(..) => {
                        let span = match step {
                            Step::AllocateBelow(limit, count) => {
                                let span = spans.allocate_below(limit, count);
                                prop_assert!(span.is_none_or(|span| span.first < limit));
                                let runs = (0..limit.min(64)).map(|first| Span { first, count });
                                let free = |span| taken.get(entries(span)).is_some_and(|run| !run.contains(&true));
                                prop_assert_eq!(span, runs.into_iter().find(|&span| free(span)));
                                span
                            }
                            Step::Allocate(count) => {
                                let span = spans.allocate(count);
                                prop_assert_eq!(span.is_some(), count as usize <= longest);
                                span
                            }
                            Step::Reserve(..) | Step::Release(_) => None,
                        };
                        held.extend(span);
                        for entry in span.into_iter().flat_map(entries) {
                            prop_assert!(!std::mem::replace(&mut taken[entry], true));
                        }
                    }
                    Step::Reserve(first, count) => {
                        let span = Span { first, count };
                        let free = count == 0 || taken.get(entries(span)).is_some_and(|run| !run.contains(&true));
                        prop_assert_eq!(spans.reserve(span), free);
                        if free && count > 0 {
                            held.push(span);
                            taken[entries(span)].fill(true);
                        }
                    }
                    Step::Release(which) if !held.is_empty() => {
                        let span = held.swap_remove(which.index(held.len()));
                        spans.release(span);
                        taken[entries(span)].fill(false);
                    }
                    Step::Release(_) => {}
                }
                prop_assert_eq!(spans.used() as usize, taken.iter().filter(|taken| **taken).count());
            }
            held.into_iter().for_each(|span| spans.release(span));
            prop_assert_eq!(spans.allocate(64), Some(Span { first: 0, count: 64 }));
        }
    }
}
