//! What was found out about this host, so that it is found out once: short lists in JSON files of the directory of machines.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::state::{read_json, write_json};

/// Entries of one list; the oldest gives way.
const KEPT: usize = 32;

/// What was found out about this.
pub(super) fn recall<T: DeserializeOwned>(file: &Path, key: &str) -> Option<T> {
    let entries: Vec<(String, T)> = read_json(file).ok()?;
    entries.into_iter().find_map(|(name, value)| (name == key).then_some(value))
}

/// Notes it. Where that does not work, or another process notes something at this moment, it is found out once more.
pub(super) fn note<T: Serialize + DeserializeOwned>(file: &Path, key: &str, value: T) {
    let mut entries: Vec<(String, T)> = read_json(file).unwrap_or_default();
    entries.retain(|(name, _)| name != key);
    entries.push((key.to_owned(), value));
    let surplus = entries.len().saturating_sub(KEPT);
    entries.drain(..surplus);
    if let Err(error) = write_json(file, &entries) {
        eprintln!("cannot write {}: {error}", file.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_last_is_recalled() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("list.json");
        assert_eq!(recall::<u32>(&file, "a"), None);
        note(&file, "a", 1);
        note(&file, "a", 2);
        assert_eq!(recall(&file, "a"), Some(2));
        for n in 0..40 {
            note(&file, &format!("n{n}"), n);
        }
        assert_eq!(recall::<u32>(&file, "a"), None);
        assert_eq!(
            (recall(&file, "n39"), recall(&file, "n8"), recall::<u32>(&file, "n7")),
            (Some(39), Some(8), None)
        );
        std::fs::write(&file, "half a li").unwrap();
        note(&file, "b", 3);
        assert_eq!(recall(&file, "b"), Some(3));
    }
}
