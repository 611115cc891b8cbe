#![allow(clippy::unwrap_used, reason = "tests")]

use super::pair::Pair;
use super::*;
use crate::codec::{Reader, Writer};
use crate::event::{ChannelRequest, CoreDump, ExitSignal, OpenReason, ServerOpen, StreamKind};

fn open(kind: &str, number: u32, window: u32, max_packet: u32) -> Writer {
    let mut message = Writer::message(msg::CHANNEL_OPEN);
    message.string(kind).u32(number).u32(window).u32(max_packet);
    message
}

fn on(kind: u8, channel: u32) -> Writer {
    let mut message = Writer::message(kind);
    message.u32(channel);
    message
}

fn data(channel: u32, bytes: &[u8]) -> Writer {
    let mut message = on(msg::CHANNEL_DATA, channel);
    message.string(bytes);
    message
}

fn request(channel: u32, name: &str, wants_reply: bool) -> Writer {
    let mut message = on(msg::CHANNEL_REQUEST, channel);
    message.string(name).bool(wants_reply);
    message
}

fn global(name: &str) -> Writer {
    let mut message = Writer::message(msg::GLOBAL_REQUEST);
    message.string(name).bool(true);
    message
}

/// A session with the client's number 7 and a large window.
fn session(pair: &mut Pair) -> ChannelId {
    session_with(pair, 7, 1 << 20, 32768)
}

fn session_with(pair: &mut Pair, number: u32, window: u32, max_packet: u32) -> ChannelId {
    pair.send(open("session", number, window, max_packet));
    let Some(Event::Open { channel, kind: ChannelOpen::Session }) = pair.server.poll_event() else {
        panic!("an open is expected")
    };
    assert!(pair.server.accept_open(channel));
    pair.settle();
    assert_eq!(pair.take_kinds(), [msg::CHANNEL_OPEN_CONFIRMATION]);
    channel
}

fn let_go(pair: &mut Pair, id: ChannelId) {
    for half in [Half::Requests, Half::Reader, Half::Writer] {
        pair.server.release(id, half);
    }
    pair.settle();
}

fn next(pair: &mut Pair, id: ChannelId) -> (ChannelRequest, RequestAnswer) {
    match pair.server.next_request(id) {
        NextRequest::Some(request, answer) => (request, answer),
        other => panic!("{other:?}"),
    }
}

fn write(pair: &mut Pair, id: ChannelId, len: usize) -> usize {
    let result = pair.server.fill(id, StreamKind::Stdout, len, |packets| {
        packets[0].fill(b'x');
        Ok(packets[0].len())
    });
    result.unwrap_or(0)
}

fn protocol_error(pair: &Pair) -> bool {
    matches!(pair.server.ended().map(|e| &e.reason), Some(EndReason::Protocol(_)))
        && pair.client.disconnected.as_ref().is_some_and(|(code, _)| *code == 2)
}

#[test]
fn replies_keep_the_order_of_requests() {
    let mut pair = Pair::logged_in(|_| {});
    let id = session(&mut pair);
    let mut pty = request(0, "pty-req", true);
    pty.string("xterm").u32(80).u32(24).u32(0).u32(0).string([0]);
    let mut env = request(0, "env", true);
    env.string("LC_X").string(b"\xff");
    pair.send(pty);
    pair.send(env);
    pair.send(request(0, "winadj@putty.projects.tartarus.org", true));
    pair.send(request(0, "shell", true));
    let (_, pty) = next(&mut pair, id);
    let (env, env_answer) = next(&mut pair, id);
    assert_eq!(env, ChannelRequest::Env { name: b"LC_X".to_vec(), value: b"\xff".to_vec() });
    let (_, shell) = next(&mut pair, id);
    pair.server.answer_request(shell, Ok(()));
    pair.server.answer_request(env_answer, Err(()));
    pair.settle();
    assert!(pair.take().is_empty(), "nothing may overtake the first reply");
    pair.server.answer_request(pty, Ok(()));
    pair.settle();
    let kinds = [msg::CHANNEL_SUCCESS, msg::CHANNEL_FAILURE, msg::CHANNEL_FAILURE, msg::CHANNEL_SUCCESS];
    assert_eq!(pair.take_kinds(), kinds);
    // A second program on the channel is impossible, a resize is not.
    pair.send(request(0, "shell", true));
    assert_eq!(pair.take_kinds(), [msg::CHANNEL_FAILURE]);
    for columns in 1..=5 {
        let mut resize = request(0, "window-change", false);
        resize.u32(columns).u32(2).u32(3).u32(4);
        pair.send(resize);
    }
    let (resize, _) = next(&mut pair, id);
    assert!(matches!(resize, ChannelRequest::WindowChange(size) if size.columns == 5));
    assert!(matches!(pair.server.next_request(id), NextRequest::Pending));
}

