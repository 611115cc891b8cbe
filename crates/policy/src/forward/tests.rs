use proptest::prelude::*;

use super::*;

const KEY: &str = "SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDzJ+yDGOKnkY1fLSg";

fn words(words: &[&str]) -> Option<Vec<String>> {
    (!words.is_empty()).then(|| words.iter().map(|word| (*word).to_owned()).collect())
}

fn rules(open: &[&str], listen: &[&str], socket_open: &[&str], socket_listen: &[&str]) -> ForwardRules {
    WrittenRules {
        permit_open: words(open),
        permit_listen: words(listen),
        permit_socket_open: words(socket_open),
        permit_socket_listen: words(socket_listen),
        agent_keys: None,
    }
    .try_into()
    .expect("rules")
}

fn of_token(credential: ForwardRules) -> ForwardAccess {
    ForwardAccess { credential, sandbox: ForwardRules::default() }
}

fn allows(decision: Decision) -> bool {
    decision == Decision::Allow
}

#[test]
fn without_rules_everything_is_allowed() {
    let access = ForwardAccess::default();
    assert!(allows(access.connect_tcp(b"db", 5432)) && allows(access.connect_socket(b"x/../y")));
    assert!(allows(access.listen_tcp(b"", 0)) && allows(access.listen_socket(b"/run/x")));
    assert_eq!(access.agent_keys(), None);
}

#[test]
fn permit_open_compares_text() {
    let access = of_token(rules(&["db:5432", "*:80", "[::1]:22", "web:*", "10.0.0.1:1"], &[], &[], &[]));
    for (host, port) in
        [("db", 5432), ("any.thing", 80), ("::1", 22), ("web", 1), ("web", 65535), ("10.0.0.1", 1)]
    {
        assert!(allows(access.connect_tcp(host.as_bytes(), port)), "{host}:{port}");
    }
    for (host, port) in
        [("db", 5433), ("DB", 5432), ("db.", 5432), ("localhost", 22), ("0::1", 22), ("webs", 1), ("", 1)]
    {
        assert!(!allows(access.connect_tcp(host.as_bytes(), port)), "{host}:{port}");
    }
}

#[test]
fn permit_listen_knows_patterns() {
    let access = of_token(rules(&[], &["8080", "local*:9000", "127.0.0.?:*"], &[], &[]));
    for (host, port) in [("localhost", 8080), ("", 8080), ("*", 8080), ("localhost", 9000), ("127.0.0.1", 0)]
    {
        assert!(allows(access.listen_tcp(host.as_bytes(), port)), "{host}:{port}");
    }
    for (host, port) in [("localhost", 0), ("", 9000), ("127.0.0.11", 5), ("localhost", 8081)] {
        assert!(!allows(access.listen_tcp(host.as_bytes(), port)), "{host}:{port}");
    }
}

#[test]
fn sockets_are_compared_as_text_and_a_directory_is_not_left() {
    let access = of_token(rules(&[], &[], &["/run/db.sock", "/run/app/*"], &[]));
    for path in ["/run/db.sock", "/run/app/x", "run/db.sock", "/run/app/.hidden"] {
        assert!(allows(access.connect_socket(path.as_bytes())), "{path}");
    }
    for path in [
        "/run/app/../docker.sock",
        "/run/app/..",
        "/run/app/.",
        "/run/app//x",
        "/run/app/",
        "/run/app",
        "/run/app/sub/x",
        "/run/appx",
        "/run/./db.sock",
        "//run/db.sock",
        "/run/db.sock/",
        "",
    ] {
        assert!(!allows(access.connect_socket(path.as_bytes())), "{path}");
    }
    let everywhere_in_root = of_token(rules(&[], &[], &["/*"], &[]));
    assert!(
        allows(everywhere_in_root.connect_socket(b"/x"))
            && !allows(everywhere_in_root.connect_socket(b"/x/y"))
    );
}

#[test]
fn a_direction_with_rules_permits_only_what_they_name() {
    let tcp_only = of_token(rules(&["db:5432"], &[], &[], &[]));
    assert!(!allows(tcp_only.connect_socket(b"/run/docker.sock")), "as sshd");
    assert!(
        allows(tcp_only.listen_tcp(b"localhost", 1)) && allows(tcp_only.listen_socket(b"/run/x")),
        "the other direction"
    );
    let sockets_only = of_token(rules(&[], &[], &[], &["/run/x"]));
    assert!(!allows(sockets_only.listen_tcp(b"localhost", 1)) && allows(sockets_only.connect_tcp(b"x", 1)));
    let both = of_token(rules(&["any"], &[], &["none"], &[]));
    assert!(allows(both.connect_tcp(b"x", 1)) && !allows(both.connect_socket(b"/x")));
    let any = of_token(rules(&["any"], &[], &[], &[]));
    assert!(allows(any.connect_socket(b"/x")), "any alone restricts nothing, as with sshd");
}

