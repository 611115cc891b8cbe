//! Symbolic links that lead nowhere, to themselves, and elsewhere.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use sandgate_tests::files::Look;
use sandgate_tests::raw::codec::Writer;
use sandgate_tests::sftp::{Ground, code, kind};
use sandgate_tests::skip;

/// A file, a directory, and links of all kinds.
fn links(dir: &Path) {
    std::fs::write(dir.join("file"), "content").unwrap();
    std::fs::set_permissions(dir.join("file"), std::fs::Permissions::from_mode(0o666)).unwrap();
    std::fs::create_dir(dir.join("sub")).unwrap();
    std::fs::write(dir.join("sub/inner"), "inner").unwrap();
    for (target, name) in [
        ("file", "good"),
        ("sub", "to-dir"),
        ("nowhere", "dangling"),
        ("/no/such/place", "far"),
        ("loop-b", "loop-a"),
        ("loop-a", "loop-b"),
        ("self", "self"),
        (".", "here"),
        ("file/below", "through-file"),
    ] {
        symlink(target, dir.join(name)).unwrap();
    }
}

#[test]
fn links_that_lead_nowhere_fail_in_opensshs_words() {
    let ground = Ground::of_a_user();
    let (_, _, errors) = ground.same_as_oracle(links, |dir| {
        let mut batch = String::new();
        for name in ["dangling", "far", "loop-a", "self", "through-file", "missing"] {
            batch += &format!(
                "-get {dir}/{name} x\n-cd {dir}/{name}\n-chmod 600 {dir}/{name}\n-chown 1 {dir}/{name}\n-mkdir {dir}/{name}\n\
                 -rmdir {dir}/{name}\n-put ssh_config {dir}/{name}/x\n-rename {dir}/{name}/x {dir}/y\n-ls -1 {dir}/{name}\n\
                 -df {dir}/{name}\n-ln {dir}/{name}/x {dir}/y\n"
            );
        }
        batch
    });
    assert!(errors.contains("No such file"), "{errors}");
    assert!(errors.contains(": Failure"), "mkdir over a link: {errors}");
}

#[test]
fn links_are_made_renamed_listed_and_removed_as_links() {
    let ground = Ground::of_a_user();
    let (code, text, _) = ground.same_as_oracle(links, |dir| {
        format!(
            "cd {dir}\nrename dangling moved\nrename self self2\nln -s other/place new\n-ln -s x new\nrm loop-a\nrm here\n\
             -rm to-dir/nothing\nput ssh_config good\nls -1\nls -1 to-dir\npwd\ncd to-dir\npwd\n"
        )
    });
    assert_eq!(code, 0);
    let listed = text.split_once("ls -1\n").unwrap().1;
    assert!(listed.contains("moved\n") && !listed.contains("here\n"), "{text}");
    for name in ["server", "oracle"] {
        let dir = ground.path().join(name);
        let target = |link: &str| dir.join(link).read_link().unwrap().display().to_string();
        assert_eq!(target("moved"), "nowhere");
        assert_eq!(target("self2"), "self");
        assert_eq!(target("new"), "other/place");
        assert_eq!(target("good"), "file", "writing through a link leaves the link");
    }
}

/// Writing through a dangling link makes the file it names, as a local program would.
#[test]
fn a_put_through_a_dangling_link_makes_its_target() {
    let ground = Ground::of_a_user();
    ground.same_as_oracle(links, |dir| {
        format!("put ssh_config {dir}/dangling\n-put ssh_config {dir}/far\n-put ssh_config {dir}/self\nls -1 {dir}\n")
    });
    for name in ["server", "oracle"] {
        assert!(ground.path().join(name).join("nowhere").metadata().unwrap().is_file());
    }
}

/// A directory that contains itself is copied once.
#[test]
fn recursive_copies_end_where_links_loop() {
    let ground = Ground::of_a_user();
    ground.same_as_oracle(
        |dir| {
            links(dir);
            // Followed by the client until the system calls it a loop; OpenSSH's client does the same with its own server.
            std::fs::remove_file(dir.join("here")).unwrap();
        },
        |dir| format!("-get -r {dir} tree\n"),
    );
    let tree = ground.target.dir().join("tree");
    assert_eq!(std::fs::read_to_string(tree.join("sub/inner")).unwrap(), "inner");
}

