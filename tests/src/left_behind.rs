//! What a command leaves behind, as every driver and the oracle have it.

use std::io::Read as _;
use std::process::Stdio;
use std::time::Duration;

use crate::Target;
use crate::process::Guard;

/// Ends at once, and leaves a program behind that has its input and says when that ends.
const COMMAND: &str = "exec 3<&0; (cat <&3; echo ended) & exit 3";

/// Expects that the session ends with the command and not with the client's input, and that the program which is left behind sees the end
/// of its input then.
///
/// # Panics
/// When it is otherwise.
#[track_caller]
pub fn its_input_ends_with_the_command(target: &Target) {
    let mut ssh = target.ssh(&["box", COMMAND]);
    let mut ssh = Guard::spawn(ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()));
    // Held, so that nobody ends the client's own.
    let held = ssh.child().stdin.take();
    assert_eq!(ssh.wait(Duration::from_secs(15)), Some(3), "the session waits for the client's input");
    let mut said = String::new();
    ssh.child().stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "ended\n");
    drop(held);
}