#[test]
fn global_replies_keep_their_order() {
    let mut pair = Pair::logged_in(|_| {});
    let mut forward = global("tcpip-forward");
    forward.string("").u32(0);
    pair.send(forward);
    pair.send(global("keepalive@openssh.com"));
    let mut prove = global("hostkeys-prove-00@openssh.com");
    prove.string(crate::testing::host_key().public_blob());
    pair.send(prove);
    pair.send(global("nonsense"));
    assert!(pair.take().is_empty());
    let Some(Event::Forward { id, .. }) = pair.server.poll_event() else { panic!("a forward is expected") };
    pair.server.answer_forward(id, ForwardAnswer::Port(4022));
    pair.settle();
    let got = pair.take();
    assert_eq!(got[0], [msg::REQUEST_SUCCESS, 0, 0, 0x0f, 0xb6]);
    let kinds: Vec<u8> = got.iter().map(|m| m[0]).collect();
    assert_eq!(kinds, [81, 82, 81, 82]);
    // A port that does not exist is refused without a question.
    let mut forward = global("tcpip-forward");
    forward.string("").u32(65536);
    pair.send(forward);
    assert_eq!(pair.take_kinds(), [msg::REQUEST_FAILURE]);
    assert!(pair.server.poll_event().is_none());
}

#[test]
fn window_returns_when_data_is_taken_and_overrun_ends() {
    let mut pair = Pair::logged_in(|c| c.window = 100_000);
    let id = session(&mut pair);
    for _ in 0..3 {
        pair.send(data(0, &[1; 30_000]));
    }
    assert!(pair.take().is_empty(), "arrival gives nothing back");
    let mut taken = 0;
    while let Taken::Data(mut segment) = pair.server.take_data(id) {
        taken += segment.advance(usize::MAX);
        pair.server.give_back(id, taken, Some(segment));
        pair.settle();
        if taken >= 60_000 {
            break;
        }
    }
    let returned: u32 = pair.take().iter().map(|m| Reader::new(&m[5..]).u32().unwrap()).sum();
    assert!((50_000..=90_000).contains(&returned), "{returned}");
    let left = 10_000 + returned;
    for _ in 0..left / 10_000 {
        pair.send(data(0, &[1; 10_000]));
        assert!(pair.server.ended().is_none());
    }
    pair.send(data(0, &[1; 10_000]));
    assert!(protocol_error(&pair));
}

#[test]
fn one_channel_that_is_not_read_does_not_delay_another() {
    let mut pair = Pair::logged_in(|c| c.window = 100_000);
    let stuck = session(&mut pair);
    let other = session_with(&mut pair, 8, 1 << 20, 32768);
    for _ in 0..10 {
        pair.send(data(0, &[1; 10_000]));
    }
    pair.send(data(1, b"key"));
    assert!(matches!(pair.server.take_data(other), Taken::Data(s) if s.rest() == b"key"));
    assert_eq!(write(&mut pair, other, 3), 3);
    pair.settle();
    assert_eq!(pair.take_kinds(), [msg::CHANNEL_DATA]);
    assert!(matches!(pair.server.take_data(stuck), Taken::Data(_)));
}

