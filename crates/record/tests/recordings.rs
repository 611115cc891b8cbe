//! What was recorded comes back exactly, and any change shows.
#![allow(clippy::unwrap_used, reason = "tests report by panicking")]

use std::time::Duration;

use proptest::prelude::*;
use sandgate_record::{
    CastReader, CastWriter, Direction, Header, ReadError, Terminal, TimelineWriter, Verdict, verify,
    write_raw, write_v2,
};

fn header() -> Header {
    Header {
        id: "rec-0123456789".to_owned(),
        sandbox: "box".to_owned(),
        session: "ses-1".to_owned(),
        kind: "terminal".to_owned(),
        credential: "token tok-1 (ci)".to_owned(),
        command: Some("echo \"a\nb\"".to_owned()),
        started_at: time::OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap(),
    }
}

fn cast() -> CastWriter {
    CastWriter::new(&header(), &Terminal { kind: "xterm".to_owned(), cols: 80, rows: 24 })
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn small_cast() -> Vec<u8> {
    let mut writer = cast();
    writer.output(ms(5), "ab€\x1b[m".as_bytes());
    writer.flush(ms(100));
    writer.input(ms(1200), b"ls\r");
    writer.resize(ms(1300), 100, 30);
    writer.output(ms(1400), b"\xff\n");
    writer.flush(ms(2000));
    writer.finish(ms(2500), Some(7), "exit 7");
    writer.take()
}

fn small_timeline() -> Vec<u8> {
    let mut writer = TimelineWriter::new(&header());
    writer.data(ms(5), Direction::Out, b"abc");
    writer.data(ms(900), Direction::Out, b"de");
    writer.data(ms(1001), Direction::In, b"x");
    writer.flush();
    writer.data(ms(2500), Direction::Err, b"y");
    writer.finish(ms(3000), Some(0), "exit 0");
    writer.take()
}

#[test]
fn the_lines_of_a_cast_are_those_of_the_format() {
    let file = small_cast();
    let text = String::from_utf8(file.clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let first: serde_json::Value = serde_json::from_str(lines[0]).unwrap();
    assert_eq!(
        (&first["version"], &first["term"]["cols"], &first["term"]["type"]),
        (&3.into(), &80.into(), &"xterm".into())
    );
    assert_eq!(lines[1], "[0.005000, \"o\", \"ab€\\u001b[m\"]");
    assert!(lines[2].starts_with("# sandgate-chain: 1 "));
    assert_eq!(lines[3], "[1.195000, \"i\", \"ls\\r\"]");
    assert_eq!(lines[4], "[0.100000, \"r\", \"100x30\"]");
    assert_eq!(lines[5], "# sandgate-bytes: /wo=");
    assert_eq!(lines[6], "[0.100000, \"o\", \"\u{fffd}\\n\"]");
    assert!(lines[7].starts_with("# sandgate-chain: 2 "));
    assert_eq!(lines[8], "[1.100000, \"x\", \"7\"]");
    assert!(lines[9].starts_with("# sandgate-end: {"));
    assert!(lines[10].starts_with("# sandgate-chain: 3 ") && lines.len() == 11);
    let mut raw = Vec::new();
    write_raw(&file[..], &mut raw).unwrap();
    assert_eq!(raw, b"ab\xe2\x82\xac\x1b[m\xff\n");
}

#[test]
fn version_2_has_absolute_times_and_no_comments() {
    let mut v2 = Vec::new();
    write_v2(&small_cast()[..], &mut v2).unwrap();
    let text = String::from_utf8(v2).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let first: serde_json::Value = serde_json::from_str(lines[0]).unwrap();
    assert_eq!((&first["version"], &first["width"], &first["height"]), (&2.into(), &80.into(), &24.into()));
    assert_eq!(
        lines[1..],
        [
            "[0.005000, \"o\", \"ab€\\u001b[m\"]",
            "[1.200000, \"i\", \"ls\\r\"]",
            "[1.300000, \"r\", \"100x30\"]",
            "[1.400000, \"o\", \"\u{fffd}\\n\"]",
        ]
    );
}

#[test]
fn a_timeline_counts_by_second_and_direction() {
    let text = String::from_utf8(small_timeline()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1], "{\"t\":0.000000,\"dir\":\"out\",\"bytes\":5}");
    assert_eq!(lines[2], "{\"t\":1.000000,\"dir\":\"in\",\"bytes\":1}");
    let end: serde_json::Value = serde_json::from_str(lines[lines.len() - 2]).unwrap();
    assert_eq!(end["end"]["out"]["bytes"], 5);
    // printf abcde | sha256sum
    assert_eq!(
        end["end"]["out"]["sha256"],
        "36bbe50ed96841d10443bcb670d6554f0a34b761be67ec9c4a8ad2c0c44ca42c"
    );
    assert_eq!(end["end"]["exit"], 0);
    for line in lines {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
}

#[test]
fn every_flipped_byte_and_every_cut_shows() {
    for file in [small_cast(), small_timeline()] {
        let Verdict::Complete(head) = verify(&file[..], None).unwrap() else { panic!("not complete") };
        assert_eq!(verify(&file[..], Some(&head)).unwrap(), Verdict::Complete(head.clone()));
        for at in 0..file.len() {
            for flip in [1, 0x20, 0x80] {
                let mut changed = file.clone();
                changed[at] ^= flip;
                let verdict = verify(&changed[..], None).unwrap();
                assert!(!matches!(verdict, Verdict::Complete(_)), "byte {at} ^ {flip}: {verdict}");
                // With what was noted elsewhere it is never taken for a crash either.
                let noted = verify(&changed[..], Some(&head)).unwrap();
                assert!(!noted.is_valid(), "byte {at} ^ {flip}: {noted}");
            }
            let cut = verify(&file[..at], None).unwrap();
            assert!(!matches!(cut, Verdict::Complete(_)), "cut at {at}: {cut}");
            assert!(!verify(&file[..at], Some(&head)).unwrap().is_valid(), "cut at {at}");
        }
    }
}

#[test]
fn lines_that_are_left_out_swapped_or_added_show() {
    for file in [small_cast(), small_timeline()] {
        let lines: Vec<&[u8]> = file.split_inclusive(|byte| *byte == b'\n').collect();
        for at in 0..lines.len() {
            let mut fewer = lines.clone();
            fewer.remove(at);
            assert!(
                !matches!(verify(&fewer.concat()[..], None).unwrap(), Verdict::Complete(_)),
                "without {at}"
            );
            let mut more = lines.clone();
            more.insert(at, b"# added\n");
            assert!(
                !matches!(verify(&more.concat()[..], None).unwrap(), Verdict::Complete(_)),
                "added at {at}"
            );
            if at > 0 {
                let mut swapped = lines.clone();
                swapped.swap(at - 1, at);
                assert!(!matches!(verify(&swapped.concat()[..], None).unwrap(), Verdict::Complete(_)));
            }
        }
        let longer = [&file[..], b"x"].concat();
        assert!(!verify(&longer[..], None).unwrap().is_valid());
    }
}

#[test]
fn a_file_that_was_written_anew_does_not_fit_what_was_noted() {
    let Verdict::Complete(head) = verify(&small_cast()[..], None).unwrap() else { panic!("not complete") };
    let mut forged = cast();
    forged.output(ms(5), b"nothing happened");
    forged.flush(ms(6));
    forged.flush(ms(7));
    forged.finish(ms(9), Some(0), "exit 0");
    let forged = forged.take();
    assert!(matches!(verify(&forged[..], None).unwrap(), Verdict::Complete(_)));
    assert_eq!(verify(&forged[..], Some(&head)).unwrap(), Verdict::Rewritten);
}

#[test]
fn nobody_writes_on_after_what_was_noted() {
    let mut writer = cast();
    writer.output(ms(5), b"true");
    writer.flush(ms(100));
    let written = writer.take();
    let Verdict::Cut { head, .. } = verify(&written[..], None).unwrap() else { panic!("has an end") };
    assert!(matches!(verify(&written[..], Some(&head)).unwrap(), Verdict::Cut { .. }));
    writer.output(ms(200), b"made up");
    writer.finish(ms(300), Some(0), "exit 0");
    let forged = [written, writer.take()].concat();
    assert!(matches!(verify(&forged[..], None).unwrap(), Verdict::Complete(_)));
    assert_eq!(verify(&forged[..], Some(&head)).unwrap(), Verdict::Rewritten);
}

#[test]
fn what_a_crash_leaves_is_readable_and_valid_up_to_the_last_flush() {
    let mut writer = cast();
    writer.output(ms(5), b"kept");
    writer.flush(ms(100));
    let kept = writer.take();
    let head = writer.head().clone();
    writer.output(ms(1200), b"torn");
    writer.flush(ms(1300));
    let rest = writer.take();
    for length in 0..rest.len() {
        let file = [&kept[..], &rest[..length]].concat();
        let verdict = verify(&file[..], Some(&head)).unwrap();
        assert_eq!(verdict, Verdict::Cut { head: head.clone(), beyond: length as u64 }, "{length}");
        let mut raw = Vec::new();
        write_raw(&file[..], &mut raw).unwrap();
        assert!(raw == b"kept" || raw == b"kepttorn");
    }
}

#[test]
fn a_held_back_character_is_written_by_the_second_flush() {
    let mut writer = cast();
    writer.output(ms(1), b"a\xe2\x82");
    writer.flush(ms(2));
    let mut file = writer.take();
    let raw = |file: &[u8]| {
        let mut raw = Vec::new();
        write_raw(file, &mut raw).unwrap();
        raw
    };
    assert_eq!(raw(&file), b"a");
    assert!(writer.is_holding());
    writer.flush(ms(3));
    file.extend(writer.take());
    assert_eq!(raw(&file), b"a\xe2\x82");
    assert!(!writer.is_holding());
    writer.output(ms(4), b"\xac");
    writer.finish(ms(5), None, "client gone");
    file.extend(writer.take());
    assert_eq!(raw(&file), "a€".as_bytes());
}

#[test]
fn endless_lines_and_other_files_are_refused() {
    assert!(matches!(CastReader::new(&b"{\"version\":2}\n"[..]), Err(ReadError::NotACast)));
    assert!(matches!(CastReader::new(&b""[..]), Err(ReadError::NotACast)));
    let file = [&b"{\"version\":3,\"term\":{\"cols\":1,\"rows\":1}}\n"[..], &vec![b'#'; 3 << 20]].concat();
    assert!(matches!(CastReader::new(&file[..]).unwrap().next(), Some(Err(ReadError::TooLong(2)))));
    for line in ["[-1,\"o\",\"\"]", "[1e300,\"o\",\"\"]", "[]", "{}", "# sandgate-bytes: !", "[1,\"o\"]"] {
        let file = format!("{{\"version\":3,\"term\":{{\"cols\":1,\"rows\":1}}}}\n{line}\n");
        assert!(
            matches!(CastReader::new(file.as_bytes()).unwrap().next(), Some(Err(ReadError::BadLine(2)))),
            "{line}"
        );
    }
    // Text that is not that of the bytes.
    let file =
        "{\"version\":3,\"term\":{\"cols\":1,\"rows\":1}}\n# sandgate-bytes: /wo=\n[1,\"o\",\"harmless\"]\n";
    assert!(matches!(CastReader::new(file.as_bytes()).unwrap().next(), Some(Err(ReadError::BadLine(3)))));
}

fn chunk() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        any::<String>().prop_map(String::into_bytes),
        // Pieces of characters, to be joined across events.
        proptest::collection::vec(
            proptest::sample::select(vec![0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x98, 0x80, b'a']),
            0..8
        ),
    ]
}

