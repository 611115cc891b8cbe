//! The dashboard of a real gateway, used by a person's means: Debian's Chromium, driven by Playwright.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests report by panicking")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sandgate_tests::target::Options;
use sandgate_tests::{Feed, Target, paths, run, skip};

/// How long the walk may take.
const WALK: Duration = Duration::from_secs(170);
const CHROMIUM: &str = "/usr/bin/chromium";

#[test]
fn heavy_a_person_finds_their_way() {
    if skip::oracle_lacks("dashboard") {
        return;
    }
    if !Path::new(CHROMIUM).exists() {
        return skip::because("Debian's chromium is not installed: run tests/setup.sh");
    }
    if !paths::workspace().join("ui/node_modules/playwright-core").exists() {
        return skip::because("the dashboard's packages are not installed: run make build");
    }
    let options =
        Options { extra_toml: "[recording]\ndefault = \"terminal\"\n".to_owned(), ..Options::default() };
    let target = Target::start_with(&options);
    let gateway = target.gateway();
    let key = |role: &str| {
        gateway.json(&["api-key", "create", role, "--role", role])["key"].as_str().unwrap().to_owned()
    };
    let mut walk = Command::new("node");
    walk.arg(paths::workspace().join("tests/browser/walk.mjs"))
        .env("BASE_URL", format!("http://127.0.0.1:{}", gateway.http_port))
        .env("API_KEY", key("admin"))
        .env("WATCH_KEY", key("viewer"))
        .env("LOGIN_LINK", gateway.json(&["login-link"])["url"].as_str().unwrap())
        .env("SSH", "1")
        .env("CHROMIUM", CHROMIUM)
        .env("ARTIFACTS", paths::target_dir().join("browser"));
    let report = run(&mut walk, Feed::Null, WALK);
    assert_eq!(report.code, 0, "{}\n{}", report.text(), report.errors());
    for step in ["the size follows the window", "paste 100 KB", "replay a recording and seek in it"] {
        assert!(report.text().contains(&format!("ok {step}")), "{}", report.text());
    }
}
