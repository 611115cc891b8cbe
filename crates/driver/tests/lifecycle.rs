//! States stay true, whoever is killed, and nothing is left behind.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::time::{Duration, Instant};

use common::{cgroups_of, processes, rig};
use rustix::process::{Pid, Signal, kill_process};
use sandgate_driver::{Driver, DriverError, NoProgress, State, StopCause};

const GRACE: Duration = Duration::from_secs(3);

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

async fn soon(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        if condition() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

#[tokio::test]
async fn what_is_written_survives_until_removal() {
    let Some(rig) = rig() else { return };
    let mut spec = rig.spec("keep");
    spec.user = Some("dev".into());
    spec.env = vec![("COLOUR".into(), "blue".into())];
    let id = spec.id.clone();
    rig.driver.create(&spec, &NoProgress).await.unwrap();
    assert_eq!(rig.driver.inspect(&id).await.unwrap(), State::Created);
    assert!(matches!(rig.driver.create(&spec, &NoProgress).await, Err(DriverError::AlreadyExists(_))));
    rig.driver.start(&id, &NoProgress).await.unwrap();
    rig.driver.start(&id, &NoProgress).await.unwrap();
    assert_eq!(rig.driver.login_user(&id).await.unwrap().as_deref(), Some("dev"));
    let wrote = rig.sh(&id, "echo kept > /root/f && touch /usr/bin/extra && rm /usr/bin/env && stat -c %U /home/dev && echo $COLOUR").await;
    assert_eq!(wrote.stdout, "dev\nblue\n", "{wrote:?}");
    assert!(
        std::path::Path::new("/usr/bin/env").exists() && !std::path::Path::new("/usr/bin/extra").exists()
    );
    rig.driver.stop(&id, GRACE).await.unwrap();
    assert!(matches!(
        rig.driver.inspect(&id).await.unwrap(),
        State::Stopped { cause: StopCause::Requested, .. }
    ));
    rig.driver.stop(&id, GRACE).await.unwrap();
    rig.driver.start(&id, &NoProgress).await.unwrap();
    let read = rig.sh(&id, "cat /root/f; ls /usr/bin/extra; ls /usr/bin/env").await;
    assert_eq!(read.stdout, "kept\n/usr/bin/extra\n", "{read:?}");
    rig.driver.remove(&id).await.unwrap();
    assert!(matches!(rig.driver.inspect(&id).await, Err(DriverError::NotFound(_))));
    assert!(matches!(rig.driver.remove(&id).await, Err(DriverError::NotFound(_))));
}

#[tokio::test]
async fn fifty_rounds_leave_nothing() {
    let Some(rig) = rig() else { return };
    // Only ours: other tests mount things meanwhile.
    let home = rig.home.path().display().to_string();
    let mounts = || {
        let all = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        all.lines().filter(|line| line.contains(&home)).map(str::to_owned).collect::<Vec<_>>()
    };
    let empty = rig.home.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let began = Instant::now();
    let mut starts = Vec::new();
    for round in 0..50 {
        let mut spec = rig.spec(&format!("round-{round}"));
        // Every tenth with the host's programs, whose /etc takes most of the time to make.
        if round % 10 != 0 {
            spec.image = sandgate_driver::ImageSource::Path(empty.clone());
        }
        rig.driver.create(&spec, &NoProgress).await.unwrap();
        let start = Instant::now();
        rig.driver.start(&spec.id, &NoProgress).await.unwrap();
        starts.push(start.elapsed());
        rig.driver.stop(&spec.id, GRACE).await.unwrap();
        rig.driver.remove(&spec.id).await.unwrap();
        assert_eq!(cgroups_of(&spec.id), Vec::<std::path::PathBuf>::new());
    }
    starts.sort();
    eprintln!(
        "50 rounds in {:?}; start to ready: median {:?}, worst {:?}",
        began.elapsed(),
        starts[25],
        starts[49]
    );
    assert_eq!(mounts(), Vec::<String>::new());
    let data = rig.home.path().join("data");
    assert_eq!(std::fs::read_dir(data.join("sandboxes")).unwrap().count(), 0);
    assert_eq!(processes(&["shim", &data.to_string_lossy()]), Vec::<String>::new());
}

#[tokio::test]
async fn a_killed_shim_takes_its_sandbox_along() {
    let Some(rig) = rig() else { return };
    let spec = rig.spec("orphan");
    let id = spec.id.clone();
    rig.up(&spec).await;
    rig.sh(&id, "echo kept > /root/f; sync").await;
    let (shim, init) = (rig.pid(&id, "shim"), rig.pid(&id, "init"));
    kill(shim);
    assert!(soon(|| !is_alive(init)).await, "init outlived its shim");
    let state = rig.driver.inspect(&id).await.unwrap();
    assert!(matches!(state, State::Stopped { cause: StopCause::Lost, .. }), "{state:?}");
    assert!(cgroups_of(&id).is_empty());
    rig.driver.start(&id, &NoProgress).await.unwrap();
    assert_eq!(rig.sh(&id, "cat /root/f").await.stdout, "kept\n");
    rig.driver.remove(&id).await.unwrap();
}

#[tokio::test]
async fn a_killed_init_is_seen_as_stopped() {
    let Some(rig) = rig() else { return };
    let spec = rig.spec("killed");
    let id = spec.id.clone();
    rig.up(&spec).await;
    let shim = rig.pid(&id, "shim");
    kill(rig.pid(&id, "init"));
    assert!(soon(|| !is_alive(shim)).await, "the shim outlived its sandbox");
    let state = rig.driver.inspect(&id).await.unwrap();
    assert!(matches!(state, State::Stopped { cause: StopCause::Killed { signal: 9, .. }, .. }), "{state:?}");
    assert!(cgroups_of(&id).is_empty());
    rig.driver.start(&id, &NoProgress).await.unwrap();
    assert!(rig.is_running(&id).await);
    rig.driver.remove(&id).await.unwrap();
}

#[tokio::test]
async fn another_gateway_finds_what_lives() {
    let Some(rig) = rig() else { return };
    let spec = rig.spec("found");
    let id = spec.id.clone();
    rig.up(&spec).await;
    let pid = rig.pid(&id, "init");
    let later = rig.fresh_driver();
    assert!(
        matches!(later.inspect(&id).await.unwrap(), State::Running { pid: p, .. } if i64::from(p) == i64::from(pid))
    );
    let output = common::run(&later, &id, "echo hello", Duration::from_secs(10)).await;
    assert_eq!(output.stdout, "hello\n");
    // Both at once: one start, one sandbox.
    rig.driver.stop(&id, GRACE).await.unwrap();
    let (a, b) = tokio::join!(rig.driver.start(&id, &NoProgress), later.start(&id, &NoProgress));
    a.unwrap();
    b.unwrap();
    let data = rig.home.path().join("data");
    assert_eq!(processes(&["shim run", &data.to_string_lossy()]).len(), 1);
    later.remove(&id).await.unwrap();
}

#[tokio::test]
async fn a_data_directory_with_a_long_name_works() {
    let Some(mut rig) = rig() else { return };
    let long = rig.home.path().join("x".repeat(120));
    let mut config = sandgate_driver::OciConfig::new(long, common::agent().unwrap());
    config.shim_exe = common::shim_exe();
    rig.driver = sandgate_driver::OciDriver::new(config).unwrap();
    let spec = rig.spec("long");
    rig.up(&spec).await;
    assert_eq!(rig.sh(&spec.id, "echo ok").await.stdout, "ok\n");
    rig.driver.remove(&spec.id).await.unwrap();
}

#[tokio::test]
async fn an_agent_that_does_not_answer_is_reported() {
    let Some(rig) = rig() else { return };
    let Ok(busybox) = std::fs::read("/bin/busybox") else { return common::skip("no busybox") };
    // Not an agent: it says so and exits at once.
    let fake = rig.home.path().join("fake");
    std::fs::write(&fake, busybox).unwrap();
    let mut config = sandgate_driver::OciConfig::new(rig.home.path().join("data"), &fake);
    config.shim_exe = common::shim_exe();
    let driver = sandgate_driver::OciDriver::new(config).unwrap();
    let spec = rig.spec("mute");
    driver.create(&spec, &NoProgress).await.unwrap();
    let error = driver.start(&spec.id, &NoProgress).await.unwrap_err().to_string();
    assert!(error.contains("exited with code") && error.contains("applet"), "{error}");
    assert!(matches!(driver.inspect(&spec.id).await.unwrap(), State::Stopped { .. }));
    driver.remove(&spec.id).await.unwrap();
}
