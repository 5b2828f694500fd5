//! The API's dates: `2020-12-02T10:13:19+00:00`.

use std::time::{Duration, SystemTime};

/// Reads a date of RFC 3339 from 1970 on; fractions of a second are left out.
pub(super) fn parse(text: &str) -> Option<SystemTime> {
    let digits = |from: usize, to: usize| {
        let part = text.get(from..to)?;
        part.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| part.parse::<i64>().ok())
            .flatten()
    };
    let between =
        |at: usize, allowed: &str| text.get(at..=at).filter(|found| allowed.contains(*found));
    for (at, allowed) in [(4, "-"), (7, "-"), (10, "Tt "), (13, ":"), (16, ":")] {
        between(at, allowed)?;
    }
    let (year, month, day) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
    let (hour, minute, second) = (digits(11, 13)?, digits(14, 16)?, digits(17, 19)?);
    if !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let zone = text
        .get(19..)?
        .trim_start_matches(|letter: char| letter == '.' || letter.is_ascii_digit());
    let offset = match zone.split_at_checked(1)? {
        ("Z" | "z", "") => 0,
        (sign @ ("+" | "-"), zone) => {
            let zone = zone.replace(':', "");
            let number: i64 = (zone.len() == 4 && zone.bytes().all(|byte| byte.is_ascii_digit()))
                .then(|| zone.parse().ok())??;
            (number / 100 * 60 + number % 100) * if sign == "+" { 60 } else { -60 }
        }
        _ => return None,
    };
    let seconds = days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
}

/// Days since 1970: Howard Hinnant's `days_from_civil`, where years begin in March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year
        - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_with_any_offset_and_nonsense_is_not() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2020-12-02T10:13:19+00:00", 1_606_903_999),
            ("2020-12-02T11:13:19.123456+01:00", 1_606_903_999),
            ("2020-12-02t05:43:19-0430", 1_606_903_999),
            ("2024-02-29T23:59:59Z", 1_709_251_199),
            ("2094-01-01T00:00:00Z", 3_913_142_400),
        ] {
            assert_eq!(
                parse(text),
                Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
                "{text}"
            );
        }
        for text in [
            "",
            "2020",
            "2020-12-02",
            "2020-13-02T10:13:19Z",
            "2020-12-02T10:13:19",
            "1969-12-31T23:59:59Z",
            "2020-12-02T10:13:19+1",
            "é020-12-02T10:13:19Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
