//! Finding out that a client is gone without having said so.
//!
//! As sshd's `ClientAliveInterval`: a client from which nothing was received for an interval is asked to answer a
//! `keepalive@openssh.com` request. Any byte from it counts as an answer. Each request has the interval as its deadline.

use std::time::Duration;

use sandgate_ssh::driver::ConnectionHandle;
use tokio::time::Instant;

/// How often to ask and how many missed answers end the connection.
#[derive(Debug, Clone, Copy)]
pub struct Keepalive {
    /// Silence after which the client is asked, and the time it has to answer.
    pub interval: Duration,
    /// Requests in a row without any byte from the client after which it is given up.
    pub max_missed: u32,
}

/// Resolves when the client has missed too many keepalives; never when `interval` is zero.
pub async fn client_lost(connection: &ConnectionHandle, keepalive: Keepalive) {
    let Keepalive { interval, max_missed } = keepalive;
    if interval.is_zero() {
        return std::future::pending().await;
    }
    let mut missed = 0;
    loop {
        let heard = connection.last_received();
        tokio::time::sleep_until(Instant::from_std(heard) + interval).await;
        if connection.last_received() != heard {
            missed = 0;
            continue;
        }
        while connection.last_received() == heard {
            if missed == max_missed {
                return;
            }
            // The answer moves `last_received`, and so does any other byte.
            match tokio::time::timeout(interval, connection.keepalive()).await {
                Ok(Ok(())) => break,
                // The connection has ended for another reason, which others report.
                Ok(Err(_)) => return std::future::pending().await,
                Err(_) => {
                    missed += 1;
                    tracing::debug!(missed, "keepalive not answered");
                }
            }
        }
        missed = 0;
    }
}