#[test]
fn half_closes_are_independent() {
    // The client ends its input first.
    let mut pair = Pair::logged_in(|_| {});
    let id = session(&mut pair);
    pair.send(data(0, b"in"));
    pair.send(on(msg::CHANNEL_EOF, 0));
    assert!(matches!(pair.server.take_data(id), Taken::Data(_)));
    assert!(matches!(pair.server.take_data(id), Taken::Eof));
    assert_eq!(write(&mut pair, id, 5), 5);
    pair.server.exit_status(id, 3);
    pair.server.close(id);
    pair.server.close(id);
    pair.settle();
    let kinds = [msg::CHANNEL_DATA, msg::CHANNEL_REQUEST, msg::CHANNEL_EOF, msg::CHANNEL_CLOSE];
    assert_eq!(pair.take_kinds(), kinds);
    pair.send(on(msg::CHANNEL_CLOSE, 0));
    assert!(pair.take().is_empty());
    let_go(&mut pair, id);
    assert_eq!(pair.server.channels(), 0);

    // We end first, and the client goes on.
    let id = session(&mut pair);
    pair.server.eof(id);
    assert_eq!(pair.server.writable(id), Writable::Closed);
    pair.send(data(0, b"more"));
    assert!(matches!(pair.server.take_data(id), Taken::Data(s) if s.rest() == b"more"));
    pair.take();
    pair.send(on(msg::CHANNEL_CLOSE, 0));
    assert_eq!(pair.take_kinds(), [msg::CHANNEL_CLOSE]);
    assert!(matches!(pair.server.take_data(id), Taken::Eof));
    assert!(matches!(pair.server.next_request(id), NextRequest::End));
    assert!(pair.server.is_closed_by_peer(id));
}

#[test]
fn what_came_before_close_can_still_be_read() {
    let mut pair = Pair::logged_in(|_| {});
    let id = session(&mut pair);
    pair.send(data(0, b"last words"));
    pair.send(request(0, "shell", true));
    pair.send(on(msg::CHANNEL_CLOSE, 0));
    assert_eq!(pair.take_kinds(), [msg::CHANNEL_CLOSE]);
    assert!(matches!(pair.server.take_data(id), Taken::Data(s) if s.rest() == b"last words"));
    assert!(matches!(pair.server.take_data(id), Taken::Eof));
    let (_, answer) = next(&mut pair, id);
    pair.server.answer_request(answer, Ok(()));
    pair.settle();
    assert!(pair.take().is_empty(), "no reply after CLOSE");
    // The number is not free before the application has let go.
    let second = session_with(&mut pair, 9, 1000, 1000);
    assert_ne!(second.index, id.index);
    let_go(&mut pair, id);
    let third = session_with(&mut pair, 10, 1000, 1000);
    assert_eq!(third.index, id.index);
    assert!(matches!(pair.server.take_data(id), Taken::Reset));
}

#[test]
fn dropped_halves_end_what_they_stand_for() {
    let mut pair = Pair::logged_in(|c| c.window = 100_000);
    let id = session(&mut pair);
    pair.send(request(0, "shell", true));
    pair.send(data(0, &[0; 10_000]));
    pair.server.release(id, Half::Requests);
    pair.settle();
    assert_eq!(pair.take_kinds(), [msg::CHANNEL_FAILURE]);
    pair.send(request(0, "shell", true));
    assert_eq!(pair.take_kinds(), [msg::CHANNEL_FAILURE]);
    pair.server.release(id, Half::Reader);
    // Everything is discarded now, and the window comes back.
    for _ in 0..50 {
        pair.send(data(0, &[0; 10_000]));
    }
    let mut extended = on(msg::CHANNEL_EXTENDED_DATA, 0);
    extended.u32(1).string("ignored");
    pair.send(extended);
    assert!(pair.server.ended().is_none());
    assert!(pair.take_kinds().iter().all(|kind| *kind == msg::CHANNEL_WINDOW_ADJUST));
    pair.server.release(id, Half::Writer);
    pair.settle();
    assert_eq!(pair.take_kinds(), [msg::CHANNEL_EOF, msg::CHANNEL_CLOSE]);
    // In flight when we closed: discarded without a word.
    pair.send(data(0, b"late"));
    pair.send(request(0, "signal", true));
    assert!(pair.take().is_empty());
    pair.send(on(msg::CHANNEL_CLOSE, 0));
    assert_eq!((pair.server.channels(), pair.server.ended().is_none()), (0, true));
}

