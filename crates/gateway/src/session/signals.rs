//! The numbers of signals, for exit codes as a shell gives them.

/// The number of a signal on Linux, by its name without `SIG`; 127 for one that has none there. A shell gives 128 and this for a command that
/// it ended.
#[must_use]
pub fn signal_number(name: &str) -> u32 {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    if let Some(offset) = name.strip_prefix("RTMIN+").and_then(|offset| offset.parse::<u32>().ok()) {
        return 34 + offset.min(30);
    }
    NAMES.iter().zip(1..).find(|(known, _)| **known == name).map_or(127, |(_, number)| number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_linux() {
        for (name, number) in
            [("HUP", 1), ("KILL", 9), ("TERM", 15), ("SYS", 31), ("RTMIN+3", 37), ("X", 127)]
        {
            assert_eq!(signal_number(name), number, "{name}");
        }
    }
}
