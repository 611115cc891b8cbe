//! Any file as a recording: no panic, no line without bound, and nothing that was recorded comes back changed.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use sandgate_record::{
    CastWriter, Header, Terminal, Verdict, verify, write_raw, write_text, write_v2,
};

fuzz_target!(|data: &[u8]| {
    let _ = verify(data, None);
    let _ = write_v2(data, std::io::sink());
    let _ = write_text(data, std::io::sink());
    // The same bytes as the output of a terminal, in pieces that the bytes themselves choose.
    let header = Header {
        id: "rec".to_owned(),
        sandbox: "box".to_owned(),
        session: "ses".to_owned(),
        kind: "terminal".to_owned(),
        credential: "fuzz".to_owned(),
        command: None,
        started_at: time::OffsetDateTime::UNIX_EPOCH,
    };
    let mut writer = CastWriter::new(&header, &Terminal { kind: "xterm".to_owned(), cols: 80, rows: 24 });
    let mut at = Duration::ZERO;
    for piece in data.chunk_by(|before, _| before % 7 != 0) {
        at += Duration::from_micros(piece.len() as u64);
        writer.output(at, piece);
        if piece.len() % 3 == 0 {
            writer.flush(at);
        }
    }
    writer.finish(at, Some(0), "exit 0");
    let file = writer.take();
    let mut raw = Vec::new();
    write_raw(&file[..], &mut raw).expect("our own file is read");
    assert_eq!(raw, data);
    assert!(matches!(verify(&file[..], None), Ok(Verdict::Complete(_))));
});
