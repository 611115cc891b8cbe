//! OpenSSH's own `scp` and `sftp`: both protocols of `scp`, between two sandboxes, and into images that have neither.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::path::Path;

use sandgate_tests::client::DEADLINE;
use sandgate_tests::files::{Look, add_odd_names, make_image, same};
use sandgate_tests::wait::scaled;
use sandgate_tests::{Feed, Kind, Target, data, run, skip};

/// What makes `scp` speak either protocol.
const PROTOCOLS: [&str; 2] = ["-s", "-O"];

/// A path on the far side, for `scp`.
fn boxed(path: &str) -> String {
    format!("box:{path}")
}

#[test]
fn scp_copies_a_file_both_ways() {
    let target = Target::start();
    let far = target.far_dir();
    let (file, back) = (target.dir().join("file"), target.dir().join("back"));
    std::fs::write(&file, data::random(1, 3_000_000)).unwrap();
    for protocol in PROTOCOLS {
        let there = format!("{far}/with space{protocol}");
        // Only the old protocol's path goes through a shell.
        let named = boxed(&if protocol == "-O" { there.replace(' ', "\\ ") } else { there.clone() });
        target.scp(&[protocol, file.to_str().unwrap(), &named]).ok();
        let hash = target.exec(&format!("sha256sum <'{there}'")).ok();
        assert_eq!(hash.split(' ').next().unwrap(), data::sha256(&std::fs::read(&file).unwrap()));
        target.scp(&[protocol, &named, back.to_str().unwrap()]).ok();
        assert!(std::fs::read(&back).unwrap() == std::fs::read(&file).unwrap(), "it came back differently");
        std::fs::remove_file(&back).unwrap();
    }
}

#[test]
fn scp_keeps_a_tree_with_its_modes_and_times() {
    let target = Target::start();
    let (far, tree) = (target.far_dir(), target.near_tree());
    let near = Look::All.near(&tree);
    for protocol in PROTOCOLS {
        let (there, back) = (format!("{far}/tree{protocol}"), target.dir().join(format!("back{protocol}")));
        target.scp(&[protocol, "-r", "-p", tree.to_str().unwrap(), &boxed(&there)]).ok();
        same(&near, &Look::All.far(&target, &there));
        target.scp(&[protocol, "-r", "-p", &boxed(&there), back.to_str().unwrap()]).ok();
        same(&near, &Look::All.near(&back));
    }
}

#[test]
fn scp_and_sftp_carry_odd_names() {
    let target = Target::start();
    let (far, tree) = (target.far_dir(), target.dir().join("odd"));
    std::fs::create_dir(&tree).unwrap();
    add_odd_names(&tree);
    let near = Look::All.near(&tree);
    let back = target.dir().join("back");
    target.scp(&["-r", "-p", tree.to_str().unwrap(), &boxed(&format!("{far}/scp"))]).ok();
    same(&near, &Look::All.far(&target, &format!("{far}/scp")));
    target.scp(&["-r", "-p", &boxed(&format!("{far}/scp")), back.to_str().unwrap()]).ok();
    same(&near, &Look::All.near(&back));
    target.sftp(&["-p"], &format!("put -r {} {far}/sftp\n", tree.display())).ok();
    same(&near, &Look::All.far(&target, &format!("{far}/sftp")));
    // The old protocol has one line for each name, so a newline cannot be in it.
    std::fs::remove_file(tree.join("new\nline")).unwrap();
    std::fs::remove_dir_all(&back).unwrap();
    target.scp(&["-O", "-r", tree.to_str().unwrap(), &boxed(&format!("{far}/old"))]).ok();
    let near = Look::Contents.near(&tree);
    same(&near, &Look::Contents.far(&target, &format!("{far}/old")));
    target.scp(&["-O", "-r", &boxed(&format!("{far}/old")), back.to_str().unwrap()]).ok();
    same(&near, &Look::Contents.near(&back));
}

#[test]
fn scp_of_what_is_not_there_fails_and_says_so() {
    let target = Target::start();
    let far = target.far_dir();
    for protocol in PROTOCOLS {
        let output = target.scp(&[protocol, &boxed(&format!("{far}/nothing")), "/dev/null"]);
        output.exits(1);
        assert!(output.errors().contains("No such file or directory"), "{}", output.errors());
        let output = target.scp(&[protocol, "/etc/passwd", &boxed(&format!("{far}/no/such/directory"))]);
        output.exits(1);
        assert!(output.errors().contains("No such file or directory"), "{}", output.errors());
        let output = target.scp(&[protocol, &boxed(&far), "/dev/null"]);
        output.exits(1);
        assert!(output.errors().contains("not a regular file"), "{}", output.errors());
    }
}

