//! How fast the host's time stamp counter runs, which is what an emulated processor's counter shows.
//!
//! That is the processor's nominal frequency, and not the one at which it runs at this moment. A wrong number makes the machine's clock run
//! too fast or too slow, and another number makes another template.

use std::fs;
use std::path::Path;

/// The first processor.
const PROCESSOR: &str = "/sys/devices/system/cpu/cpu0";

/// In kHz.
pub(super) fn khz() -> Option<u64> {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    find(Path::new(PROCESSOR), &info)
}

fn find(processor: &Path, info: &str) -> Option<u64> {
    let line = |key: &str| {
        let value = info.lines().find_map(|line| line.strip_prefix(key)?.split_once(':'))?.1;
        Some(value.trim().to_owned())
    };
    let now = || thousands(&line("cpu MHz")?);
    let number = |file: &str| {
        let value: u64 = fs::read_to_string(processor.join(file)).ok()?.trim().parse().ok()?;
        (value > 0).then_some(value)
    };
    if !processor.join("cpufreq").exists() {
        // It does not change then. In a virtual machine that is all there is.
        return now();
    }
    number("cpufreq/base_frequency")
        .or_else(|| number("acpi_cppc/nominal_freq")?.checked_mul(1000))
        .or_else(|| in_name(&line("model name")?))
        // Without any number the emulated machine would wait for ever.
        .or_else(now)
}

/// From `… CPU @ 2.60GHz`.
fn in_name(name: &str) -> Option<u64> {
    let (_, value) = name.rsplit_once("@ ")?;
    thousands(value.strip_suffix("GHz")?)?.checked_mul(1000)
}

/// A number with up to three digits after its point, a thousand times; further ones are left out.
fn thousands(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let part: u64 = format!("{part:0<3}").get(..3)?.parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTEL: &str =
        "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) CPU E5-2690 v3 @ 2.60GHz\ncpu MHz\t\t: 3099.987\n";
    const AMD: &str =
        "processor\t: 0\nmodel name\t: AMD Ryzen 7 5800X 8-Core Processor\ncpu MHz\t\t: 2200.5\n";

    #[test]
    fn the_nominal_frequency_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let processor = dir.path();
        assert_eq!(find(processor, AMD), Some(2_200_500), "nothing scales it");
        assert_eq!(find(processor, ""), None);
        fs::create_dir(processor.join("cpufreq")).unwrap();
        assert_eq!(find(processor, INTEL), Some(2_600_000), "by its name");
        assert_eq!(find(processor, AMD), Some(2_200_500), "better than none");
        fs::create_dir(processor.join("acpi_cppc")).unwrap();
        fs::write(processor.join("acpi_cppc/nominal_freq"), "0\n").unwrap();
        assert_eq!(find(processor, INTEL), Some(2_600_000));
        fs::write(processor.join("acpi_cppc/nominal_freq"), "3800\n").unwrap();
        assert_eq!(find(processor, AMD), Some(3_800_000));
        fs::write(processor.join("cpufreq/base_frequency"), "2600000\n").unwrap();
        assert_eq!(find(processor, AMD), Some(2_600_000));
    }
}
