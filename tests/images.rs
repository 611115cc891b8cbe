//! Images by name: pulled from a registry on this machine (Debian's `docker-registry`, filled by `skopeo`), imported, used, removed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sandgate_tests::process::{Guard, try_run};
use sandgate_tests::wait::{free_port, until};
use sandgate_tests::{Feed, Options, Output, Target, paths, run, skip};

const REGISTRY: &str = "/usr/bin/docker-registry";
const DEADLINE: Duration = Duration::from_secs(60);

/// A gateway and a registry.
struct World {
    target: Target,
    dir: PathBuf,
    address: String,
    _registry: Option<Guard>,
}

/// Whether the registry asks who we are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Login {
    None,
    Basic,
}

fn sh(dir: &Path, script: &str) -> String {
    run(Command::new("/bin/sh").args(["-euc", script]).current_dir(dir), Feed::Null, DEADLINE).ok()
}

impl World {
    /// `None` where the machine lacks a part.
    fn new(login: Login) -> Option<Self> {
        let mut world = Self::without_registry("")?;
        for program in [REGISTRY, "/usr/bin/skopeo"] {
            if !Path::new(program).exists() {
                skip::because(&format!("{program} is not installed (tests/setup.sh)"));
                return None;
            }
        }
        let mut auth = String::new();
        if login == Login::Basic {
            if !Path::new("/usr/bin/htpasswd").exists() {
                skip::because("htpasswd is not installed (tests/setup.sh)");
                return None;
            }
            sh(&world.dir, "htpasswd -Bbn me s3cret-word > users");
            auth = format!(
                "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
                world.dir.join("users").display()
            );
        }
        let config = world.dir.join("registry.yml");
        let storage = world.dir.join("registry");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {}\n{auth}",
                storage.display(),
                world.address
            ),
        )
        .unwrap();
        let log = fs::File::create(world.dir.join("registry.log")).unwrap();
        let mut command = Command::new(REGISTRY);
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        world._registry = Some(Guard::spawn(&mut command));
        let address = world.address.clone();
        let listens = || std::net::TcpStream::connect(&address).is_ok();
        assert!(until(Duration::from_secs(15), listens), "the registry does not listen");
        Some(world)
    }

    fn without_registry(extra: &str) -> Option<Self> {
        if skip::oracle_lacks("images") {
            return None;
        }
        let options = Options { extra_toml: extra.to_owned(), ..Options::default() };
        let target = Target::start_with(&options);
        let dir = target.dir().join("images-test");
        fs::create_dir(&dir).unwrap();
        Some(Self { target, dir, address: format!("127.0.0.1:{}", free_port()), _registry: None })
    }

    fn cli(&self, args: &[&str]) -> Output {
        self.target.gateway().cli(args)
    }

    fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    fn store(&self) -> PathBuf {
        self.target.gateway().data_dir().join("image-store")
    }

    fn blobs(&self) -> usize {
        fs::read_dir(self.store().join("blobs/sha256")).unwrap().count()
    }

    /// An OCI layout `name` of these layers (directories below the test's) with that configuration.
    fn layout(&self, name: &str, layers: &[&str], config: &str) {
        let script = paths::workspace().join("tests/images/layout.py");
        let mut command = Command::new("/usr/bin/python3");
        command.arg(script).arg(name).arg(config).args(layers).current_dir(&self.dir);
        run(&mut command, Feed::Null, DEADLINE).ok();
    }

    fn push(&self, layout: &str, rest: &str, more: &str) {
        let to = self.name(rest);
        sh(
            &self.dir,
            &format!(
                "skopeo copy --insecure-policy --dest-tls-verify=false {more} oci:{layout}:latest docker://{to} >&2"
            ),
        );
    }

    /// A busybox with two layers: the second deletes, replaces and links what the first brought.
    fn busybox(&self) {
        sh(
            &self.dir,
            "mkdir -p base/bin base/etc base/root base/tmp base/home/me base/d/sub base/o && cp /bin/busybox base/bin/busybox
             for i in sh ls cat id echo env stat; do ln -s busybox base/bin/$i; done
             echo 'root:x:0:0:root:/root:/bin/sh
me:x:1234:1234::/home/me:/bin/sh' > base/etc/passwd
             echo 'me:x:1234:' > base/etc/group
             echo one > base/gone; echo one > base/kept; echo one > base/d/sub/deep; echo one > base/o/old
             mkdir -p top/o top/d && echo two > top/o/new && touch top/o/.wh..wh..opq top/.wh.gone top/d/.wh.sub && echo two > top/two",
        );
        if rustix::process::geteuid().is_root() {
            sh(&self.dir, "chown 1234:1234 base/home/me");
        }
        self.layout(
            "box",
            &["base", "top", "+link=linked:kept"],
            r#"{"Env":["PATH=/bin","GREETING=hello from the image"],"User":"me","WorkingDir":"/d","Cmd":["/bin/false"]}"#,
        );
    }
}