proptest! {
    #[test]
    fn any_bytes_in_any_pieces_come_back(
        pieces in proptest::collection::vec((chunk(), any::<bool>(), any::<bool>(), 0_u64..2_000_000), 0..30),
    ) {
        let mut writer = cast();
        let (mut output, mut input, mut file, mut at) = (Vec::new(), Vec::new(), Vec::new(), Duration::ZERO);
        for (bytes, typed, flush, micros) in pieces {
            at += Duration::from_micros(micros);
            if typed {
                writer.input(at, &bytes);
                input.extend(bytes);
            } else {
                writer.output(at, &bytes);
                output.extend(bytes);
            }
            if flush {
                writer.flush(at);
                file.extend(writer.take());
            }
        }
        writer.finish(at, Some(0), "exit 0");
        file.extend(writer.take());
        let (mut seen, mut typed, mut last) = (Vec::new(), Vec::new(), Duration::ZERO);
        for event in CastReader::new(&file[..]).unwrap() {
            let event = event.unwrap();
            match event.code.as_str() {
                "o" => seen.extend_from_slice(event.bytes()),
                "i" => typed.extend_from_slice(event.bytes()),
                _ => {}
            }
            last = event.at;
        }
        prop_assert_eq!(seen, output);
        prop_assert_eq!(typed, input);
        prop_assert_eq!(last, at);
        prop_assert_eq!(verify(&file[..], None).unwrap(), Verdict::Complete(writer.head().clone()));
    }

    #[test]
    fn no_file_makes_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = verify(&bytes[..], None).unwrap();
        let file = [b"{\"version\":3,\"term\":{\"cols\":1,\"rows\":1},\"sandgate\":{\"recording\":\"r\"}}\n", &bytes[..]].concat();
        let _ = verify(&file[..], None).unwrap();
        let _ = write_v2(&file[..], &mut Vec::new());
    }
}
