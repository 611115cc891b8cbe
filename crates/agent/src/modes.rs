//! Encoded terminal modes (RFC 4254 section 8, RFC 8160) applied to a terminal.

use rustix::termios::{ControlModes, InputModes, LocalModes, OutputModes, SpecialCodeIndex as Cc, Termios};

/// Applies what is known and skips what is not, as OpenSSH does. Opcodes from 160 on end the list, since their length is unknown.
pub fn apply(termios: &mut Termios, mut modes: &[u8]) {
    while let Some((&opcode, rest)) = modes.split_first() {
        if opcode == TTY_OP_END || opcode >= FIRST_UNDEFINED {
            return;
        }
        let Some((value, rest)) = rest.split_first_chunk::<4>() else { return };
        modes = rest;
        let value = u32::from_be_bytes(*value);
        match opcode {
            TTY_OP_ISPEED => drop(termios.set_input_speed(value)),
            TTY_OP_OSPEED => drop(termios.set_output_speed(value)),
            _ => apply_one(termios, opcode, value),
        }
    }
}

const TTY_OP_END: u8 = 0;
const TTY_OP_ISPEED: u8 = 128;
const TTY_OP_OSPEED: u8 = 129;
/// From here on arguments are not defined (RFC 4254 section 8).
const FIRST_UNDEFINED: u8 = 160;
/// "No character" on the wire; 0 on Linux.
const DISABLED: u32 = 255;

fn apply_one(t: &mut Termios, opcode: u8, value: u32) {
    if let Some(index) = special_code(opcode) {
        t.special_codes[index] = if value == DISABLED { 0 } else { u8::try_from(value & 0xff).unwrap_or(0) };
        return;
    }
    let on = value != 0;
    match opcode {
        30 => t.input_modes.set(InputModes::IGNPAR, on),
        31 => t.input_modes.set(InputModes::PARMRK, on),
        32 => t.input_modes.set(InputModes::INPCK, on),
        33 => t.input_modes.set(InputModes::ISTRIP, on),
        34 => t.input_modes.set(InputModes::INLCR, on),
        35 => t.input_modes.set(InputModes::IGNCR, on),
        36 => t.input_modes.set(InputModes::ICRNL, on),
        37 => t.input_modes.set(InputModes::IUCLC, on),
        38 => t.input_modes.set(InputModes::IXON, on),
        39 => t.input_modes.set(InputModes::IXANY, on),
        40 => t.input_modes.set(InputModes::IXOFF, on),
        41 => t.input_modes.set(InputModes::IMAXBEL, on),
        42 => t.input_modes.set(InputModes::IUTF8, on),
        50 => t.local_modes.set(LocalModes::ISIG, on),
        51 => t.local_modes.set(LocalModes::ICANON, on),
        52 => t.local_modes.set(LocalModes::XCASE, on),
        53 => t.local_modes.set(LocalModes::ECHO, on),
        54 => t.local_modes.set(LocalModes::ECHOE, on),
        55 => t.local_modes.set(LocalModes::ECHOK, on),
        56 => t.local_modes.set(LocalModes::ECHONL, on),
        57 => t.local_modes.set(LocalModes::NOFLSH, on),
        58 => t.local_modes.set(LocalModes::TOSTOP, on),
        59 => t.local_modes.set(LocalModes::IEXTEN, on),
        60 => t.local_modes.set(LocalModes::ECHOCTL, on),
        61 => t.local_modes.set(LocalModes::ECHOKE, on),
        62 => t.local_modes.set(LocalModes::PENDIN, on),
        70 => t.output_modes.set(OutputModes::OPOST, on),
        71 => t.output_modes.set(OutputModes::OLCUC, on),
        72 => t.output_modes.set(OutputModes::ONLCR, on),
        73 => t.output_modes.set(OutputModes::OCRNL, on),
        74 => t.output_modes.set(OutputModes::ONOCR, on),
        75 => t.output_modes.set(OutputModes::ONLRET, on),
        90 if on => set_size(t, ControlModes::CS7),
        91 if on => set_size(t, ControlModes::CS8),
        92 => t.control_modes.set(ControlModes::PARENB, on),
        93 => t.control_modes.set(ControlModes::PARODD, on),
        _ => {}
    }
}

fn set_size(t: &mut Termios, size: ControlModes) {
    t.control_modes.remove(ControlModes::CSIZE);
    t.control_modes.insert(size);
}

fn special_code(opcode: u8) -> Option<Cc> {
    Some(match opcode {
        1 => Cc::VINTR,
        2 => Cc::VQUIT,
        3 => Cc::VERASE,
        4 => Cc::VKILL,
        5 => Cc::VEOF,
        6 => Cc::VEOL,
        7 => Cc::VEOL2,
        8 => Cc::VSTART,
        9 => Cc::VSTOP,
        10 => Cc::VSUSP,
        12 => Cc::VREPRINT,
        13 => Cc::VWERASE,
        14 => Cc::VLNEXT,
        16 => Cc::VSWTC,
        18 => Cc::VDISCARD,
        _ => return None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, openpt};

    fn fresh() -> Termios {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        rustix::termios::tcgetattr(&master).unwrap()
    }

    fn encode(list: &[(u8, u32)]) -> Vec<u8> {
        let mut out: Vec<u8> =
            list.iter().flat_map(|(o, v)| [&[*o][..], &v.to_be_bytes()].concat()).collect();
        out.push(0);
        out
    }

    #[test]
    fn sets_flags_codes_and_speeds() {
        let mut t = fresh();
        let list = [
            (1, 7),
            (3, 255),
            (53, 0),
            (51, 0),
            (36, 0),
            (72, 0),
            (42, 1),
            (128, 9600),
            (129, 38400),
            (90, 1),
        ];
        apply(&mut t, &encode(&list));
        assert_eq!(t.special_codes[Cc::VINTR], 7);
        assert_eq!(t.special_codes[Cc::VERASE], 0);
        assert!(!t.local_modes.intersects(LocalModes::ECHO | LocalModes::ICANON));
        assert!(!t.input_modes.contains(InputModes::ICRNL) && t.input_modes.contains(InputModes::IUTF8));
        assert!(!t.output_modes.contains(OutputModes::ONLCR));
        assert_eq!((t.input_speed(), t.output_speed()), (9600, 38400));
        assert_eq!(t.control_modes & ControlModes::CSIZE, ControlModes::CS7);
    }

    #[test]
    fn bad_lists_do_what_they_can() {
        let mut t = fresh();
        apply(&mut t, &[53, 0, 0, 0, 0, 51, 0, 0]);
        assert!(!t.local_modes.contains(LocalModes::ECHO) && t.local_modes.contains(LocalModes::ICANON));
        let mut t = fresh();
        apply(&mut t, &[200, 53, 0, 0, 0, 0]);
        assert!(t.local_modes.contains(LocalModes::ECHO));
        apply(&mut t, &encode(&[(159, 1), (77, 9), (53, 0)]));
        assert!(!t.local_modes.contains(LocalModes::ECHO));
    }
}
