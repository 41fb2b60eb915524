//! `strftime` for templates that print the date.

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A date and time of day, UTC.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
struct Date {
    year: i64,
    /// 0 to 11.
    month: usize,
    /// 1 to 31.
    day: u64,
    /// From Sunday.
    weekday: usize,
    /// From 1.
    day_of_year: u64,
    second_of_day: u64,
}

fn is_leap(year: i64) -> bool {
    (year % 4 == 0 && year % 100 != 0) || year % 400 == 0
}

fn month_days(year: i64, month: usize) -> u64 {
    match month {
        1 if is_leap(year) => 29,
        1 => 28,
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    }
}

fn date(time: SystemTime) -> Date {
    // Clocks before 1970 are wrong clocks.
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let days = seconds / 86_400;
    // 400 years are a cycle of 146,097 days; what is left is counted year by year.
    let mut year = 1970 + (days / 146_097 * 400) as i64;
    let mut left = days % 146_097;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if left < length {
            break;
        }
        left -= length;
        year += 1;
    }
    let day_of_year = left + 1;
    let mut month = 0;
    while left >= month_days(year, month) {
        left -= month_days(year, month);
        month += 1;
    }
    Date {
        year,
        month,
        day: left + 1,
        // The first of January 1970 was a Thursday.
        weekday: ((days + 4) % 7) as usize,
        day_of_year,
        second_of_day: seconds % 86_400,
    }
}

/// Python's `strftime`, for UTC in the C locale. Directives that are not known stay as they are.
pub(crate) fn strftime(time: SystemTime, format: &str) -> String {
    let date = date(time);
    let (hour, minute, second) =
        (date.second_of_day / 3600, date.second_of_day / 60 % 60, date.second_of_day % 60);
    let hour12 = (hour + 11) % 12 + 1;
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        // %-d and the like: without leading zeros (glibc).
        let bare = directive == Some('-');
        if bare {
            directive = chars.next();
        }
        let number = |value: u64, width: usize| {
            if bare { value.to_string() } else { format!("{value:0width$}") }
        };
        match directive {
            Some('Y') => out.push_str(&date.year.to_string()),
            Some('y') => out.push_str(&number(date.year.rem_euclid(100) as u64, 2)),
            Some('m') => out.push_str(&number(date.month as u64 + 1, 2)),
            Some('d') => out.push_str(&number(date.day, 2)),
            Some('e') => out.push_str(&format!("{:2}", date.day)),
            Some('j') => out.push_str(&number(date.day_of_year, 3)),
            Some('B') => out.push_str(MONTHS[date.month]),
            Some('b' | 'h') => out.push_str(&MONTHS[date.month][..3]),
            Some('A') => out.push_str(DAYS[date.weekday]),
            Some('a') => out.push_str(&DAYS[date.weekday][..3]),
            Some('w') => out.push_str(&date.weekday.to_string()),
            Some('H') => out.push_str(&number(hour, 2)),
            Some('I') => out.push_str(&number(hour12, 2)),
            Some('M') => out.push_str(&number(minute, 2)),
            Some('S') => out.push_str(&number(second, 2)),
            Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('F') => out.push_str(&strftime(time, "%Y-%m-%d")),
            Some('T') => out.push_str(&strftime(time, "%H:%M:%S")),
            Some('Z') => out.push_str("UTC"),
            Some('z') => out.push_str("+0000"),
            Some('%') => out.push('%'),
            other => out.extend(['%'].into_iter().chain(other)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_of_known_seconds() {
        // Checked with Python's time.strftime(format, time.gmtime(seconds)).
        let at =
            |seconds, format: &str| strftime(UNIX_EPOCH + Duration::from_secs(seconds), format);
        assert_eq!(at(0, "%A %d %B %Y %H:%M:%S %j"), "Thursday 01 January 1970 00:00:00 001");
        assert_eq!(at(951_782_399, "%F %T %a"), "2000-02-28 23:59:59 Mon");
        assert_eq!(at(951_782_400, "%d %b %Y %I %p"), "29 Feb 2000 12 AM");
        assert_eq!(at(4_102_444_799, "%Y-%m-%d %j %y"), "2099-12-31 365 99");
        assert_eq!(at(1_735_689_600, "%-d/%-m %% %Q"), "1/1 % %Q");
        assert_eq!(at(u64::MAX >> 34, "%Y"), "2004");
    }
}