fn has_busybox() -> bool {
    let there = Path::new("/bin/busybox").exists();
    if !there {
        skip::because("busybox-static is not installed (tests/setup.sh)");
    }
    there
}

#[test]
fn an_image_is_pulled_used_and_removed() {
    if !has_busybox() {
        return;
    }
    let Some(world) = World::new(Login::None) else { return };
    world.busybox();
    world.push("box", "team/box:1", "");
    let name = world.name("team/box:1");
    let gateway = world.target.gateway();

    let absent = world.cli(&["sandbox", "create", "early", "--image", &name]);
    assert_ne!(absent.code, 0);
    let told = format!("no image {name}; get it with: sandgate image pull {name}");
    assert!(absent.errors().contains(&told), "{}", absent.errors());

    let pulled = gateway.json(&["image", "pull", &name]);
    let digest = pulled["digest"].as_str().unwrap();
    assert_eq!((pulled["name"].as_str(), pulled["layers"].as_u64()), (Some(name.as_str()), Some(3)));
    let listed = gateway.json(&["image", "ls"]);
    assert_eq!(listed[0]["digest"], digest);
    assert_eq!(listed[0]["platform"], "linux/amd64");

    gateway.create_sandbox("pulled", &["--image", &name]);
    let shown = world.cli(&[
        "exec",
        "pulled",
        "--",
        "sh",
        "-c",
        "id -u; echo $GREETING; pwd; ls /; ls /o /d; cat /linked; stat -c %h /kept",
    ]);
    let text = shown.ok();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(&lines[..3], ["1234", "hello from the image", "/home/me"], "{text}");
    assert!(!lines.contains(&"gone") && lines.contains(&"two") && lines.contains(&"new"), "{text}");
    assert!(!lines.contains(&"old") && !lines.contains(&"sub"), "{text}");
    assert_eq!(&lines[lines.len() - 2..], ["one", "2"], "the hard link is the lower layer's file: {text}");

    let token = gateway.token("pulled", &[]).token;
    let over_ssh = run(
        world.target.ssh(&["-l", &token, "box"]).arg("id -un; cat > up"),
        Feed::Bytes(b"x".to_vec()),
        DEADLINE,
    );
    assert_eq!(over_ssh.ok().trim(), "me");

    let refused = world.cli(&["image", "rm", &name]);
    assert!(refused.errors().contains("used by the sandbox \"pulled\""), "{}", refused.errors());
    world.cli(&["sandbox", "rm", "--force", "pulled"]).ok();
    world.cli(&["image", "rm", &name]).ok();
    assert_eq!(world.blobs(), 0);
    let roots = fs::read_dir(gateway.data_dir().join("images")).unwrap();
    let roots: Vec<_> = roots.map(|entry| entry.unwrap().file_name()).collect();
    assert!(!roots.iter().any(|name| name.to_string_lossy().starts_with("sha256-")), "{roots:?}");
    let again = world.cli(&["image", "rm", &name]);
    assert!(again.errors().contains("there is no image"), "{}", again.errors());
}

