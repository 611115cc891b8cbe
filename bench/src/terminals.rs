//! What a terminal for a browser costs in memory: a shell with a picture of its screen, and the WebSocket of the page.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::{Message, WebSocket};

use crate::idle::totals;
use crate::side::Side;

/// How long one step may take while hundreds of shells start.
const DEADLINE: Duration = Duration::from_secs(60);

/// Opens `count` terminals at once, each with its page, and gives what each of them costs the gateway, in KiB of proportional set size.
pub fn memory(side: &Side, count: u32) -> Result<f64> {
    let socket = side.path("data").join("control.sock");
    // As for sessions: what is allocated once is not the price of one.
    drop((0..10).map(|_| open(&socket)).collect::<Result<Vec<_>>>()?);
    std::thread::sleep(Duration::from_secs(2));
    let before = totals(side)?;
    let pages = (0..count).map(|_| open(&socket)).collect::<Result<Vec<_>>>()?;
    std::thread::sleep(Duration::from_secs(2));
    let after = totals(side)?;
    drop(pages);
    Ok((after.0 as f64 - before.0 as f64) / 1024.0 / f64::from(count))
}

/// A page whose shell has started.
fn open(socket: &Path) -> Result<WebSocket<UnixStream>> {
    let body = json!({ "cols": 80, "rows": 24 }).to_string();
    let mut stream = connect(socket)?;
    write!(
        stream,
        "POST /api/v1/sandboxes/bench/terminals HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let made = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let made: Value = serde_json::from_str(made).with_context(|| format!("no terminal: {answer}"))?;
    let Some(ticket) = made["ticket"].as_str() else { bail!("no terminal: {made}") };
    let mut request = "ws://localhost/api/v1/terminal".into_client_request()?;
    request.headers_mut().insert("sec-websocket-protocol", "sandgate.terminal.v1".parse()?);
    let (mut page, _) = tungstenite::client::client(request, connect(socket)?)
        .map_err(|error| anyhow::anyhow!("no WebSocket: {error}"))?;
    let attach = json!({ "type": "attach", "ticket": ticket, "cols": 80, "rows": 24 });
    page.send(Message::Text(attach.to_string().into()))?;
    loop {
        if let Message::Text(text) = page.read()? {
            let told: Value = serde_json::from_str(&text)?;
            match told["type"].as_str() {
                Some("ready") => return Ok(page),
                Some("progress") => {}
                _ => bail!("the terminal did not start: {told}"),
            }
        }
    }
}

fn connect(socket: &Path) -> Result<UnixStream> {
    let stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
    stream.set_read_timeout(Some(DEADLINE))?;
    Ok(stream)
}
