//! The remote side of scp as a program of its own; see [`sandgate_scp::program`].
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    sandgate_scp::program::main(std::env::args_os().skip(1))
}
