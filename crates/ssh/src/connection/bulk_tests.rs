#![allow(clippy::unwrap_used, reason = "tests")]

//! Bulk input that stays where it was decrypted, beside input that is copied.

use std::io::IoSlice;

use super::pair::Pair;
use super::*;
use crate::codec::Writer;

fn open(pair: &mut Pair, number: u32) -> ChannelId {
    let mut message = Writer::message(msg::CHANNEL_OPEN);
    message.string("session").u32(number).u32(1 << 20).u32(32768);
    pair.send(message);
    let Some(Event::Open { channel, .. }) = pair.server.poll_event() else { panic!("an open is expected") };
    assert!(pair.server.accept_open(channel));
    pair.settle();
    pair.take();
    channel
}

/// Puts a packet of data into the client's output, and its bytes to those that are expected.
fn data(pair: &mut Pair, channel: u32, len: usize, expected: &mut Vec<u8>) {
    let bytes: Vec<u8> = (0..len).map(|at| (at * 31 + expected.len() * 7 + len) as u8).collect();
    let mut message = Writer::message(msg::CHANNEL_DATA);
    message.u32(channel).string(&bytes);
    pair.client.send(message.as_slice());
    expected.extend(bytes);
}

/// Takes everything in uneven steps; gives the bytes and the most pieces of a segment.
fn take_all(pair: &mut Pair, id: ChannelId) -> (Vec<u8>, usize) {
    let (mut got, mut most) = (Vec::new(), 0);
    while let Taken::Data(mut segment) = pair.server.take_data(id) {
        let len = segment.len();
        let mut step = 1;
        while !segment.is_empty() {
            let mut slices = [IoSlice::new(&[]); crate::driver::MOST_SLICES];
            let used = segment.slices(&mut slices);
            most = most.max(used);
            let rest: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.iter().copied()).collect();
            assert_eq!((rest.len(), segment.rest()), (segment.len(), &*slices[0]));
            let taken = step.min(rest.len());
            got.extend_from_slice(&rest[..taken]);
            assert_eq!(segment.advance(taken), taken);
            step = step * 5 + 3;
        }
        pair.server.give_back(id, len, Some(segment));
    }
    (got, most)
}

#[test]
fn bulk_data_is_lent_whole_and_in_order() {
    let mut pair = Pair::logged_in(|_| {});
    let (busy, other) = (open(&mut pair, 7), open(&mut pair, 8));
    let (mut expected, mut beside) = (Vec::new(), Vec::new());
    let (mut most, mut got, mut got_beside) = (0, Vec::new(), Vec::new());
    for round in 0..40_usize {
        // The input grows to its full size, and packets end in the middle of a read.
        for _ in 0..20 {
            data(&mut pair, 0, 32768 - round, &mut expected);
        }
        data(&mut pair, 1, 20_000, &mut beside);
        data(&mut pair, 0, 1 + round, &mut expected);
        pair.push();
        let (bytes, pieces) = take_all(&mut pair, busy);
        got.extend(bytes);
        most = most.max(pieces);
        got_beside.extend(take_all(&mut pair, other).0);
        pair.settle();
    }
    assert!(got == expected && got_beside == beside, "bytes are lost or changed");
    assert!(most >= 6, "the storage was not lent: {most}");
    let mut eof = Writer::message(msg::CHANNEL_EOF);
    eof.u32(0);
    data(&mut pair, 0, 32768, &mut expected);
    pair.client.send(eof.as_slice());
    pair.push();
    assert_eq!(take_all(&mut pair, busy).0.len(), 32768, "data before an EOF of the same read is not lost");
    assert!(matches!(pair.server.take_data(busy), Taken::Eof));
}

#[test]
fn data_that_is_not_taken_costs_little_more_memory_than_window() {
    let mut pair = Pair::logged_in(|_| {});
    let id = open(&mut pair, 7);
    let mut expected = Vec::new();
    let window = usize::try_from(pair.server.upper.config.window).unwrap();
    while expected.len() + 33_000 < window {
        // One large packet and much that is dropped: little of a read is data.
        data(&mut pair, 0, 16 * 1024, &mut expected);
        for _ in 0..6 {
            let mut ignored = Writer::message(2);
            ignored.string(vec![0; 30_000]);
            pair.client.send(ignored.as_slice());
        }
        if expected.len() % 5 == 0 {
            data(&mut pair, 0, 100, &mut expected);
        }
        pair.push();
    }
    let mut memory = 0;
    let mut got = Vec::new();
    while let Taken::Data(mut segment) = pair.server.take_data(id) {
        memory += segment.memory();
        while !segment.is_empty() {
            got.extend_from_slice(segment.rest());
            segment.advance(segment.rest().len());
        }
    }
    assert!(got == expected);
    assert!(memory <= window / 3 * 4 + 200_000, "{memory}");
}
