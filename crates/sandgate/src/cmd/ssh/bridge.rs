//! A connection here and one inside, joined. Each direction ends on its own.

use std::future::poll_fn;

use sandgate_guest::{Connection, ConnectionReady, GuestError};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Bytes moved at once.
const CHUNK: usize = 32 * 1024;

/// Moves bytes until both directions have ended, or one side is gone. Dropping the connection then closes what is left of it.
pub async fn join(local: impl AsyncRead + AsyncWrite, connection: Connection) -> Result<(), GuestError> {
    let (mut from_local, mut to_local) = tokio::io::split(local);
    let (mut input, mut output) = connection.split();
    let up = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            match from_local.read(&mut buffer).await {
                Ok(0) => break,
                // It takes no more; what it says itself may still come.
                Ok(read) if input.write_all(&buffer[..read]).await.is_err() => return Ok(()),
                Ok(_) => {}
                Err(_) => return Err(Side::Local),
            }
        }
        // As above.
        let _ = input.shutdown().await;
        Ok(())
    };
    let down = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            match output.ready().await {
                ConnectionReady::Data => {}
                ConnectionReady::End => break,
                ConnectionReady::Lost(error) => return Err(Side::Inside(error)),
            }
            let Ok(read) = output.try_read(&mut buffer) else { continue };
            if to_local.write_all(&buffer[..read]).await.is_err() || to_local.flush().await.is_err() {
                return Err(Side::Local);
            }
        }
        // One that is gone needs no end.
        let _ = to_local.shutdown().await;
        Ok(())
    };
    let joined = tokio::try_join!(up, down);
    if joined.is_ok() {
        // Letting go earlier would throw away what is still on its way inside.
        poll_fn(|cx| output.poll_over(cx)).await;
    }
    match joined {
        Ok(_) | Err(Side::Local) | Err(Side::Inside(GuestError::Reset)) => Ok(()),
        Err(Side::Inside(error)) => Err(error),
    }
}

/// Which side has gone.
enum Side {
    Local,
    Inside(GuestError),
}
