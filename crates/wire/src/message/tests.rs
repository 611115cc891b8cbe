//! Messages to bytes and back, and hostile bytes.

use super::*;
use proptest::prelude::*;

fn c_string() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(1..=255u8, 0..40)
}

fn arb_exec() -> impl Strategy<Value = Exec> {
    let program = prop_oneof![
        Just(Program::Shell),
        c_string().prop_map(Program::Command),
        proptest::collection::vec(c_string(), 0..5).prop_map(Program::Argv),
        (proptest::option::of(c_string()), proptest::option::of(c_string()), any::<bool>()).prop_map(
            |(line, root, read_only)| {
                let protocol = line.map_or(FileProtocol::Sftp, FileProtocol::Scp);
                Program::Files(Files { protocol, root, read_only })
            }
        ),
    ];
    let pty = (c_string(), any::<[u32; 4]>(), proptest::collection::vec(any::<u8>(), 0..60)).prop_map(
        |(term, [cols, rows, xpixel, ypixel], modes)| Pty {
            term,
            size: Size { cols, rows, xpixel, ypixel },
            modes,
        },
    );
    let name = proptest::collection::vec(b'A'..=b'Z', 1..9);
    (
        any::<bool>(),
        proptest::option::of(c_string()),
        program,
        proptest::option::of(pty),
        proptest::collection::vec((name, c_string()), 0..6),
        proptest::option::of(c_string()),
        proptest::option::of(c_string()),
        proptest::option::of(c_string()),
    )
        .prop_map(|(passed_stdio, user, program, pty, env, cwd, ssh_connection, ssh_client)| Exec {
            passed_stdio,
            user,
            program,
            pty,
            env,
            cwd,
            ssh_connection,
            ssh_client,
        })
}

proptest! {
    #[test]
    fn exec_round_trip_and_no_prefix_decodes(exec in arb_exec()) {
        let open = Open::Exec(Box::new(exec));
        let bytes = open.encode().unwrap();
        for n in 0..bytes.len() {
            prop_assert!(Open::decode(&bytes[..n]).is_err(), "a prefix of {} bytes decoded", n);
        }
        let mut longer = bytes.clone();
        longer.push(0);
        prop_assert_eq!(Open::decode(&longer), Err(DecodeError::TrailingBytes));
        prop_assert_eq!(Open::decode(&bytes), Ok(open));
    }

    #[test]
    fn random_payloads_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = (Open::decode(&bytes), Opened::decode(&bytes), Hello::decode(&bytes), Refused::decode(&bytes));
        let _ = (Exit::decode(&bytes), Size::decode(&bytes), CloseReason::decode(&bytes), decode_u32(&bytes));
    }
}

#[test]
fn small_messages_round_trip() {
    let hello = Hello::new("test 1", 5);
    assert_eq!(Hello::decode(&hello.encode()), Ok(hello.clone()));
    let mut later = hello.encode();
    later.extend_from_slice(b"new field");
    assert_eq!(Hello::decode(&later), Ok(hello));
    for exit in
        [Exit::Code(255), Exit::Signal { name: "KILL".into(), core_dumped: true, message: "Killed".into() }]
    {
        assert_eq!(Exit::decode(&exit.encode()), Ok(exit));
    }
    for opened in
        [Opened::Exec { passed_stdio: true, own: true }, Opened::Info { pid: 1, uid: 2, sessions: 3 }]
    {
        assert_eq!(Opened::decode(&opened.encode()), Ok(opened));
    }
    for n in 0..20 {
        let refused = Refused { reason: Reason::from_code(n), text: "no".into() };
        assert_eq!(refused.reason.code(), n);
        assert_eq!(Refused::decode(&refused.encode()), Ok(refused));
    }
}

#[test]
fn hostile_text_is_made_harmless() {
    let refused = Refused { reason: Reason::Resources, text: "a\x1b[2J\r\nb\u{9b}".into() };
    assert_eq!(Refused::decode(&refused.encode()).unwrap().text, "a?[2J??b?");
    assert!(signal_name(b"KILL\n").is_err());
    assert!(signal_name(b"").is_err());
    assert_eq!(signal_name(b"RTMIN+3").unwrap(), "RTMIN+3");
}

#[test]
fn versions_agree_on_the_newest_common_one() {
    let with = |version_min, version_max| Hello { version_min, version_max, ..Hello::new("x", 0) };
    assert_eq!(with(1, 3).agree(&with(2, 5)), Some(3));
    assert_eq!(with(1, 1).agree(&with(1, 1)), Some(1));
    assert_eq!(with(1, 2).agree(&with(3, 4)), None);
    assert_eq!(with(3, 4).agree(&with(1, 2)), None);
}

#[test]
fn environment_rules() {
    let with = |name: &[u8], value: &[u8]| {
        let exec = Exec {
            passed_stdio: false,
            user: None,
            program: Program::Shell,
            pty: None,
            env: vec![(name.to_vec(), value.to_vec())],
            cwd: None,
            ssh_connection: None,
            ssh_client: None,
        };
        Open::decode(&Open::Exec(Box::new(exec)).encode().unwrap())
    };
    assert!(with(b"LC_X", b"\xff").is_ok());
    assert!(with(b"A=B", b"x").is_err());
    assert!(with(b"", b"x").is_err());
    assert!(with(b"A", b"x\0y").is_err());
}