#[test]
fn data_after_eof_is_discarded_but_charged() {
    let mut pair = Pair::logged_in(|c| c.window = 10_000);
    let id = session(&mut pair);
    pair.send(on(msg::CHANNEL_EOF, 0));
    pair.send(data(0, &[0; 10_000]));
    assert!(matches!(pair.server.take_data(id), Taken::Eof));
    assert!(pair.server.ended().is_none());
    pair.send(data(0, b"x"));
    assert!(protocol_error(&pair));
}

#[test]
fn messages_for_channels_that_do_not_exist_end_the_connection() {
    let mut request = request(5, "shell", true);
    request.raw(b"");
    let mut confirmation = on(msg::CHANNEL_OPEN_CONFIRMATION, 5);
    confirmation.u32(1).u32(1).u32(1);
    let mut failure = on(msg::CHANNEL_OPEN_FAILURE, 5);
    failure.u32(1).string("").string("");
    for message in [
        data(5, b""),
        on(msg::CHANNEL_EOF, 5),
        on(msg::CHANNEL_CLOSE, 5),
        on(msg::CHANNEL_SUCCESS, 5),
        request,
        confirmation,
        failure,
        on(msg::CHANNEL_DATA, 5),
    ] {
        let mut pair = Pair::logged_in(|_| {});
        pair.send(message);
        assert!(protocol_error(&pair));
    }
    let mut pair = Pair::logged_in(|_| {});
    let mut adjust = on(msg::CHANNEL_WINDOW_ADJUST, 5);
    adjust.u32(1);
    pair.send(adjust);
    assert!(pair.server.ended().is_none());
    // Not before the answer to the open, either: the client cannot know the number yet.
    pair.send(open("session", 0, 10, 10));
    pair.send(data(0, b""));
    assert!(protocol_error(&pair));
}

#[test]
fn opens_are_bounded_and_unknown_ones_refused() {
    let mut pair = Pair::logged_in(|c| c.max_channels = 10);
    for number in 0..10_000 {
        pair.client.send(open("session", number, 10, 10).as_slice());
    }
    pair.settle();
    let got = pair.take();
    assert_eq!(got.len(), 9_990);
    let mut reader = Reader::new(&got[0][1..]);
    assert_eq!((reader.u32(), reader.u32()), (Ok(10), Ok(OpenReason::ResourceShortage.code())));
    assert!(reader.text().unwrap().contains("10 channels"));
    assert_eq!(pair.server.channels(), 10);
    while let Some(Event::Open { channel, .. }) = pair.server.poll_event() {
        pair.server.refuse_open(channel, &OpenFailure::prohibited("no"));
    }
    pair.settle();
    assert_eq!((pair.take_kinds(), pair.server.channels()), (vec![msg::CHANNEL_OPEN_FAILURE; 10], 0));

    let mut far = open("direct-tcpip", 1, 10, 10);
    far.string("h").u32(70_000).string("o").u32(1);
    for (message, code) in [(open("tun@openssh.com", 1, 10, 10), 3), (far, 2), (open("session", 1, 10, 0), 1)]
    {
        pair.send(message);
        assert_eq!(pair.take()[0][5..9], u32::to_be_bytes(code));
    }
    pair.server.refuse_opens(OpenFailure::prohibited("draining"));
    pair.send(open("session", 1, 10, 10));
    assert_eq!(pair.take_kinds(), [msg::CHANNEL_OPEN_FAILURE]);
    assert!(pair.server.poll_event().is_none());
}

