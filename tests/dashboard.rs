//! The dashboard of a real gateway, used by a person's means: Debian's Chromium, driven by Playwright.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests report by panicking")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sandgate_tests::target::Options;
use sandgate_tests::wait::free_port;
use sandgate_tests::{Feed, Target, paths, run, skip};

/// How long a script may take.
const WALK: Duration = Duration::from_secs(170);
const CHROMIUM: &str = "/usr/bin/chromium";

/// Whether this machine has no browser, or none that can be driven.
fn lacks_a_browser() -> bool {
    if !Path::new(CHROMIUM).exists() {
        skip::because("Debian's chromium is not installed: run tests/setup.sh");
        return true;
    }
    if !paths::workspace().join("ui/node_modules/playwright-core").exists() {
        skip::because("the dashboard's packages are not installed: run make build");
        return true;
    }
    false
}

/// A script that drives the browser.
fn script(path: &str) -> Command {
    let mut script = Command::new("node");
    script.arg(paths::workspace().join(path)).env("CHROMIUM", CHROMIUM);
    script
}

/// Runs it to its end, which is a good one, with each of these steps.
#[track_caller]
fn passes(mut script: Command, steps: &[&str]) {
    let report = run(&mut script, Feed::Null, WALK);
    assert_eq!(report.code, 0, "{}\n{}", report.text(), report.errors());
    for step in steps {
        assert!(report.text().contains(&format!("ok {step}")), "{}", report.text());
    }
}

#[test]
fn heavy_a_person_finds_their_way() {
    if skip::oracle_lacks("dashboard") || lacks_a_browser() {
        return;
    }
    let options =
        Options { extra_toml: "[recording]\ndefault = \"terminal\"\n".to_owned(), ..Options::default() };
    let target = Target::start_with(&options);
    let gateway = target.gateway();
    let key = |role: &str| {
        gateway.json(&["api-key", "create", role, "--role", role])["key"].as_str().unwrap().to_owned()
    };
    let mut walk = script("tests/browser/walk.mjs");
    walk.env("BASE_URL", format!("http://127.0.0.1:{}", gateway.http_port))
        .env("API_KEY", key("admin"))
        .env("WATCH_KEY", key("viewer"))
        .env("LOGIN_LINK", gateway.json(&["login-link"])["url"].as_str().unwrap())
        .env("SSH", "1")
        .env("ARTIFACTS", paths::target_dir().join("browser"));
    passes(walk, &["the size follows the window", "paste 100 KB", "replay a recording and seek in it"]);
}

/// Whose page may show a terminal is the operator's to say, and the browser holds others to it.
#[test]
fn heavy_a_terminal_is_shown_in_pages_of_others_that_are_listed() {
    if skip::oracle_lacks("dashboard") || lacks_a_browser() {
        return;
    }
    let listed = free_port();
    let options = Options {
        extra_toml: format!("[http]\nframe_ancestors = [\"http://localhost:{listed}\"]\n"),
        ..Options::default()
    };
    let target = Target::start_with(&options);
    let gateway = target.gateway();
    let key = gateway.json(&["api-key", "create", "portal", "--role", "user"]);
    let mut embed = script("tests/browser/embed.mjs");
    embed
        .env("BASE_URL", format!("http://127.0.0.1:{}", gateway.http_port))
        .env("API_KEY", key["key"].as_str().unwrap())
        .env("SANDBOX", "box")
        .env("LISTED", listed.to_string());
    passes(embed, &["a page that is listed shows a terminal", "a page that is not listed shows nothing"]);
}

/// Every page against made-up data, in which there is what a fresh gateway has not, by light and dark and on a phone.
#[test]
fn heavy_every_page_looks_right_on_made_up_data() {
    if skip::oracle_lacks("dashboard") || lacks_a_browser() {
        return;
    }
    let mut pages = script("ui/test/pages.mjs");
    // Nobody looks at them here, and they are half of its time.
    pages.env("SHOTS", "none");
    passes(pages, &["every page fits 360 pixels, light and dark"]);
}
