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
