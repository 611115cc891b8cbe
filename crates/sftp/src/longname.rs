//! The line that `ls -l` would print for a file; clients show it as it is.

use crate::names::Names;
use crate::vfs::Metadata;

/// Half a year of 365 days, in seconds: younger files show the time of day, others the year.
const HALF_YEAR: i64 = 365 * 24 * 60 * 60 / 2;
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Appends the line for `name` to `out`. `now` is in seconds since 1970; times are shown in UTC, which is what sandboxes run in (reading
/// a time zone would need the C library's, and the server is static).
pub fn write(out: &mut Vec<u8>, name: &[u8], meta: &Metadata, names: &Names, now: i64) {
    out.extend(mode(meta.mode));
    out.extend(format!(" {:>3} ", meta.nlink).bytes());
    padded(out, names.user(meta.uid), meta.uid);
    out.push(b' ');
    padded(out, names.group(meta.gid), meta.gid);
    out.extend(format!(" {:>8} ", meta.size).bytes());
    out.extend(date(meta.mtime, now).bytes());
    out.push(b' ');
    out.extend_from_slice(name);
}

/// A name, or the number where there is none, with at least 8 columns.
fn padded(out: &mut Vec<u8>, name: Option<&[u8]>, id: u32) {
    let from = out.len();
    match name {
        Some(name) => out.extend_from_slice(name),
        None => out.extend(id.to_string().bytes()),
    }
    while out.len() - from < 8 {
        out.push(b' ');
    }
}

/// Ten columns of type and permissions, and a blank.
fn mode(mode: u32) -> [u8; 11] {
    let mut out = *b"---------- ";
    out[0] = match mode & crate::vfs::S_IFMT {
        0o010_000 => b'p',
        0o020_000 => b'c',
        0o040_000 => b'd',
        0o060_000 => b'b',
        0o100_000 => b'-',
        0o120_000 => b'l',
        0o140_000 => b's',
        _ => b'?',
    };
    for (at, letter) in b"rwxrwxrwx".iter().enumerate() {
        if mode & (0o400 >> at) != 0 {
            out[at + 1] = *letter;
        }
    }
    for (bit, at, both, alone) in [(0o4000, 3, b's', b'S'), (0o2000, 6, b's', b'S'), (0o1000, 9, b't', b'T')]
    {
        if mode & bit != 0 {
            out[at] = if out[at] == b'x' { both } else { alone };
        }
    }
    out
}

/// `Jan  2 15:04`, or `Jan  2  2006` for what is old or in the future.
fn date(mtime: i64, now: i64) -> String {
    let (year, month, day) = civil(mtime.div_euclid(86_400));
    let month = MONTHS[month];
    if now.saturating_sub(HALF_YEAR) < mtime && now >= mtime {
        let seconds = mtime.rem_euclid(86_400);
        format!("{month} {day:>2} {:02}:{:02}", seconds / 3600, seconds / 60 % 60)
    } else {
        format!("{month} {day:>2}  {year}")
    }
}

/// Year, month (0 to 11) and day of a day since 1970, in the Gregorian calendar.
fn civil(days: i64) -> (i64, usize, i64) {
    // Years that begin in March put the leap day last; 400 of them are one era of 146,097 days.
    let days = days.saturating_add(719_468);
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = (from_march + 2) % 12;
    let year = era.saturating_mul(400) + year_of_era + i64::from(month < 2);
    (year, usize::try_from(month).unwrap_or(0), day)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn line(meta: &Metadata, now: i64) -> String {
        let mut out = Vec::new();
        write(&mut out, b"x", meta, &Names::default(), now);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_looks_as_openssh_writes_it() {
        let mut meta =
            Metadata { mode: 0o104_755, size: 5, nlink: 1, mtime: 1_700_000_000, ..Metadata::default() };
        assert_eq!(line(&meta, 1_700_000_000), "-rwsr-xr-x    1 0        0               5 Nov 14 22:13 x");
        assert_eq!(line(&meta, 1_699_999_999), "-rwsr-xr-x    1 0        0               5 Nov 14  2023 x");
        meta.mode = 0o041_666;
        meta.mtime = -1;
        meta.uid = 4_000_000_000;
        assert_eq!(line(&meta, 0), "drw-rw-rwT    1 4000000000 0               5 Dec 31 23:59 x");
    }

    #[test]
    fn days_become_dates() {
        for (days, date) in [
            (0, (1970, 0, 1)),
            (-1, (1969, 11, 31)),
            (11_016, (2000, 1, 29)),
            (11_017, (2000, 2, 1)),
            (19_723, (2024, 0, 1)),
            (20_088, (2024, 11, 31)),
            (47_540, (2100, 1, 28)),
            (47_541, (2100, 2, 1)),
        ] {
            assert_eq!(civil(days), date);
        }
    }

    #[test]
    fn no_time_is_too_far_away() {
        for mtime in [i64::MIN, i64::MAX] {
            for now in [i64::MIN, i64::MAX] {
                assert!(!line(&Metadata { mtime, ..Metadata::default() }, now).is_empty());
            }
        }
    }
}
