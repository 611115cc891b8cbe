//! The same bundle by other OCI runtimes, and by an ordinary user.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use common::{cgroups_of, processes, rig, skip};
use sandgate_driver::{Driver, DriverError, NoProgress, Runtime, State, StopCause};

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

async fn round(name: &str, runtime: Runtime, checks: &str, expected: &str) {
    let Some(rig) = rig() else { return };
    if !is_installed(name) {
        return skip(&format!("{name} is not installed"));
    }
    let kind = if matches!(runtime, Runtime::Path(_)) { "path" } else { "name" };
    let mut spec = rig.spec(&format!("by-{kind}-{name}"));
    spec.runtime = runtime;
    let id = spec.id.clone();
    rig.driver.create(&spec, &NoProgress).await.unwrap();
    match rig.driver.start(&id, &NoProgress).await {
        Ok(()) => {}
        Err(DriverError::Runtime { reason, .. }) if name == "crun" && reason.contains("hybrid") => {
            rig.driver.remove(&id).await.unwrap();
            return skip("crun does not run on hybrid cgroups");
        }
        Err(error) => panic!("{error}"),
    }
    let output = rig.sh(&id, checks).await;
    assert_eq!(output.stdout, expected, "{output:?}");
    rig.driver.stop(&id, Duration::from_secs(3)).await.unwrap();
    assert!(matches!(
        rig.driver.inspect(&id).await.unwrap(),
        State::Stopped { cause: StopCause::Requested, .. }
    ));
    rig.driver.start(&id, &NoProgress).await.unwrap();
    assert_eq!(rig.sh(&id, "cat /root/kept").await.stdout, "kept\n");
    rig.driver.remove(&id).await.unwrap();
    assert!(cgroups_of(&id).is_empty(), "{:?}", cgroups_of(&id));
    assert!(processes(&[&format!("-{id}")]).is_empty(), "{:?}", processes(&[&format!("-{id}")]));
}

const CHECKS: &str = "id -u; ls /usr/bin/env; echo kept > /root/kept; unshare -U true 2>/dev/null || echo refused; \
                      grep -c Seccomp:.2 /proc/self/status; test -e /etc/shadow || echo none; tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '";

#[tokio::test]
async fn runc() {
    round("runc", Runtime::Runc, CHECKS, "0\n/usr/bin/env\nrefused\n1\nnone\nlo\n").await;
}

#[tokio::test]
async fn crun() {
    round("crun", Runtime::Crun, CHECKS, "0\n/usr/bin/env\nrefused\n1\nnone\nlo\n").await;
}

#[tokio::test]
async fn a_runtime_by_its_path() {
    let Some(path) = ["/usr/sbin/runc", "/usr/bin/runc"].into_iter().find(|it| Path::new(it).exists()) else {
        return skip("runc is not installed");
    };
    round("runc", Runtime::Path(path.into()), CHECKS, "0\n/usr/bin/env\nrefused\n1\nnone\nlo\n").await;
}

#[tokio::test]
async fn gvisor() {
    // No ls: older builds refuse the statx flags of coreutils 9.
    let checks =
        "id -u; test -x /usr/bin/env && echo env; echo kept > /root/kept; test -e /etc/shadow || echo none";
    round("runsc", Runtime::Runsc, checks, "0\nenv\nnone\n").await;
}

#[tokio::test]
async fn a_runtime_that_is_missing_is_named() {
    let Some(rig) = rig() else { return };
    let mut spec = rig.spec("none");
    spec.runtime = Runtime::Path("/nonexistent/runtime".into());
    rig.driver.create(&spec, &NoProgress).await.unwrap();
    let error = rig.driver.start(&spec.id, &NoProgress).await.unwrap_err();
    assert!(
        matches!(&error, DriverError::Runtime { runtime, .. } if runtime == "/nonexistent/runtime"),
        "{error}"
    );
    rig.driver.remove(&spec.id).await.unwrap();
}

/// Runs the example program as another user.
fn by(uid: u32, home: &Path, words: &[&str]) -> Output {
    Command::new("setpriv")
        .args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups"])
        .arg(home.join("cli"))
        .arg("--data-dir")
        .arg(home.join("data"))
        .arg("--agent")
        .arg(home.join("agent"))
        .args(words)
        .current_dir("/")
        .output()
        .unwrap()
}

fn ordinary_user(uid: u32, ids: &str) {
    let Some(rig) = rig() else { return };
    let home = rig.home.path().join("home");
    fs::create_dir(&home).unwrap();
    fs::set_permissions(rig.home.path(), fs::Permissions::from_mode(0o711)).unwrap();
    fs::copy(common::shim_exe(), home.join("cli")).unwrap();
    fs::copy(common::agent().unwrap(), home.join("agent")).unwrap();
    chown(&home, Some(uid), Some(uid)).unwrap();
    let text = |output: &Output| {
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let ok = |words: &[&str]| {
        let output = by(uid, &home, words);
        assert!(output.status.success(), "{words:?}: {}", text(&output));
        text(&output)
    };
    ok(&["create", "mine"]);
    let start = by(uid, &home, &["start", "mine"]);
    if text(&start).contains("may not make user namespaces") {
        return skip("ordinary users may not make user namespaces");
    }
    assert!(start.status.success(), "{}", text(&start));
    let inside = "id -u; wc -l < /proc/self/uid_map; echo kept > /root/kept; test -e /etc/shadow || echo none; \
                  unshare -U true 2>/dev/null || echo refused; ls -d /proc/[0-9]* | wc -l | grep -qx '[1-9]' && echo few; \
                  tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '; ls /usr/bin/env";
    let output = ok(&["exec", "mine", "/bin/sh", "-c", inside]);
    assert_eq!(output, format!("0\n{ids}\nnone\nrefused\nfew\nlo\n/usr/bin/env\n"));
    ok(&["stop", "mine"]);
    ok(&["start", "mine"]);
    assert_eq!(ok(&["exec", "mine", "/bin/cat", "/root/kept"]), "kept\n");
    ok(&["rm", "mine"]);
    assert_eq!(fs::read_dir(home.join("data/sandboxes")).unwrap().count(), 0);
}

#[test]
fn an_ordinary_user_without_subordinate_ids() {
    // Nobody's account, so no line in /etc/subuid.
    ordinary_user(61_234, "1");
}

/// An account with subordinate ids, as `useradd` gives them; gone with this value.
struct Account(&'static str);

impl Account {
    // No other test's, and of those that useradd gives subordinate ids to (up to UID_MAX).
    const UID: u32 = 58_236;

    fn make(name: &'static str) -> Option<Self> {
        let uid = Self::UID.to_string();
        let made = Command::new("useradd").args(["-M", "-s", "/usr/sbin/nologin", "-u", &uid, name]).output();
        made.is_ok_and(|output| output.status.success()).then_some(Self(name))
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let _ = Command::new("userdel").arg(self.0).output();
    }
}

#[test]
fn an_ordinary_user_with_subordinate_ids() {
    let name = "sandgate-test-ids";
    // What a run that was killed has left.
    drop(Account(name));
    let Some(_account) = Account::make(name) else {
        return skip("no account can be made (useradd, as root)");
    };
    let subuid = fs::read_to_string("/etc/subuid").unwrap_or_default();
    if !subuid.lines().any(|line| line.split(':').next() == Some(name)) {
        return skip("useradd gives no subordinate ids here");
    }
    if !Path::new("/usr/bin/newuidmap").exists() {
        return skip("newuidmap is not installed (Debian's package uidmap)");
    }
    ordinary_user(Account::UID, "2");
}