#[test]
fn requests_tell_links_from_what_they_lead_to() {
    let ground = Ground::new();
    links(ground.path());
    let mut sftp = ground.raw();
    let at = |name: &str| ground.path().join(name).as_os_str().as_bytes().to_vec();
    for name in ["dangling", "loop-a", "self", "far", "through-file"] {
        assert_eq!(sftp.stat(kind::LSTAT, &at(name)).unwrap().mode & 0o170_000, 0o120_000, "{name}");
        let refused = sftp.stat(kind::STAT, &at(name)).unwrap_err();
        assert_eq!((refused.code, &*refused.words), (code::NO_SUCH_FILE, "No such file"), "{name}");
    }
    assert_eq!(sftp.name(kind::READLINK, &at("far")).unwrap(), b"/no/such/place");
    let refused = sftp.name(kind::READLINK, &at("file")).unwrap_err();
    assert_eq!((refused.code, &*refused.words), (code::BAD_MESSAGE, "Bad message"));
    // A target need not be a path at all, and may be as long as a path can be.
    let text = [&b"\xff\n "[..], &[b'/'; 4000]].concat();
    sftp.tell(kind::SYMLINK, Writer::default().string(&text).string(at("odd"))).unwrap();
    assert_eq!(sftp.name(kind::READLINK, &at("odd")).unwrap(), text);
}

/// What came of one `scp -O`: its code, its words, and what lies on both sides then.
type Outcome = (String, i32, Vec<String>, String, String);

/// Copies by `scp -O` from and to links of all kinds, one after the other.
fn by_the_old_scp(ground: &Ground) -> Vec<Outcome> {
    let server = ground.open_dir("server");
    links(&server);
    // Too much is in it again and again; one file in a directory of its own is as good a circle.
    std::fs::remove_file(server.join("here")).unwrap();
    std::fs::create_dir(server.join("round")).unwrap();
    std::fs::write(server.join("round/x"), "x").unwrap();
    symlink("../round", server.join("round/again")).unwrap();
    let near = ground.target.dir().join("near");
    std::fs::create_dir_all(near.join("tree/sub")).unwrap();
    std::fs::write(near.join("tree/file"), "file").unwrap();
    let far = server.display().to_string();

    let mut copies = vec![format!("box:{far}/round near"), format!("box:{far} near/all")];
    let names = ["good", "to-dir", "dangling", "far", "loop-a", "self", "through-file", "missing"];
    copies.extend(names.map(|name| format!("box:{far}/{name} near/{name}")));
    // To a link that leads nowhere last of all, since it makes what the link names.
    for name in ["good", "to-dir", "far", "loop-a", "self", "through-file", "dangling"] {
        copies.push(format!("near/tree/file box:{far}/{name}"));
        copies.push(format!("near/tree box:{far}/{name}"));
    }
    let master = ground.target.master();
    let shared = master.option();
    let outcome = |copy: String| {
        let arguments: Vec<&str> = [&*shared, "-O", "-r"].into_iter().chain(copy.split(' ')).collect();
        let output = ground.scp(&arguments);
        // In the order of the listing, which is not the same in two directories.
        let mut words: Vec<String> = output.errors().lines().map(|line| line.replace(&far, "DIR")).collect();
        words.sort();
        (
            copy.replace(&far, "DIR"),
            output.code,
            words,
            Look::Contents.near(&near),
            Look::Contents.near(&server),
        )
    };
    copies.into_iter().map(outcome).collect()
}

#[test]
fn the_agents_own_scp_does_with_links_what_opensshs_does() {
    if skip::oracle_lacks("images") {
        return;
    }
    let ours = by_the_old_scp(&Ground::bare());
    let theirs = by_the_old_scp(&Ground::new());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs, "the agent's own scp is on the left, the host's on the right");
    }
    let words = |copy: &str| {
        let (_, code, words, ..) = ours.iter().find(|(it, ..)| it == copy).unwrap();
        (*code, words.join("\n"))
    };
    assert_eq!(words("box:DIR/good near/good"), (0, String::new()));
    let missing = (1, "scp: DIR/dangling: No such file or directory".to_owned());
    assert_eq!(words("box:DIR/dangling near/dangling"), missing);
    let circle = (1, "scp: DIR/self: Too many levels of symbolic links".to_owned());
    assert_eq!(words("box:DIR/self near/self"), circle);
    assert_eq!(words("near/tree/file box:DIR/self"), circle);
    assert_eq!(words("near/tree/file box:DIR/dangling"), (0, String::new()));
}