#[test]
fn layers_are_shared_and_digests_are_names() {
    let Some(world) = World::new(Login::None) else { return };
    sh(
        &world.dir,
        "mkdir base one two && head -c 3000000 /dev/urandom > base/data && echo 1 > one/f && echo 2 > two/f",
    );
    world.layout("one-image", &["base", "one"], "{}");
    world.layout("two-image", &["base", "two"], "{}");
    world.push("one-image", "a:1", "");
    world.push("two-image", "a:2", "");
    let gateway = world.target.gateway();
    let one = gateway.json(&["image", "pull", &world.name("a:1")]);
    assert_eq!(world.blobs(), 4);
    let second = world.cli(&["image", "pull", &world.name("a:2")]);
    assert_eq!(second.code, 0, "{}", second.errors());
    assert_eq!(second.errors().matches("already there").count(), 1, "{}", second.errors());
    assert_eq!(world.blobs(), 7, "two manifests, two configurations, three layers");

    let by_digest = world.name(&format!("a@{}", one["digest"].as_str().unwrap()));
    world.cli(&["image", "pull", &by_digest]).ok();
    let wrong = world.name(&format!("a@sha256:{}", "0".repeat(64)));
    let refused = world.cli(&["image", "pull", &wrong]);
    assert!(refused.errors().contains("does not have this image"), "{}", refused.errors());

    world.cli(&["image", "rm", &world.name("a:2")]).ok();
    assert_eq!(world.blobs(), 4);
    world.cli(&["image", "rm", &world.name("a:1")]).ok();
    assert_eq!(world.blobs(), 4, "the name by digest still needs them");
    world.cli(&["image", "rm", &by_digest]).ok();
    assert_eq!(world.blobs(), 0);
    let rows = gateway.log();
    assert!(rows.contains("image.pull") && rows.contains("image.remove"), "{rows}");
}

#[test]
fn a_registry_that_asks_for_a_login_gets_it() {
    let Some(world) = World::new(Login::Basic) else { return };
    sh(&world.dir, "mkdir base && echo 1 > base/f");
    world.layout("image", &["base"], "{}");
    world.push("image", "private:1", "--dest-creds me:s3cret-word");
    let name = world.name("private:1");
    let refused = world.cli(&["image", "pull", &name]);
    assert!(refused.errors().contains("asks for a login"), "{}", refused.errors());
    let auth = world.dir.join("config.json");
    let write = |login: &str| {
        let encoded = sh(&world.dir, &format!("printf %s '{login}' | base64"));
        fs::write(
            &auth,
            format!(r#"{{"auths": {{"{}": {{"auth": "{}"}}}}}}"#, world.address, encoded.trim()),
        )
        .unwrap();
    };
    let auth = auth.to_str().unwrap();
    write("me:wrong-word");
    let wrong = world.cli(&["image", "pull", &name, "--auth-file", auth]);
    assert!(wrong.errors().contains("refuses the user me"), "{}", wrong.errors());
    write("me:s3cret-word");
    world.cli(&["image", "pull", &name, "--auth-file", auth]).ok();
    let log = world.target.gateway().log();
    assert!(!log.contains("s3cret-word") && !log.contains("wrong-word"), "a password is in the log");
}

#[test]
fn files_are_imported() {
    let Some(world) = World::without_registry("") else { return };
    if !has_busybox() {
        return;
    }
    world.busybox();
    let gateway = world.target.gateway();
    let import = |file: &str, name: &str| {
        let path = world.dir.join(file);
        world.cli(&["image", "import", path.to_str().unwrap(), name])
    };
    sh(
        &world.dir,
        "tar -C base -cf root.tar . && gzip -k root.tar && tar -C box -cf box.tar . && echo junk > junk.tar",
    );
    for file in ["root.tar", "root.tar.gz", "box.tar", "box"] {
        let output = import(file, "imported:1");
        assert_eq!(output.code, 0, "{file}: {}", output.errors());
        gateway.create_sandbox("from", &["--image", "imported:1"]);
        let shown = world.cli(&["exec", "from", "--", "cat", "/kept"]);
        assert_eq!(shown.ok(), "one", "{file}");
        world.cli(&["sandbox", "rm", "--force", "from"]).ok();
    }
    if Path::new("/usr/bin/zstd").exists() {
        sh(&world.dir, "zstd -q root.tar");
        assert_eq!(import("root.tar.zst", "imported:2").code, 0);
        gateway.create_sandbox("from", &["--image", "imported:2"]);
        assert_eq!(world.cli(&["exec", "from", "--", "cat", "/kept"]).ok(), "one");
    }
    if Path::new("/usr/bin/skopeo").exists() {
        sh(
            &world.dir,
            "skopeo copy --insecure-policy oci:box:latest docker-archive:saved.tar:saved/box:7 >&2",
        );
        let path = world.dir.join("saved.tar");
        let saved = gateway.json(&["image", "import", path.to_str().unwrap()]);
        assert_eq!(saved["name"], "saved/box:7");
    }
    for (file, says) in
        [("junk.tar", "not a well-formed tar"), ("base", "is no OCI layout"), ("nowhere", "cannot open")]
    {
        let refused = import(file, "bad:1");
        assert!(refused.code != 0 && refused.errors().contains(says), "{file}: {}", refused.errors());
    }
    assert_eq!(fs::read_dir(world.store().join("ingest")).unwrap().count(), 0);
}

/// A registry that misbehaves.
fn liar(world: &World, how: &str) -> (Guard, String) {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(paths::workspace().join("tests/images/liar.py")).arg(how).current_dir(&world.dir);
    let mut guard = Guard::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()));
    let mut line = String::new();
    BufReader::new(guard.child().stdout.take().unwrap()).read_line(&mut line).unwrap();
    (guard, format!("127.0.0.1:{}", line.trim()))
}