#[test]
fn no_more_sessions_is_honoured() {
    let mut pair = Pair::logged_in(|_| {});
    pair.send(global("no-more-sessions@openssh.com"));
    assert_eq!(pair.take_kinds(), [msg::REQUEST_SUCCESS]);
    let mut direct = open("direct-streamlocal@openssh.com", 1, 10, 10);
    direct.string(b"/\xff").string("").u32(0);
    pair.send(direct);
    let kind = ChannelOpen::DirectStreamlocal { path: b"/\xff".to_vec() };
    assert!(matches!(pair.server.poll_event(), Some(Event::Open { kind: k, .. }) if k == kind));
    pair.send(open("session", 0, 10, 10));
    assert!(protocol_error(&pair));
}

#[test]
fn sending_respects_window_and_packet_size() {
    let mut pair = Pair::logged_in(|_| {});
    let id = session_with(&mut pair, 7, 10, 4);
    assert_eq!(pair.server.writable(id), Writable::Ready(10), "in three packets");
    assert_eq!([write(&mut pair, id, 100), write(&mut pair, id, 100), write(&mut pair, id, 100)], [4, 4, 2]);
    assert_eq!(pair.server.writable(id), Writable::Pending);
    // A fill that has nothing leaves nothing.
    pair.settle();
    assert_eq!(pair.take().len(), 3);
    let mut adjust = on(msg::CHANNEL_WINDOW_ADJUST, 0);
    adjust.u32(3);
    pair.server.take_notices().for_each(drop);
    pair.send(adjust);
    assert!(pair.server.take_notices().any(|n| n == Notice::Writable(id)));
    let nothing =
        pair.server.fill(id, StreamKind::Stdout, 100, |_| Err(std::io::ErrorKind::WouldBlock.into()));
    assert_eq!(nothing.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(pair.server.fill(id, StreamKind::Stdout, 100, |_| Ok(0)).unwrap(), 0);
    let stderr = pair.server.fill(id, StreamKind::Stderr, 2, |packets| {
        packets[0].copy_from_slice(b"er");
        Ok(2)
    });
    assert_eq!(stderr.unwrap(), 2);
    pair.settle();
    let mut expected = on(msg::CHANNEL_EXTENDED_DATA, 7);
    expected.u32(1).string("er");
    assert_eq!(pair.take(), [expected.into_vec()]);
    let mut adjust = on(msg::CHANNEL_WINDOW_ADJUST, 0);
    adjust.u32(u32::MAX);
    pair.send(adjust);
    assert!(protocol_error(&pair));
}

#[test]
fn a_busy_channel_cannot_starve_another() {
    let mut pair = Pair::logged_in(|_| {});
    let busy = session_with(&mut pair, 1, u32::MAX, 32768);
    let typing = session_with(&mut pair, 2, u32::MAX, 32768);
    let also_busy = session_with(&mut pair, 3, u32::MAX, 32768);
    let high = pair.server.upper.config.output_high_water;
    while write(&mut pair, busy, usize::MAX) > 0 {}
    assert!((high..high + 2 * 32768).contains(&pair.server.output_len()), "{}", pair.server.output_len());
    assert_eq!(pair.server.writable(busy), Writable::Pending);
    // The socket takes nothing, and yet an echo gets out behind what is there.
    assert_eq!(write(&mut pair, typing, 1), 1);
    // The third waits, and has its share of the next round though the first is quicker to write.
    assert!(write(&mut pair, also_busy, usize::MAX) <= 4096);
    assert_eq!(pair.server.writable(also_busy), Writable::Pending);
    pair.server.take_notices().for_each(drop);
    pair.settle();
    let told: Vec<Notice> = pair.server.take_notices().collect();
    assert_eq!(told, [Notice::Writable(busy), Notice::Writable(also_busy)]);
    while write(&mut pair, busy, usize::MAX) > 4096 {}
    assert!(pair.server.output_len() < high, "the first left a share");
    assert_eq!(write(&mut pair, also_busy, usize::MAX), 32768);
}

#[test]
fn a_client_that_reads_nothing_is_not_listened_to() {
    let mut pair = Pair::logged_in(|_| {});
    let limit = pair.server.upper.config.output_stop_input;
    for _ in 0..200_000 {
        pair.client.send(global("keepalive@openssh.com").as_slice());
        pair.push();
        if !pair.server.wants_input() {
            break;
        }
    }
    assert!(!pair.server.wants_input());
    assert!(pair.server.output_len() < limit + 1024, "{}", pair.server.output_len());
    pair.settle();
    assert!(pair.server.wants_input());
}

#[test]
fn we_open_channels_too() {
    let mut pair = Pair::logged_in(|_| {});
    let id = pair.server.open(&ServerOpen::AuthAgent).unwrap();
    let refused =
        pair.server.open(&ServerOpen::X11 { originator: b"h".to_vec(), originator_port: 1 }).unwrap();
    let abandoned = pair.server.open(&ServerOpen::AuthAgent).unwrap();
    assert_eq!(pair.server.opened(id), Opened::Pending);
    pair.server.abandon(abandoned);
    pair.settle();
    assert_eq!(pair.take_kinds(), [msg::CHANNEL_OPEN; 3]);
    let mut yes = on(msg::CHANNEL_OPEN_CONFIRMATION, id.index);
    yes.u32(40).u32(100).u32(100);
    pair.send(yes);
    let mut no = on(msg::CHANNEL_OPEN_FAILURE, refused.index);
    no.u32(2).string("gone\x1b").string("");
    pair.send(no);
    let mut late = on(msg::CHANNEL_OPEN_CONFIRMATION, abandoned.index);
    late.u32(41).u32(100).u32(100);
    pair.send(late);
    assert_eq!(pair.take(), [on(msg::CHANNEL_CLOSE, 41).into_vec()]);
    pair.send(on(msg::CHANNEL_CLOSE, abandoned.index));
    assert_eq!(pair.server.opened(id), Opened::Yes);
    assert_eq!(pair.server.opened(refused), Opened::No(OpenFailure::connect_failed("gone")));
    assert_eq!(pair.server.channels(), 1);
    assert_eq!(write(&mut pair, id, 5), 5);
    // Session requests make no sense here.
    pair.send(request(id.index, "shell", true));
    pair.settle();
    assert_eq!(pair.take_kinds(), [msg::CHANNEL_DATA, msg::CHANNEL_FAILURE]);
    pair.server.exit_status(id, 0);
    pair.settle();
    assert!(pair.take().is_empty());
}

#[test]
fn requests_that_wait_are_bounded() {
    let mut pair = Pair::logged_in(|_| {});
    let id = session(&mut pair);
    for _ in 0..300 {
        let mut env = request(0, "env", false);
        env.string("A").string("b");
        pair.client.send(env.as_slice());
    }
    let mut large = request(0, "exec", true);
    large.string(vec![b'x'; 30_000]);
    pair.send(large);
    assert_eq!(pair.server.upper.channels.get(id).unwrap().requests.len(), 256);
    assert!(pair.take().is_empty() || pair.server.ended().is_none());
    let other = session_with(&mut pair, 9, 10, 10);
    for _ in 0..250 {
        let mut large = request(other.index, "exec", false);
        large.string(vec![b'x'; 30_000]);
        pair.send(large);
    }
    assert!(pair.server.upper.request_bytes <= MOST_REQUEST_BYTES);
    let_go(&mut pair, other);
    let_go(&mut pair, id);
    assert_eq!(pair.server.upper.request_bytes, 0);
    pair.take();
    // Replies that are owed are bounded as well.
    let id = session_with(&mut pair, 10, 10, 10);
    let mut pty = request(id.index, "signal", true);
    pty.string("INT");
    for _ in 0..5000 {
        pair.client.send(pty.as_slice());
    }
    pair.settle();
    assert!(protocol_error(&pair));
}

#[test]
fn malformed_and_unknown_messages() {
    let mut pair = Pair::logged_in(|_| {});
    pair.send(Writer::message(192 - 1));
    assert!(pair.server.ended().is_none());
    assert!(pair.client.transport_messages.iter().any(|m| m[0] == 3), "UNIMPLEMENTED is sent");
    let id = session(&mut pair);
    let mut bad = request(id.index, "exec", true);
    bad.u32(1000);
    pair.send(bad);
    assert!(protocol_error(&pair));
}

#[test]
fn keepalives_are_answered_in_order() {
    let mut pair = Pair::logged_in(|_| {});
    let (first, second) = (pair.server.send_keepalive(), pair.server.send_keepalive());
    pair.settle();
    assert_eq!(pair.take_kinds(), [msg::GLOBAL_REQUEST; 2]);
    pair.send(Writer::message(msg::REQUEST_FAILURE));
    assert!(pair.server.is_answered(first) && !pair.server.is_answered(second));
    pair.send(Writer::message(msg::REQUEST_SUCCESS));
    assert!(pair.server.is_answered(second));
    // One too many is nothing to complain about.
    pair.send(Writer::message(msg::REQUEST_SUCCESS));
    assert!(pair.server.ended().is_none());
}

#[test]
fn data_waits_during_a_key_exchange_and_goes_on() {
    let mut pair = Pair::logged_in(|_| {});
    let id = session(&mut pair);
    pair.server.rekey();
    assert_eq!(pair.server.writable(id), Writable::Pending);
    pair.server.exit_signal(
        id,
        &ExitSignal { name: "TERM".to_owned(), core: CoreDump::Dumped, message: String::new() },
    );
    pair.server.take_notices().for_each(drop);
    pair.settle();
    assert!(pair.server.take_notices().any(|n| n == Notice::Writable(id)));
    assert!(matches!(pair.server.writable(id), Writable::Ready(_)));
    assert_eq!(pair.take_kinds(), [msg::CHANNEL_REQUEST]);
    assert_eq!(pair.client.exchanges, 2);
}

/// Found by fuzzing: the client agreed to an open that we had given up, and the connection ended before its CLOSE.
#[test]
fn an_abandoned_open_that_the_client_confirms_late_is_not_left_behind() {
    let mut pair = Pair::logged_in(|_| {});
    let id = pair.server.open(&ServerOpen::AuthAgent).unwrap();
    pair.server.abandon(id);
    let mut confirmation = on(msg::CHANNEL_OPEN_CONFIRMATION, id.index);
    confirmation.u32(7).u32(1000).u32(1000);
    pair.send(confirmation);
    assert_eq!(pair.server.channels(), 1, "the client has not said CLOSE");
    pair.server.end(EndReason::Abandoned);
    assert_eq!(pair.server.channels(), 0);
}

#[test]
fn while_somebody_types_little_is_under_way_and_a_stall_ends_that() {
    let mut pair = Pair::logged_in(|_| {});
    let (terminal, bulk) = (session(&mut pair), session(&mut pair));
    let flood = |pair: &mut Pair| {
        let mut sent = 0;
        while let Writable::Ready(len) = pair.server.writable(bulk) {
            sent += write(pair, bulk, len);
            pair.settle();
        }
        sent
    };
    let mut pty = request(0, "pty-req", false);
    pty.string("xterm").u32(80).u32(24).u32(0).u32(0).string("");
    pair.send(pty);
    let mut key = on(msg::CHANNEL_DATA, 0);
    key.string("k");
    pair.send(key);
    assert!(matches!(pair.server.take_data(terminal), Taken::Data(_)));
    let short = flood(&mut pair);
    assert!((1..=128 * 1024).contains(&short), "{short} bytes are under way");
    assert!(pair.server.take_new_deadline());
    pair.server.take_notices().for_each(drop);
    pair.now += Duration::from_millis(3);
    pair.server.handle_timeout(pair.now);
    assert!(pair.server.take_notices().any(|n| n == Notice::Writable(bulk)));
    assert_eq!(flood(&mut pair), 128 * 1024, "twice as much is allowed");
    // Nobody has typed for a while.
    pair.now += Duration::from_secs(1);
    pair.server.handle_timeout(pair.now);
    assert!(flood(&mut pair) > 512 * 1024, "the window alone counts");
}