#[test]
fn both_must_allow_and_the_denial_names_the_rule() {
    let access = ForwardAccess {
        credential: rules(&["db:5432", "web:80"], &[], &[], &[]),
        sandbox: rules(&["web:80"], &["none"], &[], &[]),
    };
    let says = |decision| match decision {
        Decision::Deny(text) => text,
        Decision::Allow => panic!("allowed"),
    };
    assert!(allows(access.connect_tcp(b"web", 80)));
    assert_eq!(says(access.connect_tcp(b"db", 5432)), "PermitOpen of the sandbox allows web:80 only.");
    assert_eq!(says(access.connect_tcp(b"x", 1)), "PermitOpen of the token allows db:5432, web:80 only.");
    assert_eq!(says(access.listen_tcp(b"", 1)), "PermitListen of the sandbox allows nothing.");
    assert_eq!(says(access.connect_socket(b"/x")), "PermitSocketOpen of the token allows nothing.");
    let many: Vec<String> = (1..=20).map(|port| format!("h:{port}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let text = says(of_token(rules(&many, &[], &[], &[])).connect_tcp(b"x", 1));
    assert!(text.contains("h:8 and 12 more only"), "{text}");
}

#[test]
fn what_is_no_rule_is_refused_with_its_list() {
    let bad = |written: WrittenRules| ForwardRules::try_from(written).expect_err("refused").to_string();
    let long = format!("{}:1", "h".repeat(256));
    for open in [
        "", "db", "db:", ":1", "db:0", "db:65536", "db:+1", "d*:1", "a b:1", "::1:22", "[db]:1", "any,none",
        "x:1\n", &long,
    ] {
        let text = bad(WrittenRules { permit_open: words(&[open]), ..WrittenRules::default() });
        assert!(text.starts_with("PermitOpen: \""), "{open:?}: {text}");
    }
    for listen in ["0", "x", "65536", "localhost:0"] {
        bad(WrittenRules { permit_listen: words(&[listen]), ..WrittenRules::default() });
    }
    let long = format!("/{}", "p".repeat(107));
    for path in ["", "run/x", "/run/*/x", "/run/../x", "/run/", "/", "/a\nb", "x/*", "/x/**", &long] {
        bad(WrittenRules { permit_socket_open: words(&[path]), ..WrittenRules::default() });
    }
    for key in [
        "",
        "SHA256:",
        "MD5:aa",
        &KEY[..40],
        &format!("{KEY}="),
        "SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDzJ+yDGOKnkY1fLSh",
    ] {
        bad(WrittenRules { agent_keys: words(&[key]), ..WrittenRules::default() });
    }
    // Words that mean everything or nothing stand alone.
    bad(WrittenRules { permit_open: words(&["any", "db:1"]), ..WrittenRules::default() });
    let many = vec!["h:1".to_owned(); MAX_RULES];
    let most = WrittenRules { permit_open: Some(many), ..WrittenRules::default() };
    assert!(ForwardRules::try_from(most.clone()).is_ok());
    let over = WrittenRules { permit_listen: words(&["1"]), ..most };
    assert_eq!(ForwardRules::try_from(over), Err(ForwardRulesError::TooMany));
}

#[test]
fn the_agents_keys_are_those_that_both_name() {
    let keys = |keys: &[&str]| -> ForwardRules {
        WrittenRules { agent_keys: words(keys), ..WrittenRules::default() }.try_into().expect("keys")
    };
    let other = format!("SHA256:{}", "A".repeat(43));
    let access = |credential, sandbox| ForwardAccess { credential, sandbox };
    assert_eq!(access(keys(&[KEY]), keys(&[])).agent_keys(), Some(vec![KEY]));
    assert_eq!(access(keys(&[]), keys(&[KEY])).agent_keys(), Some(vec![KEY]));
    assert_eq!(access(keys(&[KEY, &other]), keys(&[&other])).agent_keys(), Some(vec![other.as_str()]));
    assert_eq!(access(keys(&["none"]), keys(&[])).agent_keys(), Some(vec![]));
    assert_eq!(access(keys(&["any"]), keys(&[])).agent_keys(), None);
}

#[test]
fn rules_without_their_scope_are_a_mistake() {
    let forward = rules(&["db:1"], &[], &[], &[]);
    assert!(forward.check(Scopes::all()).is_ok());
    assert!(forward.check("shell".parse().expect("scopes")).is_err());
    assert!(ForwardRules::default().check("shell".parse().expect("scopes")).is_ok());
}

proptest! {
    #[test]
    fn what_is_written_reads_back(hosts in proptest::collection::vec("[a-z]{1,9}:[1-9][0-9]{0,3}", 1..9)) {
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let rules = rules(&hosts, &["none"], &["any"], &["/run/*"]);
        let written = WrittenRules::from(rules.clone());
        prop_assert_eq!(ForwardRules::try_from(written).expect("rules"), rules);
    }

    #[test]
    fn any_text_is_a_rule_or_an_error(text: String) {
        let text = vec![text];
        let written = WrittenRules {
            permit_open: Some(text.clone()),
            permit_listen: Some(text.clone()),
            permit_socket_open: Some(text.clone()),
            permit_socket_listen: Some(text.clone()),
            agent_keys: Some(text),
        };
        let _ = ForwardRules::try_from(written);
    }
}