#[test]
fn a_registry_that_lies_or_hangs_is_given_up() {
    let Some(world) = World::without_registry("[images]\nstall_timeout = \"2s\"\n") else { return };
    for (how, says) in [
        ("wrong-layer", "does not match its digest"),
        ("wrong-config", "does not match its digest"),
        ("long-layer", "longer than it should be"),
        ("short-layer", "shorter than it should be"),
        ("endless-manifest", "longer than"),
        ("endless-token", "longer than"),
        ("silent", "fallen silent"),
        ("stall", "fallen silent"),
        ("redirects", "redirects without end"),
        ("other-platform", "it is for linux/s390x"),
        ("artifact", "no image of a file system"),
        ("bearer-without-realm", "where to get a token"),
    ] {
        let (_guard, address) = liar(&world, how);
        let began = Instant::now();
        let refused = world.cli(&["image", "pull", &format!("{address}/a:1")]);
        assert_ne!(refused.code, 0, "{how}");
        assert!(refused.errors().contains(says), "{how}: {}", refused.errors());
        assert!(began.elapsed() < Duration::from_secs(30), "{how} took {:?}", began.elapsed());
        assert_eq!(fs::read_dir(world.store().join("ingest")).unwrap().count(), 0, "{how} left something");
    }
    assert_eq!(world.target.gateway().json(&["image", "ls"]), serde_json::json!([]));
    let (_guard, address) = liar(&world, "bearer");
    world.cli(&["image", "pull", &format!("{address}/a:1")]).ok();
}

#[test]
fn a_gateway_killed_while_it_pulls_leaves_nothing_half() {
    let Some(mut world) = World::without_registry("[images]\nstall_timeout = \"60s\"\n") else { return };
    let (_guard, address) = liar(&world, "stall");
    let ingest = world.store().join("ingest");
    let mut command = world.target.gateway().command(&["image", "pull", &format!("{address}/a:1")]);
    let pull = std::thread::spawn(move || try_run(&mut command, Feed::Null, DEADLINE));
    let some = || {
        fs::read_dir(&ingest).unwrap().any(|entry| entry.unwrap().metadata().is_ok_and(|meta| meta.len() > 0))
    };
    assert!(until(Duration::from_secs(20), some), "nothing comes");
    world.target.gateway_mut().kill();
    let _ = pull.join().unwrap();
    world.target.gateway_mut().start_again();
    assert_eq!(fs::read_dir(&ingest).unwrap().count(), 0);
    assert_eq!(world.target.gateway().json(&["image", "ls"]), serde_json::json!([]));
}
