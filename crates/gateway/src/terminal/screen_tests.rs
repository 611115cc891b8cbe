use super::*;

/// A fresh emulator after what a dump of `screen` says.
fn restored(screen: &Screen) -> Screen {
    let (cols, rows) = screen.size();
    let mut other = Screen::new(cols, rows).expect("a screen");
    other.feed(&screen.dump());
    other
}

fn fed(cols: u32, rows: u32, bytes: &[u8]) -> Screen {
    let mut screen = Screen::new(cols, rows).expect("a screen");
    screen.feed(bytes);
    screen
}

#[track_caller]
fn assert_same(one: &Screen, other: &Screen) {
    assert_eq!(one.text(), other.text());
    assert_eq!(one.terminal.cursor(), other.terminal.cursor());
    assert_eq!(one.terminal.active_screen_kind(), other.terminal.active_screen_kind());
    let visible = |screen: &Screen| {
        screen.terminal.screen().visible_lines().map(|line| line.cells().to_vec()).collect::<Vec<_>>()
    };
    assert!(visible(one) == visible(other), "the cells with their colours are the same");
    assert_eq!(one.terminal.dump(), other.terminal.dump());
    assert_eq!(one.dump(), other.dump());
}

#[test]
fn what_is_on_the_screen_comes_back_with_the_cursor() {
    for bytes in [
        b"".as_slice(),
        b"hello\r\n$ ",
        b"\x1b[5;3Hx\x1b[31;44mred\x1b[0m\x1b[2;1H",
        b"0123456789 and a line that is longer than the screen is wide\r\n",
        b"\x1b[2;4r\x1b[?6h\x1b[?25l\x1b[4h\x1b(0qqq\x1b[1;7m",
        b"\x1b[?1h\x1b[?2004h\x1b=\x1b[?1000;1006h",
        "wide \u{754c}\u{754c} \u{e9}".as_bytes(),
        b"the last column....\x1b[5;20HX",
    ] {
        let screen = fed(20, 5, bytes);
        assert_same(&screen, &restored(&screen));
    }
}

#[test]
fn what_has_scrolled_away_comes_back_above() {
    for lines in [1, 4, 5, 6, 9, 30, 1004, 1500] {
        let mut screen = Screen::new(20, 5).expect("a screen");
        for line in 0..lines {
            screen.feed(format!("\x1b[3{}mline {line}\x1b[0m and more\r\n", line % 8).as_bytes());
        }
        screen.feed(b"$ ");
        let restored = restored(&screen);
        assert_same(&screen, &restored);
        let text = restored.text();
        assert_eq!(text.len(), (lines + 1).clamp(5, SCROLLBACK + 5));
        if lines > 5 {
            assert_eq!(text[text.len() - 2], format!("line {} and more", lines - 1));
        }
    }
}

#[test]
fn the_alternate_screen_comes_back_and_so_does_what_is_under_it() {
    let mut screen = Screen::new(20, 5).expect("a screen");
    for line in 0..12 {
        screen.feed(format!("line {line}\r\n").as_bytes());
    }
    screen.feed(b"$ vim\x1b[?1049h\x1b[H\x1b[2J~\r\n~\r\n-- INSERT --\x1b[2;3H");
    let mut other = restored(&screen);
    assert_same(&screen, &other);
    for each in [&mut screen, &mut other] {
        each.feed(b"\x1b[?1049l");
        assert_eq!(each.terminal.screen().line(4).expect("a line").text().trim_end(), "$ vim");
    }
    assert_same(&screen, &other);
}

#[test]
fn a_dump_in_the_middle_of_a_sequence_or_a_character_goes_on() {
    for (before, after) in [
        (b"a\x1b[3".as_slice(), b"1mred".as_slice()),
        (b"a\xe2\x82", b"\xac."),
        (b"a\x1b]0;ti", b"tle\x07b"),
        (b"a\x1b", b"[2;2Hx"),
    ] {
        let mut screen = fed(20, 5, before);
        let mut other = restored(&screen);
        screen.feed(after);
        other.feed(after);
        assert_same(&screen, &other);
    }
}

#[test]
fn a_dump_is_bounded_whatever_was_written() {
    let mut screen = Screen::new(1000, 2).expect("a screen");
    for line in 0..60 {
        let cell = |at: u32| format!("\x1b[1;3;4;38;2;{};1;1;48;2;255;{};255mx", at % 200, line % 200);
        screen.feed((0..1000).map(cell).collect::<String>().as_bytes());
    }
    let dump = screen.dump();
    // The two lines of the screen itself come on top.
    assert!(dump.len() < MAX_SCROLLBACK_BYTES + 200_000, "{}", dump.len());
    let other = restored(&screen);
    assert_eq!(screen.terminal.cursor(), other.terminal.cursor());
}

#[test]
fn sizes_are_cut_to_what_we_keep() {
    assert_eq!(Screen::new(0, 5000).expect("a screen").size(), (1, 1000));
    let mut screen = fed(20, 5, b"one two\r\nthree");
    screen.resize(10_000, 0);
    assert_eq!(screen.size(), (1000, 1));
    assert_same(&screen, &restored(&screen));
}

/// Eight bytes that ask for tens of thousands of characters, and three for a whole screen.
#[test]
fn costly_sequences_come_to_the_screen_in_slices() {
    for storm in ["x\x1b[65535b", "\x1b#8"] {
        let bytes = storm.repeat(60);
        let mut screen = Screen::new(200, 100).expect("a screen");
        screen.take(bytes.as_bytes());
        let (mut slices, mut longest) = (0, Duration::ZERO);
        loop {
            let began = Instant::now();
            let all = screen.advance(Duration::from_millis(1));
            longest = longest.max(began.elapsed());
            slices += 1;
            if all {
                break;
            }
        }
        assert!(slices > 3, "{storm:?} in {slices}");
        assert!(longest < Duration::from_millis(500), "{storm:?} took {longest:?} at once");
        assert_same(&screen, &fed(200, 100, bytes.as_bytes()));
    }
}
