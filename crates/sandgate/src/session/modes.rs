//! Terminal modes as ssh sends them (RFC 4254 section 8, RFC 8160).

use rustix::termios::ControlModes;
use rustix::termios::{InputModes, LocalModes, OutputModes, SpecialCodeIndex as Cc, Termios};

const TTY_OP_END: u8 = 0;
const TTY_OP_ISPEED: u8 = 128;
const TTY_OP_OSPEED: u8 = 129;
/// "No character" on the wire; 0 on Linux.
const DISABLED: u32 = 255;

const CODES: [(u8, Cc); 15] = [
    (1, Cc::VINTR),
    (2, Cc::VQUIT),
    (3, Cc::VERASE),
    (4, Cc::VKILL),
    (5, Cc::VEOF),
    (6, Cc::VEOL),
    (7, Cc::VEOL2),
    (8, Cc::VSTART),
    (9, Cc::VSTOP),
    (10, Cc::VSUSP),
    (12, Cc::VREPRINT),
    (13, Cc::VWERASE),
    (14, Cc::VLNEXT),
    (16, Cc::VSWTC),
    (18, Cc::VDISCARD),
];
const INPUT: [(u8, InputModes); 13] = [
    (30, InputModes::IGNPAR),
    (31, InputModes::PARMRK),
    (32, InputModes::INPCK),
    (33, InputModes::ISTRIP),
    (34, InputModes::INLCR),
    (35, InputModes::IGNCR),
    (36, InputModes::ICRNL),
    (37, InputModes::IUCLC),
    (38, InputModes::IXON),
    (39, InputModes::IXANY),
    (40, InputModes::IXOFF),
    (41, InputModes::IMAXBEL),
    (42, InputModes::IUTF8),
];
const LOCAL: [(u8, LocalModes); 13] = [
    (50, LocalModes::ISIG),
    (51, LocalModes::ICANON),
    (52, LocalModes::XCASE),
    (53, LocalModes::ECHO),
    (54, LocalModes::ECHOE),
    (55, LocalModes::ECHOK),
    (56, LocalModes::ECHONL),
    (57, LocalModes::NOFLSH),
    (58, LocalModes::TOSTOP),
    (59, LocalModes::IEXTEN),
    (60, LocalModes::ECHOCTL),
    (61, LocalModes::ECHOKE),
    (62, LocalModes::PENDIN),
];
const OUTPUT: [(u8, OutputModes); 6] = [
    (70, OutputModes::OPOST),
    (71, OutputModes::OLCUC),
    (72, OutputModes::ONLCR),
    (73, OutputModes::OCRNL),
    (74, OutputModes::ONOCR),
    (75, OutputModes::ONLRET),
];

/// All that the wire has names for.
pub fn encode(termios: &Termios) -> Vec<u8> {
    let mut out = Vec::new();
    let mut put = |opcode: u8, value: u32| {
        out.push(opcode);
        out.extend_from_slice(&value.to_be_bytes());
    };
    put(TTY_OP_OSPEED, termios.output_speed());
    put(TTY_OP_ISPEED, termios.input_speed());
    for (opcode, index) in CODES {
        let code = u32::from(termios.special_codes[index]);
        put(opcode, if code == 0 { DISABLED } else { code });
    }
    for (opcode, flag) in INPUT {
        put(opcode, termios.input_modes.contains(flag).into());
    }
    for (opcode, flag) in LOCAL {
        put(opcode, termios.local_modes.contains(flag).into());
    }
    for (opcode, flag) in OUTPUT {
        put(opcode, termios.output_modes.contains(flag).into());
    }
    let size = termios.control_modes & ControlModes::CSIZE;
    put(90, (size == ControlModes::CS7).into());
    put(91, (size == ControlModes::CS8).into());
    put(92, termios.control_modes.contains(ControlModes::PARENB).into());
    put(93, termios.control_modes.contains(ControlModes::PARODD).into());
    out.push(TTY_OP_END);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, openpt};

    #[test]
    fn what_is_set_is_said() {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        let mut termios = rustix::termios::tcgetattr(&master).expect("its modes");
        termios.special_codes[Cc::VERASE] = 8;
        termios.special_codes[Cc::VINTR] = 0;
        termios.local_modes.remove(LocalModes::ECHO);
        termios.input_modes.insert(InputModes::IUTF8);
        let modes = encode(&termios);
        assert_eq!(modes.len() % 5, 1, "opcodes with a u32 each, and the end");
        let value = |opcode: u8| {
            let pair = modes.chunks_exact(5).find(|pair| pair[0] == opcode).expect("there");
            u32::from_be_bytes([pair[1], pair[2], pair[3], pair[4]])
        };
        assert_eq!((value(3), value(1), value(53), value(42), value(91)), (8, DISABLED, 0, 1, 1));
        assert_eq!(modes.last(), Some(&TTY_OP_END));
    }
}
