//! The file that programs take their cookie from (Xauthority, `Xau(3)`), inside the guest.
//!
//! Written and removed by the agent's own file servers, as the login user: the image needs no `xauth` and no shell. It lies in a directory of its
//! own, for that user alone, and is removed when this value is dropped.

use std::time::Duration;

use sandgate_guest::{ExecSpec, ExitStatus, FileProtocol, Files, Guest, Program, Ready};

/// Where the directory may be, in order.
const PARENTS: [&str; 3] = ["/tmp", "/run", "/dev/shm"];
/// The file's name.
const FILE: &str = "Xauthority";
/// How long writing or removing may take.
const DEADLINE: Duration = Duration::from_secs(15);
/// An address family that fits every address of the display (`FamilyWild` in Xauth.h): the sandbox's host name may change.
const FAMILY_WILD: u16 = 65535;

/// The written file.
pub(super) struct Authority {
    guest: Guest,
    user: Option<Vec<u8>>,
    directory: String,
}

impl Authority {
    /// Writes it. The error is for the log.
    pub(super) async fn write(
        guest: Guest,
        user: Option<Vec<u8>>,
        display: u16,
        protocol: &[u8],
        cookie: &[u8],
    ) -> Result<Authority, String> {
        let content = entry(display, protocol, cookie).ok_or("the request is too long")?;
        let name = sandgate_policy::new_id("xauth").map_err(|error| error.to_string())?;
        // The agent's side of the old scp protocol makes a directory and a file, with their modes, in one go.
        let mut input = format!("D0700 0 {name}\nC0600 {} {FILE}\n", content.len()).into_bytes();
        input.extend_from_slice(&content);
        input.extend_from_slice(b"\0E\n");
        let mut error = String::new();
        for parent in PARENTS {
            let protocol = FileProtocol::Scp(format!("scp -r -t {parent}").into_bytes());
            match serve(&guest, user.clone(), protocol, &input).await {
                Ok(()) => return Ok(Authority { guest, user, directory: format!("{parent}/{name}") }),
                Err(failed) => error = failed,
            }
        }
        Err(error)
    }

    /// The file's path inside the guest.
    pub(super) fn path(&self) -> String {
        format!("{}/{FILE}", self.directory)
    }
}

impl Drop for Authority {
    /// In a task of its own, since a connection's end waits for nobody; there are no more of those than there were sessions, and none for longer
    /// than its deadline. With the sandbox gone there is nothing to remove.
    fn drop(&mut self) {
        let (guest, user) = (self.guest.clone(), self.user.take());
        let input = removal(&self.path(), &self.directory);
        let directory = std::mem::take(&mut self.directory);
        tokio::spawn(async move {
            if let Err(error) = serve(&guest, user, FileProtocol::Sftp, &input).await {
                tracing::debug!(directory, error, "a cookie's file was not removed");
            }
        });
    }
}

/// Runs a file server on that input and waits for its end.
async fn serve(
    guest: &Guest,
    user: Option<Vec<u8>>,
    protocol: FileProtocol,
    input: &[u8],
) -> Result<(), String> {
    let mut spec = ExecSpec::new(Program::Files(Files { protocol, root: None, read_only: false }));
    spec.user = user;
    let run = async {
        let process = guest.exec(spec).await.map_err(|error| error.to_string())?;
        let (mut stdin, mut output, _control) = process.split();
        // Far less than a pipe holds.
        stdin.write_all(input).await.map_err(|error| error.to_string())?;
        stdin.shutdown().await.map_err(|error| error.to_string())?;
        let mut said = [0; 1024];
        loop {
            match output.ready().await {
                // Acknowledgements and the audit's lines.
                Ready::Stdout | Ready::Stderr => {
                    let _ = output.try_read(&mut said);
                }
                Ready::Exit(ExitStatus::Code(0)) => return Ok(()),
                Ready::Exit(status) => return Err(format!("the file server ended with {status:?}")),
                Ready::LinkLost(error) => return Err(error.to_string()),
            }
        }
    };
    tokio::time::timeout(DEADLINE, run).await.map_err(|_| "the file server did not end in time".to_owned())?
}

/// One entry of the file; `None` when a part is too long for it.
fn entry(display: u16, protocol: &[u8], cookie: &[u8]) -> Option<Vec<u8>> {
    let mut entry = FAMILY_WILD.to_be_bytes().to_vec();
    for part in [b"", display.to_string().as_bytes(), protocol, cookie] {
        entry.extend_from_slice(&u16::try_from(part.len()).ok()?.to_be_bytes());
        entry.extend_from_slice(part);
    }
    Some(entry)
}

/// SFTP requests that remove the file and its directory (draft-ietf-secsh-filexfer-02: INIT, REMOVE, RMDIR).
fn removal(file: &str, directory: &str) -> Vec<u8> {
    let packet = |kind: u8, number: u32, text: Option<&str>| {
        let mut body = vec![kind];
        body.extend_from_slice(&number.to_be_bytes());
        if let Some(text) = text {
            body.extend_from_slice(&u32::try_from(text.len()).unwrap_or_default().to_be_bytes());
            body.extend_from_slice(text.as_bytes());
        }
        let mut packet = u32::try_from(body.len()).unwrap_or_default().to_be_bytes().to_vec();
        packet.append(&mut body);
        packet
    };
    [packet(1, 3, None), packet(13, 1, Some(file)), packet(15, 2, Some(directory))].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_what_libxau_reads() {
        let expected = b"\xff\xff\0\0\0\x0210\0\x12MIT-MAGIC-COOKIE-1\0\x02\x01\x02";
        assert_eq!(entry(10, b"MIT-MAGIC-COOKIE-1", &[1, 2]).as_deref(), Some(&expected[..]));
        assert_eq!(entry(10, &[0; 70_000], b""), None);
    }

    #[test]
    fn a_removal_is_three_requests() {
        let bytes = removal("/d/f", "/d");
        assert_eq!(bytes, b"\0\0\0\x05\x01\0\0\0\x03\0\0\0\x0d\x0d\0\0\0\x01\0\0\0\x04/d/f\0\0\0\x0b\x0f\0\0\0\x02\0\0\0\x02/d");
    }
}