#[test]
fn scp_three_copies_between_two_sandboxes() {
    let target = Target::start();
    let (far, tree) = (target.far_dir(), target.near_tree());
    let other = match target.kind() {
        Kind::Sshd => target.login.clone(),
        Kind::Gateway => {
            target.gateway().create_sandbox("other", &[]);
            target.gateway().token("other", &[]).token
        }
    };
    let other_exec =
        |command: &str| run(&mut target.ssh(&["-l", &other, "box", command]), Feed::Null, DEADLINE);
    other_exec(&format!("mkdir -p {far}/other")).ok();
    target.scp(&["-r", "-p", tree.to_str().unwrap(), &boxed(&format!("{far}/tree"))]).ok();
    let near = Look::All.near(&tree);
    for protocol in PROTOCOLS {
        let from = format!("{}@box:{far}/tree", target.login);
        let to = format!("{other}@box:{far}/other/tree{protocol}");
        target.scp(&["-3", protocol, "-r", "-p", &from, &to]).ok();
        let back = target.dir().join(format!("back{protocol}"));
        target.scp(&["-r", "-p", &to, back.to_str().unwrap()]).ok();
        same(&near, &Look::All.near(&back));
    }
    if target.kind() == Kind::Gateway {
        target.exec(&format!("test ! -e {far}/other")).ok();
    }
}

#[test]
fn sftp_runs_a_batch() {
    let target = Target::start();
    let (far, tree) = (target.far_dir(), target.near_tree());
    let (near, dir) = (Look::All.near(&tree), target.dir().display().to_string());
    let batch = format!(
        "version\npwd\nlcd {dir}\ncd {far}\nput -rp tree\nls -la tree\nget -rp tree back\nmkdir made\nput tree/empty made/one\n\
         rename made/one made/two\nln made/two made/three\nln -s two made/link\nchmod 600 made/two\nls -1 made\nrm made/three\n\
         df -h made\nrm made/link\nrm made/two\nrmdir made\n-rm made/two\n!touch {dir}/done\nbye\n"
    );
    let output = target.sftp(&[], &batch);
    let text = output.ok();
    for expected in ["SFTP protocol version 3", "made/link", "made/three", "made/two"] {
        assert!(text.contains(expected), "no {expected:?} in {text}");
    }
    assert!(target.dir().join("done").exists(), "the batch ended early: {text}");
    same(&near, &Look::All.far(&target, &format!("{far}/tree")));
    same(&near, &Look::All.near(&target.dir().join("back")));
    target.exec(&format!("test ! -e {far}/made")).ok();
    // A batch ends with its first failure.
    let output = target.sftp(&[], &format!("cd {far}/nowhere\n!touch {dir}/never\n"));
    output.exits(1);
    assert!(output.errors().contains("No such file or directory"), "{}", output.errors());
    assert!(!target.dir().join("never").exists());
}

#[test]
fn sftp_resumes_both_ways() {
    let target = Target::start();
    let far = target.far_dir();
    let bytes = data::random(5, 2_000_000);
    let (file, part) = (target.dir().join("file"), target.dir().join("part"));
    std::fs::write(&file, &bytes).unwrap();
    std::fs::write(&part, &bytes[..700_001]).unwrap();
    let (file, part) = (file.display(), part.display());
    target.sftp(&[], &format!("put {part} {far}/up\nreput {file} {far}/up\nreget {far}/up {part}\n")).ok();
    let hash = target.exec(&format!("sha256sum <{far}/up")).ok();
    assert_eq!(hash.split(' ').next().unwrap(), data::sha256(&bytes));
    assert!(std::fs::read(target.dir().join("part")).unwrap() == bytes, "the download was resumed wrongly");
}

/// Earlier gateways ended one in eight of these with status 1 though the bytes were right.
#[test]
fn forty_scp_in_a_row_all_succeed() {
    let target = Target::start();
    let far = target.far_dir();
    let bytes = data::random(6, 1 << 20);
    let (file, back) = (target.dir().join("file"), target.dir().join("back"));
    std::fs::write(&file, &bytes).unwrap();
    for protocol in PROTOCOLS {
        for round in 0..scaled(40) {
            let there = boxed(&format!("{far}/{round}"));
            target.scp(&[protocol, file.to_str().unwrap(), &there]).ok();
            target.scp(&[protocol, &there, back.to_str().unwrap()]).ok();
            assert!(std::fs::read(&back).unwrap() == bytes, "round {round} of {protocol}");
            std::fs::remove_file(&back).unwrap();
        }
    }
}

/// A sandbox whose image holds these programs alone; returns a token for it.
fn sandbox_of(target: &Target, name: &str, programs: &[&str]) -> String {
    let image = target.dir().join(format!("{name}-image"));
    make_image(&image, programs);
    target.gateway().create_sandbox(name, &["--image", image.to_str().unwrap()]);
    target.gateway().start_sandbox(name);
    target.gateway().token(name, &[]).token
}

