//! Moments as people write them: `5m` ago, `12:30` today, a date and time here, or one with its zone.

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Span, SpanRelativeTo, Timestamp};

/// The moment meant, seen from `now` in `zone`.
///
/// # Errors
/// It is none, in words.
pub(super) fn parse(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Timestamp, String> {
    if let Ok(moment) = text.parse() {
        return Ok(moment);
    }
    if let Ok(moment) = text.parse::<DateTime>().and_then(|here| here.to_zoned(zone.clone())) {
        return Ok(moment.timestamp());
    }
    let today = || now.to_zoned(zone.clone()).date();
    if let Ok(moment) = text.parse::<Time>().and_then(|time| today().to_datetime(time).to_zoned(zone.clone()))
    {
        return Ok(moment.timestamp());
    }
    let ago = text.parse::<Span>().and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
    ago.and_then(|ago| now.checked_sub(ago.abs()))
        .map_err(|_| "give how long ago (5m, 1h30m, 2d), a time (12:30, 2026-03-01 12:30), or one with its zone (2026-03-01T12:30:00Z)".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::admin::specimen::now;

    fn moment(text: &str) -> String {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        parse(text, now(), &zone).map_or_else(|error| error, |moment| moment.to_string())
    }

    #[test]
    fn moments_are_read_as_people_write_them() {
        for (text, expected) in [
            ("5m", "2026-03-01T11:55:00Z"),
            ("1h30m", "2026-03-01T10:30:00Z"),
            ("90 s", "2026-03-01T11:58:30Z"),
            ("2d", "2026-02-27T12:00:00Z"),
            ("12:30", "2026-03-01T10:30:00Z"),
            ("2026-02-28 23:00", "2026-02-28T21:00:00Z"),
            ("2026-02-28T23:00:05", "2026-02-28T21:00:05Z"),
            ("2026-02-28T23:00:00Z", "2026-02-28T23:00:00Z"),
        ] {
            assert_eq!(moment(text), expected, "{text}");
        }
        for wrong in ["", "yesterday", "5", "25:00", "-"] {
            assert!(moment(wrong).starts_with("give how long ago"), "{wrong}: {}", moment(wrong));
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_typed_is_a_panic(text in "\\PC{0,16}") {
            let _ = parse(&text, now(), &TimeZone::UTC);
        }

        #[test]
        fn minutes_go_back_by_minutes(minutes in 0_i64..100_000) {
            let moment = parse(&format!("{minutes}m"), now(), &TimeZone::UTC).expect("minutes");
            prop_assert_eq!(now().duration_since(moment).as_mins(), minutes);
        }
    }
}
