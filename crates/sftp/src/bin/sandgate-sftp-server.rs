//! The SFTP server as a program of its own; see [`sandgate_sftp::program`].
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    sandgate_sftp::program::main(std::env::args_os().skip(1))
}
