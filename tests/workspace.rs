//! Which of our crates may depend on which; the arrows are those of ARCHITECTURE.md.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};
use sandgate_tests::paths;

/// The one place where an arrow is added. Dependencies of tests count too, but for `dev` ones, which have their own list.
const ARROWS: &[(&str, &[&str])] = &[
    ("sandgate-wire", &[]),
    ("sandgate-ssh", &[]),
    ("sandgate-sftp", &[]),
    ("sandgate-scp", &["sandgate-sftp"]),
    ("sandgate-agent-filter", &[]),
    ("sandgate-policy", &[]),
    ("sandgate-record", &[]),
    ("sandgate-agent", &["sandgate-wire", "sandgate-sftp", "sandgate-scp"]),
    ("sandgate-guest", &["sandgate-wire"]),
    ("sandgate-driver", &["sandgate-guest"]),
    ("sandgate-store", &["sandgate-policy"]),
    (
        "sandgate-gateway",
        &[
            "sandgate-ssh",
            "sandgate-agent-filter",
            "sandgate-guest",
            "sandgate-driver",
            "sandgate-policy",
            "sandgate-record",
            // Only the form of its audit lines.
            "sandgate-sftp",
            "sandgate-store",
        ],
    ),
    // The API shows types of these; naming them through re-exports of the gateway would only hide it.
    (
        "sandgate-web",
        &[
            "sandgate-gateway",
            "sandgate-driver",
            "sandgate-guest",
            "sandgate-policy",
            "sandgate-record",
            "sandgate-store",
            "sandgate-wire",
        ],
    ),
    (
        "sandgate",
        &[
            "sandgate-wire",
            "sandgate-ssh",
            // The client of `cp`.
            "sandgate-sftp",
            "sandgate-policy",
            "sandgate-record",
            "sandgate-guest",
            "sandgate-driver",
            "sandgate-store",
            "sandgate-gateway",
            "sandgate-web",
        ],
    ),
    ("sandgate-tests", &[]),
    ("sandgate-bench", &[]),
];

/// Every crate of the workspace with those of ours that it is built with.
fn arrows() -> BTreeMap<String, BTreeSet<String>> {
    let metadata =
        MetadataCommand::new().manifest_path(paths::workspace().join("Cargo.toml")).no_deps().exec().unwrap();
    let ours: BTreeSet<String> = metadata.packages.iter().map(|package| package.name.to_string()).collect();
    let built_with = |package: &cargo_metadata::Package| {
        let real = package.dependencies.iter().filter(|it| it.kind != DependencyKind::Development);
        real.map(|it| it.name.clone()).filter(|name| ours.contains(name)).collect()
    };
    metadata.packages.iter().map(|package| (package.name.to_string(), built_with(package))).collect()
}

#[test]
fn crates_depend_only_along_the_arrows() {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut wrong = Vec::new();
    let found = arrows();
    assert!(found.len() > 8, "only {found:?}");
    for (name, dependencies) in &found {
        let Some(list) = allowed.get(name.as_str()) else {
            wrong.push(format!("{name} is not in the list of arrows"));
            continue;
        };
        wrong.extend(
            dependencies.iter().filter(|it| !list.contains(&it.as_str())).map(|it| format!("{name} -> {it}")),
        );
    }
    assert!(wrong.is_empty(), "arrows that the design does not have: {wrong:#?}");
    // The reading itself works: an arrow that surely exists is seen.
    assert!(found["sandgate-guest"].contains("sandgate-wire"));
}

/// Cryptography comes from two crates; OpenSSL and other implementations must not slip in with a dependency. TLS is rustls, which has none of
/// its own: without ring it computes by aws-lc-rs.
#[test]
fn no_other_cryptography_in_the_gateway() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut command = std::process::Command::new(cargo);
    command.args([
        "tree",
        "-p",
        "sandgate",
        "-e",
        "normal",
        "--prefix",
        "none",
        "--offline",
        "--format",
        "{p}",
    ]);
    let output = sandgate_tests::run(
        command.current_dir(paths::workspace()),
        sandgate_tests::Feed::Null,
        std::time::Duration::from_secs(60),
    );
    let tree = output.ok();
    let has = |name: &str| tree.lines().any(|line| line.split(' ').next() == Some(name));
    assert!(has("aws-lc-rs"), "the tree was not read: {tree}");
    let banned =
        ["ring", "openssl", "openssl-sys", "native-tls", "ed25519-dalek", "rsa", "aes-gcm", "russh", "p256"];
    let found: Vec<_> = banned.iter().filter(|name| has(name)).collect();
    assert!(found.is_empty(), "{found:?}");
}

