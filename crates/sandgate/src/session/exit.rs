//! Exit codes.

use sandgate_guest::ExitStatus;

/// Names of signals, by their number on Linux less one.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The code that a shell would give.
pub fn shell_code(end: &ExitStatus) -> i32 {
    match end {
        ExitStatus::Code(code) => i32::try_from(*code & 0xff).unwrap_or(1),
        ExitStatus::Signal { name, .. } => 128 + signal_number(name),
    }
}

/// Linux's number of a signal.
fn signal_number(name: &str) -> i32 {
    if let Some(offset) = name.strip_prefix("RTMIN+").and_then(|offset| offset.parse::<i32>().ok()) {
        return 34 + offset.clamp(0, 30);
    }
    NAMES.iter().zip(1..).find(|(known, _)| **known == name).map_or(127, |(_, number)| number)
}

/// The name of one of the first signals, `KILL` for others.
pub fn signal_name(number: i32) -> &'static str {
    usize::try_from(number - 1).ok().and_then(|index| NAMES.get(index)).copied().unwrap_or("KILL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_a_shell() {
        let signal =
            |name: &str| ExitStatus::Signal { name: name.into(), core_dumped: false, message: String::new() };
        assert_eq!(shell_code(&ExitStatus::Code(0)), 0);
        assert_eq!(shell_code(&ExitStatus::Code(7)), 7);
        assert_eq!(shell_code(&ExitStatus::Code(256)), 0);
        assert_eq!(shell_code(&signal("KILL")), 137);
        assert_eq!(shell_code(&signal("TERM")), 143);
        assert_eq!(shell_code(&signal("INT")), 130);
        assert_eq!(shell_code(&signal("SEGV")), 139);
        assert_eq!(shell_code(&signal("SYS")), 159);
    }

    #[test]
    fn names_and_numbers_agree() {
        for number in 1..=31 {
            assert_eq!(signal_number(signal_name(number)), number);
        }
    }
}
