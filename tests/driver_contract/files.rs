//! Files: scp in both protocols, sftp, rsync and git, names that trip people up, and who owns what arrives.

use std::process::Command;

use sandgate_tests::client::DEADLINE;
use sandgate_tests::files::{Look, add_odd_names, same};
use sandgate_tests::{Feed, run};

use crate::ground::Ground;
use crate::report::Behaviour;

pub const ALL: &[Behaviour] = &[
    ("scp", scp),
    ("scp -O", scp_old),
    ("sftp batch", sftp),
    ("odd names", odd_names),
    ("files belong to the login user", owner),
    ("rsync", rsync),
    ("git push and clone", git),
];

fn there_and_back(ground: &Ground, name: &str, protocol: &[&str]) {
    let tree = ground.target.near_tree();
    let (far, back) = (format!("box:{name}"), ground.place(name).display().to_string());
    ground.target.scp(&[protocol, &["-rp", tree.to_str().unwrap(), &far]].concat()).ok();
    ground.target.scp(&[protocol, &["-rp", &far, &back]].concat()).ok();
    same(&Look::All.near(&tree), &Look::All.near(std::path::Path::new(&back)));
}

fn scp(ground: &mut Ground) {
    there_and_back(ground, "by-sftp", &[]);
}

fn scp_old(ground: &mut Ground) {
    there_and_back(ground, "by-scp", &["-O"]);
}

fn sftp(ground: &mut Ground) {
    let here = ground.place("sent").display().to_string();
    let back = ground.place("fetched").display().to_string();
    std::fs::write(&here, b"some bytes").unwrap();
    let batch = format!(
        "mkdir d\nput {here} d/one\nrename d/one d/two\nchmod 600 d/two\nln -s two d/link\nget d/link {back}\nls -l d\nrm d/two\nrm d/link\nrmdir d\n"
    );
    let listing = ground.target.sftp(&[], &batch).ok();
    assert!(listing.contains("-rw-------"), "{listing}");
    assert_eq!(std::fs::read(&back).unwrap(), b"some bytes");
}

fn odd_names(ground: &mut Ground) {
    let tree = ground.place("odd");
    std::fs::create_dir(&tree).unwrap();
    add_odd_names(&tree);
    let back = ground.place("odd-back");
    ground.target.scp(&["-rp", tree.to_str().unwrap(), "box:odd"]).ok();
    ground.target.scp(&["-rp", "box:odd", back.to_str().unwrap()]).ok();
    same(&Look::All.near(&tree), &Look::All.near(&back));
}

fn owner(ground: &mut Ground) {
    let file = ground.place("mine");
    std::fs::write(&file, b"x").unwrap();
    ground.target.scp(&[file.to_str().unwrap(), "box:mine"]).ok();
    // No stat(1): older builds of gVisor refuse what coreutils ask for.
    let ask = r#"python3 -c 'import os; s = os.stat("mine"); print(s.st_uid, s.st_gid)'; id -u; id -g"#;
    let text = ground.exec(ask).ok();
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["1000"; 4], "{text}");
}

fn rsync(ground: &mut Ground) {
    let tree = ground.target.near_tree();
    let back = ground.place("rsynced");
    let rsync = |from: &str, to: &str| {
        let shell = format!("ssh -F {}", ground.target.config().display());
        let mut command = Command::new("rsync");
        run(command.args(["-rlpt", "-e", &shell, from, to]), Feed::Null, DEADLINE).ok();
    };
    rsync(&format!("{}/", tree.display()), "box:rsynced/");
    rsync("box:rsynced/", &format!("{}/", back.display()));
    same(&Look::Contents.near(&tree), &Look::Contents.near(&back));
}

fn git(ground: &mut Ground) {
    let script = "
        export GIT_SSH_COMMAND=\"$SSH\" GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b \
            GIT_CONFIG_NOSYSTEM=1 HOME=$DIR
        set -e; $SSH box 'git init -q --bare repo'; cd $DIR; git init -q -b main work; cd work
        head -c 2000000 /dev/urandom >blob; git add blob; git commit -q -m one; git push -q box:repo main
        cd ..; git clone -q -b main box:repo again; cmp work/blob again/blob; echo same";
    let output = run(&mut ground.target.script(script), Feed::Null, DEADLINE);
    assert_eq!(output.ok(), "same");
}