/// Whether an SPDX expression lets us take the crate under licences that all are in `allowed`.
fn permitted(expression: &str, allowed: &dyn Fn(&str) -> bool) -> bool {
    let spaced =
        expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ").replace(" WITH ", "+");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let (verdict, rest) = any_of(&words, allowed);
    assert!(rest.is_empty(), "not understood: {expression}");
    verdict
}

fn any_of<'a>(words: &'a [&'a str], allowed: &dyn Fn(&str) -> bool) -> (bool, &'a [&'a str]) {
    let (mut verdict, mut rest) = all_of(words, allowed);
    while let ["OR", more @ ..] = rest {
        let (other, after) = all_of(more, allowed);
        (verdict, rest) = (verdict | other, after);
    }
    (verdict, rest)
}

fn all_of<'a>(words: &'a [&'a str], allowed: &dyn Fn(&str) -> bool) -> (bool, &'a [&'a str]) {
    let (mut verdict, mut rest) = one(words, allowed);
    while let ["AND", more @ ..] = rest {
        let (other, after) = one(more, allowed);
        (verdict, rest) = (verdict & other, after);
    }
    (verdict, rest)
}

fn one<'a>(words: &'a [&'a str], allowed: &dyn Fn(&str) -> bool) -> (bool, &'a [&'a str]) {
    match words {
        ["(", inner @ ..] => match any_of(inner, allowed) {
            (verdict, [")", rest @ ..]) => (verdict, rest),
            _ => panic!("a bracket is not closed"),
        },
        [id, rest @ ..] => (allowed(&id.replace('+', " WITH ")), rest),
        [] => panic!("a licence is missing"),
    }
}

#[test]
fn licences_are_read_as_spdx_means_them() {
    let mit = |id: &str| id == "MIT" || id == "Apache-2.0 WITH LLVM-exception";
    for yes in
        ["MIT", "GPL-3.0 OR MIT", "MIT/GPL-3.0", "MIT AND (GPL-3.0 OR MIT)", "Apache-2.0 WITH LLVM-exception"]
    {
        assert!(permitted(yes, &mit), "{yes}");
    }
    for no in
        ["GPL-3.0", "MIT AND GPL-3.0", "GPL-3.0 OR MIT AND GPL-3.0", "Apache-2.0", "(MIT OR ISC) AND ISC"]
    {
        assert!(!permitted(no, &mit), "{no}");
    }
}

/// The sources and licences of `deny.toml`, read here too, since cargo-deny is not on every machine.
#[test]
fn what_is_compiled_in_may_be() {
    let root = paths::workspace();
    let deny: toml::Table =
        toml::from_str(&std::fs::read_to_string(root.join("deny.toml")).unwrap()).unwrap();
    let strings = |value: &toml::Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|it| it.as_str().unwrap().to_owned()).collect()
    };
    let (allowed, exceptions) = (strings(&deny["licenses"]["allow"]), deny["licenses"]["exceptions"].clone());
    let registries = strings(&deny["sources"]["allow-registry"]);
    // Says nothing in its manifest; its LICENSE is MIT, which cargo-deny reads.
    let silent = ["rust-criu"];
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .other_options(
            ["--locked", "--offline", "--filter-platform", "x86_64-unknown-linux-gnu"].map(str::to_owned),
        )
        .exec()
        .unwrap();
    let mut wrong = Vec::new();
    for package in metadata.packages.iter().filter(|package| package.source.is_some()) {
        let (name, source) = (package.name.to_string(), package.source.as_ref().unwrap().to_string());
        if !registries.iter().any(|registry| source == format!("registry+{registry}")) {
            wrong.push(format!("{name} comes from {source}"));
        }
        let excepted = exceptions.as_array().unwrap().iter().find(|it| it["crate"].as_str() == Some(&name));
        let more = excepted.map(|it| strings(&it["allow"])).unwrap_or_default();
        let may = |id: &str| allowed.iter().chain(&more).any(|it| it == id);
        match &package.license {
            Some(expression) if permitted(expression, &may) => {}
            None if silent.contains(&name.as_str()) => {}
            other => wrong.push(format!("{name} is under {other:?}")),
        }
    }
    assert!(metadata.packages.len() > 200, "the tree was not read");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