/// Copies a tree there and back again in every way there is; nothing but the protocols is needed on the far side.
#[track_caller]
fn copies_work(target: &Target, token: &str) {
    let (tree, user) = (target.near_tree(), format!("User={token}"));
    let near = Look::All.near(&tree);
    let tree = tree.to_str().unwrap();
    let back = |name: &str| target.dir().join(format!("back-{name}"));
    // A file, to a path of its own and into a directory; then trees, each fetched with the other programs too.
    for protocol in PROTOCOLS {
        let file = back(&format!("file{protocol}"));
        target.scp(&[protocol, "-o", &user, &format!("{tree}/UPPER.txt"), &boxed("one")]).ok();
        target.scp(&[protocol, "-o", &user, &boxed("one"), file.to_str().unwrap()]).ok();
        assert!(std::fs::read(&file).unwrap() == std::fs::read(Path::new(tree).join("UPPER.txt")).unwrap());
        target.scp(&[protocol, "-o", &user, "-r", "-p", tree, &boxed(&format!("t{protocol}"))]).ok();
    }
    let output = target.sftp(&["-o", &user], &format!("put -rp {tree} t-sftp\nls -1\n"));
    assert!(output.ok().contains("t-sftp"), "{output:?}");
    for made in ["-s", "-O", "-sftp"] {
        for protocol in PROTOCOLS {
            let to = back(&format!("{made}{protocol}"));
            let from = boxed(&format!("t{made}"));
            target.scp(&[protocol, "-o", &user, "-r", "-p", &from, to.to_str().unwrap()]).ok();
            same(&near, &Look::All.near(&to));
        }
        let to = back(&format!("{made}-sftp"));
        target.sftp(&["-o", &user], &format!("get -rp t{made} {}\n", to.display())).ok();
        same(&near, &Look::All.near(&to));
    }
    // Several sources, by a pattern that nobody but the far side can expand.
    let to = back("several");
    std::fs::create_dir(&to).unwrap();
    for protocol in PROTOCOLS {
        let from = boxed("t-s/[eU]*");
        target.scp(&[protocol, "-o", &user, &from, to.to_str().unwrap()]).ok();
        assert!(
            to.join("empty").exists() && to.join("UPPER.txt").exists(),
            "{protocol}: the pattern matched less"
        );
        std::fs::remove_dir_all(&to).unwrap();
        std::fs::create_dir(&to).unwrap();
    }
    // Without a path they arrive at home.
    for protocol in PROTOCOLS {
        target.scp(&[protocol, "-o", &user, &format!("{tree}/empty"), "box:"]).ok();
        target.sftp(&["-o", &user], "rm empty\n").ok();
        let output = target.scp(&[protocol, "-o", &user, &boxed("nothing"), "/dev/null"]);
        output.exits(1);
        assert!(output.errors().contains("No such file or directory"), "{}", output.errors());
    }
}

#[test]
fn copies_into_an_image_with_nothing_but_the_agent() {
    if skip::oracle_lacks("images") {
        return;
    }
    let target = Target::start();
    let token = sandbox_of(&target, "bare", &[]);
    run(&mut target.ssh(&["-l", &token, "box", "true"]), Feed::Null, DEADLINE).exits(127);
    copies_work(&target, &token);
}

#[test]
fn copies_into_an_image_with_a_shell_but_no_scp() {
    if skip::oracle_lacks("images") {
        return;
    }
    let target = Target::start();
    let token = sandbox_of(&target, "shell", &["sh", "sha256sum"]);
    let exec = |command: &str| run(&mut target.ssh(&["-l", &token, "box", command]), Feed::Null, DEADLINE);
    assert_eq!(exec("echo here").ok(), "here");
    exec("scp").exits(127);
    copies_work(&target, &token);
    let file = target.dir().join("tree/UPPER.txt");
    let hash = exec("sha256sum <one").ok();
    assert_eq!(hash.split(' ').next().unwrap(), data::sha256(&std::fs::read(file).unwrap()));
}

/// The image's own program has a reason to be there.
#[test]
fn an_image_with_an_scp_of_its_own_keeps_it() {
    if skip::oracle_lacks("images") {
        return;
    }
    let target = Target::start();
    let image = target.dir().join("own-image");
    make_image(&image, &["sh"]);
    std::fs::create_dir_all(image.join("usr/bin")).unwrap();
    let scp = image.join("usr/bin/scp");
    std::fs::write(&scp, "#!/bin/sh\necho \"the image's own: $*\" >&2\nexit 9\n").unwrap();
    std::fs::set_permissions(&scp, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    target.gateway().create_sandbox("own", &["--image", image.to_str().unwrap()]);
    let token = target.gateway().token("own", &[]).token;
    let output = target.scp(&["-O", "-o", &format!("User={token}"), "box:/tmp/a b", "/dev/null"]);
    assert_ne!(output.code, 0);
    assert!(output.errors().contains("the image's own: -f /tmp/a b"), "{}", output.errors());
}
