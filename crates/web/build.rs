//! The dashboard is made by `make build` with npm. Where nobody has made it, a page in its place says so, and the rest builds without Node.

use std::path::Path;
use std::{fs, io};

/// What is served in place of a dashboard that was not made.
const PLACEHOLDER: &str = "<!doctype html><title>sandgate</title><p>This gateway was built without its dashboard: `make build` makes it.</p>\n";

fn main() -> io::Result<()> {
    let dist = Path::new("../../ui/dist");
    println!("cargo::rerun-if-changed={}", dist.display());
    if !dist.join("index.html").exists() {
        fs::create_dir_all(dist)?;
        fs::write(dist.join("index.html"), PLACEHOLDER)?;
    }
    Ok(())
}
